r"""Star-shaped Betas: images, and numbers in (0, 1) (arXiv:2302.05259, table 1 and section 5).

A level l of V, or a number, is m in [c, 1 - c], c = 1e-4:

  (1)  q(x_s | x0) = Beta(1 + nu_s m, 1 + nu_s (1 - m)),   f(x0) = m
  (2)  A_s T(x) = nu_s logit(x), clipped to +-nu_s logit(1 - c)

The clip is published, and part of the law of the tail; the KL of (1) does without. The mode of (1)
is m. Entry 0 of the schedule has the mean u / 2 + (1 - u) m, u = 1 / (nu_1 + 2), and the
concentration nu_1 + 4, as published.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, digamma, polygamma
from jaxtyping import Array, Float, Float64
from scipy.special import betaln as betaln64

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, process_class
from md4jax.processes.gaussian_math import standard_normal
from md4jax.processes.star import beta_remainder, beta_tail, quantile_table
from md4jax.processes.star.draws import logit_beta
from md4jax.processes.star.family import Point, Statistic, Step
from md4jax.processes.star.remainder import root
from md4jax.processes.star.schedules import (
    beta_nu,
    beta_nu_closed_form,
    check_monotone,
    cosine_increments,
)
from md4jax.processes.star.special import beta_kl
from md4jax.processes.star_shaped import StarShaped
from md4jax.typing import Data, Keys, PyTree

SCHEDULES = {
    "matched": beta_nu,
    "closed_form": lambda num_timesteps: beta_nu_closed_form(cosine_increments(num_timesteps)),
}
NODES = 33  # Quantiles of a tabulated law.
KNOTS = 65  # Values of m up to 1/2 that tails of real data are tabulated at.


@process_class
class StarBeta(StarShaped):
    """Pixels, seen through Betas around them."""

    schedule: str = option(
        "nu: matched to the information of a cosine schedule, or a formula close to it.",
        "matched",
        one_of=tuple(SCHEDULES),
    )
    loss: str = option(
        "What is minimised, a mean over pixels: the KL of each step, or the KL over its "
        "concentration (published).",
        "rescaled",
        one_of=("kl", "rescaled"),
    )
    tail: str = option(
        "How G_t is drawn in training: table (one draw), exact (the draws of s >= t) or draws (all "
        "T variables, for comparison).",
        "table",
        one_of=("exact", "table", "draws"),
    )

    rescales = True
    has_remainder = True
    tails = ("exact", "table", "draws")

    def bind(self, data: DataSpec) -> StarShaped:
        levels = data.vocab_size is not None and data.unit == "dim"
        if not (levels or data.domain == "interval"):
            found = f"{data.unit}s" if data.domain is None else f"of the domain {data.domain!r}"
            raise UserError(
                "config.process.name = 'star_beta' needs images or data of the domain 'interval'; "
                f"these are {found}"
            )
        return super().bind(data)

    @functools.cached_property
    def nu(self) -> Float64[np.ndarray, "T"]:
        """nu of the steps 1, ..., T."""
        nu = SCHEDULES[self.schedule](self.num_timesteps)
        check_monotone("nu", nu)
        return nu

    @functools.cached_property
    def parameters(self) -> Float64[np.ndarray, "3 T1"]:
        """alpha = offset + slope m, concentration = alpha + beta, of the steps 0, ..., T."""
        first = self.nu[0]
        entry = [[(first + 4) / (first + 2) / 2], [(first + 4) * (first + 1) / (first + 2)]]
        steps = np.stack([np.ones_like(self.nu), self.nu, self.nu + 2])
        return np.concatenate([[*entry, [first + 4]], steps], axis=1)

    @property
    def weights(self) -> np.ndarray:
        return self.parameters[1]

    def undo(self, statistic: Statistic) -> Point:
        return jax.nn.sigmoid(statistic)

    def _alpha_beta(self, point: Point, step: Step) -> tuple[Array, Array]:
        offset, slope, _ = (self.at(table, step, point) for table in self.parameters)
        return offset + slope * point, offset + slope * (1 - point)

    def head(self, output: Array) -> Point:
        """A sigmoid onto [c, 1 - c]."""
        shape = output.shape[:-1] if self.data.domain is None else output.shape
        half = 0.5 - beta_tail.EDGE
        return 0.5 + half * jnp.tanh(0.5 * output.astype(jnp.float32)).reshape(shape)

    def point(self, x0: Data) -> Point:
        m = x0 if self.data.vocab_size is None else x0 / (self.data.vocab_size - 1)
        return jnp.clip(m.astype(jnp.float32), beta_tail.EDGE, 1 - beta_tail.EDGE)

    def project(self, point: Point) -> Point:
        return jnp.clip(point, beta_tail.EDGE, 1 - beta_tail.EDGE)

    def values(self, point: Point) -> Data:
        """The nearest level."""
        if self.data.vocab_size is None:
            return point
        return jnp.round(point * (self.data.vocab_size - 1)).astype(jnp.int32)

    def smooth_values(self, point: Point) -> Point:
        return point

    def limit_point(self, shape: tuple[int, ...]) -> Float[Array, "*s"]:
        return jnp.full(shape, 0.5)

    def draw(self, keys: Keys, prepared: Point, step: Step) -> Statistic:
        return self.at(self.parameters[1], step, prepared) * logit_beta(
            keys, *self._alpha_beta(prepared, step)
        )

    def observe(self, statistic: Statistic, step: Step) -> Statistic:
        bound = self.at(self.parameters[1], step, statistic) * beta_tail.BOUND
        return jnp.clip(statistic, -bound, bound)

    @functools.cached_property
    def _moments(self) -> beta_remainder.Moments:
        return beta_remainder.Moments.of(self.nu)

    def add_remainder(
        self, total: Statistic, keys: Keys, prepared: Point, first: Step, last: Step
    ) -> Statistic:
        """A normal with the segment's moments, those of the clipped variables."""
        mean, variance = self._moments.of_segments(prepared, first, last, self.between)
        return total + mean + root(variance) * standard_normal(keys, prepared.shape[1:])

    def moments(self, point: Point, step: Step) -> tuple[Statistic, Statistic]:
        """Before the clip; `_tail_moments` has those after it."""
        a, b = self._alpha_beta(point, step)
        slope = self.at(self.parameters[1], step, point)
        variance = polygamma(1, a) + polygamma(1, b)
        return slope * (digamma(a) - digamma(b)), slope**2 * variance

    def kl(self, point: Point, predicted: Point, step: Step) -> Float[Array, "b *s"]:
        by = self.at(self.parameters[1], step, point) * (predicted - point)
        a1, b1 = self._alpha_beta(point, step)
        return beta_kl(a1, b1, a1 + by, b1 - by, difference=(by, -by), same_total=True)

    def scale(self, step: Step) -> Float[Array, "b"]:
        """The concentration of the step before."""
        return self.at(self.parameters[2], step - 1)

    def log_density(self, x0: Data, predicted: Point) -> Float[Array, "b *s"]:
        a, b = self._alpha_beta(predicted, jnp.zeros(len(x0), jnp.int32))
        x = self.point(x0)
        return (a - 1) * jnp.log(x) + (b - 1) * jnp.log1p(-x) - betaln(a, b)

    @functools.cached_property
    def _levels(self) -> Float64[np.ndarray, "v"]:
        """m of the levels."""
        m = np.arange(self.data.vocab_size) / (self.data.vocab_size - 1)
        return np.clip(m, beta_tail.EDGE, 1 - beta_tail.EDGE)

    def level_points(self) -> Float[Array, "v"]:
        return jnp.asarray(self._levels, jnp.float32)

    def level_log_normalisers(self) -> np.ndarray:
        nu, m = self.nu[:, None], self._levels
        omega = betaln64(1 + nu * m, 1 + nu * (1 - m))
        return np.cumsum(omega[::-1], axis=0)[::-1]

    # Tails from a table.

    def _tail_moments(self, points: Array, weights: Array) -> tuple[Array, Array]:
        """Exact, in float64, of each level, or of the nearest of many values of m."""
        if self.data.vocab_size is None:
            shares, edges = np.histogram(points, 512, (0.0, 1.0))
            m = np.clip(0.5 * (edges[1:] + edges[:-1]), beta_tail.EDGE, 1 - beta_tail.EDGE)
        else:
            shares, m = np.asarray(weights, np.float64), self._levels
        shares = shares / shares.sum()
        means, variances = beta_tail.tail_moments(self.nu, m)
        mean = means @ shares
        std = np.sqrt((variances + (means - mean[:, None]) ** 2) @ shares)
        return tuple(jnp.asarray(np.append(x[:1], x), jnp.float32) for x in (mean, std))

    def _rows(self) -> Float64[np.ndarray, "rows"]:
        """The m that tails are tabulated for."""
        if self.data.vocab_size is None:
            return beta_tail.half_knots(KNOTS)
        return beta_tail.half_levels(self.data.vocab_size)

    def abstract_statistics(self) -> PyTree:
        shapes = super().abstract_statistics()
        if self.tail == "table":
            size = (len(self.nu), len(self._rows()))
            of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
            shapes["tail"] = {"quantiles": of(*size, NODES), "mean": of(*size), "sd": of(*size)}
        return shapes

    def estimate_statistics(self, examples: np.ndarray) -> PyTree:
        statistics = super().estimate_statistics(examples)
        if self.tail == "table":
            statistics["tail"] = vars(quantile_table.load(self.nu, self._rows(), NODES))
        return statistics

    def table_tail(self, keys: Keys, x0: Data, step: Step) -> Statistic:
        """One normal number and its quantile."""
        table, levels = quantile_table.Table(**self.statistics["tail"]), self.data.vocab_size
        if levels is None:
            return quantile_table.draw_between(keys, table, step, self.point(x0))
        return quantile_table.draw(keys, table, step, x0, levels)
