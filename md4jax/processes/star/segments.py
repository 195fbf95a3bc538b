"""Sums over segments of steps that are of different length for each example of a batch."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from md4jax.processes.gaussian_math import over_positions
from md4jax.processes.star.family import Statistic, Step
from md4jax.typing import Keys, PyTree


def sum_segments(
    term: Callable, keys: Keys, prepared: PyTree, first: Step, last: Step, total: Statistic
) -> Statistic:
    """Adds `term` of each step of [first, last) to each example's total.

    Segments are of different lengths, and work on arrays is as long as the longest. So the steps of
    all examples are laid end to end and taken b at a time: as many draws as there are steps, and
    less than b more.
    """
    b = len(first)
    lengths = jnp.maximum(last - first, 0)
    ends = jnp.cumsum(lengths)

    def add(carry):
        start, total = carry
        place = start + jnp.arange(b)
        example = jnp.minimum(jnp.searchsorted(ends, place, side="right"), b - 1)
        step = first[example] + place - (ends - lengths)[example]
        live = place < ends[-1]
        step = jnp.where(live, step, last[example] - 1)
        value = term(keys[example], jax.tree.map(lambda x: x[example], prepared), step)
        value = jnp.where(over_positions(live, value), value, 0)
        return start + b, total.at[example].add(value)

    return jax.lax.while_loop(lambda carry: carry[0] < ends[-1], add, (0, total))[1]
