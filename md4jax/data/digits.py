"""Handwritten digits: 1,797 grey images of 8 x 8 pixels with 17 levels, shipped by scikit-learn.

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, 1998 (its test part). Nothing is downloaded.

There is no published split of these 1,797. Here example i, in scikit-learn's order, is a test
example if and only if

  (1)  297 i mod 1797 < 297

which takes every sixth or seventh: 297 for testing, 1,500 for training, all classes in both.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from md4jax.data.base import ArraySplit, Dataset, fingerprint
from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec

LEVELS = 17
CLASSES = 10
TEST_EXAMPLES = 297


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """1,500 training and 297 test images of handwritten digits, 8 x 8 x 1, 17 levels."""

    labels: bool = option("Give the digit (0 to 9) to the network as a class label.", False)

    def load(self) -> Dataset:
        """Reads the images. Raises UserError if scikit-learn is not installed."""
        images, digits = read_digits()
        test = TEST_EXAMPLES * np.arange(len(images)) % len(images) < TEST_EXAMPLES
        splits, arrays = {}, {}
        for name, rows in {"train": ~test, "test": test}.items():
            labels = digits[rows] if self.labels else None
            splits[name] = ArraySplit(images[rows], labels)
            arrays[name] = images[rows]
            if self.labels:
                arrays[f"{name}_labels"] = digits[rows]
        spec = DataSpec(
            shape=(8, 8, 1),
            vocab_size=LEVELS,
            num_classes=CLASSES if self.labels else None,
            unit="dim",
        )
        return Dataset(spec, splits, fingerprint(spec, arrays), levels=LEVELS)


def read_digits() -> tuple[Integer[np.ndarray, "n 8 8 1"], Integer[np.ndarray, "n"]]:
    """All images and their digits, uint8, in scikit-learn's order.

    Raises:
      UserError: scikit-learn is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UserError("config.data.name = 'digits' needs scikit-learn: pip install scikit-learn")
    # Importing sklearn.datasets takes a second; its file holds the same numbers.
    packaged = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if packaged.exists():
        table = np.loadtxt(packaged, delimiter=",")
        pixels, digits = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
    return pixels.astype(np.uint8).reshape(-1, 8, 8, 1), digits.astype(np.uint8)
