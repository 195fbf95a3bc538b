"""processes/gaussian_math.py and gaussian.py as formulas, and the bound on data of known law.

Matched of `gaussian_process.npz`: dll/*, cdf/* and kl/*. Of dll only x on the levels: ours
takes levels, not values between them. The published floor of 1e-12 under the decoder's
probabilities is not reproduced: ours does not underflow, and is compared after taking
max(ours, log 1e-12). Published float32 values (dll/f32) cancel to the floor before the float64
ones do, so that these are what is matched.
"""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from md4jax import rng
from md4jax.objectives import bound
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.gaussian_math import (
    Estimate,
    discretized_log_prob,
    gaussian_kl,
    scale_levels,
    to_levels,
)

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "gaussian_process.npz")
ULP = 2.0**-24  # Of a rounding to float32.


def as32(x):
    return jnp.asarray(x, jnp.float32)


def test_decoder_is_the_published_one():
    """Within 1e-5 of log p: u = (x - m) / s is rounded by 2^-23 of it, and g is steep in it."""
    level = (GOLDEN["dll/x"] + 1) * 127.5
    on_grid = np.abs(level - level.round()) < 1e-6
    assert on_grid.sum() == 144
    m, s = GOLDEN["dll/means"], GOLDEN["dll/log_scales"]
    ours = discretized_log_prob(jnp.asarray(level.round(), jnp.int32), as32(m), as32(s), 256)
    ours = np.maximum(np.asarray(ours, np.float64), math.log(1e-12))
    np.testing.assert_allclose(ours[on_grid], GOLDEN["dll/f64"][on_grid], rtol=1e-5, atol=1e-5)


def test_normal_distribution_function_is_the_published_one():
    """V = 2 and s = 1: the first level's is Phi(-m). Compared where 1 + tanh does not cancel."""
    u, y = GOLDEN["cdf/x"], GOLDEN["cdf/y"]
    ours = discretized_log_prob(jnp.zeros(u.shape, jnp.int32), as32(-u), as32(0 * u), 2)
    kept = y > 1e-9
    np.testing.assert_allclose(np.asarray(ours)[kept], np.log(y[kept]), rtol=4e-7, atol=1e-9)
    assert (np.asarray(ours)[~kept] < math.log(2e-9)).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_decoder_is_a_probability_and_close_to_the_normal_one(levels, scale):
    means = as32(np.random.default_rng(0).uniform(-1.5, 1.5, 1000))
    x = jnp.broadcast_to(jnp.arange(levels)[:, None], (levels, 1000))
    ours = discretized_log_prob(
        x, jnp.broadcast_to(means, x.shape), jnp.full(x.shape, math.log(scale)), levels
    )
    p = np.exp(np.asarray(ours, np.float64))
    assert np.isfinite(ours).all()
    # The edges agree to the last bit. The width takes up to 0.37 of the error of u = (x - m) / s,
    # 1.5 roundings of 2^-23, where bins are narrow for s (else it does not count), and a few more.
    narrow = min(1 / scale, 10.0 * levels)
    assert np.abs(p.sum(axis=0) - 1).max() < 0.37 * 1.5 * 2.0**-23 * narrow + 8 * ULP
    edges = np.linspace(-1, 1, levels)[:-1, None] + 1 / (levels - 1)
    u = (edges - np.asarray(means, np.float64)) / scale
    exact = np.diff(norm.cdf(u), axis=0, prepend=0.0, append=1.0)
    # tanh's form is within 1.8e-4 of Phi, and 3.6e-4 for a bin of two edges. An edge is rounded
    # by 1.5 units of 2^-23 and more of the density if it is steep: 0.4 / s.
    assert np.abs(p - exact).max() < 3.6e-4 + min(1.0, 2 * 0.4 * 1.5 * 2.0**-23 / scale)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_decoder_has_a_gradient_where_the_published_one_is_at_its_floor(scale, side):
    """A mean 30 deviations outside of the bin: log p is -2 g(30) and what the width leaves."""
    x = jnp.array([[0, 100, 255]])
    mean = scale_levels(x, 256) + side * (30 * scale + 1 / 255)
    log_scale = jnp.full((1, 3), math.log(scale))
    log_prob = lambda m, s: discretized_log_prob(x, m, s, 256)
    log_p, pull = log_prob(mean, log_scale), jax.grad(lambda *a: log_prob(*a).sum(), (0, 1))
    by_mean, by_scale = pull(mean, log_scale)
    assert all(np.isfinite(a).all() for a in (log_p, by_mean, by_scale))
    # The level in the middle, and the outer one whose tail is on the other side.
    far = [1, 0] if side > 0 else [1, 2]
    assert (log_p[0, jnp.array(far)] < math.log(1e-12)).all()
    assert (by_mean[0, jnp.array(far)] * side < 0).all()  # Towards the bin.
    assert (by_scale[0, jnp.array(far)] > 0).all()  # And wider.
    twice_g = lambda u: 2 * math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)
    exact = -twice_g(30.0) + math.log(-math.expm1(twice_g(30.0) - twice_g(30 + 2 / 255 / scale)))
    # u is rounded by 1.5 units of 2^-23 over s, and log p by 3 times that share of 30.
    np.testing.assert_allclose(log_p[0, 1], exact, rtol=1e-6 + 3 * 1.5 * 2.0**-23 / scale / 30)


