"""Pixels as features: they need no weights, and see an image as its neighbours do not."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from jaxtyping import Array, Float

from md4jax.evaluation.features.base import WEIGHTS, check_images
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Pixels:
    """All values of an image, or coordinates of a point; see `Features`."""

    dim: int
    rule: ClassVar[str] = "pixels in [0, 1]"
    fingerprint: ClassVar[str] = ""
    params: ClassVar[PyTree] = {}
    num_classes: ClassVar[int | None] = None

    @classmethod
    def load(cls, path: str | None, spec: DataSpec, key: str = WEIGHTS) -> Pixels:
        """See `Features.load`; a path is refused, for there is nothing to read."""
        if path is not None:
            raise UserError(f"{key} = {path!r} should be None: pixels have no weights")
        if spec.vocab_size is not None:
            check_images(spec)
        return cls(math.prod(spec.shape))

    def __call__(
        self, params: PyTree, images: Float[Array, "b *s"]
    ) -> Float[Array, "b {self.dim}"]:
        """See `Features`."""
        return images.reshape(len(images), -1)
