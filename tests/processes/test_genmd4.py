"""processes/genmd4.py against the published numbers, enumeration and exact denoisers."""

import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax import rng
from md4jax.objectives import bound, training_loss
from md4jax.processes.base import DataSpec
from md4jax.processes.genmd4 import GenMD4
from md4jax.processes.masked import Masked
from md4jax.samplers.base import Ancestral, sample
from md4jax.samplers.masked import Joint

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "md4_genmd4.npz")
VOCAB, LENGTH = 3, 2
WORDS = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))
LAW = np.exp(1.5 * np.random.default_rng(0).normal(size=len(WORDS)))
LAW /= LAW.sum()
# Powers that are far from equal.
W = {"w": jnp.array([-1.0, 0.5, 2.0])}
PROCESS = GenMD4(vocab_size=VOCAB).with_params(W)


def golden(name):
    return jnp.asarray(GOLDEN[name])


def published():
    """The process of the golden numbers."""
    return GenMD4(vocab_size=11).with_params({"w": golden("w")})


def exact(process):
    """p(x_i | z_t) by summing over all words: which tokens are masked tells of the others."""

    def denoise(z_t, t):
        words = jnp.asarray(WORDS)
        log_masked = jnp.log1p(-process.eps) + process.power[words] * jnp.log(t)[:, None, None]
        log_kept = jnp.log(-jnp.expm1(log_masked))
        is_masked = z_t[:, None] == VOCAB
        fits = is_masked | (z_t[:, None] == words)
        log_q = jnp.where(fits, jnp.where(is_masked, log_masked, log_kept), -jnp.inf).sum(-1)
        joint = jnp.einsum("bw,wlv->blv", jnp.exp(log_q) * LAW, jax.nn.one_hot(words, VOCAB))
        return jnp.log(joint)

    return denoise


def test_published_loss_and_its_gradient():
    """Values and the gradient of w of the surrogate, with z_t and logits pinned."""
    x, t, eps = golden("x"), golden("t"), 1 - published().first_time

    def terms(w):
        process = published().with_params({"w": w})
        values, logs = [], []
        for i in (1, 2):
            z_t = golden(f"zt{i}")
            values.append(process.diffusion(golden(f"logits{i}"), x, z_t, t) / eps)
            logs.append(process.log_forward(x, z_t, t))
        rloo = 0.5 * jax.lax.stop_gradient(values[0] - values[1]) * (logs[0] - logs[1])
        return *values, rloo, process.edge_terms(x)["reconstruction"]

    values = jax.jit(terms)(golden("w"))
    for value, name in zip(values, ("l1", "l2", "rloo", "recon")):
        # Float32 sums of nine positions.
        np.testing.assert_allclose(value, golden(name), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(published().power, golden("power"), rtol=1e-6)

    def surrogate(w):
        first, second, rloo, reconstruction = terms(w)
        return jnp.mean((first + second) / 2 + rloo) + jnp.mean(reconstruction)

    np.testing.assert_allclose(
        jax.jit(jax.grad(surrogate))(golden("w")), golden("grad_w_surrogate"), rtol=1e-4, atol=1e-4
    )


def test_equal_powers_are_md4():
    """With p = 1 the loss at t is MD4's, but for its eps and the part of time below t_1."""
    process = GenMD4(vocab_size=VOCAB)
    process = process.with_params(process.init_params(jax.random.key(0)))
    np.testing.assert_allclose(process.power, 1.0, rtol=1e-6)
    keys = rng.example_keys(jax.random.key(0), jnp.arange(6))
    x0 = jnp.asarray(WORDS[:6])
    t = jnp.linspace(0.1, 0.9, 6)
    z_t = process.forward_sample(keys, x0, t)
    logits = jax.random.normal(jax.random.key(1), (6, LENGTH, VOCAB))
    ours = process.bound_terms(keys, logits, x0, z_t, t)["diffusion"] / (1 - process.first_time)
    masked = Masked(vocab_size=VOCAB)
    theirs = masked.bound_terms(keys, logits, x0, z_t, t)["diffusion"]
    scale = masked.loss_weight(t) * t  # -1, but for eps.
    np.testing.assert_allclose(ours, -theirs / scale, rtol=1e-5, atol=1e-6)


def test_the_reverse_step_of_each_token():
    """Unmasked by s with probability 1 - (s / t)^p, from the law of the tokens at the positions."""
    logits = jax.random.normal(jax.random.key(1), (2, LENGTH, VOCAB))
    mu = np.asarray(jax.nn.softmax(logits))
    u, pi = PROCESS.unmask(logits, jnp.array([0.8, 0.5]), jnp.array([0.2, 0.0]))
    gone = 1 - np.array([0.25, 0.0])[:, None] ** np.asarray(PROCESS.power)
    joint = mu * gone[:, None]
    np.testing.assert_allclose(u, joint.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(pi), joint / joint.sum(-1, keepdims=True), rtol=1e-5)


def mean_of(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std() / math.sqrt(len(values))


def test_the_bound_of_the_exact_denoiser_is_the_entropy():
    """4.5 standard errors (false alarm 7e-6), and what eps and t_1 add at most.

    Below t_1 a masked token costs a draw of the fixed decoder instead of one of the posterior: at
    most (1 - eps) t_1^p (-log d) a position, which is the reconstruction itself.
    """
    n = 30_000
    draws = jnp.asarray(WORDS)[jax.random.choice(jax.random.key(0), len(WORDS), (n,), p=LAW)]
    keys = rng.example_keys(jax.random.key(1), jnp.arange(n))
    terms = jax.jit(lambda x, k: bound(PROCESS, exact(PROCESS), x, k, 2))(draws, keys)
    mean, error = mean_of(sum(terms.values()))
    entropy = -(LAW * np.log(LAW)).sum()
    slack = float(terms["reconstruction"].mean() + terms["prior"].mean()) + 1e-3 * entropy
    assert -4.5 * error < mean - entropy < 4.5 * error + slack
    assert error < 0.02 * entropy and slack < 0.1 * entropy


def test_the_gradient_of_the_schedule_is_without_bias():
    """Against the exact gradient at one t, by summing over all z_t: within 4.5 standard errors."""
    x0, t = jnp.asarray(WORDS[[5]]), jnp.array([0.6])
    logits = jax.random.normal(jax.random.key(3), (1, LENGTH, VOCAB))
    masks = jnp.array(list(itertools.product([False, True], repeat=LENGTH)))
    every_z = jnp.where(masks, VOCAB, x0)

    def exact_mean(w):
        process = GenMD4(vocab_size=VOCAB).with_params({"w": w})
        spread = lambda a: jnp.broadcast_to(a, (len(masks), *a.shape[1:]))
        args = spread(x0), every_z, spread(t)
        law = jnp.exp(process.log_forward(*args))
        return jnp.sum(law * process.diffusion(spread(logits), *args))

    n = 20_000
    keys = rng.example_keys(jax.random.key(4), jnp.arange(n))

    def estimate(w, key):
        process = GenMD4(vocab_size=VOCAB).with_params({"w": w})
        terms = process.training_terms(lambda z, t: logits, key[None], x0, t)
        return terms["diffusion"][0]

    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(estimate), (None, 0)))(W["w"], keys)
    expected_value, expected = jax.jit(jax.value_and_grad(exact_mean))(W["w"])
    mean, error = mean_of(value)
    assert abs(mean - float(expected_value)) < 4.5 * error
    for i in range(VOCAB):
        mean, error = mean_of(gradient[:, i])
        assert abs(mean - float(expected[i])) < 4.5 * error + 1e-6
    # The part of the gradient that goes through z_t's law is not small.
    ignored = jax.grad(lambda w: jnp.mean(
        jax.vmap(lambda z: GenMD4(vocab_size=VOCAB).with_params({"w": w}).diffusion(
            logits, x0, z[None], t)[0])(every_z)))(W["w"])  # fmt: skip
    assert np.abs(np.asarray(ignored) - np.asarray(expected)).max() > 0.01