def test_kl_is_the_published_one():
    m1, l1, m2, l2 = (as32(GOLDEN[f"kl/{k}"]) for k in ("mean1", "logvar1", "mean2", "logvar2"))
    # e^l of l up to 6, rounded by 2^-22.
    np.testing.assert_allclose(gaussian_kl(m1, l1, m2, l2), GOLDEN["kl/out"], rtol=4e-6)


def test_kl_to_float64_for_variances_far_apart_and_nearly_equal():
    """Where 1 + d - e^d would leave nothing in float32, and on both sides of where forms change."""
    d = np.array([0.0, 1e-7, -1e-5, 1e-3, -0.0299, 0.0299, 0.0301, -0.0301, 0.5, -4.0, 20.0])
    l1, l2 = as32(d), jnp.zeros(len(d))
    exact_d = np.asarray(l1, np.float64)
    series = exact_d**2 * (1 / 2 + exact_d / 6 + exact_d**2 / 24 + exact_d**3 / 120)
    variance = np.where(np.abs(exact_d) < 0.01, series, np.expm1(exact_d) - exact_d)
    for shift in (0.0, 1e-4, 3.0):
        m1 = jnp.full(len(d), shift)
        ours = gaussian_kl(m1, l1, jnp.zeros(len(d)), l2)
        exact = 0.5 * (variance + np.asarray(m1, np.float64) ** 2)
        # expm1(d) - d cancels by 2 / d = 67 where it begins; the series leaves out d^3 / 60.
        np.testing.assert_allclose(ours, exact, rtol=67 * 4 * ULP)
    # Zero is zero, and its gradient too: nothing to learn where both agree.
    zero = jnp.zeros(1)
    assert float(gaussian_kl(zero, zero, zero, zero)[0]) == 0
    assert float(jax.grad(lambda l: gaussian_kl(zero, zero, zero, l)[0])(zero)[0]) == 0


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid", "jsd"])
def test_posterior_is_bayes_rule(schedule):
    """The product of N(z_s; sqrt(A_s) x0, S_s) and N(z_t; sqrt(A_t / A_s) z_s, b), in float64."""
    T = 100
    process = Gaussian(schedule=schedule, num_timesteps=T, target="x0", levels=256)
    random = np.random.default_rng(0)
    i = np.concatenate([np.arange(2, T), random.integers(2, T, 50)])
    j = np.concatenate([np.arange(1, T - 1), random.integers(1, i[T - 2 :])])
    log_a = process.log_alpha_bar
    a_s, s_s = np.exp(log_a[j]), -np.expm1(log_a[j])
    kept = np.exp(log_a[i] - log_a[j])
    b = -np.expm1(log_a[i] - log_a[j])
    precision = 1 / s_s + kept / b
    x0, z = random.uniform(-1, 1, len(i)), random.normal(size=len(i))
    mean = (np.sqrt(a_s) * x0 / s_s + np.sqrt(kept) * z / b) / precision
    t, s = as32(i / T), as32(j / T)
    ours = process.posterior_mean(as32(x0)[:, None], as32(z)[:, None], t, s)[:, 0]
    np.testing.assert_allclose(ours, mean, atol=16 * ULP * 3)  # Terms of 3 at most.
    np.testing.assert_allclose(process.posterior_variance(t, s), 1 / precision, rtol=16 * ULP)


def test_diffusing_in_two_steps_is_diffusing_in_one():
    """A and S of t from those of s and b, at times far apart."""
    process = Gaussian(schedule="cosine", num_timesteps=1000)
    t, s = as32([0.9, 0.5, 1.0]), as32([0.3, 0.499, 0.001])
    b = process.step_variance(t, s)
    np.testing.assert_allclose(
        process.alpha_bar(s) * (1 - b), process.alpha_bar(t), rtol=0, atol=4 * ULP
    )
    together = (1 - b) * process.noise_variance(s) + b
    np.testing.assert_allclose(together, process.noise_variance(t), rtol=8 * ULP)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_are_evenly_spaced_and_come_back(levels):
    x = jnp.arange(levels)[None]
    scaled = scale_levels(x, levels)
    np.testing.assert_allclose(scaled[0], np.linspace(-1, 1, levels), atol=2 * ULP)
    np.testing.assert_array_equal(to_levels(scaled, levels), x)
    half = 0.98 / (levels - 1)
    for off in (-half, half):
        np.testing.assert_array_equal(to_levels(scaled + off, levels), x)
    np.testing.assert_array_equal(to_levels(as32([[-7.0, 7.0]]), levels), [[0, levels - 1]])


