r"""Draws from tables of quantiles, on the device: one normal number and four gathers an entry.

A table has, for the steps t = 1, ..., T and the values m_0 < m_1 < ... of the data up to 1/2, mean
and sd of G_t and its quantiles Q, less the mean and over the sd, at equispaced normal scores. With
z ~ N(0, 1), and with signs for data above 1/2, since G(1 - m) = -G(m) in law,

  (1)  G_t = mean_{t,m} + sd_{t,m} Q_{t,m}(z)

Between nodes Q is the cubic with, at each node, the mean slope of both sides, or three times the
smaller of the two where that is less: it is monotone (F. N. Fritsch, R. E. Carlson, SIAM J. Numer.
Anal. 17, 1980), flat where a law has an atom. Beyond the outer nodes Q is linear.
"""

from __future__ import annotations

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from md4jax.console import Progress
from md4jax.processes.gaussian_math import standard_normal
from md4jax.processes.star import table_cache
from md4jax.processes.star.beta_tail import BOUND, EDGE, SCORES, build, tail_moments
from md4jax.processes.star.special import through_four
from md4jax.typing import Keys

Entries = Float[Array, "b *s"]
Row = Int[Array, "b *s"]
BUILD = 1  # Part of a cached table's name: to be counted up as `build` changes its result.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """What `draw` and `draw_between` read.

    Attributes:
      quantiles: Q at the scores, evenly spaced from -5 to 5.
      mean: of G_t, at each of the data values of the table.
      sd: likewise.
    """

    quantiles: Float[Array, "T L nodes"]
    mean: Float[Array, "T L"]
    sd: Float[Array, "T L"]


def load(
    nu: Float64[np.ndarray, "T"],
    m: Float64[np.ndarray, "L"],
    nodes: int = 33,
    folder: str | os.PathLike | None = None,
) -> Table:
    """The table for these concentrations and data values, from the cache if it was built before.

    Args:
      nu: concentrations of the steps 1, ..., T.
      m: `beta_tail.half_levels` for `draw`, `beta_tail.half_knots` for `draw_between`.
      nodes: number of normal scores.
      folder: of the cache; None for `table_cache.default_folder`.
    """

    def make() -> table_cache.Arrays:
        progress = Progress(f"table of {len(m)} Beta tails, steps", len(nu))
        quantiles = build(nu, m, nodes, progress.update)
        progress.end()
        mean, variance = tail_moments(nu, m)
        return {
            "quantiles": quantiles,
            "mean": mean.astype(np.float32),
            "sd": np.sqrt(variance).astype(np.float32),
        }

    parameters = {"law": "beta tail", "build": BUILD, "nu": nu, "m": m, "nodes": nodes}
    arrays = table_cache.cached(folder, parameters, make)
    return Table(**{name: jnp.asarray(value) for name, value in arrays.items()})


def read_curve(values: Float[Array, "*n nodes"], row: Row, score: Entries) -> Entries:
    """The monotone cubic of row `row` of all rows of `values`, at a normal score."""
    nodes = values.shape[-1]
    place = (score + SCORES) * ((nodes - 1) / (2 * SCORES))
    left = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, nodes - 2)
    beyond = place - left
    share = jnp.clip(beyond, 0, 1)
    # One gather from the flat table: entries of one example are near each other in it.
    flat, first = values.reshape(-1), row * nodes
    at = lambda i: flat.at[first + i].get(mode="promise_in_bounds")
    here, there = at(left), at(left + 1)
    rise = there - here
    # At the ends the missing side is as the other.
    before = jnp.where(left > 0, here - at(jnp.maximum(left - 1, 0)), rise)
    after = jnp.where(left < nodes - 2, at(jnp.minimum(left + 2, nodes - 1)) - there, rise)
    slope = lambda a, b: jnp.minimum((a + b) / 2, 3 * jnp.minimum(a, b))
    start, end = slope(before, rise), slope(rise, after)
    cubic = 3 * rise - 2 * start - end + share * (start + end - 2 * rise)
    inside = here + share * (start + share * cubic)
    return inside + (beyond - share) * jnp.where(beyond < 0, start, end)


def per_entry(per_example: Int[Array, "b"], shape: tuple[int, ...]) -> Row:
    """[b] to [b, *shape], repeated."""
    return jnp.broadcast_to(
        per_example.reshape(per_example.shape + (1,) * len(shape)), per_example.shape + shape
    )


def draw(
    keys: Keys, table: Table, step: Int[Array, "b"], level: Int[Array, "b *s"], levels: int
) -> Entries:
    """G_t for data on levels: equation (1).

    Args:
      keys: one an example; with its step and levels they decide its draw.
      table: built at `beta_tail.half_levels(levels)`.
      step: t in 1, ..., T.
      level: in 0, ..., levels - 1.
      levels: V.
    """
    score = standard_normal(keys, level.shape[1:])
    mirrored = levels - 1 - level
    rows = table.mean.shape[1]
    row = per_entry((step - 1) * rows, level.shape[1:]) + jnp.minimum(level, mirrored)
    take = lambda x: x.reshape(-1).at[row].get(mode="promise_in_bounds")
    value = take(table.mean) + take(table.sd) * read_curve(table.quantiles, row, score)
    return jnp.where(mirrored < level, -value, value)


def draw_between(keys: Keys, table: Table, step: Int[Array, "b"], m: Entries) -> Entries:
    """G_t for any data: equation (1), interpolated between rows of the table.

    Mean and sd are cubic in logit m through four rows, Q is linear between two. With 65 rows the
    distribution function is right to 6e-4, with 129 to 3e-4. The worst is t = 1 beside m = 1e-4,
    where the clip's atom changes fast with m.

    Args:
      keys: one an example; with its step and data they decide its draw.
      table: built at `beta_tail.half_knots`, at least four of them.
      step: t in 1, ..., T.
      m: data from 0 to 1.
    """
    score = standard_normal(keys, m.shape[1:])
    rows = table.mean.shape[1]
    m = jnp.clip(m, EDGE, 1 - EDGE)
    logit = jnp.clip(jnp.log(m) - jnp.log1p(-m), -BOUND, BOUND)
    place = (1 - jnp.abs(logit) / BOUND) * (rows - 1)
    left = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, rows - 2)
    offset = per_entry((step - 1) * rows, m.shape[1:])

    start, weights = through_four(place, rows)

    def smooth(x: Array) -> Array:
        flat, first = x.reshape(-1), offset + start
        at = lambda i: flat.at[first + i].get(mode="promise_in_bounds")
        return sum(w * at(i) for i, w in enumerate(weights))

    one, other = (read_curve(table.quantiles, offset + left + i, score) for i in (0, 1))
    value = smooth(table.mean) + smooth(table.sd) * (one + (place - left) * (other - one))
    return jnp.where(logit > 0, -value, value)
