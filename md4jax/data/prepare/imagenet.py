"""ImageNet at 64 x 64, of which there are three kinds whose bits/dim must not be compared.

- `downsampled_imagenet64`: A. van den Oord et al. 2016 (arXiv:1601.06759), the one of the
  likelihood literature, MD4 and VDM among it; PNG files, no classes. No longer offered where it
  was.
- `imagenet_resized64`: P. Chrabaszcz et al. 2017 (arXiv:1707.08819), what image-net.org offers for
  download now; its box filter makes smoother images, hence lower bits/dim.
- `imagenet2012_64`: the centred square of each ImageNet 2012 image, resized by areas, as MD4's
  class-conditional model had it; with --resize=bicubic as Improved DDPM had it.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from md4jax.data.prepare.archives import Entry, Files, readable
from md4jax.data.prepare.image_folder import (
    class_numbers,
    image_entries,
    image_pieces,
    split_entries,
    square,
)
from md4jax.data.prepare.recipe import About, ImageRecipe, Piece, Read, check_labels, missing
from md4jax.options import UserError, option

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 64
_LICENCE = "for non-commercial research, after registration"
_CLASSES = 1000
IMAGES_A_PART = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownsampledImagenet64(ImageRecipe):
    """ImageNet 64 of the likelihood literature."""

    shape = (SIZE, SIZE, 3)
    about = About(
        what="ImageNet 64 x 64 x 3 of van den Oord et al. 2016, no classes: the one of MD4 and VDM",
        licence=_LICENCE,
        home="https://arxiv.org/abs/1601.06759",
        source="the folder with train_64x64/ and valid_64x64/ (or both .tar files) of PNG images",
        gigabytes="16",
        counts={"train": 1_281_149, "test": 49_999},
        train="--config=configs/md4/imagenet64.py",
    )

    def pieces(self, source: Path) -> list[Piece]:
        """See `Recipe`."""
        found = {}
        for split, name in (("train", "train_64x64"), ("test", "valid_64x64")):
            paths = [p for p in (source / name, source / f"{name}.tar") if p.exists()]
            if not paths:
                raise missing(source, f"there is no {name} or {name}.tar in it")
            found[split] = image_entries(paths[0])
        return image_pieces(found, as_it_is, self.shape)


def as_it_is(image: Image) -> Image:
    """An image of 64 x 64.

    Raises:
      ValueError: it has another size.
    """
    if image.size != (SIZE, SIZE):
        raise ValueError(f"has {image.width} x {image.height} pixels, not {SIZE} x {SIZE}")
    return image


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagenetResized64(ImageRecipe):
    """ImageNet 64 as image-net.org offers it."""

    num_classes = _CLASSES
    shape = (SIZE, SIZE, 3)
    max_workers = 2  # Each reads 1.6 GB at once.
    about = About(
        what="ImageNet 64 x 64 x 3 of Chrabaszcz et al. 2017, 1,000 classes; lower bits/dim",
        licence=_LICENCE,
        home="https://image-net.org/download-images.php",
        source="the folder of Imagenet64_*_npz.zip, or of the .npz files in them",
        gigabytes="16",
        counts={"train": 1_281_167, "test": 50_000},
        train="--config=configs/iddpm/imagenet64_hybrid.py",
    )

    def pieces(self, source: Path) -> list[Piece]:
        """One an .npz file; see `Recipe`."""
        places = [source, *sorted(source.glob("*64*_npz.zip"))] if source.is_dir() else [source]
        found = {}
        for place in places:
            for entry in Files(place).entries:
                name = PurePath(entry.name).name
                match = re.fullmatch(r"(train_data_batch_([1-9]\d*)|val_data)\.npz", name)
                if match:
                    found[int(match[2] or 0)] = entry
        if 0 not in found or len(found) < 2:
            raise missing(source, "there are no train_data_batch_1.npz ... and val_data.npz in it")
        order = [*range(1, max(found) + 1), 0]
        gap = next((i for i in order if i not in found), None)
        if gap is not None:
            raise missing(source, f"there is no train_data_batch_{gap}.npz, but a later one")
        return [functools.partial(_read, found[i], "train" if i else "test") for i in order]


def _read(entry: Entry, split: str) -> Iterator[Read]:
    with readable(entry):
        try:
            with np.load(io.BytesIO(entry.read()), allow_pickle=False) as arrays:
                pixels, labels = arrays["data"], arrays["labels"]
        except KeyError as error:
            raise UserError(f"{entry}: should have the arrays data and labels: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * SIZE * SIZE):
        raise UserError(
            f"{entry}: data should be uint8 [{len(labels)}, {3 * SIZE * SIZE}] and is "
            f"{pixels.dtype} {list(pixels.shape)}"
        )
    labels = check_labels(labels, _CLASSES, str(entry), first=1)
    pixels = pixels.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
    for start in range(0, len(labels), IMAGES_A_PART):
        some = slice(start, start + IMAGES_A_PART)
        yield {split: {"image": np.ascontiguousarray(pixels[some]), "label": labels[some]}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imagenet2012At64(ImageRecipe):
    """ImageNet 2012, cropped and resized."""

    resize: str = option(
        "area: the centred square by areas; bicubic: as Improved DDPM, `halved_then_bicubic`.",
        "area", one_of=("area", "bicubic"),
    )  # fmt: skip
    num_classes = _CLASSES
    shape = (SIZE, SIZE, 3)
    about = About(
        what="ImageNet 2012, centred square resized by areas to 64 x 64 x 3, 1,000 classes",
        licence=_LICENCE,
        home="https://image-net.org/challenges/LSVRC/2012/",
        source="the folder with train/<class>/ and val/<class>/ of JPEG images",
        gigabytes="16",
        counts={"train": 1_281_167, "test": 50_000},
        train="--config=configs/md4/imagenet64_class_conditional.py",
    )

    def pieces(self, source: Path) -> list[Piece]:
        """See `Recipe`."""
        change = {"area": square, "bicubic": halved_then_bicubic}[self.resize]
        change = functools.partial(change, size=SIZE)
        entries = split_entries(source)
        if "valid" in entries:  # Then those for testing are without classes.
            entries = {"train": entries["train"], "test": entries["valid"]}
        return image_pieces(entries, change, self.shape, labels=class_numbers(entries))


def halved_then_bicubic(image: Image, size: int) -> Image:
    """Halved by areas while the shorter side stays at least 2 x size, then bicubic; the centre."""
    from PIL import Image as pil

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), pil.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), pil.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