def test_clipping():
    """None; static to [-1, 1]; dynamic by each image's own quantile of |x0|, never below 1."""
    x0 = jnp.stack([jnp.linspace(-4, 4, 101), jnp.linspace(-0.5, 0.5, 101), jnp.zeros(101)])
    estimate = Estimate(x0, x0, None)
    clipped = lambda **options: Gaussian(**options).clipped(estimate)
    np.testing.assert_array_equal(clipped(clip="none"), x0)
    np.testing.assert_array_equal(clipped(clip="static"), np.clip(x0, -1, 1))
    for quantile in (0.5, 0.9, 1.0):
        s = np.maximum(1, np.quantile(np.abs(np.asarray(x0, np.float64)), quantile, axis=1))[
            :, None
        ]
        expected = np.clip(x0, -s, s) / s
        ours = clipped(clip="dynamic", clip_quantile=quantile)
        np.testing.assert_allclose(ours, expected, atol=4 * ULP)
        np.testing.assert_array_equal(ours[1:], x0[1:])


def test_guidance_goes_beyond_the_conditional_and_keeps_its_variance():
    process = Gaussian(variance="learned_range", target="x0")
    make = lambda x, v: Estimate(jnp.full((1, 2), x), jnp.full((1, 2), x), jnp.full((1, 2), v))
    guided = process.guide(make(1.0, 0.3), make(0.5, 0.7), 3.0)
    np.testing.assert_allclose(guided.x0, 2.0)
    np.testing.assert_allclose(guided.variance, 0.3)
    fixed = [dataclasses.replace(make(x, 0.0), variance=None) for x in (1.0, 0.5)]
    np.testing.assert_allclose(process.guide(*fixed, 1.0).x0, 1.0)
    assert process.guide(*fixed, 1.0).variance is None


@pytest.mark.parametrize(
    "schedule,target",
    [
        (s, t)
        for s in ("cosine", "jsd")
        for t in ("previous", "x0", "noise", "v")
        if (s, t) != ("jsd", "noise")
    ],
)
def test_predict_turns_what_the_network_should_say_into_x0(schedule, target):
    """At every step of 20, from the exact target in float64."""
    process = Gaussian(schedule=schedule, num_timesteps=20, target=target, levels=256,
                       variance="fixed_small")  # fmt: skip
    a = np.exp(process.log_alpha_bar)[:, None]
    i = np.arange(1, 21)
    t = jnp.asarray(i / 20, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 20)
    x0 = jax.random.randint(jax.random.key(1), (20, 30), 0, 256)
    z_t = process.forward_sample(keys, x0, t)
    x, z = np.asarray(scale_levels(x0, 256), np.float64), np.asarray(z_t, np.float64)
    e = (z - np.sqrt(a[i]) * x) / np.sqrt(1 - a[i])
    b = 1 - a[i] / a[i - 1]
    c1 = b * np.sqrt(a[i - 1]) / (1 - a[i])
    c2 = (1 - a[i - 1]) * np.sqrt(a[i] / a[i - 1]) / (1 - a[i])
    output, divided_by = {
        "noise": (e, np.sqrt(a[i])),
        "x0": (x, 1),
        "v": (np.sqrt(a[i]) * e - np.sqrt(1 - a[i]) * x, 1),
        "previous": (c1 * x + c2 * z, c1),
    }[target]
    prediction = process.predict(jnp.asarray(output, jnp.float32)[..., None], z_t, t)
    assert (np.abs(prediction.x0 - x) <= 32 * ULP / divided_by).all()
    # And the loss is 0 there: the error is squared, and of z rounded by 2^-22 over sigma.
    terms = process.loss_terms(keys, prediction, x0, z_t, t)
    sigma = np.sqrt(1 - a[i])[:, 0]
    assert set(terms) == {"simple"}
    assert (terms["simple"] <= 30 * math.log(2) * (8 * ULP / sigma) ** 2).all()


def test_simple_losses_are_means_of_their_distances():
    t, d = jnp.array([0.5]), np.array([-3.0, -0.7, 0.2, 1.5])
    huber = [2.5, 0.245, 0.02, 1.0]
    for loss, expected in {"mse": d**2, "l1": np.abs(d), "huber": huber}.items():
        process = Gaussian(loss=loss, target="x0", levels=256)
        x0 = jnp.array([[0, 255, 51, 204]])
        output = scale_levels(x0, 256) - jnp.asarray(d, jnp.float32)
        z_t = jnp.zeros((1, 4))
        terms = process.loss_terms(
            jax.random.split(jax.random.key(0), 1),
            process.predict(output[..., None], z_t, t),
            x0,
            z_t,
            t,
        )
        np.testing.assert_allclose(terms["simple"] / (4 * math.log(2)), np.mean(expected), 1e-6)