@pytest.mark.parametrize("step", [Ancestral(num_steps=200), Joint(num_steps=200, gumbel="high")])
def test_samples_of_the_exact_denoiser_have_the_law(step):
    """Chi-squared over the nine words, n = 5,000, 200 steps; false alarm 1e-4."""
    from scipy.stats import chi2

    n = 5_000
    keys = rng.example_keys(jax.random.key(5), jnp.arange(n))
    draw = lambda k: sample(PROCESS, exact(PROCESS), step, k, (LENGTH,))
    counts = np.bincount(np.asarray(jax.jit(draw)(keys)) @ np.array([3, 1]), minlength=9)
    assert chi2.sf(((counts - n * LAW) ** 2 / (n * LAW)).sum(), 8) > 1e-4


def test_loss_is_the_bound():
    """The value that is logged has no surrogate in it: on average it is the bound."""
    process = GenMD4().bind(DataSpec((LENGTH,), VOCAB)).with_params(W)
    n = 4_000
    keys = rng.example_keys(jax.random.key(6), jnp.arange(n))
    x0 = jnp.asarray(WORDS)[jnp.arange(n) % len(WORDS)]
    denoise = lambda z, t: jnp.zeros((*z.shape, VOCAB))
    u = (jnp.arange(n) * 0.6180339887) % 1
    _, _, losses = jax.jit(lambda k: training_loss(process, denoise, x0, u, k))(keys)
    terms = jax.jit(lambda k: bound(process, denoise, x0, k, 2))(keys)
    (ours, error), (theirs, other) = mean_of(losses), mean_of(sum(terms.values()))
    bits = LENGTH * math.log(2)
    assert abs(ours - theirs / bits) < 4.5 * math.hypot(error, other / bits)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_initial_power(power):
    process = GenMD4(initial_power=power).bind(DataSpec((4,), 7))
    np.testing.assert_allclose(
        process.with_params(process.init_params(jax.random.key(0))).power, power, rtol=1e-5
    )
