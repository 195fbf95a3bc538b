"""Times of training: uniform, evenly spread, and drawn by importance.

All of `resample/*` of the published implementation's numbers is matched (gaussian_resample.npz).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest

from md4jax.options import UserError
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.masked import Masked
from md4jax.time_sampling import HISTORY, TIME_SAMPLING, LossSecondMoment

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "gaussian_resample.npz")
STATELESS = ("antithetic", "uniform")


@pytest.mark.parametrize("name", STATELESS)
def test_times_are_uniform(name):
    """Kolmogorov-Smirnov over 2,000 draws of one example's time; false alarm 1e-3."""
    draw = lambda seed: TIME_SAMPLING[name].draw(None, jax.random.key(seed), jnp.arange(8), 8)
    u, weight = jax.vmap(draw)(jnp.arange(2000))
    assert kstest(u[:, 3], "uniform").pvalue > 1e-3
    assert (weight == 1).all()


def test_antithetic_times_cover_the_global_batch_evenly():
    """One time in each of `total` equal cells, for any number (the published code fails for 49)."""
    draw = lambda index, total: TIME_SAMPLING["antithetic"].draw(
        None, jax.random.key(2), index, total
    )[0]
    for total in (4, 7, 49, 256):
        u = draw(jnp.arange(total), total)
        offset = float(u[0])
        cells = np.floor((np.asarray(u, np.float64) - offset) % 1.0 * total + 0.5)
        assert sorted(cells % total) == list(range(total))
        # A part of a batch takes its own places.
        np.testing.assert_array_equal(draw(jnp.arange(2, 4), total), u[2:4])


def history(times, losses, chain_length, batch_size):
    """The state after losses that come in batches of this size."""
    state = LossSecondMoment.init(Gaussian(num_timesteps=chain_length))
    for first in range(0, len(times), batch_size):
        here = slice(first, first + batch_size)
        u = (jnp.asarray(times[here]) + 0.5) / chain_length
        state = LossSecondMoment.update(state, u, jnp.asarray(losses[here], jnp.float32))
    return state


def in_order(state):
    """Losses `[T, history]` from the oldest on: the ring, unrolled."""
    return np.stack([np.roll(x, -c) for x, c in zip(state["losses"], state["count"] % HISTORY)])


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_history_is_the_published_one(batch_size):
    """However the losses come in batches, a batch with more of one step than fit included."""
    times, losses = GOLDEN["resample/hist_t"], GOLDEN["resample/hist_loss"]
    T = len(GOLDEN["resample/weights"])
    state = history(times, losses, T, batch_size)
    np.testing.assert_allclose(in_order(state), GOLDEN["resample/loss_history"], rtol=1e-7)
    # float32 sums of ten squares and a normalisation: a few ulps.
    weights = GOLDEN["resample/weights"]
    p = weights / weights.sum()
    np.testing.assert_allclose(LossSecondMoment.probabilities(state), p, rtol=1e-6)
    for i, t in enumerate(range(T)):
        u, weight = inverse(state, t)
        assert int(u * T) == t
        assert weight == pytest.approx(1 / (T * p[i]), rel=1e-6)


def inverse(state, t):
    """A draw of step t: u and its weight, found among an even cover of [0, 1)."""
    u, weight = LossSecondMoment.draw(state, jax.random.key(0), jnp.arange(4096), 4096)
    at = int(jnp.argmax(jnp.floor(u * len(state["count"])) == t))
    return float(u[at]), float(weight[at])


def test_uniform_until_every_step_has_a_full_history():
    T = 4
    times = np.repeat(np.arange(T), HISTORY)[:-1]
    state = history(times, np.linspace(1, 9, len(times)), T, 5)
    np.testing.assert_array_equal(LossSecondMoment.probabilities(state), np.full(T, 0.25))
    _, weight = LossSecondMoment.draw(state, jax.random.key(0), jnp.arange(8), 8)
    np.testing.assert_array_equal(weight, np.ones(8))


def test_steps_are_drawn_by_their_probabilities_and_weights_undo_them():
    """Chi-squared of 20,000 draws of one example, false alarm 1e-3; weighted mean by z < 4.5."""
    T = 4
    times = np.tile(np.arange(T), HISTORY)
    state = history(times, 1.0 + times**2, T, len(times))
    p = np.asarray(LossSecondMoment.probabilities(state), np.float64)
    draw = lambda seed: LossSecondMoment.draw(state, jax.random.key(seed), jnp.arange(6), 6)
    u, weight = (np.asarray(x)[:, 2] for x in jax.vmap(draw)(jnp.arange(20_000)))
    step = (u * T).astype(int)
    expected = len(u) * p / p.sum()
    statistic = ((np.bincount(step, minlength=T) - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, T - 1) > 1e-3
    values = weight * np.array([3.0, -1.0, 4.0, 7.0])[step]
    assert abs(values.mean() - 13 / 4) < 4.5 * values.std() / np.sqrt(len(u))


def test_importance_sampling_needs_a_chain():
    with pytest.raises(UserError, match="loss_second_moment"):
        LossSecondMoment.check(Masked(vocab_size=3))
    LossSecondMoment.check(Gaussian())
