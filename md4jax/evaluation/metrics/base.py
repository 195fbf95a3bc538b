"""What a metric is, and the three kinds of sets it may compare: of images, texts and points."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float, Integer

from md4jax.options import UserError

if TYPE_CHECKING:
    from md4jax.config import Eval
    from md4jax.data.base import Dataset


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images by what is measured of them.

    Attributes:
      features: float32 or float64.
      probabilities: of classes, if they were asked for.
    """

    features: Float[np.ndarray, "n d"]
    probabilities: Float[np.ndarray, "n k"] | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts as ids in [0, vocab_size).

    Attributes:
      rows: a text each.
      vocab_size: V.
      to_text: a row as text; None if nobody knows the words.
    """

    rows: Integer[np.ndarray, "n l"]
    vocab_size: int
    to_text: Callable[[np.ndarray], str] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def words(self) -> list[str]:
        """The texts."""
        return [self.to_text(row) for row in self.rows]


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Points of a domain, as many numbers each as it has dimensions; float64."""

    coordinates: Float[np.ndarray, "n d"]

    def __len__(self) -> int:
        return len(self.coordinates)


KINDS = {"images": Images, "texts": Texts, "points": Points}


def kind_of(dataset: Dataset) -> type:
    """The kind of set that examples of a data set are."""
    if dataset.spec.vocab_size is None:
        return Points
    return Texts if dataset.levels is None else Images


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a metric may ask about before there are samples.

    Attributes:
      options: `config.eval`.
      dataset: what the model was trained on.
      dim: of the features of images; 0 elsewhere.
      num_classes: that the features' network tells apart; None if there are none.
    """

    options: Eval
    dataset: Dataset
    dim: int = 0
    num_classes: int | None = None


class Metric:
    """One entry of `METRICS`; a base class.

    Attributes:
      kind: of the sets it takes, a value of `KINDS`.
      uses_reference: whether `__call__` looks at the reference.
      uses_probabilities: whether it looks at `Images.probabilities`.
      words: what its values depend on beside the sets, by names that are in `samples.ABOUT`.
    """

    kind: ClassVar[type]
    uses_reference: ClassVar[bool] = True
    uses_probabilities: ClassVar[bool] = False
    words: Mapping[str, str] = types.MappingProxyType({})

    def __init__(self, setting: Setting):
        """Raises UserError if the metric cannot be had here; computes nothing that takes long."""
        self.setting = setting

    def check(self, samples: int, reference: int) -> None:
        """Raises UserError if sets of so many examples are too small."""

    def __call__(self, samples: object, reference: object) -> dict[str, float]:
        """Values by name; a name tells the unit where there is one.

        Args:
          samples: of the metric's `kind`.
          reference: the same, of data; None if not `uses_reference`.
        """
        raise NotImplementedError


def too_few(name: str, samples: int, reference: int, least: int, why: str) -> None:
    """Raises UserError if one of two sets has fewer than `least` examples."""
    if min(samples, reference) < least:
        raise UserError(
            f"config.eval.metrics has {name!r}: {samples} samples and {reference} reference "
            f"examples; each should be at least {least}: {why} (config.sampler.num_samples, "
            "config.eval.reference_examples)"
        )
