"""The training loss and the likelihood bound, for any process and any denoiser.

A process gives terms per example in nats; what is done with them (times, reduction, units, repeats)
is here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from md4jax import rng
from md4jax.processes.base import Denoiser, Process
from md4jax.typing import Data, Keys, Nats


def uniform_times(key: Key[Array, ""], index: Int[Array, "b"], total: int) -> Float[Array, "b"]:
    """Independent u ~ U(0, 1), one an example."""
    return jax.vmap(jax.random.uniform)(rng.example_keys(key, index))


def antithetic_times(key: Key[Array, ""], index: Int[Array, "b"], total: int) -> Float[Array, "b"]:
    """One offset for the whole global batch: u_i = (u + i / total) mod 1.

    Each u_i is uniform, and together they cover [0, 1) evenly, which takes most of the variance
    that the time brings out of the loss (VDM, arXiv:2107.00630, appendix I.1).
    """
    return jnp.mod(jax.random.uniform(key) + index / total, 1.0)


TIME_SAMPLING: dict[str, Callable] = {"antithetic": antithetic_times, "uniform": uniform_times}


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
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss to minimise and its terms, all means over the batch in bits/dim.

    Args:
      denoise: `(z_t, t) -> prediction`.
      x0: data `[b, *s]`.
      u: in [0, 1), one an example; the process maps it to a time.
      keys: one an example.
    """
    t = process.time(u)
    z_t = process.forward_sample(rng.fold(keys, 0), x0, t)
    terms = process.loss_terms(rng.fold(keys, 1), denoise(z_t, t), x0, z_t, t)
    terms = {name: bits_per_dim(jnp.mean(v), x0.shape[1:]) for name, v in terms.items()}
    loss = sum(terms.values())
    return loss, {"loss": loss, **{f"loss_{name}": v for name, v in terms.items()}}


def bound(
    process: Process, denoise: Denoiser, x0: Data, keys: Keys, time_points: int
) -> dict[str, Nats]:
    """An unbiased estimate of the bound on -log p(x0), term by term, in nats `[b]`.

    The time is stratified for each example on its own: u_k = (u + k) / K, k < K, with one
    u ~ U(0, 1) an example, so that examples stay independent of each other. With K = T points a
    process of T discrete steps visits each step exactly once.

    Args:
      time_points: K, the number of network calls an example.
    """

    def terms_at(k):
        point_keys = rng.fold(keys, k)
        t = process.time((offset + k) / time_points)
        z_t = process.forward_sample(rng.fold(point_keys, 0), x0, t)
        return process.bound_terms(rng.fold(point_keys, 1), denoise(z_t, t), x0, z_t, t)

    def add_point(total, k):
        return jax.tree.map(lambda a, b: a + b / time_points, total, terms_at(k)), None

    offset = jax.vmap(jax.random.uniform)(rng.fold(keys, time_points))
    zeros = jax.tree.map(
        lambda term: jnp.zeros(term.shape, term.dtype), jax.eval_shape(terms_at, 0)
    )
    return jax.lax.scan(add_point, zeros, jnp.arange(time_points))[0]
