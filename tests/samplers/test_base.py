"""The sampler on an exact denoiser: the known law, whatever the step function and grid."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2
from small_words import LAW, LENGTH, PROCESS, VOCAB, WORDS, chi_squared_p, draw, exact

from md4jax import rng
from md4jax.options import UserError
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.masked import Masked
from md4jax.samplers import STEPS
from md4jax.samplers.base import (
    Ancestral,
    Guided,
    advance,
    check_label,
    sample_labels,
    start,
)
from md4jax.samplers.grids import time_grid

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "md4_process.npz")
# Those for other processes, each tested with its own kind; all others are tested here.
ELSEWHERE = ("ddim", "heun", "dpm_solver")
MASKED_STEPS = [name for name in STEPS if name not in ELSEWHERE]
# Those that say they do not draw the model's law: `test_masked_steps.py` has what they do.
OTHER_LAWS = ("confident", "remask", "remask_unsure", "remask_loop", "remask_errors")


def test_the_steps_tested_here_are_those_for_masked_processes():
    """So that a new one is either drawn from below or said to be for another process."""
    for name in STEPS:
        if name in MASKED_STEPS:
            STEPS[name]().check(PROCESS)
        else:
            with pytest.raises(UserError, match="this step is for .* processes, not Masked; use"):
                STEPS[name]().check(PROCESS)


@pytest.mark.parametrize("name", [name for name in MASKED_STEPS if name not in OTHER_LAWS])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_many_steps_draw_the_law(name, schedule):
    """Chi-squared over the 27 words, n = 5,000, 200 steps; false alarm 1e-4 each.

    A step that unmasks two positions draws them independently: with 200 steps that is the case for
    some 2 % of samples, which n = 5,000 does not see.
    """
    step = STEPS[name](num_steps=200, grid="uniform")
    samples = draw(step, 5_000, process=Masked(vocab_size=VOCAB, schedule=schedule))
    assert chi_squared_p(samples, LAW) > 1e-4


def test_one_step_draws_the_marginals():
    """What one step can know: independent positions. It is far from the law."""
    samples = draw(Ancestral(num_steps=1), 20_000)
    marginals = [np.array([LAW[WORDS[:, i] == v].sum() for v in range(VOCAB)]) for i in range(3)]
    product = np.einsum("i,j,k->ijk", *marginals).reshape(-1)
    # The eps D of positions still masked at t = 0 get the mode instead of a draw.
    assert chi_squared_p(samples, product) > 1e-4
    assert chi_squared_p(samples, LAW) < 1e-12


@pytest.mark.parametrize("grid", ["uniform", "cosine"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [8, 256])
def test_grids_are_the_published_ones(grid, schedule, steps):
    times = jnp.asarray(time_grid(grid, steps, PROCESS), jnp.float32)
    t, s = times[:-1], times[1:]
    published = {k: GOLDEN[f"grid/{grid}/{schedule}/T{steps}/{k}"] for k in ("t", "s", "unmask")}
    np.testing.assert_allclose(t, published["t"], atol=2e-7)
    np.testing.assert_allclose(s, published["s"], atol=2e-7)
    unmask = Masked(schedule=schedule, vocab_size=2).unmask_probability(t, t - s)
    # The published one is a float32 difference of alphas, 6e-8, over 1 - alpha.
    np.testing.assert_allclose(unmask, published["unmask"], atol=2e-4)


def test_sample_i_is_the_same_in_every_batch():
    step = Ancestral(num_steps=8)
    np.testing.assert_array_equal(draw(step, 12)[:5], draw(step, 5))


def test_advance_in_pieces_is_the_scan():
    step = Ancestral(num_steps=10, grid="cosine")
    keys = rng.example_keys(rng.stream(0, "sample"), jnp.arange(6))
    times = jnp.asarray(step.times(PROCESS), jnp.float32)
    state = start(PROCESS, exact, step, keys, (LENGTH,))
    for first, last in [(0, 3), (3, 4), (4, 10)]:
        state = advance(PROCESS, exact, step, keys, times, state, first, last)
    np.testing.assert_array_equal(PROCESS.decode(exact, state[0]), draw(step, 6))


def test_unmasked_positions_never_change():
    """What was drawn once stays, over all steps."""
    keys = rng.example_keys(rng.stream(1, "sample"), jnp.arange(50))
    times = jnp.asarray(time_grid("uniform", 20, PROCESS), jnp.float32)
    one_step = jax.jit(
        lambda state, i: advance(PROCESS, exact, Ancestral(), keys, times, state, i, i + 1)
    )
    state = start(PROCESS, exact, Ancestral(), keys, (LENGTH,))
    for i in range(20):
        z, state = state[0], one_step(state, i)
        assert bool(((z == VOCAB) | (state[0] == z)).all())


def test_a_left_over_mask_is_decoded_to_the_mode():
    z = jnp.array([[0, VOCAB, 1]])
    fits = (WORDS[:, 0] == 0) & (WORDS[:, 2] == 1)
    mode = WORDS[jnp.argmax(jnp.where(fits, LAW, 0.0))]
    np.testing.assert_array_equal(PROCESS.decode(exact, z)[0], mode)


def test_labels_go_through_the_classes_in_turn():
    index = np.arange(8, 12)
    np.testing.assert_array_equal(sample_labels(Ancestral(), index, 10), [8, 9, 0, 1])
    np.testing.assert_array_equal(sample_labels(Ancestral(label=4), index, 10), [4, 4, 4, 4])
    assert sample_labels(Ancestral(), index, None) is None
    for classes in (None, 4):
        with pytest.raises(UserError, match="config.sampler.label"):
            check_label(Ancestral(label=4), classes, 0.0)
    check_label(Ancestral(label=3), 4, 0.0)


def test_guidance_needs_an_unconditional_prediction():
    check_label(Ancestral(guidance=2.0), 4, 0.1)
    check_label(Ancestral(), None, 0.0)
    for classes, dropout, words in ((4, 0.0, "label_dropout"), (None, 0.1, "without classes")):
        with pytest.raises(UserError, match=f"config.sampler.guidance = 2.0.*{words}"):
            check_label(Ancestral(guidance=2.0), classes, dropout)


def test_guidance_scales_from_unconditional_to_conditional_and_beyond():
    """Of log-probabilities: p(x | c)^w p(x)^(1 - w), up to its sum."""
    z_t, t = jnp.full((2, LENGTH), VOCAB), jnp.ones(2)
    first = jnp.log(jnp.array([0.6, 0.3, 0.1]))
    conditional = lambda z_t, t: jnp.broadcast_to(first, (*z_t.shape, VOCAB))
    predict = lambda scale: Guided(PROCESS, conditional, exact, scale)(z_t, t)
    np.testing.assert_allclose(predict(1.0), conditional(z_t, t), atol=1e-6)
    np.testing.assert_array_equal(predict(0.0), exact(z_t, t))
    expected = 3 * conditional(z_t, t) - 2 * exact(z_t, t)
    np.testing.assert_allclose(predict(3.0), expected, atol=1e-5)


@pytest.mark.parametrize("final, t", [(None, 1.0), (None, 0.5), (0.25, 1.0), (0.25, 1 / 3)])
def test_temperature_sharpens_each_draw(final, t):
    """One position, so that the law at temperature T is p^(1/T) normalised; n = 20,000."""
    p, n = np.array([0.6, 0.3, 0.1]), 20_000
    keys = rng.example_keys(rng.stream(0, "sample"), jnp.arange(n))
    step = STEPS["mean"](num_steps=1, temperature=0.5, final_temperature=final)
    z, _ = step(
        PROCESS,
        lambda z_t, t: jnp.broadcast_to(jnp.log(p), (n, 1, 3)),
        keys,
        PROCESS.prior_sample(keys, (1,)),
        (),
        jnp.full(n, t),
        jnp.zeros(n),
    )
    # A share of at most eps / t stays masked; what was unmasked follows the law.
    counts = np.bincount(np.asarray(z)[:, 0], minlength=4)[:3]
    temperature = 0.5 if final is None else final + (0.5 - final) * t
    law = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    expected = counts.sum() * law
    assert counts.sum() > n - 40
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 2) > 1e-4


@pytest.mark.parametrize("name", ["mean", "joint"])
def test_steps_for_masked_processes_are_for_no_other(name):
    with pytest.raises(UserError, match="masked processes, not Gaussian; use 'ancestral'"):
        STEPS[name]().check(Gaussian())
