r"""Star-shaped categorical laws: tokens (arXiv:2302.05259, table 1 and section 5).

  (1)  q(x_s | x0) = Cat(p_s),   p_s = k_s x0 + (1 - k_s) / V,   x0 one-hot, or a prediction
  (2)  A_s T(x) = w_s x (one-hot),   w_s = log(1 + V k_s / (1 - k_s))
  (3)  of x0 a one-hot Cov x_s = k (1 - k) d d^T + (1 - k) (I - 1 1^T / V) / V,   d = x0 - 1 / V,
       and of a prediction that and k (diag x0 - x0 x0^T)

k_s is the probability that a token is kept; otherwise it is drawn evenly from all V. Up to a number
that all tokens share, G_t is log p(x_t, ..., x_T | x0 = v) for each v: with a log prior it is the
log posterior, so p(x0 | G_1) and what the network is given are softmaxes of it.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from md4jax import rng
from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, process_class
from md4jax.processes.gaussian_math import standard_normal
from md4jax.processes.star.family import Point, Statistic, Step, sum_all
from md4jax.processes.star.remainder import root, sum_terms, tail_sums
from md4jax.processes.star.schedules import (
    categorical_keep,
    categorical_keep_closed_form,
    check_monotone,
)
from md4jax.processes.star.special import categorical_kl
from md4jax.processes.star_shaped import StarShaped
from md4jax.typing import Data, Keys, PyTree, Time, Tokens


def _matched(T: int, file: str | None, vocab_size: int) -> Float64[np.ndarray, "T"]:
    keep = categorical_keep(T, file, vocab_size)
    check_monotone("the probability of keeping a token", keep)
    return keep


SCHEDULES = {
    "matched": _matched,
    "closed_form": lambda T, file, vocab_size: categorical_keep_closed_form(T, vocab_size),
}
TINY = 1e-30  # Least probability of a prediction, where k = 1 adds nothing to it.


@process_class
class StarCategorical(StarShaped):
    """Tokens, each replaced at random in many independent copies."""

    schedule: str = option(
        "Of k: matched (to D3PM's information, for English of 27 characters, or by schedule_file) "
        "or closed_form (close to it, for any vocabulary).",
        "matched",
        one_of=tuple(SCHEDULES),
    )
    schedule_file: str | None = option(
        "What python -m md4jax.processes.star.matching wrote, for another vocabulary.", None
    )

    event_ndim = 1
    has_remainder = True

    def bind(self, data: DataSpec) -> StarShaped:
        if data.vocab_size is None or data.unit == "dim":
            found = "images" if data.domain is None else f"of the domain {data.domain!r}"
            raise UserError(
                f"config.process.name = 'star_categorical' needs tokens; these data are {found}"
            )
        bound = super().bind(data)
        _ = bound.keep  # Whether there is a schedule for this vocabulary.
        return bound

    @functools.cached_property
    def keep(self) -> Float64[np.ndarray, "T1"]:
        """k of the steps 0, ..., T; that of 0 is 1."""
        keep = SCHEDULES[self.schedule](
            self.num_timesteps, self.schedule_file, self.data.vocab_size
        )
        return np.concatenate([[1.0], keep])

    @functools.cached_property
    def weights(self) -> Float64[np.ndarray, "T1"]:
        """w of (2); that of 0, which no tail has, is 0."""
        keep = self.keep[1:]
        return np.concatenate([[0.0], np.log1p(self.data.vocab_size * keep / (1 - keep))])

    def z_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape, self.data.vocab_size)

    def head(self, output: Array) -> Point:
        """Probabilities."""
        return jax.nn.softmax(output[..., 0].astype(jnp.float32), axis=-1)

    def point(self, x0: Data) -> Point:
        return jax.nn.one_hot(x0, self.data.vocab_size)

    def project(self, point: Point) -> Point:
        """No probability below zero, their sum one."""
        point = jnp.maximum(point, 0)
        return point / point.sum(axis=-1, keepdims=True)

    def values(self, point: Point) -> Data:
        """The likeliest token."""
        return jnp.argmax(point, axis=-1)

    def limit_point(self, shape: tuple[int, ...]) -> Float[Array, "*s"]:
        return jnp.full(shape, 1 / shape[-1])

    def level_points(self) -> Float[Array, "v v"]:
        return jnp.eye(self.data.vocab_size)

    def level_log_normalisers(self) -> np.ndarray:
        """The same for all."""
        return np.zeros((self.num_timesteps, self.data.vocab_size))

    def level_logits(self, output: Array) -> Float[Array, "b *s v"]:
        return output[..., 0].astype(jnp.float32)

    def prepare(self, point: Point) -> PyTree:
        """The probabilities, and their sums up to each token."""
        return point, jnp.cumsum(point, axis=-1)

    def draw(self, keys: Keys, prepared: PyTree, step: Step) -> Statistic:
        """One uniform decides whether the prediction's token is drawn, and which one is."""
        _, cumulative = prepared
        cumulative = cumulative / cumulative[..., -1:]
        u, keep = _uniform(keys, cumulative.shape[1:-1]), self.at(self.keep, step, cumulative)
        v = cumulative.shape[-1]
        cumulative = keep * cumulative + (1 - keep) * (jnp.arange(1, v + 1) / v)
        token = jnp.sum(u[..., None] >= cumulative[..., :-1], axis=-1)
        return self.at(self.weights, step, cumulative) * jax.nn.one_hot(token, v)

    def _draw_near(self, keys: Keys, x0: Tokens, step: Step) -> Float[Array, "b *s v"]:
        """`draw` where the point is a token."""
        keys = jax.vmap(jax.random.fold_in)(keys, step)
        u, keep = _uniform(keys, x0.shape[1:]), self.at(self.keep, step, x0)
        v = self.data.vocab_size
        other = jnp.floor((u - keep) / (1 - keep) * v).astype(jnp.int32)
        token = jnp.where(u < keep, x0, jnp.minimum(other, v - 1))
        weight = self.at(self.weights, step, x0)[..., None]
        return jnp.where(token[..., None] == jnp.arange(v), weight, 0)

    def exact_tail(self, keys: Keys, x0: Data, step: Step) -> Statistic:
        """Draws of the steps s >= t, a uniform each."""
        total = jnp.zeros((*x0.shape, self.data.vocab_size))
        end = jnp.full_like(step, self.chain_length + 1)
        return sum_terms(
            self._draw_near, self._add_near, self.exact_terms, keys, x0, step, end, total
        )

    @functools.cached_property
    def _sums(self) -> Float64[np.ndarray, "5 T2"]:
        """Sums over s >= t of w k, w (1 - k), w^2 k, w^2 (1 - k) and w^2 k (1 - k)."""
        k, w = self.keep, self.weights
        return tail_sums(
            np.stack([w * k, w * (1 - k), w**2 * k, w**2 * (1 - k), w**2 * k * (1 - k)])
        )

    def _add_even(
        self, total: Statistic, keys: Keys, point: Point, first: Step, last: Step
    ) -> Statistic:
        """A normal with sums of the mean and (3) of a one-hot x0; noise sums to 0 over tokens."""
        v = point.shape[-1]
        kept, even, _, spread, chance = (
            self.between(sums, first, last, point) for sums in self._sums
        )
        normal = standard_normal(keys, (*point.shape[1:-1], v + 1))
        whether, which = normal[..., :1], normal[..., 1:]
        which = which - which.mean(axis=-1, keepdims=True)
        noise = root(chance) * (point - 1 / v) * whether + root(spread / v) * which
        return total + (kept * point + even / v) + noise

    def _add_near(
        self, total: Statistic, keys: Keys, x0: Int[Array, "b *u"], first: Step, last: Step
    ) -> Statistic:
        """`add_remainder` where the point is a token."""
        return self._add_even(total, keys, self.point(x0), first, last)

    def add_remainder(
        self, total: Statistic, keys: Keys, prepared: PyTree, first: Step, last: Step
    ) -> Statistic:
        point, _ = prepared
        total = self._add_even(total, rng.fold(keys, 0), point, first, last)
        normal = root(point) * standard_normal(rng.fold(keys, 1), point.shape[1:])
        normal = normal - point * normal.sum(axis=-1, keepdims=True)
        return total + root(self.between(self._sums[2], first, last, point)) * normal

    def moments(self, point: Point, step: Step) -> tuple[Statistic, Statistic]:
        keep, w = self.at(self.keep, step, point), self.at(self.weights, step, point)
        p = keep * point + (1 - keep) / point.shape[-1]
        return w * p, w**2 * p * (1 - p)

    def log_ratio(
        self, statistic: Statistic, point: Point, predicted: Point, step: Step
    ) -> Float[Array, "b"]:
        """Of the probabilities: for them (1) is not of the form (2) in the point."""
        token = jnp.argmax(statistic, axis=-1)[..., None]
        p, q = (jnp.take_along_axis(self._law(x, step), token, axis=-1) for x in (point, predicted))
        return sum_all(jnp.log(p) - jnp.log(q))

    def _law(self, point: Point, step: Step) -> Point:
        """p_s of (1)."""
        keep = self.at(self.keep, step, point)
        # 1 - k is the number itself, not a difference, where k is near 1.
        other = self.at(1 - self.keep, step, point)
        return jnp.maximum(keep * point + other / point.shape[-1], TINY)

    def kl(self, point: Point, predicted: Point, step: Step) -> Float[Array, "b *u"]:
        """At step 0 the cross-entropy."""
        keep = self.at(self.keep, step, point)
        return categorical_kl(keep * (point - predicted), self._law(predicted, step))

    def network_input(self, z_t: Statistic, t: Time) -> Statistic:
        """The posterior under an even prior."""
        return jax.nn.softmax(z_t, axis=-1)


def _uniform(keys: Keys, shape: tuple[int, ...]) -> Array:
    flat = jax.vmap(lambda key: jax.random.uniform(key, (math.prod(shape),)))(keys)
    return flat.reshape(-1, *shape)
