"""Sums over segments of steps that are of different length for each example of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from md4jax.processes.gaussian_math import over_positions
from md4jax.processes.star.family import Statistic, Step
from md4jax.typing import Keys, PyTree


def _over_steps(visit: Callable, first: Step, last: Step, carry: PyTree) -> PyTree:
    """Visits each step of [first, last) of each example.

    Segments are of different lengths, and work on arrays is as long as the longest. So the steps of
    all examples are laid end to end and taken b at a time: as many draws as there are steps, and
    less than b more.

    Args:
      visit: `(carry, example, step, live) -> carry`, of arrays `[b]`; what is not live does not
        count.
    """
    b = len(first)
    lengths = jnp.maximum(last - first, 0)
    ends = jnp.cumsum(lengths)

    def some(state):
        start, carry = state
        place = start + jnp.arange(b)
        example = jnp.minimum(jnp.searchsorted(ends, place, side="right"), b - 1)
        step = first[example] + place - (ends - lengths)[example]
        live = place < ends[-1]
        step = jnp.where(live, step, last[example] - 1)
        return start + b, visit(carry, example, step, live)

    return jax.lax.while_loop(lambda state: state[0] < ends[-1], some, (0, carry))[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_segments(
    term: Callable, keys: Keys, prepared: PyTree, first: Step, last: Step, total: Statistic
) -> Statistic:
    """Adds `term(keys, prepared, step)` of each step of [first, last) to each example's total.

    Differentiable by `prepared`, if `term` is: the gradient goes through the same steps again, as
    a loop of no fixed length keeps nothing for it, so that it needs the memory of one of them.
    """

    def add(total, example, step, live):
        value = term(keys[example], _rows(prepared, example), step)
        return total.at[example].add(jnp.where(over_positions(live, value), value, 0))

    return _over_steps(add, first, last, total)


def _rows(prepared: PyTree, example: Int[Array, "b"]) -> PyTree:
    return jax.tree.map(lambda x: x[example], prepared)


def _sum_forward(term, keys, prepared, first, last, total):
    return sum_segments(term, keys, prepared, first, last, total), (keys, prepared, first, last)


def _sum_backward(term, saved, cotangent):
    keys, prepared, first, last = saved

    def add(gradient, example, step, live):
        rows = _rows(prepared, example)
        _, pull = jax.vjp(lambda rows: term(keys[example], rows, step), rows)
        (by_rows,) = pull(jnp.where(over_positions(live, cotangent), cotangent[example], 0))
        return jax.tree.map(lambda x, by: x.at[example].add(by), gradient, by_rows)

    gradient = _over_steps(add, first, last, jax.tree.map(jnp.zeros_like, prepared))
    return None, gradient, None, None, cotangent


sum_segments.defvjp(_sum_forward, _sum_backward)
