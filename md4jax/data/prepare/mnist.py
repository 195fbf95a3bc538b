"""MNIST: 28 x 28 grey digits, from the four idx files, packed by gzip or not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from md4jax.data.prepare.archives import Entry, Files
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

_HOST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_UBYTE = 8  # What the format calls the type of unsigned bytes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mnist(ImageRecipe):
    """Handwritten digits."""

    num_classes = 10
    shape = (28, 28, 1)
    about = About(
        what="handwritten digits, 28 x 28 x 1, 10 classes",
        licence="CC BY-SA 3.0, as usually given",
        home="http://yann.lecun.com/exdb/mnist/",
        source="the folder of the four idx files, packed by gzip or not",
        gigabytes="0.06",
        downloads=(
            Download(
                _HOST + "train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9.9,
            ),
            Download(
                _HOST + "train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 0.1,
            ),
            Download(
                _HOST + "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1.6,
            ),
            Download(
                _HOST + "t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 0.1,
            ),
        ),
        counts={"train": 60_000, "test": 10_000},
        digests={
            "train": "9d0d9a79e52f665c3d2ae791dac52104499f10ee3991fb7acf9ce8c7032d6da8",
            "test": "c4a6c76d9b13e6edc99613f6e811e90666de2922371e4cdbbfd9d2019dccf695",
        },
        train="--config=configs/mnist/masked.py",
    )  # fmt: skip

    def pieces(self, source: Path) -> list[Piece]:
        """One a split; see `Recipe`."""
        files = Files(source)
        found: dict[str, list[Entry]] = {}
        for split, names in FILES.items():
            for name in names:
                entry = files.one(name, name.replace("-idx", ".idx"))  # Some unpack it so.
                if entry is None:
                    raise missing(source, f"there is no {name}, packed or not, in it")
                found.setdefault(split, []).append(entry)
        return [functools.partial(_read, split, *entries) for split, entries in found.items()]


def _read(split: str, images: Entry, labels: Entry) -> Iterator[Read]:
    pixels = idx_array(images.read(), 3, str(images))
    classes = idx_array(labels.read(), 1, str(labels))
    if pixels.shape[1:] != Mnist.shape[:2]:
        raise UserError(f"{images}: has images of {pixels.shape[1:]} pixels, not 28 x 28")
    if len(pixels) != len(classes):
        raise UserError(f"{images} has {len(pixels)} images, {labels} {len(classes)} labels")
    yield {split: {"image": pixels[..., None], "label": check_labels(classes, 10, str(labels))}}


def idx_array(raw: bytes, dimensions: int, where: str) -> UInt8[np.ndarray, "..."]:
    """The unsigned bytes of an idx file: 0, 0, type, number of sizes, sizes (big-endian), bytes.

    Raises:
      UserError: it is no such file, or cut short.
    """
    if len(raw) < 4 + 4 * dimensions or raw[:4] != bytes([0, 0, _UBYTE, dimensions]):
        raise UserError(f"{where}: is no idx file of unsigned bytes with {dimensions} sizes")
    shape = np.frombuffer(raw, ">u4", dimensions, offset=4).astype(int)
    content = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    if len(content) != shape.prod():
        raise UserError(f"{where}: holds {len(content)} bytes, its header says {shape.prod()}")
    return content.reshape(shape)
