"""A data set as a page of text: what `prepare_data.py` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from md4jax.data import DATASETS
from md4jax.data.base import Dataset, Split, TokenWindows
from md4jax.data.statistics import marginal_entropies, ngram_entropies
from md4jax.options import UserError, check_options

_SHADES = " .:-=+*#%@"


def load_dataset(values: Mapping[str, Any]) -> Dataset:
    """Checks a config's `data` section and loads what it names.

    Args:
      values: `{name, **fields}`.

    Raises:
      UserError: a wrong name or field, or whatever is wrong with the data.
    """
    if "name" not in values:
        raise UserError(f"config.data.name is missing; it is one of {', '.join(DATASETS)}")
    cls = DATASETS[values["name"]]
    fields = {key: value for key, value in values.items() if key != "name"}
    check_options(cls, fields, "config.data.")
    return cls(**fields).load()


def describe(dataset: Dataset, name: str) -> str:
    """Splits, shape, vocabulary, fingerprint, entropies and one example, as aligned lines.

    Of real data, whose entropy no count tells, mean and standard deviation of each coordinate.

    Args:
      dataset: loaded.
      name: for the first line.
    """
    spec = dataset.spec
    rows = [
        ("data", name),
        ("shape", " x ".join(map(str, spec.shape))),
        ("domain", spec.domain or "real")
        if spec.vocab_size is None
        else ("vocabulary", f"{spec.vocab_size:,}"),
        ("classes", "none" if spec.num_classes is None else str(spec.num_classes)),
        ("fingerprint", dataset.fingerprint),
    ]
    for split_name, split in dataset.splits.items():
        line = f"{len(split):,} examples"
        if isinstance(split, TokenWindows):
            line += f" from {len(split.tokens):,} {spec.unit}s, one every {split.stride}"
            line += f", {split.left_out:,} left out" if split.left_out else ""
        rows.append((split_name, line))
    rows += [(key, f"{value:.4f} bits/{spec.unit}") for key, value in entropies(dataset).items()]
    if spec.vocab_size is None:
        rows += moments(dataset.splits["train"])
    width = max(len(key) for key, _ in rows) + 2
    lines = [f"{key:<{width}}{value}" for key, value in rows]
    return "\n".join([*lines, "", "first training example:", example_text(dataset)])


def entropies(dataset: Dataset) -> dict[str, float]:
    """Those of `statistics` that fit: by n-grams for sequences, by position for images.

    None for real data.
    """
    if dataset.spec.vocab_size is None:
        return {}
    train, test = dataset.splits["train"], dataset.splits.get("test")
    measure = ngram_entropies if len(dataset.spec.shape) == 1 else marginal_entropies
    return measure(train, test, dataset.spec.vocab_size)


def moments(split: Split) -> list[tuple[str, str]]:
    """Mean and standard deviation of real data, of the first coordinates if they are many."""
    total, squares = np.zeros(split.shape), np.zeros(split.shape)
    for start in range(0, len(split), 2**16):
        x0 = split.gather(np.arange(start, min(start + 2**16, len(split))))["x0"].astype(np.float64)
        total, squares = total + x0.sum(0), squares + (x0**2).sum(0)
    mean = total / len(split)
    deviation = np.sqrt(np.maximum(squares / len(split) - mean**2, 0))
    return [("mean", _numbers(mean)), ("std. deviation", _numbers(deviation))]


def _numbers(x: np.ndarray) -> str:
    """The first entries of an array, in row order."""
    return " ".join(f"{v:.4f}" for v in x.flat[:32]) + (" ..." if x.size > 32 else "")


def example_text(dataset: Dataset) -> str:
    """The first training example: as text, as shaded characters for an image, or as numbers."""
    x0 = dataset.splits["train"].gather(np.zeros(1, np.int64))["x0"][0]
    if dataset.to_text is not None:
        return dataset.to_text(x0)
    if dataset.levels is not None:
        shade = x0.mean(-1) / (dataset.levels - 1) * (len(_SHADES) - 1)
        # Two characters a pixel, since a character is about twice as high as wide.
        return "\n".join("".join(2 * _SHADES[round(s)] for s in row) for row in shade.tolist())
    if dataset.spec.vocab_size is None:
        return _numbers(x0)
    return " ".join(map(str, x0[:32].tolist())) + (" ..." if len(x0) > 32 else "")
