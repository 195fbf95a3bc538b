"""CelebA, aligned and cropped faces, at 64 x 64.

Of the 178 x 218 pixels the 128 x 128 box of rows 57 to 184 and columns 25 to 152 is kept (centre
row 121, column 89, as DDIM's code has it), then each 2 x 2 pixels are averaged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from md4jax.data.prepare.archives import Entry, readable
from md4jax.data.prepare.image_folder import image_entries, image_pieces
from md4jax.data.prepare.recipe import About, ImageRecipe, Piece, missing

if TYPE_CHECKING:
    from PIL.Image import Image

BOX = (25, 57, 153, 185)
_SIZE = (178, 218)
_PARTITION = "list_eval_partition.txt"
_SPLITS = ("train", "valid", "test")  # What 0, 1 and 2 are in that file.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Celeba64(ImageRecipe):
    """Faces."""

    shape = (64, 64, 3)
    about = About(
        what="faces, 64 x 64 x 3, the crop of DDIM's code",
        licence="for non-commercial research",
        home="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        source="the folder of img_align_celeba/ (or its zip) and list_eval_partition.txt",
        gigabytes="2.5",
        counts={"train": 162_770, "valid": 19_867, "test": 19_962},
        train="--config=configs/ddpm/celeba.py",
    )

    def pieces(self, source: Path) -> list[Piece]:
        """See `Recipe`."""
        if not source.is_dir() or not (source / _PARTITION).is_file():
            raise missing(source, f"should be a folder with {_PARTITION} in it")
        packed = source / "img_align_celeba.zip"
        images = packed if packed.is_file() else source
        entries = {PurePath(entry.name).name: entry for entry in image_entries(images)}
        return image_pieces(_partition(source, entries), face, self.shape)


def _partition(source: Path, entries: Mapping[str, Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {split: [] for split in _SPLITS}
    with readable(source / _PARTITION):
        lines = (source / _PARTITION).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image, _, which = line.strip().partition(" ")
        if which not in ("0", "1", "2"):
            raise missing(source, f"{_PARTITION}, line {number}: {line[:40]!r} is no image and 0-2")
        if image not in entries:
            raise missing(source, f"{image}, which {_PARTITION} lists, is not there")
        found[_SPLITS[int(which)]].append(entries[image])
    return found


def face(image: Image) -> Image:
    """The box of a face, at half its size.

    Raises:
      ValueError: the image has not the size of the aligned release.
    """
    if image.size != _SIZE:
        raise ValueError(f"has {image.width} x {image.height} pixels, not 178 x 218")
    return image.reduce(2, BOX)
