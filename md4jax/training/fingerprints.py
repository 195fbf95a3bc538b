"""Hashes of arrays, computed where the arrays are: a flipped bit in a checkpoint is seen."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Shaped, UInt32


def _words(x: Shaped[Array, "*s"]) -> UInt32[Array, "*w"]:
    """The bits of an array as 32-bit words; different bits give different words."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if not jnp.issubdtype(x.dtype, jnp.inexact) and x.dtype.itemsize < 4:
        x = x.astype(jnp.int32)
    # A narrower float fills part of a word; of a wider type, a new last axis holds the words.
    width = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)


def fingerprint(x: Shaped[Array, "*s"]) -> UInt32[Array, ""]:
    """A hash of the bits of an array and of where they are; the same for every sharding.

    The sum, modulo 2^32, of a bijection of (word + position): a change of one word always changes
    it, any other change all but surely (2^-32). A sum weighted by position would be cheaper, but
    blind to two numbers of opposite sign changing places.
    """
    words = _words(x)
    mixed, stride = words, 1
    for axis in reversed(range(words.ndim)):
        # An odd multiplier of the position in row-major order keeps all positions apart.
        step = jnp.uint32(stride * 0x9E3779B1 % 2**32)
        mixed += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * step
        stride *= words.shape[axis]
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)  # MurmurHash3's finalizer.
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


@functools.lru_cache(maxsize=8)
def _jitted(out: Sharding | None) -> tuple[Callable, Callable]:
    stack = lambda hashes: jnp.stack(hashes)
    return jax.jit(fingerprint, out_shardings=out), jax.jit(stack, out_shardings=out)


def fingerprints(arrays: list[Array]) -> UInt32[Array, leaves]:
    """The fingerprint of each array, computed where they are, without waiting for it.

    Compiled once a shape, not once a state: layers of a network share theirs.
    """
    meshes = [x.sharding.mesh for x in arrays if isinstance(x.sharding, NamedSharding)]
    # Every process is to see all of them.
    one, stack = _jitted(NamedSharding(meshes[0], PartitionSpec()) if meshes else None)
    return stack([one(x) for x in arrays])
