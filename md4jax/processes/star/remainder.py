r"""Tails and segments whose first steps are drawn and whose others are one normal.

Families whose tails have no closed form or table are sums of draws. With `exact_terms` = K the
first K of a segment are drawn as ever, and the rest, which is independent of them, is

  (1)  R = sum over first + K <= s < last of A_s T(x_s)  ~  N(sum of E, sum of Cov),  given x0

with its exact mean and covariance, so that those of the whole are exact too, and all of it is where
K steps or fewer are summed. What is wrong is the shape. The largest Kolmogorov-Smirnov distance
over entries of G_t to the exact law, at the published settings, by Fourier inversion, rounded up:

              of T    K    t = 1     T/4     T/2    3T/4  any t tried
  Beta        1000    0    .0113   .0007   .0003   .0003   .021 at 8
                      4    .0005   .0007   .0003   .0003   .0062
                      8    .0001   .0006   .0003   .0003   .0036
                     16    .0001   .0005   .0003   .0002   .0018
  categorical 1000    0    .0168   .0132   .0157   .0224   .064 at T - 69
                     64    .0075   .0105   .0121   .0137   .048 at T - 69
                    128    .0052   .0083   .0091   .0067   .0091
                    256    .0031   .0052   .0043       0   .0052
  Dirichlet     64    0    .0025   .0124   .0387   .0474   .075
                      4    .0010   .0042   .0064   .0040   .0072
                      8    .0004   .0016   .0008   .0002   .0018
                     12    .0002   .0005   .0001   .0001   .0005
  Wishart       64    0    .0007   .0046   .0176   .0252   .053
                      4    .0003   .0016   .0098   .0125   .0127
                      8    .0001   .0006   .0066   .0052   .0076
                     12    .0001   .0003   .0043   .0012   .0046

(x0: .002 of Betas, eight others having no more at any t; (.6, .3, .1); eigenvalues 14 and .74,
while .1 and 5 have .0148, .0100, .0072 at most.) Other functions of G may be further off. Of
matrices and of the simplex's points none tried was (least eigenvalue, determinant, largest entry,
sum: 200,000 draws, so up to .005). Of tokens two are, at t = T/2 by 100,000 draws: the log-odds of
x0 under the posterior .024, .018, .010 for K = 64, 128, 256, and the largest of the other tokens'
entries .067, .050, .024, a maximum of 26 skewed numbers.

Recommended, where exact draws are too slow: Beta 16, Dirichlet 8, Wishart 12; categorical 256,
which gains least and costs most; with another T as large a share of it.

Where a sum of matrices leaves the cone its normal is replaced by its mean. That happened to 2,100
of 10^6 tails at K = 1 and t = 60, to 22 at t = 56, and to none at K = 8 and t = 49 or 53.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from md4jax import rng
from md4jax.processes.gaussian_math import over_positions, standard_normal
from md4jax.processes.star.family import Statistic, Step
from md4jax.processes.star.segments import sum_segments
from md4jax.typing import Keys, PyTree


def sum_terms(
    term: Callable,
    rest: Callable,
    count: int | None,
    keys: Keys,
    prepared: PyTree,
    first: Step,
    last: Step,
    total: Statistic,
) -> Statistic:
    """`sum_segments`, or that of the first `count` steps, to which `rest` adds the others.

    Args:
      term: of one step, as `sum_segments` takes it.
      rest: `Family.add_remainder`, or like it.
      count: K; None for all.
      keys: one an example; those of step 0, which no sum has, are the remainder's.
      prepared: what `term` and `rest` need of the point.
      first: step at which each example's segment begins.
      last: step before which it ends.
      total: what is added to.
    """
    if count is None:
        return sum_segments(term, keys, prepared, first, last, total)
    middle = jnp.minimum(first + count, last)
    total = sum_segments(term, keys, prepared, first, middle, total)
    return rest(total, rng.fold(keys, 0), prepared, middle, last)


def tail_sums(values: Float64[np.ndarray, "*n T1"]) -> Float64[np.ndarray, "*n T2"]:
    """Sums over s >= t, t = 0, ..., T + 1, of a table's entries s = 1, ..., T; that of 0 is 1's."""
    values = np.concatenate([0 * values[..., :1], values[..., 1:], 0 * values[..., :1]], axis=-1)
    return np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]


def sum_over_steps(
    function: Callable[..., PyTree], tables: tuple[np.ndarray, ...], first: Step, last: Step
) -> PyTree:
    """Sums of function(entries of the tables at s) over first <= s < last, by example.

    Step by step from the least `first` to the greatest `last`, for all examples at once, 0 where a
    step is not of the segment: for what is cheap beside draws.

    Args:
      function: of a number of each table, to arrays `[b, ...]`.
      tables: of T + 1 entries each.
      first: step at which each example's segment begins.
      last: step before which it ends.
    """
    tables = tuple(jnp.asarray(table, jnp.float32) for table in tables)
    function, closed_over = jax.closure_convert(function, *(table[0] for table in tables))
    return _sum_over_steps(function, tables, first, last, closed_over)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_over_steps(function, tables, first, last, closed_over):
    """The gradient, by what the function closes over, takes the same steps again."""
    entries = lambda s: (table[s] for table in tables)
    add = lambda totals, s: jax.tree.map(
        lambda total, x: total + _where_live(s, first, last, x),
        totals,
        function(*entries(s), *closed_over),
    )
    shapes = jax.eval_shape(lambda: function(*entries(0), *closed_over))
    return _over_steps(add, first, last, shapes)


def _where_live(s: Array, first: Step, last: Step, x: Array) -> Array:
    return jnp.where(over_positions((first <= s) & (s < last), x), x, 0)


def _over_steps(add: Callable, first: Step, last: Step, shapes: PyTree) -> PyTree:
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(first.min(), last.max(), lambda s, totals: add(totals, s), zeros)


def _sum_forward(function, tables, first, last, closed_over):
    total = _sum_over_steps(function, tables, first, last, closed_over)
    return total, (tables, first, last, closed_over)


def _sum_backward(function, saved, cotangent):
    tables, first, last, closed_over = saved

    def add(gradient, s):
        of_step = lambda closed: function(*(table[s] for table in tables), *closed)
        _, pull = jax.vjp(of_step, closed_over)
        (by,) = pull(jax.tree.map(lambda x: _where_live(s, first, last, x), cotangent))
        return jax.tree.map(jnp.add, gradient, by)

    return None, None, None, _over_steps(add, first, last, closed_over)


_sum_over_steps.defvjp(_sum_forward, _sum_backward)


def root(x: Array) -> Array:
    """The square root; its derivative at 0 is 0, as that of a constant."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def normal_of_shared(
    keys: Keys, variance: Float[Array, "b *s"], shared: Float[Array, "b *u"]
) -> Float[Array, "b *s"]:
    """N(0, diag(variance) - shared 1 1^T) over the last axis; 0 where the variance is.

    As y - k 1 (1^T D^-1 y), y ~ N(0, D), k = shared / (1 + sqrt(1 - shared 1^T D^-1 1)).

    Args:
      keys: one an example.
      variance: D.
      shared: of last axis 1, at most 1 / (1^T D^-1 1).
    """
    scale = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    noise = standard_normal(keys, variance.shape[1:])
    total = (scale**-2).sum(axis=-1, keepdims=True)
    by = shared / (1 + root(1 - shared * total))
    found = scale * noise - by * (noise / scale).sum(axis=-1, keepdims=True)
    return jnp.where(variance > 0, found, 0)
