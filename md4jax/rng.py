"""Random keys, derived and never split and stored: (seed, stream, step, example).

A key depends on what it is for, not on what was drawn before, so that a resumed run, another batch
size and another number of devices all see the same noise.
"""

from __future__ import annotations

import zlib

import jax
from jaxtyping import Array, Int, Key

from md4jax.typing import Keys


def stream(seed: int, name: str) -> Key[Array, ""]:
    """The root key of one named use of randomness ("init", "noise", "sample", ...)."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def example_keys(key: Key[Array, ""], index: Int[Array, "b"]) -> Keys:
    """One key an example, from its global index."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def fold(keys: Keys, number: int | Int[Array, ""]) -> Keys:
    """Derives new keys, one an example, from a number (a step, a purpose)."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
