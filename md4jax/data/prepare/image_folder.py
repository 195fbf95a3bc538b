"""Folders, zips and tars of images: one's own, LSUN's, and what the other image sets share.

In a source, `train/`, `val/` (or `valid/`, `validation/`) and `test/` are the splits, if there is a
`train/`; otherwise every `test_every`-th image in the order of the names is for testing. With
classes the folder that an image lies in is its class, numbered in the order of the names.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from md4jax.console import say
from md4jax.data.prepare.archives import Entry, Files
from md4jax.data.prepare.recipe import About, ImageRecipe, Part, Piece, Read, missing
from md4jax.options import UserError, option

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_SPLITS = {"train": "train", "training": "train", "val": "valid", "valid": "valid",
           "validation": "valid", "test": "test"}  # fmt: skip
IMAGES_A_PIECE = 512
BYTES_A_PIECE = 2**27  # Of pixels.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(ImageRecipe):
    """Images of your own: cropped to a centred square, then resized by areas."""

    size: int = option("Height and width.", 64, at_least=1)
    grey: bool = option("One channel instead of three.", False)
    classes: bool = option("Folders are classes.", False)
    test_every: int = option(
        "Every so many images one is for testing, unless folders say; 0 is none.", 10, at_least=0
    )
    about = About(
        what="images of your own: centred square, resized by areas to size x size",
        licence="yours",
        home="-",
        source="a folder, zip or tar of images; train/ and test/ in it are the splits",
        gigabytes="-",
        train="--config=configs/own/images.py",
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return (self.size, self.size, 1 if self.grey else 3)

    @property
    def has_labels(self) -> bool:
        """Whether folders are classes."""
        return self.classes

    def pieces(self, source: Path) -> list[Piece]:
        """See `Recipe`."""
        change = functools.partial(square, size=self.size)
        names = split_entries(source, self.test_every)
        labels = class_numbers(names) if self.classes else None
        return image_pieces(names, change, self.shape, self.packed, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LsunBedroom(ImageFolder):
    """LSUN bedrooms."""

    size: int = option("Height and width.", 256, at_least=1)
    test_every: int = option(
        "Every so many images one is for testing, unless folders say; 0 is none.", 1000, at_least=0
    )
    packed = True
    about = About(
        what="3,033,042 photographs of bedrooms, 256 x 256 x 3",
        licence="for research",
        home="https://www.yf.io/p/lsun",
        source="the folder of its exported images; train/ and val/ in it are the splits",
        gigabytes="about 300",
        train="--config=configs/ddpm/lsun_bedroom.py",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LsunChurch(LsunBedroom):
    """LSUN churches."""

    about = About(
        what="126,227 photographs of churches outdoors, 256 x 256 x 3",
        licence="for research",
        home="https://www.yf.io/p/lsun",
        source="the folder of its exported images; train/ and val/ in it are the splits",
        gigabytes="about 13",
        train="--config=configs/ddpm/lsun_church.py",
    )


def square(image: Image, size: int) -> Image:
    """The centred square of an image, resized by areas; not resized if it has that size."""
    from PIL import Image as pil

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), pil.Resampling.BOX, box=box)


def image_pieces(
    entries: Mapping[str, Sequence[Entry]],
    change: Callable[[Image], Image],
    shape: tuple[int, int, int],
    packed: bool = False,
    labels: Mapping[str, int] | None = None,
) -> list[Piece]:
    """Pieces of at most `IMAGES_A_PIECE` images and, if they are large, about `BYTES_A_PIECE`.

    Args:
      entries: the images of each split.
      change: crops and resizes; picklable.
      shape: of what it makes, with 1 or 3 channels.
      packed: keep them as PNG.
      labels: the class of each, by its name.
    """
    pieces, read = [], functools.partial(read_images, change, shape, packed)
    size = max(1, min(IMAGES_A_PIECE, BYTES_A_PIECE // math.prod(shape)))
    for split, found in entries.items():
        for start in range(0, len(found), size):
            chosen = tuple(found[start : start + size])
            numbers = None if labels is None else tuple(labels[e.name] for e in chosen)
            pieces.append(functools.partial(read, split, chosen, numbers))
    return pieces


def image_entries(source: Path) -> list[Entry]:
    """The images of a folder or archive.

    Raises:
      UserError: there are none.
    """
    entries = [e for e in Files(source).entries if e.name.lower().endswith(ENDINGS)]
    if not entries:
        raise missing(source, f"there are no images in it ({', '.join(ENDINGS)})")
    return entries


def split_entries(source: Path, test_every: int = 0) -> dict[str, list[Entry]]:
    """The images of each split: by folders, the outermost that says so, or by `test_every`.

    Images for validation are those for testing if there are no others.

    Raises:
      UserError: there are no images.
    """
    entries = image_entries(source)
    found: dict[str, list[Entry]] = {"train": [], "valid": [], "test": []}
    for entry in entries:
        folders = (part.lower() for part in PurePath(entry.name).parts[:-1])
        split = next((_SPLITS[f] for f in folders if f in _SPLITS), None)
        if split is not None:
            found[split].append(entry)
    if not found["train"]:
        is_test = lambda i: test_every > 0 and i % test_every == test_every - 1
        found = {
            "train": [e for i, e in enumerate(entries) if not is_test(i)],
            "test": [e for i, e in enumerate(entries) if is_test(i)],
        }
    elif not found["test"]:
        found = {"train": found["train"], "test": found["valid"]}
    unused = len(entries) - sum(map(len, found.values()))
    if unused:
        say(f"{source}: {unused:,} images are in no folder of a split and are left out")
    return found


def class_numbers(entries: Mapping[str, Sequence[Entry]]) -> dict[str, int]:
    """The class of each image, by its folder.

    Raises:
      UserError: an image is in no folder, or in that of its split alone.
    """
    everything = [PurePath(entry.name) for found in entries.values() for entry in found]
    for path in everything:
        if path.parent.name == "" or path.parent.name.lower() in _SPLITS:
            raise UserError(f"{path} is in no folder of its class, such as train/<class>/")
    number = {n: i for i, n in enumerate(sorted({path.parent.name for path in everything}))}
    return {
        entry.name: number[PurePath(entry.name).parent.name]
        for found in entries.values()
        for entry in found
    }


def read_images(
    change: Callable[[Image], Image],
    shape: tuple[int, int, int],
    packed: bool,
    split: str,
    entries: Sequence[Entry],
    labels: Sequence[int] | None = None,
) -> Iterator[Read]:
    """The part of a split that these images are."""
    pixels: list[Any] = [None] * len(entries)
    # As they lie in a tar: a packed one is unpacked from its beginning to go back.
    for i in sorted(range(len(entries)), key=lambda i: entries[i].offset or 0):
        image = _pixels(entries[i], change, shape)
        pixels[i] = as_png(image) if packed else image
    part: Part = {"png": pixels} if packed else {"image": np.stack(pixels)}
    yield {split: part if labels is None else part | {"label": np.array(labels, np.int64)}}


def _pixels(
    entry: Entry, change: Callable[[Image], Image], shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "h w c"]:
    from PIL import Image as pil

    raw = entry.read()
    try:
        image = pil.open(io.BytesIO(raw))
        if image.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits a channel")
        image = change(image.convert("L" if shape[-1] == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as error:
        raise UserError(f"{entry}: is no image that can be used: {error}") from error
    return np.asarray(image).reshape(shape)


def as_png(pixels: UInt8[np.ndarray, "h w c"]) -> bytes:
    """An image packed without loss."""
    from PIL import Image as pil

    packed = io.BytesIO()
    pil.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(packed, "PNG")
    return packed.getvalue()
