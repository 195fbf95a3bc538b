"""What a data set is: named splits of integer or real examples, and who they are.

A split gives examples by index and many at once, so that which examples a batch holds is decided
elsewhere, by arithmetic (`pipeline.batch_indices`). Arrays keep the type they are stored in and
become int32, or float32 if they are real, when they are gathered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, Shaped

from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.domains import DOMAINS

logger = logging.getLogger(__name__)

# Up to so many entries an array is read whole by `fingerprint` and `value_range`; of a larger one
# only evenly spaced blocks are, so that a memory-mapped corpus costs some tens of megabytes.
WHOLE = 2**27
SAMPLED_BLOCKS = 64
BLOCK = 2**18


@runtime_checkable
class Split(Protocol):
    """Examples by index: `shape` is that of one, without the batch."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's x0."""

    def __len__(self) -> int:
        """Number of examples."""

    def gather(self, indices: Integer[np.ndarray, "n"]) -> dict[str, np.ndarray]:
        """`x0` int32 or float32 `[n, *shape]`, and `label` int32 `[n]` where there are labels."""


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySplit:
    """Examples that are the rows of an array, in memory or memory-mapped.

    Attributes:
      examples: of any integer type, or real.
      labels: one an example, or None.
    """

    examples: Shaped[np.ndarray, "n ..."]
    labels: Integer[np.ndarray, "n"] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's x0."""
        return self.examples.shape[1:]

    def __len__(self) -> int:
        return len(self.examples)

    def gather(self, indices: Integer[np.ndarray, "n"]) -> dict[str, np.ndarray]:
        """`x0` int32 or float32 `[n, *shape]`, and `label` int32 `[n]` where there are labels."""
        kind = np.float32 if self.examples.dtype.kind == "f" else np.int32
        rows = {"x0": np.asarray(self.examples[indices]).astype(kind)}
        if self.labels is not None:
            rows["label"] = self.labels[indices].astype(np.int32)
        return rows


@dataclasses.dataclass(frozen=True, eq=False)
class TokenWindows:
    """Windows of one long sequence: window i is `tokens[i * stride : i * stride + length]`.

    `stride=1` gives every overlapping window, `stride=length` disjoint chunks. The last
    `left_out` tokens, fewer than `stride`, are in no window.

    Attributes:
      tokens: of any integer type, in memory or memory-mapped.
      length: tokens a window.
      stride: tokens between the starts of two windows.
    """

    tokens: Integer[np.ndarray, "t"]
    length: int
    stride: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's x0."""
        return (self.length,)

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.length) // self.stride + 1)

    @property
    def left_out(self) -> int:
        """Tokens at the end that are in no window."""
        covered = (len(self) - 1) * self.stride + self.length if len(self) else 0
        return len(self.tokens) - covered

    def gather(self, indices: Integer[np.ndarray, "n"]) -> dict[str, np.ndarray]:
        """`x0` int32 `[n, length]`.

        Raises:
          IndexError: an index is not in `[0, len(self))`.
        """
        # A negative start would silently wrap around to the end of the tokens.
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"window outside [0, {len(self)})")
        starts = indices.astype(np.int64) * self.stride
        windows = self.tokens[starts[:, None] + np.arange(self.length)]
        return {"x0": np.asarray(windows).astype(np.int32)}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set.

    Attributes:
      spec: what process and network must know.
      splits: "train" and, where there are any, "valid" and "test".
      fingerprint: hexadecimal identity of the examples used; see `fingerprint`.
      to_text: one example int `[length]` as text; ids outside the vocabulary (a mask) show as `█`.
        None if the data are no text.
      encode: a text's tokens, `encode(text, where it is from)`; None if the data are no text.
      levels: pixel values are integers in `[0, levels)`, to be drawn from black to white; None if
        the data are no images.
    """

    spec: DataSpec
    splits: Mapping[str, Split]
    fingerprint: str
    to_text: Callable[[np.ndarray], str] | None = None
    levels: int | None = None
    encode: Callable[[str, str], np.ndarray] | None = None


def blocks(array: Shaped[np.ndarray, "..."]) -> Iterator[Shaped[np.ndarray, "block"]]:
    """Yields flat pieces of an array: all of it, or evenly spaced blocks if it is large.

    An array of more than `WHOLE` entries gives `SAMPLED_BLOCKS` blocks of `BLOCK` entries, the
    first and the last among them.
    """
    flat = array.reshape(-1)
    if flat.size <= WHOLE:
        starts = range(0, flat.size, BLOCK)
    else:
        last = flat.size - BLOCK
        starts = [last * i // (SAMPLED_BLOCKS - 1) for i in range(SAMPLED_BLOCKS)]
    for start in starts:
        yield np.asarray(flat[start : start + BLOCK])


def fingerprint(spec: DataSpec, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> str:
    """Identity of a data set, to refuse resuming on other data.

    A sha256 over the spec and each array's name, shape and entries as little-endian int32, or
    float32 if the data are real, so that it does not depend on the type or path they are stored in.
    Of arrays with more than `WHOLE` (134 million) entries only 64 evenly spaced blocks of 262,144
    entries are read: another corpus or tokenizer is noticed, a small edit between blocks is not.
    """
    digest = hashlib.sha256(repr(spec).encode())
    if spec.domain is not None:  # It is not in the repr.
        digest.update(spec.domain.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.shape}".encode())
        for block in blocks(array):
            kind = "<f4" if array.dtype.kind == "f" else "<i4"
            digest.update(np.ascontiguousarray(block, kind).data)
    return digest.hexdigest()[:32]


def value_range(array: Shaped[np.ndarray, "..."]) -> tuple[int, int] | tuple[float, float]:
    """Least and greatest entry, of sampled blocks if the array is large (see `blocks`)."""
    ranges = [(b.min().item(), b.max().item()) for b in blocks(array)]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def log_left_out(splits: Mapping[str, Split]) -> None:
    """Logs how many tokens at the end of a split do not fill a window."""
    for name, split in splits.items():
        if isinstance(split, TokenWindows) and split.left_out:
            logger.info(
                "%s: the last %d of %d tokens do not fill a window of %d and are left out",
                name,
                split.left_out,
                len(split.tokens),
                split.length,
            )


def domain_dataset(
    domain: str, arrays: Mapping[str, Shaped[np.ndarray, "_ *s"]], where: str
) -> Dataset:
    """A data set of points of a domain, as float32, checked.

    Args:
      domain: a key of `DOMAINS`.
      arrays: the examples of each split, of one shape.
      where: the config key that they come from, for the error.

    Raises:
      UserError: a split has an example that is no point of the domain.
    """
    with np.errstate(over="ignore"):  # What float32 cannot hold is found below.
        arrays = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    for name, x in arrays.items():
        problem = DOMAINS[domain].problem(x)
        if problem is not None:
            raise UserError(f"{where}: {name} is not of the domain {domain!r}: {problem}")
    spec = DataSpec(shape=arrays["train"].shape[1:], vocab_size=None, domain=domain)
    splits = {name: ArraySplit(x) for name, x in arrays.items()}
    return Dataset(spec, splits, fingerprint(spec, arrays))
