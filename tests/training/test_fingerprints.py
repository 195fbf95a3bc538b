"""Fingerprints see what a checkpoint must not lose: each bit, each place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.training.fingerprints import fingerprint

DTYPES = ["float32", "bfloat16", "float16", "float8_e4m3fn", "complex64"]
DTYPES += ["int8", "uint8", "int16", "int32", "uint32"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_fingerprint_sees_each_bit(dtype):
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 8), np.uint8).view(jnp.dtype(dtype))
    hashed = jax.jit(fingerprint)
    values = [int(hashed(x))]
    for byte in range(x.nbytes):
        for bit in range(8):
            y = x.copy()
            y.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
            values.append(int(hashed(y)))
    assert len(set(values)) == len(values)


def test_fingerprint_sees_order_and_sign():
    hashed = jax.jit(fingerprint)
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    x[2, 2] = -x[0, 1]  # A sum weighted by odd numbers does not see these change places.
    flat = x.reshape(-1)
    for i in range(flat.size):
        for j in range(i):
            y = flat.copy()
            y[[i, j]] = y[[j, i]]
            assert hashed(y.reshape(x.shape)) != hashed(x), (i, j)
    assert hashed(-0.0 * x) != hashed(0.0 * np.abs(x))
    flags = np.array([True, False, False])
    assert len({int(hashed(np.roll(flags, n))) for n in range(3)}) == 3


def test_fingerprint_of_scalars_empty_arrays_and_keys():
    assert fingerprint(jnp.float32(1)) != fingerprint(jnp.float32(2))
    assert fingerprint(jnp.zeros((0, 3))) == 0
    assert fingerprint(jax.random.key(1)) != fingerprint(jax.random.key(2))
    with jax.enable_x64(True):
        x = jnp.asarray(1.0, jnp.float64)
        assert fingerprint(x) != fingerprint(jnp.nextafter(x, 2.0))
        assert fingerprint(jnp.int64(1)) != fingerprint(jnp.int64(1 + 2**40))
