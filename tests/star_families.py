"""One of each star-shaped family, bound to small data, with examples of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from md4jax import rng
from md4jax.processes import PROCESSES
from md4jax.processes.base import DataSpec

LEVELS = 5


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _spd(generator, n, d):
    a = generator.normal(size=(n, d, d))
    return a @ a.swapaxes(1, 2) / d + 0.2 * np.eye(d)


# Of each: the data's spec, the process's options, and n examples by a numpy generator.
FAMILIES = {
    "star_beta": (
        DataSpec((2, 2, 1), LEVELS),
        {"num_timesteps": 20},
        lambda g, n: g.integers(LEVELS, size=(n, 2, 2, 1)),
    ),
    "star_categorical": (
        DataSpec((6,), 7, unit="char"),
        {"num_timesteps": 30, "schedule": "closed_form"},
        lambda g, n: g.integers(7, size=(n, 6)),
    ),
    "star_dirichlet": (
        DataSpec((4,), None, domain="simplex"),
        {"num_timesteps": 16},
        lambda g, n: g.dirichlet([1.0, 2.0, 3.0, 4.0], n),
    ),
    "star_gamma": (
        DataSpec((3,), None, domain="positive"),
        {"num_timesteps": 20},
        lambda g, n: g.gamma(2.0, size=(n, 3)) + 0.1,
    ),
    "star_gaussian": (
        DataSpec((2, 2, 1), LEVELS),
        {"num_timesteps": 20},
        lambda g, n: g.integers(LEVELS, size=(n, 2, 2, 1)),
    ),
    "star_von_mises": (
        DataSpec((2,), None, domain="circle"),
        {"num_timesteps": 20},
        lambda g, n: g.uniform(-np.pi, np.pi, size=(n, 2)),
    ),
    "star_von_mises_fisher": (
        DataSpec((3,), None, domain="sphere"),
        {"num_timesteps": 20},
        lambda g, n: _unit(g.normal(size=(n, 3))),
    ),
    "star_wishart": (
        DataSpec((2, 2), None, domain="spd"),
        {"num_timesteps": 16},
        lambda g, n: _spd(g, n, 2),
    ),
}


def examples(name, n, seed=0):
    """x0 `[n, *s]`, float32 or int32."""
    spec, _, draw = FAMILIES[name]
    x = draw(np.random.default_rng(seed), n)
    return jnp.asarray(x, jnp.float32 if spec.vocab_size is None else jnp.int32)


@functools.cache
def process(name, **options):
    """The family with its statistics."""
    spec, defaults, _ = FAMILIES[name]
    bound = PROCESSES[name](**(defaults | options)).bind(spec)
    return bound.fit(np.asarray(examples(name, 200, seed=1)))


def keys(n, seed=0):
    """One an example."""
    return rng.example_keys(jax.random.key(seed), jnp.arange(n))


def repeated(name, n):
    return jnp.repeat(examples(name, 1), n, axis=0)


def assert_within(values, expected, what):
    """The mean of values `[n, ...]` is as expected, up to 5 standard errors and float32."""
    values = np.asarray(values, np.float64)
    error = values.std(axis=0) / np.sqrt(len(values))
    allowed = 5 * error + 1e-5 * np.abs(expected) + 1e-30
    assert (np.abs(values.mean(axis=0) - expected) <= allowed).all(), what
