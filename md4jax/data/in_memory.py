"""Data sets of arrays that are there: `md4jax.dataset(images, levels=256)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Shaped

from md4jax.data.base import ArraySplit, Dataset, fingerprint
from md4jax.data.image_npz import ImageNpz
from md4jax.data.manifold_npz import ManifoldNpz
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.domains import DOMAINS

WHERE = "md4jax.dataset"
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Images(ImageNpz):
    arrays: Arrays

    def _read(self) -> dict[str, np.ndarray]:
        return dict(self.arrays)

    def _error(self, what: str) -> UserError:
        return UserError(f"{WHERE}: {what}".replace("config.data.", ""))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Points(ManifoldNpz):
    _where: ClassVar[str] = WHERE
    arrays: Arrays

    def _read(self) -> dict[str, np.ndarray]:
        return dict(self.arrays)


def _tokens(arrays: Arrays, levels: int) -> Dataset:
    """Rows of ids."""
    shapes = {x.shape[1:] for x in arrays.values()}
    for name, x in arrays.items():
        if x.dtype.kind not in "iu" or len(shapes) > 1 or x.size == 0:
            raise UserError(
                f"{WHERE}: {name} should be [N, length] integers, of one length, and is {x.dtype} "
                f"{list(x.shape)}"
            )
        if x.min() < 0 or x.max() >= levels:
            raise UserError(
                f"{WHERE}: {name} has ids from {x.min()} to {x.max()}; levels = {levels} asks for "
                f"0 to {levels - 1}"
            )
    spec = DataSpec(shape=shapes.pop(), vocab_size=levels, unit="token")
    splits = {name: ArraySplit(x) for name, x in arrays.items()}
    return Dataset(spec, splits, fingerprint(spec, arrays))


def _array(name: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise UserError(f"{WHERE}: {name} should be one array: {error}") from error


def dataset(
    train: Any,
    test: Any = None,
    *,
    levels: int | None = None,
    domain: str | None = None,
    train_labels: Any = None,
    test_labels: Any = None,
) -> Dataset:
    """A data set of arrays.

    Args:
      train: integers in `[0, levels)`: images `[N, H, W]` or `[N, H, W, channels]`, or sequences
        `[N, length]`; or points of a domain, `[N, *shape]`, real numbers.
      test: the same of the split `test`; None is no such split.
      levels: number of values of an integer (256 of bytes).
      domain: where points live, a key of `md4jax.processes.domains.DOMAINS`: "real", "sphere",
        "simplex", ...
      train_labels, test_labels: of images, `[N]` integers from 0; classes for guidance.

    Raises:
      UserError: an array has another shape, type or range; or not just one of `levels` and
        `domain` is given.
    """
    if (levels is None) == (domain is None):
        raise UserError(
            f"{WHERE} needs either levels, for integers, or domain, for real numbers; it was given "
            f"levels = {levels}, domain = {domain!r}"
        )
    if levels is not None and (not isinstance(levels, int | np.integer) or levels < 2):
        raise UserError(f"{WHERE}: levels = {levels!r} should be an integer, at least 2")
    given = {"train": train, "test": test, "train_labels": train_labels, "test_labels": test_labels}
    arrays = {name: _array(name, x) for name, x in given.items() if x is not None}
    if "train" not in arrays:
        raise UserError(f"{WHERE}: train = None should be an array")
    is_image = domain is None and arrays["train"].ndim > 2
    labels = train_labels is not None or test_labels is not None
    if labels and (train_labels is None or (test is None) != (test_labels is None)):
        raise UserError(f"{WHERE}: train_labels and test_labels go together")
    if labels and not is_image:
        raise UserError(f"{WHERE}: only images [N, H, W] or [N, H, W, channels] have labels")
    if domain is not None:
        if not isinstance(domain, str) or domain not in DOMAINS:
            raise UserError(f"{WHERE}: domain = {domain!r} should be one of {', '.join(DOMAINS)}")
        return _Points(arrays=arrays, domain=domain).load()
    if arrays["train"].ndim == 2:
        return _tokens(arrays, levels)
    return _Images(arrays=arrays, levels=levels, labels=labels).load()
