"""Folders, zips and tars of images: one's own, LSUN's, and what the other image sets share.

In a source, `train/` and `test/` (or `val/`, `valid/`, `validation/`) are the splits, if they are
there; otherwise every `test_every`-th image in the order of the names is for testing. With classes
the folder below that is the class, numbered in the order of the names.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from md4jax.data.prepare.archives import Files
from md4jax.data.prepare.recipe import About, ImageRecipe, Part, Piece, missing
from md4jax.options import UserError, option

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_SPLITS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}
IMAGES_A_PIECE = 512


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
        train="--config=configs/own/images.py --config.data.dataset={name}",
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
        return image_pieces(source, change, self.packed, self.grey, self.classes, self.test_every)


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
    source: Path,
    change: Callable[[Image], Image],
    packed: bool,
    grey: bool = False,
    classes: bool = False,
    test_every: int = 0,
) -> list[Piece]:
    """Pieces of at most `IMAGES_A_PIECE` images of a folder or archive.

    Args:
      change: crops and resizes; picklable.
      packed: keep them as PNG.
      grey: one channel.
      classes: folders are classes.
      test_every: see `ImageFolder`.

    Raises:
      UserError: there are no images, or images outside of any class.
    """
    pieces, read = [], functools.partial(read_images, source, change, packed, grey)
    names = split_names(source, test_every)
    labels = class_numbers(source, names) if classes else None
    for split, found in names.items():
        for start in range(0, len(found), IMAGES_A_PIECE):
            chosen = tuple(found[start : start + IMAGES_A_PIECE])
            numbers = None if labels is None else tuple(labels[name] for name in chosen)
            pieces.append(functools.partial(read, split, chosen, numbers))
    return pieces


def split_names(source: Path, test_every: int) -> dict[str, list[str]]:
    """The names of the images of each split."""
    names = [n for n in Files(source).names if n.lower().endswith(ENDINGS)]
    if not names:
        raise missing(source, f"there are no images in it ({', '.join(ENDINGS)})")
    folders = {name: {part.lower() for part in PurePath(name).parts[:-1]} for name in names}
    found = {
        split: [n for n in names if folders[n] & set(known)] for split, known in _SPLITS.items()
    }
    if found["train"]:
        return {split: chosen for split, chosen in found.items() if chosen}
    is_test = lambda i: test_every > 0 and i % test_every == test_every - 1
    split = {"train": [n for i, n in enumerate(names) if not is_test(i)]}
    test = [n for i, n in enumerate(names) if is_test(i)]
    return split | ({"test": test} if test else {})


def class_numbers(source: Path, names: dict[str, list[str]]) -> dict[str, int]:
    """The class of each image, by its folder."""
    everything = [name for found in names.values() for name in found]
    folders = {name: PurePath(name).parent.name for name in everything}
    outside = next((n for n in everything if len(PurePath(n).parts) < 2), None)
    if outside is not None:
        raise missing(source, f"{outside} is in no folder, and --classes asks for a folder a class")
    number = {folder: i for i, folder in enumerate(sorted(set(folders.values())))}
    return {name: number[folder] for name, folder in folders.items()}


def read_images(
    source: Path,
    change: Callable[[Image], Image],
    packed: bool,
    grey: bool,
    split: str,
    names: Sequence[str],
    labels: Sequence[int] | None = None,
) -> dict[str, Part]:
    """The part of a split that these images are."""
    files = Files(source)
    images = [_pixels(files, name, change, grey) for name in names]
    part: Part = {"png": [as_png(x) for x in images]} if packed else {"image": np.stack(images)}
    return {split: part if labels is None else part | {"label": np.array(labels, np.int64)}}


def _pixels(
    files: Files, name: str, change: Callable[[Image], Image], grey: bool
) -> UInt8[np.ndarray, "h w c"]:
    from PIL import Image as pil

    raw = files.read(name)
    try:
        image = change(pil.open(io.BytesIO(raw)).convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as error:
        raise UserError(f"{files.source}/{name}: is no whole image: {error}") from error
    pixels = np.asarray(image)
    return pixels[..., None] if grey else pixels


def as_png(pixels: UInt8[np.ndarray, "h w c"]) -> bytes:
    """An image packed without loss."""
    from PIL import Image as pil

    packed = io.BytesIO()
    pil.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(packed, "PNG")
    return packed.getvalue()
