r"""Star-shaped von Mises-Fisher laws: unit vectors of any dimension K (arXiv:2302.05259, table 1).

  (1)  q(x_s | x0) ~ exp(kappa_s <x0, x_s>),   T(x) = x,   A_s = kappa_s,   f(x0) = x0
  (2)  E x_s = a(kappa) x0,   a(kappa) = I_{K/2}(kappa) / I_{K/2-1}(kappa)
  (3)  KL = kappa a(kappa) (1 - <x0, x_theta>) = kappa a(kappa) |x0 - x_theta|^2 / 2

Given its length r the direction of a tail is von Mises-Fisher itself, with kappa = r, whatever the
kappas that were summed; on the sphere (K = 3) the law of r, which does not depend on x0, is
tabulated.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64
from scipy.special import gammaln, ive

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, process_class
from md4jax.processes.star import radius_tail
from md4jax.processes.star.draws import von_mises_fisher
from md4jax.processes.star.family import Point, Statistic, Step, on_domain
from md4jax.processes.star.schedules import check_monotone, vmf_kappa
from md4jax.processes.star_shaped import StarShaped
from md4jax.typing import Data, Keys, PyTree, Time

FIRST_ENTRY = 1.1  # kappa_0 over kappa_1.
RADIUS_NODES = 65  # Quantiles of a tabulated length.


def log_normaliser(kappa: float, k: int) -> float:
    """log of the integral of exp(kappa (<x0, x> - 1)) over the unit sphere of dimension k."""
    order = k / 2 - 1
    if ive(order, kappa) == 0:  # Underflow at kappa near 0: the sphere's area.
        return math.log(2) + k / 2 * math.log(math.pi) - float(gammaln(k / 2))
    log_bessel = math.log(ive(order, kappa))
    return k / 2 * math.log(2 * math.pi) - order * math.log(kappa) + log_bessel


@process_class
class StarVonMisesFisher(StarShaped):
    """Unit vectors, seen through von Mises-Fisher laws around them."""

    num_timesteps: int = option("T.", 100, at_least=2)
    tail: str = option(
        "How G_t is drawn in training: table (of its length; dimension 3 alone), exact (the draws "
        "of s >= t) or draws (all T variables, for comparison).",
        "table",
        one_of=("exact", "table", "draws"),
    )

    event_ndim = 1
    rescales = True
    tails = ("exact", "table", "draws")
    domain = "sphere"

    def bind(self, data: DataSpec) -> StarShaped:
        bound = super().bind(on_domain(data, self.domain, f"star_{self._name}"))
        if self.tail == "table" and bound.z_shape(data.shape)[-1] != 3:
            raise UserError(
                f"config.process.tail = 'table' is for dimension 3; the data have dimension "
                f"{bound.z_shape(data.shape)[-1]}: use 'exact'"
            )
        return bound

    _name = "von_mises_fisher"

    @functools.cached_property
    def kappa(self) -> Float64[np.ndarray, "T1"]:
        """kappa of the steps 0, ..., T."""
        kappa = self._schedule()
        check_monotone("kappa", kappa)
        return np.concatenate([[FIRST_ENTRY * kappa[0]], kappa])

    def _schedule(self) -> Float64[np.ndarray, "T"]:
        return vmf_kappa(self.num_timesteps)

    def _mean_length(self, k: int) -> Float64[np.ndarray, "T1"]:
        """a(kappa) of (2)."""
        ratio = ive(k / 2, self.kappa) / ive(k / 2 - 1, self.kappa)
        return np.where(self.kappa < 1e-3, self.kappa / k, ratio)

    @property
    def weights(self) -> np.ndarray:
        return self.kappa

    def undo(self, statistic: Statistic) -> Point:
        return statistic / jnp.maximum(jnp.linalg.norm(statistic, axis=-1, keepdims=True), 1e-20)

    def limit_point(self, shape: tuple[int, ...]) -> Float[Array, "*s"]:
        return jnp.broadcast_to(jnp.eye(shape[-1])[0], shape)

    def draw(self, keys: Keys, prepared: Point, step: Step) -> Statistic:
        kappa = self.at(self.kappa, step)
        x = von_mises_fisher(keys, prepared, kappa)
        return kappa.reshape(kappa.shape + (1,) * (x.ndim - 1)) * x

    def table_tail(self, keys: Keys, x0: Data, step: Step) -> Statistic:
        """The length from its table, then the direction."""
        return radius_tail.draw(keys, self.statistics["radius"], step, self.point(x0))

    def moments(self, point: Point, step: Step) -> tuple[Statistic, Statistic]:
        k = point.shape[-1]
        a = self._mean_length(k)
        across = np.where(self.kappa < 1e-3, 1 / k, a / self.kappa)
        along = 1 - a**2 - (k - 1) * across
        along, across = (self.at(self.kappa**2 * v, step, point) for v in (along, across))
        mean = self.at(self.kappa * a, step, point) * point
        return mean, along * point**2 + across * (1 - point**2)

    def kl(self, point: Point, predicted: Point, step: Step) -> Float[Array, "b *u"]:
        """Equation (3)."""
        distance = 0.5 * jnp.sum((point - predicted) ** 2, axis=-1)
        return self.at(self.kappa * self._mean_length(point.shape[-1]), step, distance) * distance

    def scale(self, step: Step) -> Float[Array, "b"]:
        """kappa a(kappa) of the step before: what is left is 1 - <x0, x_theta>."""
        k = self.z_shape(self.data.shape)[-1]
        return self.at(self.kappa * self._mean_length(k), step - 1)

    def network_input(self, z_t: Statistic, t: Time) -> Statistic:
        """The direction of G."""
        return self.undo(z_t)

    def log_density(self, x0: Data, predicted: Point) -> Float[Array, "b *u"]:
        kappa, point = float(self.kappa[0]), self.point(x0)
        excess = 0.5 * jnp.sum((point - predicted) ** 2, axis=-1)
        return -kappa * excess - log_normaliser(kappa, point.shape[-1])

    def abstract_statistics(self) -> PyTree:
        shapes = super().abstract_statistics()
        if self.tail == "table":
            shape = (self.chain_length, RADIUS_NODES)
            shapes["radius"] = jax.ShapeDtypeStruct(shape, jnp.float32)
        return shapes

    def estimate_statistics(self, examples: np.ndarray) -> PyTree:
        statistics = super().estimate_statistics(examples)
        if self.tail == "table":
            statistics["radius"] = radius_tail.load(self.kappa[1:], RADIUS_NODES)
        return statistics
