"""Images of your own: integer arrays in one `.npz` file.

`train` and, if there is one, `test` are `[N, height, width]` or `[N, height, width, channels]`,
with values in [0, levels). With `labels`, `train_labels` and `test_labels` are `[N]` integers from
0, and there are as many classes as the largest of them plus one.
"""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer, Shaped

from md4jax.data.base import ArraySplit, Dataset, fingerprint
from md4jax.data.text import local_file
from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNpz:
    """Integer images of your own from one .npz file."""

    path: str = option(
        "An .npz with train and test [N, H, W] or [N, H, W, C].", "data/images.npz", changeable=True
    )
    levels: int = option("Values are integers in [0, levels).", 256, at_least=2)
    labels: bool = option("Give train_labels and test_labels to the network.", False)

    def load(self) -> Dataset:
        """Reads the file.

        Raises:
          UserError: no such file, or an array that is missing or of the wrong shape, type or range.
        """
        arrays = self._read()
        splits = {}
        for name in ("train", "test"):
            if name in arrays:
                images = self._images(name, arrays[name])
                labels = self._labels(name, arrays, len(images)) if self.labels else None
                splits[name] = ArraySplit(images, labels)
        shapes = {split.shape for split in splits.values()}
        if len(shapes) > 1:
            raise self._error(f"train and test differ in shape: {sorted(shapes)}")
        spec = DataSpec(
            shape=shapes.pop(),
            vocab_size=self.levels,
            num_classes=max(int(s.labels.max()) + 1 for s in splits.values())
            if self.labels
            else None,
            unit="dim",
        )
        used = {name: split.examples for name, split in splits.items()}
        if self.labels:
            used |= {f"{name}_labels": split.labels for name, split in splits.items()}
        return Dataset(spec, splits, fingerprint(spec, used), levels=self.levels)

    def _error(self, what: str) -> UserError:
        return UserError(f"config.data.path = {self.path!r}: {what}")

    def _read(self) -> dict[str, np.ndarray]:
        path = local_file(
            "path", self.path, "make it with np.savez_compressed(path, train=..., test=...)"
        )
        wanted = ["train", "test"] + (["train_labels", "test_labels"] if self.labels else [])
        try:
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise self._error("should be an .npz with an array train, and is one array")
            with file:
                if "train" not in file.files:
                    raise self._error(f"has no array train, only {', '.join(file.files) or 'none'}")
                return {name: file[name] for name in wanted if name in file.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._error(f"cannot be read as .npz: {error}") from error

    def _images(
        self, name: str, images: Shaped[np.ndarray, "..."]
    ) -> Integer[np.ndarray, "n h w c"]:
        if images.dtype == bool:
            images = images.astype(np.uint8)
        if images.dtype.kind not in "iu":
            raise self._error(f"{name} should be of integers and is {images.dtype}")
        if images.ndim not in (3, 4) or 0 in images.shape:
            raise self._error(
                f"{name} should be [N, height, width] or [N, height, width, channels] and is "
                f"{list(images.shape)}"
            )
        low, high = int(images.min()), int(images.max())
        if low < 0 or high >= self.levels:
            raise self._error(
                f"{name} has values from {low} to {high}; "
                f"config.data.levels = {self.levels} asks for 0 to {self.levels - 1}"
            )
        return images[..., None] if images.ndim == 3 else images

    def _labels(
        self, name: str, arrays: Mapping[str, np.ndarray], count: int
    ) -> Integer[np.ndarray, "n"]:
        key = f"{name}_labels"
        if key not in arrays:
            raise self._error(f"has no array {key}, which config.data.labels = True asks for")
        labels = arrays[key]
        if labels.dtype.kind not in "iu" or labels.shape != (count,) or labels.min() < 0:
            raise self._error(
                f"{key} should be [{count}] integers from 0 and is {labels.dtype} "
                f"{list(labels.shape)}"
            )
        return labels
