r"""Star-shaped Gammas: positive numbers (arXiv:2302.05259, table 1).

  (1)  q(x_s | x0) = Gamma(alpha_s, beta_s(x0)),   beta_s(x0) = alpha_s (xi_s + (1 - xi_s) / x0)
  (2)  T(x) = x,   A_s = alpha_s (1 - xi_s),   f(x0) = -1 / x0
  (3)  KL = alpha (r - log(1 + r)),   r = beta(x_theta) / beta(x0) - 1

alpha is a shape and beta a rate: the mean is x0 where xi = 0, and 1 in the limit xi = 1.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Float64

from md4jax.options import option
from md4jax.processes.base import DataSpec, process_class
from md4jax.processes.star.draws import log_gamma
from md4jax.processes.star.family import Point, Statistic, Step, on_domain
from md4jax.processes.star.schedules import gamma_alpha, gamma_xi
from md4jax.processes.star.special import excess
from md4jax.processes.star_shaped import StarShaped
from md4jax.typing import Data, Keys


@process_class
class StarGamma(StarShaped):
    """Positive numbers, seen through Gammas."""

    num_timesteps: int = option("T.", 100, at_least=2)

    def bind(self, data: DataSpec) -> StarShaped:
        return super().bind(on_domain(data, "positive", "star_gamma"))

    @functools.cached_property
    def schedule(self) -> Float64[np.ndarray, "2 T1"]:
        """xi and alpha of the steps 0, ..., T; those of 0 are the first ones again."""
        both = np.stack([gamma_xi(self.num_timesteps), gamma_alpha(self.num_timesteps)])
        return np.concatenate([both[:, :1], both], axis=1)

    @property
    def weights(self) -> np.ndarray:
        xi, alpha = self.schedule
        return alpha * (1 - xi)

    def _parameters(self, point: Point, step: Step) -> tuple[Array, Array, Array]:
        """A, alpha and beta of (1) and (2)."""
        xi, alpha = (self.at(table, step, point) for table in self.schedule)
        rate = alpha * (xi + (1 - xi) / point)
        return alpha * (1 - xi), alpha + jnp.zeros_like(point), rate

    def limit_point(self, shape: tuple[int, ...]) -> Float[Array, "*s"]:
        return jnp.ones(shape)

    def draw(self, keys: Keys, prepared: Point, step: Step) -> Statistic:
        weight, alpha, beta = self._parameters(prepared, step)
        return weight * jnp.exp(log_gamma(keys, alpha)) / beta

    def moments(self, point: Point, step: Step) -> tuple[Statistic, Statistic]:
        weight, alpha, beta = self._parameters(point, step)
        return weight * alpha / beta, weight**2 * alpha / beta**2

    def kl(self, point: Point, predicted: Point, step: Step) -> Float[Array, "b *s"]:
        """Equation (3), with r from the difference of the points."""
        weight, alpha, beta = self._parameters(point, step)
        return alpha * excess(weight * (point - predicted) / (point * predicted) / beta)

    def natural(self, point: Point) -> Statistic:
        return -1 / point

    def log_density(self, x0: Data, predicted: Point) -> Float[Array, "b *s"]:
        _, alpha, beta = self._parameters(predicted, jnp.zeros(len(x0), jnp.int32))
        return alpha * jnp.log(beta) - gammaln(alpha) + (alpha - 1) * jnp.log(x0) - beta * x0
