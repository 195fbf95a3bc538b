r"""Star-shaped von Mises laws: angles (arXiv:2302.05259, table 1).

The von Mises-Fisher family on the circle: an angle x is the point (cos x, sin x), K = 2.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from md4jax.options import option
from md4jax.processes.base import process_class
from md4jax.processes.star.family import Point
from md4jax.processes.star.schedules import von_mises_kappa
from md4jax.processes.star.von_mises_fisher import StarVonMisesFisher
from md4jax.typing import Data


@process_class
class StarVonMises(StarVonMisesFisher):
    """Angles, seen through von Mises laws around them."""

    tail: str = option(
        "How G_t is drawn in training: exact (the draws of s >= t) or draws (all T variables).",
        "exact",
        one_of=("exact", "draws"),
    )

    domain = "circle"
    _name = "von_mises"

    def _schedule(self) -> Float64[np.ndarray, "T"]:
        return von_mises_kappa(self.num_timesteps)

    def z_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape, 2)

    def point(self, x0: Data) -> Point:
        return jnp.stack([jnp.cos(x0), jnp.sin(x0)], axis=-1)

    def values(self, point: Point) -> Data:
        return jnp.arctan2(point[..., 1], point[..., 0])
