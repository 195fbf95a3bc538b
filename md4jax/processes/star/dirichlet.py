r"""Star-shaped Dirichlets: points of the simplex (arXiv:2302.05259, table 1 and section 5).

  (1)  q(x_s | x0) = Dir(a_s), a_s = 1 + nu_s x0,   T(x) = log x,   A_s = nu_s,   f(x0) = x0
  (2)  E T(x_s) = psi(a_s) - psi(K + nu_s),   Cov = diag psi'(a_s) - psi'(K + nu_s) 1 1^T

K is the number of parts, which sum to one: what (2) subtracts does not depend on x0.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln, polygamma
from jaxtyping import Array, Float, Float64
from scipy import special

from md4jax.options import option
from md4jax.processes.base import DataSpec, process_class
from md4jax.processes.star.draws import log_dirichlet
from md4jax.processes.star.family import Point, Statistic, Step, on_domain
from md4jax.processes.star.remainder import normal_of_shared, sum_over_steps, tail_sums
from md4jax.processes.star.schedules import check_monotone, dirichlet_nu
from md4jax.processes.star.special import digamma_trigamma, dirichlet_kl
from md4jax.processes.star_shaped import StarShaped
from md4jax.typing import Data, Keys


@process_class
class StarDirichlet(StarShaped):
    """Points of a simplex, seen through Dirichlets around them."""

    num_timesteps: int = option("T.", 64, at_least=2)
    nu_max: float = option("nu_1, the concentration of the clearest view.", 2000.0, above=0)
    nu_min: float = option("nu_T.", 1e-6, above=0)
    ratio: float = option("nu falls by about this factor a step.", 1.25, above=1)

    event_ndim = 1
    has_remainder = True

    def bind(self, data: DataSpec) -> StarShaped:
        return super().bind(on_domain(data, "simplex", "star_dirichlet"))

    @functools.cached_property
    def nu(self) -> Float64[np.ndarray, "T1"]:
        """nu of the steps 0, ..., T; that of 0 is nu_1 again."""
        nu = dirichlet_nu(self.num_timesteps, self.nu_max, self.nu_min, self.ratio)
        check_monotone("nu", nu)
        return np.concatenate([nu[:1], nu])

    @property
    def weights(self) -> np.ndarray:
        return self.nu

    def undo(self, statistic: Statistic) -> Point:
        return jax.nn.softmax(statistic, axis=-1)

    def _alpha(self, point: Point, step: Step) -> Point:
        return 1 + self.at(self.nu, step, point) * point

    def limit_point(self, shape: tuple[int, ...]) -> Float[Array, "*s"]:
        return jnp.full(shape, 1 / shape[-1])

    def draw(self, keys: Keys, prepared: Point, step: Step) -> Statistic:
        nu = self.at(self.nu, step, prepared)
        return nu * log_dirichlet(keys, self._alpha(prepared, step))

    def add_remainder(
        self, total: Statistic, keys: Keys, prepared: Point, first: Step, last: Step
    ) -> Statistic:
        """A normal with sums of (2)."""
        sum_alpha = prepared.shape[-1] + self.nu

        def term(nu, psi_of_sum):
            psi, slope = digamma_trigamma(1 + nu * prepared)
            return nu * (psi - psi_of_sum), nu**2 * slope

        tables = (self.nu, special.digamma(sum_alpha))
        mean, variance = sum_over_steps(term, tables, first, last)
        shared = tail_sums(self.nu**2 * special.polygamma(1, sum_alpha))
        shared = self.between(shared, first, last, prepared)
        return total + mean + normal_of_shared(keys, variance, shared)

    def moments(self, point: Point, step: Step) -> tuple[Statistic, Statistic]:
        alpha, nu = self._alpha(point, step), self.at(self.nu, step, point)
        total = alpha.sum(axis=-1, keepdims=True)
        mean = digamma(alpha) - digamma(total)
        return nu * mean, nu**2 * (polygamma(1, alpha) - polygamma(1, total))

    def kl(self, point: Point, predicted: Point, step: Step) -> Float[Array, "b *u"]:
        by = self.at(self.nu, step, point) * (predicted - point)
        alpha = self._alpha(point, step)
        return dirichlet_kl(alpha, alpha + by, difference=by, same_total=True)

    def log_density(self, x0: Data, predicted: Point) -> Float[Array, "b *u"]:
        alpha = self._alpha(predicted, jnp.zeros(len(x0), jnp.int32))
        log_norm = gammaln(alpha.sum(axis=-1)) - gammaln(alpha).sum(axis=-1)
        return log_norm + jax.scipy.special.xlogy(alpha - 1, x0).sum(axis=-1)
