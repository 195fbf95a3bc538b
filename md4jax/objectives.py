"""The training loss and the likelihood bound, for any process and any denoiser.

A process gives terms per example in nats; what is done with them (times, reduction, units, repeats)
is here and nowhere else.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from md4jax import rng
from md4jax.processes.base import Denoiser, Process
from md4jax.typing import Data, Keys, Nats


def bits_per_dim(
    nats: Array | np.ndarray | float, shape: tuple[int, ...]
) -> Array | np.ndarray | float:
    """Nats per example to bits per dimension (pixel, character, token) of data of this shape."""
    return nats / (math.prod(shape) * math.log(2))


def training_loss(
    process: Process,
    denoise: Denoiser,
    x0: Data,
    u: Float[Array, "b"],
    keys: Keys,
    weight: Float[Array, "b"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], Nats]:
    """The loss to minimise and its terms, means over the batch in bits/dim; and each example's.

    The third, `[b]`, is the loss of each example before its weight, in bits/dim.

    Args:
      denoise: `(z_t, t) -> prediction`.
      x0: data `[b, *s]`.
      u: in [0, 1), one an example; the process maps it to a time.
      keys: one an example.
      weight: of each example's loss; one if not given.
    """
    terms = process.training_terms(denoise, keys, x0, process.time(u))
    terms = {name: bits_per_dim(v, x0.shape[1:]) for name, v in terms.items()}
    mean = jnp.mean if weight is None else lambda v: jnp.mean(weight * v)
    means = {name: mean(v) for name, v in terms.items()}
    loss = sum(means.values())
    metrics = {"loss": loss, **{f"loss_{name}": v for name, v in means.items()}}
    return loss, metrics, sum(terms.values())


def path_bound(process: Process, denoise: Denoiser, x0: Data, keys: Keys, samples: int) -> Nats:
    """The importance-weighted bound on -log p(x0), `-log mean_k w_k` of whole paths, nats `[b]`.

    Y. Burda, R. Grosse, R. Salakhutdinov, arXiv:1509.00519, eq. 8, for each example as a whole: it
    falls as there are more paths, and for one path it is in the mean the bound itself.

    Args:
      process: has `path_log_weight`.
      samples: paths an example, T network calls each.
    """

    def add(total, number):
        log_weight = process.path_log_weight(rng.fold(keys, number), denoise, x0)
        return jnp.logaddexp(total, log_weight), None

    start = jnp.full(len(x0), -jnp.inf)
    total, _ = jax.lax.scan(add, start, jnp.arange(samples))
    return math.log(samples) - total


def bound(
    process: Process, denoise: Denoiser, x0: Data, keys: Keys, time_points: int
) -> dict[str, Nats]:
    """An unbiased estimate of the bound on -log p(x0), term by term, in nats `[b]`.

    The time is stratified for each example on its own: u_k = (u + k) / K, k < K, with one
    u ~ U(0, 1) an example, so that examples stay independent of each other. Of a chain of T steps
    the first one is always visited, as the reconstruction is in it and nowhere else, and the other
    K - 1 points are stratified over the rest; K = T visits each step exactly once.

    Args:
      time_points: K, the number of network calls an example.
    """
    terms = bound_by_time(process, denoise, x0, keys, time_points)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), terms)


def strata(process: Process, time_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the K parts of [0, 1] begin that `bound` has its points in, and how wide each is."""
    first = _first(process, time_points)
    rest = time_points - (first > 0)
    starts = first + (1 - first) * np.arange(rest) / rest
    widths = np.full(rest, (1 - first) / rest)
    return (np.append(0.0, starts), np.append(first, widths)) if first else (starts, widths)


def _first(process: Process, time_points: int) -> float:
    """The width of a chain's first step, which has a point of its own; 0 if it has none."""
    return 1 / process.chain_length if process.chain_length and time_points > 1 else 0.0


def bound_by_time(
    process: Process, denoise: Denoiser, x0: Data, keys: Keys, time_points: int
) -> dict[str, Float[Array, "k b"]]:
    """What each point of `bound` gives to it, nats: their sum over k is the estimate."""
    first = _first(process, time_points)
    number = time_points - (first > 0)
    share = (1 - first) / number

    def terms_at(u, number, weight):
        point_keys = rng.fold(keys, number)
        t = process.time(u)
        z_t = process.forward_sample(rng.fold(point_keys, 0), x0, t)
        terms = process.bound_terms(rng.fold(point_keys, 1), denoise(z_t, t), x0, z_t, t)
        return jax.tree.map(lambda x: weight * x, terms)

    def point(carry, k):
        return carry, terms_at(first + (1 - first) * (offset + k) / number, k, share)

    offset = jax.vmap(jax.random.uniform)(rng.fold(keys, time_points))
    _, terms = jax.lax.scan(point, None, jnp.arange(number))
    if first:
        at_first = terms_at(jnp.full(offset.shape, 0.5 * first), time_points + 1, first)
        terms = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), at_first, terms)
    return terms
