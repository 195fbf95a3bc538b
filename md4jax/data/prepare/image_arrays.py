"""Images of your own as arrays in one `.npz`, as `data.name=image_npz` reads them directly."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

from md4jax.data.image_npz import ImageNpz
from md4jax.data.prepare.recipe import About, ImageRecipe, Piece, Read, missing
from md4jax.options import UserError, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageArrays(ImageRecipe):
    """Arrays of images of your own."""

    size: int = option("Height and width.", 32, at_least=1)
    grey: bool = option("One channel instead of three.", False)
    classes: bool = option("There are train_labels and test_labels.", False)
    about = About(
        what="uint8 images of your own in an .npz, size x size x 3 or 1",
        licence="yours",
        home="-",
        source="an .npz with train and test [N, H, W, C], and train_labels, test_labels [N]",
        gigabytes="-",
        train="--config=configs/own/images.py",
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return (self.size, self.size, 1 if self.grey else 3)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self.classes

    def pieces(self, source: Path) -> list[Piece]:
        """All at once; see `Recipe`."""
        return [functools.partial(_read, source, self.shape, self.classes)]


def _read(source: Path, shape: tuple[int, int, int], classes: bool) -> Iterator[Read]:
    try:
        splits = ImageNpz(path=str(source), levels=256, labels=classes).load().splits
    except UserError as error:
        raise missing(source, str(error).partition(": ")[2]) from error
    found = {}
    for name, split in splits.items():
        if split.shape != shape:
            raise missing(
                source, f"{name} has images of shape {split.shape}; --size and --grey say {shape}"
            )
        found[name] = {"image": split.examples.astype("uint8")}
        if classes:
            found[name]["label"] = split.labels.astype("int64")
    yield found
