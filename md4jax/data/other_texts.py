"""Texts that a model was not trained on, in the ids of its own data."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from md4jax.data.base import Dataset, TokenWindows, log_left_out
from md4jax.options import UserError


def with_texts(dataset: Dataset, paths: Sequence[str]) -> Dataset:
    """The data set with a split for each text, named by its path, cut into disjoint windows.

    Tokens at the end that fill no window are left out, and that is logged.

    Args:
      dataset: of text.
      paths: of UTF-8 files.

    Raises:
      UserError: a path is the name of a split of the data; the data are no text or are cut by
        documents; a file cannot be read, is shorter than one window, or has characters that the
        data's alphabet lacks.
    """
    if taken := [path for path in paths if path in dataset.splits]:
        raise UserError(
            f"config.eval.texts has {taken[0]!r}, which is a split of the data: config.eval.splits "
            f"is for those; a file of that name is './{taken[0]}'"
        )
    added = {path: _windows(dataset, path) for path in paths}
    log_left_out(added)
    return dataclasses.replace(dataset, splits={**dataset.splits, **added}) if added else dataset


def _windows(dataset: Dataset, path: str) -> TokenWindows:
    key = f"config.eval.texts has {path!r}"
    if dataset.encode is None or dataset.spec.has_segments:
        what = "are cut by documents" if dataset.spec.has_segments else "are no text"
        raise UserError(f"{key}: the data that the model is of {what}; use ()")
    try:
        text = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}, which cannot be read as UTF-8: {error}") from error
    (length,) = dataset.spec.shape
    tokens = dataset.encode(text, key)
    if len(tokens) < length:
        raise UserError(f"{key}: {len(tokens)} {dataset.spec.unit}s, and one window is {length}")
    return TokenWindows(tokens, length, length)
