"""The config of a classifier: the data, and a section of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from md4jax.config import Sections, fill_in
from md4jax.data import DATASETS
from md4jax.networks.towers.classifier import NORM_GROUPS, SmallClassifier
from md4jax.options import UserError, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """The network, and how it is trained.

    By Adam, whose rate rises for a tenth of the steps and falls to 0 along a cosine.
    """

    width: int = option(
        f"Channels of the first level, a multiple of {NORM_GROUPS}; each has twice as many.",
        32,
        at_least=NORM_GROUPS,
    )
    num_layers: int = option("Levels; each halves the sides of the image.", 2, at_least=1)
    features: int = option("Entries of the layer before the last.", 64, at_least=1)
    num_steps: int = option("Optimizer steps.", 1000, at_least=1)
    batch_size: int = option("Examples a step.", 64, at_least=1)
    learning_rate: float = option("The largest.", 3e-3, above=0)
    weight_decay: float = option("Times the learning rate, a step.", 0.01, at_least=0)
    seed: int = option("Fixes initialisation and data order.", 0, at_least=0)

    def __post_init__(self):
        if self.width % NORM_GROUPS:
            raise UserError(
                f"config.classifier.width = {self.width} should be a multiple of {NORM_GROUPS}, "
                "the groups of the norms"
            )

    def tower(self, shape: tuple[int, ...], num_classes: int) -> SmallClassifier:
        """The network for images of a shape.

        Raises:
          UserError: they are too small for so many levels.
        """
        if min(shape[:2]) < 2**self.num_layers:
            raise UserError(
                f"config.classifier.num_layers = {self.num_layers} levels halve the sides so often "
                f"that nothing is left of images of {shape[0]} x {shape[1]} pixels"
            )
        return SmallClassifier(self.width, self.num_layers, self.features, num_classes)


SECTIONS: Sections = {"data": DATASETS, "classifier": ClassifierOptions}


def make_config(**sections: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """As `md4jax.config.make_config`, with the sections `data` and `classifier`.

    Raises:
      UserError: a section, name or field that does not exist, or one that is missing.
    """
    return fill_in(SECTIONS, sections)
