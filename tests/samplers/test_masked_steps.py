"""Step functions of masked processes: published numbers, and laws of small words."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_words import LAW, LENGTH, PROCESS, VOCAB, chi_squared_p, draw, exact, keys_of

from md4jax import rng
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.genmd4 import GenMD4
from md4jax.processes.masked import Masked
from md4jax.samplers import STEPS
from md4jax.samplers.base import advance, count_calls, sample, start
from md4jax.samplers.filters import DROPPED, likeliest, nucleus
from md4jax.samplers.masked import Confident, FirstHitting, Joint, Mean
from md4jax.samplers.remasking import (
    SIGMAS,
    Remask,
    RemaskErrors,
    RemaskLoop,
    RemaskUnsure,
    remasked,
)

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "md4_filters.npz")
PROCESS_GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "md4_process.npz")


# Filters.


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.98])
def test_nucleus_is_the_published_one(p):
    """Which classes are kept, exactly (p = 1 is left to the rounding of the sum to 1)."""
    np.testing.assert_array_equal(
        nucleus(jnp.asarray(GOLDEN["topp/logits"]), p), GOLDEN[f"topp/p{p}"]
    )


@pytest.mark.parametrize("k", [1, 3, 10])
def test_likeliest_keeps_k(k):
    ours, theirs = likeliest(jnp.asarray(GOLDEN["topp/logits"]), k), GOLDEN[f"topk/k{k}"]
    kept = ours > DROPPED
    ties = kept.sum(-1) > k  # Of equal logits theirs keeps some.
    np.testing.assert_array_equal(np.where(ties[..., None], 0, ours),
                                  np.where(ties[..., None], 0, theirs))  # fmt: skip
    assert not (np.asarray(theirs > DROPPED) & ~np.asarray(kept)).any()


@pytest.mark.parametrize("grid", ["uniform", "cosine"])
def test_joint_with_a_nucleus_is_the_published_sampler(grid):
    """Bit for bit, at step 4 of 10."""
    zt, logits = (jnp.asarray(PROCESS_GOLDEN[f"step/{n}"])[None] for n in ("zt", "logits"))
    key = jax.random.fold_in(jax.random.wrap_key_data(PROCESS_GOLDEN["step/key"]), 4)
    step = Joint(top_p=0.9, num_steps=10, grid=grid)
    process = Masked(vocab_size=27)
    times = jnp.asarray(step.times(process), jnp.float32)
    z_s = step.move(process, key[None], zt, logits, times[4:5], times[5:6])
    np.testing.assert_array_equal(z_s[0], GOLDEN[f"step/topp/{grid}/T10_i4"])


def test_filters_in_turn():
    """Temperature, then top_k, then top_p; the temperature is linear in t."""
    logits = jnp.log(jnp.array([[[0.5, 0.3, 0.15, 0.05]]]))
    step = Mean(temperature=1.0, final_temperature=0.5, top_k=3, top_p=0.8)
    sharp = np.asarray(jax.nn.softmax(step.filter(logits, jnp.array([0.0]))))[0, 0]
    np.testing.assert_allclose(sharp, np.array([25, 9, 0, 0]) / 34, rtol=1e-5)
    flat = np.asarray(jax.nn.softmax(step.filter(logits, jnp.array([1.0]))))[0, 0]
    np.testing.assert_allclose(flat, np.array([5, 3, 0, 0]) / 8, rtol=1e-5)
    np.testing.assert_array_equal(Mean().filter(logits, jnp.array([0.3])), logits)


# First hitting.


def test_first_hitting_calls_the_network_once_a_token():
    """At D calls its law is the exact one, of whatever schedule: chi-squared, false alarm 1e-4."""
    for schedule in ("linear", "cosine"):
        process = Masked(vocab_size=VOCAB, schedule=schedule)
        samples = draw(FirstHitting(num_steps=LENGTH), 5_000, process=process)
        assert chi_squared_p(samples, LAW) > 1e-4


def test_first_hitting_times_are_those_of_single_tokens():
    """The share masked at each hit is the order statistics of D uniforms; means within 4.5 errors.

    With the linear schedule the times themselves: the i-th largest of three has mean 3/4, 1/2, 1/4.
    """
    n, seen = 4_000, []
    step, z = FirstHitting(num_steps=LENGTH), jnp.full((n, LENGTH), VOCAB)
    memory = step.memory(z)
    for i in range(LENGTH):
        z, memory = step(PROCESS, exact, rng.fold(keys_of(n), i), z, memory, memory, memory)
        seen.append(np.asarray(memory))
        assert ((z != VOCAB).sum(1) == i + 1).all()
    for times, mean in zip(seen, (3 / 4, 1 / 2, 1 / 4)):
        assert abs(times.mean() - mean) < 4.5 * times.std() / n**0.5 + 2 * PROCESS.eps


def test_tokens_of_one_call_do_not_see_each_other():
    """All three in one call: the product of the marginals, and all masks gone in any number."""
    samples = draw(FirstHitting(num_steps=1), 5_000)
    law = np.asarray(LAW).reshape(3, 3, 3)
    marginals = [law.sum(axis=tuple({0, 1, 2} - {i})) for i in range(3)]
    assert chi_squared_p(samples, np.einsum("i,j,k->ijk", *marginals).reshape(-1)) > 1e-4
    assert draw(FirstHitting(num_steps=2), 200).max() < VOCAB


# Confident.


@pytest.mark.parametrize("choose", ["token_first", "position_first"])
def test_confident_unmasks_as_many_as_the_schedule_says(choose):
    step = Confident(num_steps=3, choose=choose)
    z = jnp.full((50, LENGTH), VOCAB)
    for left, t in enumerate((1.0, 2 / 3, 1 / 3)):
        s = t - 1 / 3
        ones = jnp.ones(50)
        z = step.move(PROCESS, keys_of(50, left), z, exact(z, ones), t * ones, s * ones)
        assert ((z == VOCAB).sum(1) == 2 - left).all()


def test_confident_with_little_noise_takes_the_surest_first():
    """A position that is certain goes first; the tokens are drawn, not the likeliest."""
    logits = jnp.log(jnp.array([[[0.5, 0.5, 1e-9], [1.0, 1e-9, 1e-9], [0.4, 0.3, 0.3]]]))
    logits = jnp.broadcast_to(logits, (200, 3, 3))
    z = jnp.full((200, 3), VOCAB)
    ones = jnp.ones(200)
    z = Confident(noise=1e-3).move(PROCESS, keys_of(200), z, logits, ones, 2 / 3 * ones)
    assert (z[:, 1] == 0).all() and (z[:, [0, 2]] == VOCAB).all()


def test_one_position_at_a_time_with_no_preference_is_the_law():
    """With so much noise that positions come in any order, token by token: chi-squared."""
    samples = draw(Confident(num_steps=LENGTH, noise=1e6), 5_000)
    assert chi_squared_p(samples, LAW) > 1e-4


# Remasking.


@pytest.mark.parametrize("how", SIGMAS)
def test_remasking_keeps_the_marginals_of_the_process(how):
    """Given the right x0, z_s is masked with probability 1 - alpha(s), for every sigma."""
    n, x0 = 20_000, jnp.array([1, 0, 2])
    t, s = jnp.full(n, 0.5), jnp.full(n, 0.3)
    x = jnp.broadcast_to(x0, (n, LENGTH))
    z_t = PROCESS.forward_sample(keys_of(n, 1), x, t)
    logits = jnp.log(jax.nn.one_hot(x, VOCAB) + 1e-9)
    z_s = np.asarray(Remask(how=how, eta=0.1).move(PROCESS, keys_of(n), z_t, logits, t, s))
    assert ((z_s == np.asarray(x)) | (z_s == VOCAB)).all()
    expected = float(PROCESS.mask_probability(s)[0])
    error = (expected * (1 - expected) / n) ** 0.5
    assert np.abs((z_s == VOCAB).mean(0) - expected).max() < 4.5 * error
    hidden = ((np.asarray(z_t) != VOCAB) & (z_s == VOCAB)).mean()
    assert hidden > 0.001


def test_star_draws_everything_afresh():
    """z_s does not depend on which positions of z_t were masked, once sigma is its largest."""
    n = 20_000
    t, s = jnp.full(n, 0.6), jnp.full(n, 0.5)  # (1 - alpha(s)) / alpha(t) is above 1: not yet.
    x = jnp.ones((n, 1), jnp.int32)
    logits = jnp.log(jax.nn.one_hot(x, VOCAB) + 1e-9)
    t, s = jnp.full(n, 0.4), jnp.full(n, 0.3)
    z_t = PROCESS.forward_sample(keys_of(n, 1), x, t)
    z_s = np.asarray(Remask(how="star").move(PROCESS, keys_of(n), z_t, logits, t, s)) == VOCAB
    was = np.asarray(z_t) == VOCAB
    a, b = z_s[was].mean(), z_s[~was].mean()
    # At t = 0.4, s = 0.3: sigma = 0.5 leaves (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t) = 1.
    assert abs(b - 0.5) < 4.5 * 0.5 / (~was).sum() ** 0.5 and a < 0.01


def test_remasking_outside_its_times_is_ancestral():
    z = jnp.array([[0, VOCAB, 2]] * 2000)
    t, s = jnp.full(2000, 0.9), jnp.full(2000, 0.8)
    step = Remask(how="rescale", eta=0.5, since=0.5, until=0.1)
    moved = np.asarray(step.move(PROCESS, keys_of(2000), z, exact(z, t), t, s))
    assert (moved[:, [0, 2]] == np.array([0, 2])).all()
    within = step.move(PROCESS, keys_of(2000), z, exact(z, t), t - 0.5, s - 0.5)
    assert (np.asarray(within)[:, 0] == VOCAB).mean() > 0.05


@pytest.mark.parametrize(
    "step", [Remask(), Remask(how="rescale", eta=0.1), RemaskLoop(), RemaskUnsure()]
)
def test_remasked_samples_are_words_of_the_law_on_the_whole(step):
    """Not its law, but close to it: with 100 steps the total variation is below 0.1.

    The sum of 27 absolute deviations of n = 4,000 is about 27 sqrt(2 p / (pi n)) <= 0.07 by chance.
    """
    samples = draw(type(step)(**{**vars(step), "num_steps": 100}), 4_000)
    counts = np.bincount(samples @ np.array([9, 3, 1]), minlength=27) / len(samples)
    assert 0.5 * np.abs(counts - np.asarray(LAW)).sum() < 0.1


def test_loop_stays_at_its_level():
    """Between its times the share unmasked is alpha_on; before and after it grows."""
    step = RemaskLoop()
    t = jnp.array([1.0, 0.775, 0.55, 0.3, 0.05, 0.025, 0.0])
    expected = [0, 0.45, 0.9, 0.9, 0.9, 0.95, 1]
    np.testing.assert_allclose(step.alpha(t), expected, atol=1e-6)


def test_unsure_hides_what_it_was_least_sure_of():
    """Of two tokens the one that was drawn with the smaller probability goes more often."""
    n = 4_000
    z = jnp.broadcast_to(jnp.array([1, 2, VOCAB]), (n, LENGTH))
    memory = jnp.broadcast_to(jnp.array([0.9, 0.1, 0.0]), (n, LENGTH))
    t, s = jnp.full(n, 0.4), jnp.full(n, 0.3)
    z_s, _ = RemaskUnsure()(PROCESS, exact, keys_of(n), z, memory, t, s)
    gone = (np.asarray(z_s) == VOCAB).mean(0)
    share = np.exp([-0.9, -0.1]) / np.exp([-0.9, -0.1]).sum()
    sigma = float(PROCESS.mask_probability(s)[0] / PROCESS.alpha(t)[0])
    np.testing.assert_allclose(gone[:2], sigma * share, atol=4.5 * 0.5 / n**0.5)
    assert gone[1] > gone[0] + 0.05


def test_sigma_may_differ_between_positions():
    n = 3_000
    z = jnp.zeros((n, LENGTH), jnp.int32)
    sigma = jnp.broadcast_to(jnp.array([0.0, 0.5, 1.0]), (n, LENGTH))
    alpha = jnp.full(n, 0.5)
    z_s = remasked(PROCESS, keys_of(n), z, exact(z, alpha), alpha, alpha, sigma)
    gone = np.asarray(z_s == VOCAB).mean(0)
    assert gone[0] == 0 and gone[2] == 1 and abs(gone[1] - 0.5) < 4.5 * 0.5 / n**0.5


def test_schedules_of_single_tokens_are_refused_where_there_must_be_one():
    for name in ("confident", "first_hitting", "remask", "remask_unsure", "remask_loop"):
        with pytest.raises(UserError, match="needs one schedule for all tokens, which GenMD4"):
            STEPS[name]().check(GenMD4(vocab_size=3))
    for name in ("mean", "joint"):
        STEPS[name]().check(GenMD4(vocab_size=3))


# The network is asked only if something has changed.


@pytest.mark.parametrize("name", ["ancestral", "mean", "remask"])
def test_reuse_draws_the_same_with_fewer_calls(name):
    """Of a denoiser that ignores time; with one example each step that changes nothing is saved."""
    step = STEPS[name](num_steps=50)
    reusing = dataclasses.replace(step, reuse=True)
    for n in (1, 40):
        np.testing.assert_array_equal(draw(step, n), draw(reusing, n))
    times = jnp.asarray(step.times(PROCESS), jnp.float32)

    def calls(keys):
        state = start(PROCESS, exact, reusing, keys, (LENGTH,))
        state = advance(PROCESS, exact, reusing, keys, times, state, 0, 50)
        return state[1][1][2]

    alone, together = (np.asarray(jax.jit(calls)(keys_of(n))) for n in (1, 200))
    assert (together > alone).all() and (together == together[0]).all()
    if name != "remask":  # The empty one, and again after each change but the last.
        assert alone[0] <= LENGTH + 1
    assert count_calls(PROCESS, exact, reusing, keys_of(1), (LENGTH,)) == (50, 1)


def test_calls_are_counted():
    """Of heun all but the first, from sigma = 359, and the last step ask twice."""
    process = Gaussian(num_timesteps=50).bind(DataSpec((4,), 256))
    denoise = lambda z, t: process.predict(jnp.zeros((*z.shape, 1)), z, t)
    for name, calls in (("ddim", 5), ("heun", 8)):
        assert count_calls(process, denoise, STEPS[name](num_steps=5), keys_of(2), (4,)) == (
            calls,
            0,
        )


# Hiding what is likely wrong.


class Telling:
    """The exact denoiser, which says of each place how likely it is wrong."""

    def __init__(self, wrong):
        self._errors = jnp.log(jnp.array(wrong)) - jnp.log1p(-jnp.array(wrong))

    def __call__(self, z_t, t):
        return exact(z_t, t)

    def errors(self, guess, t):
        return jnp.broadcast_to(self._errors, guess.shape)


def hidden_by(step, z, t, s):
    """Where MASK is after a step of 4,000 examples of z."""
    n = 4_000
    z = jnp.broadcast_to(jnp.array(z), (n, LENGTH))
    denoise = Telling([0.8, 0.4, 0.2])
    z_s, _ = step(PROCESS, denoise, keys_of(n), z, (), jnp.full(n, t), jnp.full(n, s))
    assert ((z_s == z) | (z_s == VOCAB) | (z == VOCAB)).all()
    return np.asarray(z_s == VOCAB)


@pytest.mark.parametrize(
    ("sharpness", "shares"), [(0.0, [1, 1, 1]), (1.0, [4, 2, 1]), (2.0, [16, 4, 1])]
)
def test_as_many_are_hidden_as_the_schedule_says_in_proportion_to_their_error(sharpness, shares):
    """One of three: chance p^sharpness over the sum of these, within 4.5 errors."""
    hidden = hidden_by(RemaskErrors(sharpness=sharpness), [1, VOCAB, 2], 2 / 3, 1 / 3)
    assert (hidden.sum(1) == 1).all()
    share = np.array(shares) / np.sum(shares)
    error = np.sqrt(share * (1 - share) / len(hidden))
    assert (np.abs(hidden.mean(0) - share) < 4.5 * error).all()
    # Two of three: the first as above, the second of those left.
    two = hidden_by(RemaskErrors(sharpness=sharpness), [1, VOCAB, 2], 0.9, 2 / 3)
    assert (two.sum(1) == 2).all()
    spared = sum(share[i] * share[j] / (1 - share[i]) for i, j in ((0, 1), (1, 0)))
    assert abs((~two[:, 2]).mean() - spared) < 4.5 * 0.5 / len(two) ** 0.5


def test_hiding_errors_draws_words_and_keeps_a_prompt():
    """Without MASK, two calls a step, and what is known is there in each."""
    step, denoise = RemaskErrors(num_steps=6), Telling([0.8, 0.4, 0.2])
    known = jnp.array([[1, 0, 2]] * 500), jnp.array([[True, False, False]] * 500)
    draws = jax.jit(lambda k: sample(PROCESS, denoise, step, k, (LENGTH,), known))(keys_of(500))
    assert (draws[:, 0] == 1).all() and draws.max() < VOCAB and len(np.unique(draws[:, 1])) == 3
    assert count_calls(PROCESS, denoise, step, keys_of(2), (LENGTH,)) == (12, 1)