LAW = np.array([0.5, 0.25, 0.15, 0.1])  # Of every pixel on its own, over V = 4 levels.
LEVELS = np.linspace(-1, 1, 4)
ENTROPY = -float((LAW * np.log(LAW)).sum())
GRID = np.linspace(-9, 9, 2001)  # Of standard normal noise; the rest has probability 1e-18.
MASS = norm.pdf(GRID) / norm.pdf(GRID).sum()


def noised(a):
    """z `[V, n]` at alpha_bar = a for each level and noise, and E[x0 | z]."""
    z = math.sqrt(a) * LEVELS[:, None] + math.sqrt(1 - a) * GRID
    logits = np.log(LAW) - (z[..., None] - math.sqrt(a) * LEVELS) ** 2 / (2 * (1 - a))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return z, (p / p.sum(-1, keepdims=True)) @ LEVELS


def exact_bound(process):
    """(6) of the exact denoiser with the posterior's variance, nats a pixel, in float64."""
    mean = lambda f: (LAW[:, None] * MASS * f).sum()
    log_a = process.log_alpha_bar[1:]
    a, s = np.exp(log_a), -np.expm1(log_a)
    b = -np.expm1(np.diff(process.log_alpha_bar))
    total = 0.0
    for i in range(1, len(a)):
        _, x0_hat = noised(a[i])
        c1, v = b[i] * math.sqrt(a[i - 1]) / s[i], b[i] * s[i - 1] / s[i]
        total += c1**2 / (2 * v) * mean((LEVELS[:, None] - x0_hat) ** 2)
    _, m = noised(a[0])
    scale = math.sqrt(b[1] * s[0] / s[1])
    cdf = lambda u: 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    edges = np.array([-np.inf, -2 / 3, 0, 2 / 3, np.inf])[:, None]
    with np.errstate(invalid="ignore"):
        p = np.stack([cdf((edges[k + 1] - m[k]) / scale) - cdf((edges[k] - m[k]) / scale)
                      for k in range(4)])  # fmt: skip
    prior = 0.5 * (LAW * (a[-1] * LEVELS**2 - a[-1] - np.log(s[-1]))).sum()
    return total - mean(np.log(np.maximum(p, 1e-300))) + prior


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid", "quadratic"])
def test_bound_of_the_exact_denoiser_falls_to_the_entropy(schedule):
    """Above it for every T, and nearer with more steps; the excess of T = 1024 is below 2%.

    From T = 4 to 16 only for `quadratic`: the others then spend their steps on betas near 1.
    """
    bounds = [
        exact_bound(Gaussian(schedule=schedule, num_timesteps=T)) for T in (4, 16, 64, 256, 1024)
    ]
    falling = bounds if schedule == "quadratic" else bounds[1:]
    assert falling == sorted(falling, reverse=True)
    assert ENTROPY < min(bounds) < 1.02 * ENTROPY


@pytest.mark.parametrize("T,points", [(4, 4), (256, 256), (64, 8)])
def test_estimated_bound_is_the_exact_one(T, points):
    """All T terms, or 8 times of 64: n images of 4 pixels, 4.5 standard errors (rate 7e-6)."""
    process = Gaussian(schedule="quadratic", num_timesteps=T, target="x0", levels=4,
                       variance="fixed_small")  # fmt: skip
    n = max(1000, 40_000 // points)

    def denoise(z_t, t):
        signal, noise = (x[..., None] for x in process.signal_and_noise(t, z_t))
        logits = jnp.log(LAW) - ((z_t[..., None] - signal * LEVELS) / noise) ** 2 / 2
        x0_hat = jax.nn.softmax(logits) @ jnp.asarray(LEVELS, jnp.float32)
        return process.predict(x0_hat[..., None], z_t, t)

    x0 = jax.random.choice(jax.random.key(3), 4, (n, 2, 2, 1), p=jnp.asarray(LAW))
    keys = rng.example_keys(rng.stream(0, "test"), jnp.arange(n))
    terms = jax.jit(lambda x, k: bound(process, denoise, x, k, points))(x0, keys)
    assert set(terms) == {"diffusion", "reconstruction", "prior"}
    total = np.asarray(sum(terms.values()), np.float64) / 4
    error = total.std() / math.sqrt(n)
    assert abs(total.mean() - exact_bound(process)) < 4.5 * error
    assert error < 0.05 * ENTROPY  # Else the line above says nothing.
