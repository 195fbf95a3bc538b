"""Token ids in `.npy` files, memory-mapped: corpora that a tokenizer has been run on.

A file is either one long sequence `[tokens]` or already packed into rows `[N, length]`, of any
integer type (uint16 holds GPT-2's 50,257 ids in two bytes). A long sequence is cut into disjoint
chunks of `length`, for training too; the last `length - 1` tokens at most are left out. Likelihoods
are per token.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Integer

from md4jax.data.base import (
    ArraySplit,
    Dataset,
    Split,
    TokenWindows,
    fingerprint,
    log_left_out,
    value_range,
)
from md4jax.data.text import local_file
from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec

_HOW = "save the ids with np.save(path, ids), [tokens] or [N, length] of an integer type"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFile:
    """Token ids of your own from .npy files, memory-mapped."""

    train_path: str = option(
        "An .npy of ids, [tokens] or [N, length].", "data/train.npy", changeable=True
    )
    test_path: str | None = option(
        'The same for "test"; None is no such split.', None, changeable=True
    )
    vocab_size: int = option("Ids are in [0, vocab_size).", 50257, at_least=2)
    length: int = option("Tokens an example.", 1024, at_least=1)

    def load(self) -> Dataset:
        """Opens the files.

        The range of the ids is checked: over a whole file of up to 134 million tokens, over 64
        evenly spaced blocks of 262,144 of a larger one.

        Raises:
          UserError: no such file, or one of the wrong shape or type or with ids out of range.
        """
        arrays = {"train": self._open("train_path", self.train_path)}
        if self.test_path is not None:
            arrays["test"] = self._open("test_path", self.test_path)
        splits: dict[str, Split] = {
            name: ArraySplit(ids) if ids.ndim == 2 else TokenWindows(ids, self.length, self.length)
            for name, ids in arrays.items()
        }
        log_left_out(splits)
        spec = DataSpec(shape=(self.length,), vocab_size=self.vocab_size, unit="token")
        return Dataset(spec, splits, fingerprint(spec, arrays))

    def _open(self, key: str, path: str) -> Integer[np.ndarray, "..."]:
        found = local_file(key, path, _HOW)
        where = f"config.data.{key} = {path!r}"
        try:
            ids = np.load(found, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{where}: cannot be read as .npy: {error}") from error
        if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
            kind = ids.dtype if isinstance(ids, np.ndarray) else "an .npz"
            raise UserError(f"{where}: should be integers and is {kind}; {_HOW}")
        fits = (ids.ndim == 1 and len(ids) >= self.length) or (
            ids.ndim == 2 and len(ids) and ids.shape[1] == self.length
        )
        if not fits:
            raise UserError(
                f"{where}: has shape {list(ids.shape)}; config.data.length = {self.length} asks "
                f"for [tokens], at least {self.length} of them, or [N, {self.length}]"
            )
        low, high = value_range(ids)
        if low < 0 or high >= self.vocab_size:
            raise UserError(
                f"{where}: has ids from {low} to {high}; config.data.vocab_size = "
                f"{self.vocab_size} asks for 0 to {self.vocab_size - 1}"
            )
        return ids
