"""Pixels as they are."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxtyping import Array, Float

from md4jax.options import UserError
from md4jax.processes.base import DataSpec


@dataclasses.dataclass(frozen=True)
class Pixels:
    """All values of an image, in [0, 1]."""

    dim: int
    rule: str = "values in [0, 1], not resized"
    fingerprint: str = "none"
    params: Any = None
    num_classes: int | None = None

    @classmethod
    def load(cls, path: str | None, spec: DataSpec, key: str = "config.eval.weights") -> Pixels:
        """Raises UserError if weights are given."""
        if path is not None:
            raise UserError(f"{key} = {path!r}: pixels have no weights; use None")
        return cls(math.prod(spec.shape))

    def __call__(self, params: Any, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        return images.reshape(len(images), -1)
