"""training/optimizers.py against MD4's formula and hand-made steps."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.options import UserError
from md4jax.training.optimizers import OPTIMIZERS, SGD, AdamW


def test_cosine_schedule_is_md4s():
    """lr(n) = min(1, n / warm) base (1 + cos(pi max(0, n - warm) / (N - warm))) / 2."""
    schedule = AdamW(learning_rate=0.3, warmup_steps=10).learning_rate_schedule(50)
    for n in range(51):
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, n - 10) / 40))
        # Float32, at values up to 0.3.
        assert float(schedule(n)) == pytest.approx(0.3 * min(1, n / 10) * cosine, abs=1e-7)


def test_constant_schedule_warms_up_and_stays():
    schedule = SGD(learning_rate=0.3, schedule="constant", warmup_steps=4)
    values = [float(schedule.learning_rate_schedule(50)(n)) for n in (0, 2, 4, 49)]
    np.testing.assert_allclose(values, [0, 0.15, 0.3, 0.3], rtol=1e-6)
    assert SGD(learning_rate=0.2, schedule="constant").learning_rate_schedule(9)(0) == 0.2


def test_exponential_schedule_falls_by_a_factor_a_step():
    schedule = SGD(learning_rate=0.3, schedule="exponential", warmup_steps=4, decay_rate=0.9)
    values = [float(schedule.learning_rate_schedule(50)(n)) for n in (0, 2, 4, 5, 14)]
    np.testing.assert_allclose(values, [0, 0.15, 0.3, 0.27, 0.3 * 0.9**10], rtol=2e-6)
    for options in ({"schedule": "exponential"}, {"decay_rate": 0.9}):
        with pytest.raises(UserError, match="decay_rate = .*exponential schedule needs a number"):
            SGD(**options)


def test_clipping_is_of_the_global_norm():
    optimizer = SGD(learning_rate=1.0, schedule="constant", clip_norm=1.0).build(10)
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.6, -0.8], rtol=1e-6)


def test_decay_of_kernels_leaves_the_rest():
    """With a zero gradient only decay moves a parameter: p (1 - lr wd)."""
    params = {
        "layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "norm": {"scale": jnp.ones(2)},
    }
    zeros = {
        "layer": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)},
        "norm": {"scale": jnp.zeros(2)},
    }
    for mask, expected in (("kernels", 0.0), ("all", -0.05)):
        optimizer = AdamW(
            learning_rate=0.5, schedule="constant", weight_decay=0.1, decay_mask=mask
        ).build(10)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        np.testing.assert_allclose(updates["layer"]["kernel"], -0.05, rtol=1e-6)
        np.testing.assert_allclose(updates["layer"]["bias"], expected, rtol=1e-6)
        np.testing.assert_allclose(updates["norm"]["scale"], expected, rtol=1e-6)


def test_all_of_the_table_build():
    for name in OPTIMIZERS:
        OPTIMIZERS[name]().build(10)
