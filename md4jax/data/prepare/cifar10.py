"""CIFAR-10: 32 x 32 colour images of 10 classes, from the python or the binary release."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from md4jax.data.prepare.archives import Entry, Files, readable
from md4jax.data.prepare.recipe import (
    About,
    Download,
    ImageRecipe,
    Piece,
    Read,
    check_labels,
    missing,
)
from md4jax.options import UserError

BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_PIXELS = 3 * 32 * 32
_NEEDED = {
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer",
    "numpy.ndarray", "numpy.dtype", "_codecs.encode",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cifar10(ImageRecipe):
    """Small colour images of ten classes."""

    num_classes = 10
    shape = (32, 32, 3)
    about = About(
        what="colour images, 32 x 32 x 3, 10 classes",
        licence="none stated; for research",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        source="cifar-10-python.tar.gz, cifar-10-binary.tar.gz, or the folder of either",
        gigabytes="0.2",
        downloads=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170.0,
            ),
        ),
        counts={"train": 50_000, "test": 10_000},
        digests={
            "train": "a7846f3beea6377c0aff2b44c59fb080d834f9b004d139badf195e6ba688c3e1",
            "test": "d3536844ea82ad3483d6f8ad62ab1cbd1a5d1025a1786cc84544e3d452a9a90b",
        },
        train="--config=configs/md4/cifar10.py",
    )  # fmt: skip

    def pieces(self, source: Path) -> list[Piece]:
        """One a batch of 10,000 images; see `Recipe`."""
        files, found = Files(_archive_in(source)), []
        for split, names in BATCHES.items():
            for name in names:
                entry = files.one(name, f"{name}.bin")
                if entry is None:
                    raise missing(source, f"there is no {name} or {name}.bin in it")
                found.append(functools.partial(_read, split, entry))
        return found


def _archive_in(source: Path) -> Path:
    """The release as it is published, if the source is the folder that it lies in."""
    names = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
    return next((source / name for name in names if (source / name).is_file()), source)


def _read(split: str, entry: Entry) -> Iterator[Read]:
    read = _binary if entry.name.endswith(".bin") else _python
    pixels, labels = read(entry.read(), str(entry))
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = check_labels(labels, Cifar10.num_classes, str(entry))
    yield {split: {"image": np.ascontiguousarray(images), "label": labels}}


def _binary(raw: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one byte of label and 3,072 of pixels."""
    if not raw or len(raw) % (1 + _PIXELS):
        raise UserError(f"{where}: {len(raw)} bytes are no whole number of {1 + _PIXELS}-byte rows")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + _PIXELS)
    return rows[:, 1:], rows[:, 0]


def _python(raw: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dict of `data` `[n, 3072]` and `labels`."""
    with readable(where):
        try:
            batch = _Plain(io.BytesIO(raw), encoding="bytes").load()
            pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], np.int64)
        except (pickle.UnpicklingError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: is no batch of CIFAR-10 for python: {error}") from error
    if pixels.dtype != np.uint8 or labels.ndim != 1 or pixels.shape != (len(labels), _PIXELS):
        raise UserError(f"{where}: data should be uint8 [N, {_PIXELS}] and labels [N]")
    return pixels, labels


class _Plain(pickle.Unpickler):
    """Reads arrays and plain Python values alone: a pickle could otherwise run anything."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickled NumPy array needs."""
        if f"{module}.{name}" not in _NEEDED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
