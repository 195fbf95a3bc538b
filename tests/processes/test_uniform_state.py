"""processes/uniform_state.py: exact laws of small words, the entropy, and its own limits."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from md4jax import rng
from md4jax.objectives import bound
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.uniform_state import UniformState
from md4jax.samplers.base import Ancestral, sample

VOCAB, LENGTH = 3, 2
WORDS = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))
LAW = np.exp(1.5 * np.random.default_rng(0).normal(size=len(WORDS)))
LAW /= LAW.sum()
ENTROPY = -(LAW * np.log(LAW)).sum()
PROCESS = UniformState(vocab_size=VOCAB)
KEY = rng.example_keys(jax.random.key(0), jnp.arange(1))


def exact(process):
    """The law of x_i given z_t at the other positions: what makes the reverse step exact."""

    def denoise(z_t, t):
        one_hot = jax.nn.one_hot(WORDS, VOCAB)  # [words, length, v]
        spread = jnp.broadcast_to(one_hot[None], (len(t), *one_hot.shape))
        q = process.marginal(spread, t)  # [b, words, length, v]
        at_z = jnp.take_along_axis(q, z_t[:, None, :, None], axis=-1)[..., 0]
        others = at_z.prod(-1, keepdims=True) / at_z  # [b, words, length]
        return jnp.log(jnp.einsum("bwl,w,wlv->blv", others, jnp.asarray(LAW), one_hot))

    return denoise


def mean_of(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std() / math.sqrt(len(values))


def bound_of_law(process, n=40_000, time_points=4):
    draws = jnp.asarray(WORDS)[jax.random.choice(jax.random.key(0), len(WORDS), (n,), p=LAW)]
    keys = rng.example_keys(jax.random.key(1), jnp.arange(n))
    terms = jax.jit(lambda x, k: bound(process, exact(process), x, k, time_points))(draws, keys)
    edges = float(terms["reconstruction"][0] + terms["prior"][0])
    return *mean_of(sum(terms.values())), edges


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_continuous_bound_of_the_exact_denoiser_is_the_entropy(schedule):
    """Within 4.5 standard errors (false alarm 7e-6), and what the edges add."""
    mean, error, edges = bound_of_law(UniformState(vocab_size=VOCAB, schedule=schedule))
    assert -4.5 * error < mean - ENTROPY < 4.5 * error + edges
    assert error < 0.03 * ENTROPY and edges < 0.01


def test_the_bound_in_steps_comes_down_to_the_entropy():
    """(4) is above it for every T; the more steps the closer."""
    gaps = []
    for steps in (4, 16, 64):
        mean, error, edges = bound_of_law(UniformState(vocab_size=VOCAB, num_timesteps=steps))
        assert mean - ENTROPY > -4.5 * error
        gaps.append(mean - ENTROPY - edges)
    assert gaps[0] > 2 * gaps[1] > 0 and gaps[2] < 0.05 * ENTROPY


def test_a_step_is_the_posterior():
    """KL of (4) against the posterior by Bayes' rule from q(z_t | z_s) and q(z_s | x)."""
    process = UniformState(vocab_size=4, num_timesteps=5)
    alpha = lambda t: float(process.alpha(jnp.array([t]))[0])
    t, s = 0.6, 0.4
    a = alpha(t) / alpha(s)
    kernel = a * np.eye(4) + (1 - a) / 4
    marginal = lambda mu, time: alpha(time) * mu + (1 - alpha(time)) / 4
    logits = np.asarray(jax.random.normal(jax.random.key(0), (1, 1, 4)))
    mu = np.exp(logits[0, 0]) / np.exp(logits[0, 0]).sum()
    for x, z in itertools.product(range(4), range(4)):
        laws = [kernel[:, z] * marginal(m, s) for m in (np.eye(4)[x], mu)]
        q, p = (law / law.sum() for law in laws)
        expected = 5 * (q * np.log(q / p)).sum()
        args = jnp.array([[x]]), jnp.array([[z]]), jnp.array([t])
        terms = process.bound_terms(KEY, jnp.asarray(logits), *args)
        # Float32 logarithms of numbers down to 0.1, five times.
        np.testing.assert_allclose(terms["diffusion"], [expected], rtol=2e-5, atol=2e-6)


def test_forward_and_edges():
    """z_t has the law (1), chi-squared at false alarm 1e-4; the edge terms are entropies."""
    n, t = 20_000, 0.5
    keys = rng.example_keys(jax.random.key(2), jnp.arange(n))
    z_t = PROCESS.forward_sample(keys, jnp.ones((n, 1), jnp.int32), jnp.full(n, t))
    expected = n * np.asarray(PROCESS.marginal(jax.nn.one_hot(jnp.array([1]), 3), jnp.array([t])))
    counts = np.bincount(np.asarray(z_t)[:, 0], minlength=3)
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 2) > 1e-4
    terms = PROCESS.bound_terms(KEY, jnp.zeros((1, 1, 3)), *[jnp.zeros((1, 1), int)] * 2,
                                jnp.array([t]))  # fmt: skip
    eps = PROCESS.eps
    q = np.array([1 - eps + eps / 3, eps / 3, eps / 3])
    np.testing.assert_allclose(terms["reconstruction"], -(q * np.log(q)).sum(), rtol=1e-4)
    q = np.array([eps + (1 - eps) / 3, (1 - eps) / 3, (1 - eps) / 3])
    np.testing.assert_allclose(terms["prior"], np.log(3) + (q * np.log(q)).sum(), atol=1e-7)


def test_the_right_answer_costs_nothing():
    """With mu the true token, no position's divergence is more than float32 rounding."""
    x0 = jnp.asarray(WORDS)
    logits = 40.0 * jax.nn.one_hot(x0, VOCAB)
    keys = rng.example_keys(jax.random.key(3), jnp.arange(len(WORDS)))
    for process in (PROCESS, UniformState(vocab_size=VOCAB, num_timesteps=10)):
        t = process.time(jnp.linspace(0.15, 0.95, len(WORDS)))
        z_t = process.forward_sample(keys, x0, t)
        terms = process.bound_terms(keys, logits, x0, z_t, t)
        np.testing.assert_allclose(terms["diffusion"], 0, atol=2e-4)


def test_samples_of_the_exact_denoiser_have_the_law():
    """Chi-squared over the nine words, n = 5,000, 200 steps; false alarm 1e-4.

    eps of the tokens are noise at the end: 1e-4, which n = 5,000 does not see.
    """
    n = 5_000
    keys = rng.example_keys(jax.random.key(5), jnp.arange(n))
    draw = lambda k: sample(PROCESS, exact(PROCESS), Ancestral(num_steps=200), k, (LENGTH,))
    counts = np.bincount(np.asarray(jax.jit(draw)(keys)) @ np.array([3, 1]), minlength=9)
    assert chi2.sf(((counts - n * LAW) ** 2 / (n * LAW)).sum(), 8) > 1e-4


def test_real_data_are_refused():
    with pytest.raises(UserError, match="needs tokens or levels, and these data are real"):
        UniformState().bind(DataSpec((3,), None, domain="simplex"))
