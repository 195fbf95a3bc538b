"""Gaussian diffusion of real data: the bound against an entropy, and points of a domain."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from md4jax import rng
from md4jax.objectives import bound
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.domains import DOMAINS
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.gaussian_math import DomainScale, Estimate
from md4jax.processes.masked import Masked
from md4jax.processes.vdm import VDM
from md4jax.samplers.base import Ancestral, sample

SHAPES = {"simplex": (3,), "spd": (2, 2), "sphere": (3,), "circle": (2,), "real": (2,)}
# A head of the data's own shape, one of fewer numbers and one of more.
MANIFOLDS = ("simplex", "spd", "circle")
MEAN, DEVIATION = 0.7, 0.1  # Of the data, in each coordinate.


def spec(name):
    return DataSpec(shape=SHAPES[name], vocab_size=None, domain=name)


def keys(n):
    return rng.example_keys(rng.stream(0, "test"), jnp.arange(n))


def exact(process):
    """The denoiser that knows x0 ~ N(MEAN, DEVIATION^2), and, if asked, the reverse variance."""

    def denoise(z_t, t):
        a, s = process.alpha_bar(t)[:, None], process.noise_variance(t)[:, None]
        spread = DEVIATION**2 * s / (s + a * DEVIATION**2)  # Of x0 given z_t.
        mean = MEAN + spread * jnp.sqrt(a) / s * (z_t - jnp.sqrt(a) * MEAN)
        before = jnp.maximum(t - 1 / process.chain_length, 0.0)
        one, zero = jnp.ones_like(z_t), jnp.zeros_like(z_t)
        c1 = process.posterior_mean(one, zero, t, before)
        variance = process.posterior_variance(t, before)[:, None] + c1**2 * spread
        if process.variance == "learned":
            return process.predict(jnp.stack([mean, jnp.log(variance)], axis=-1), z_t, t)
        return process.predict(mean[..., None], z_t, t)

    return denoise


def expected(process):
    """What the bound of `exact` is above -log p(x0), nats a coordinate, in float64."""
    log_a = process.log_alpha_bar[1:]
    a, s = np.exp(log_a), -np.expm1(log_a)
    b = -np.expm1(np.diff(process.log_alpha_bar))
    if process.variance == "learned":  # The reverse process is exact, and ends at q(z_1).
        v = a[-1] * DEVIATION**2 + s[-1]
        return 0.5 * (a[-1] * MEAN**2 + v - 1 - math.log(v))
    spread = DEVIATION**2 * s / (s + a * DEVIATION**2)
    V = b[1:] * s[:-1] / s[1:]
    c1 = b[1:] * np.sqrt(a[:-1]) / s[1:]
    last = 0.5 * (math.log(2 * math.pi * V[0]) + spread[0] / V[0])
    prior = 0.5 * (a[-1] * (MEAN**2 + DEVIATION**2) + s[-1] - 1 - math.log(s[-1]))
    entropy = 0.5 * math.log(2 * math.pi * math.e * DEVIATION**2)
    return (c1**2 * spread[1:] / (2 * V)).sum() + last + prior - entropy


@pytest.mark.parametrize("variance", ["learned", "fixed_small"])
def test_bound_of_the_exact_denoiser(variance):
    """With the exact variance too it is the entropy, here below 0, but for the prior's 1e-5.

    All T = 8 terms of n = 1000 examples of 2 coordinates, less their own -log p(x0), so that only
    the noise of z_t is left; 4.5 standard errors (rate 7e-6).
    """
    process = Gaussian(num_timesteps=8, schedule="cosine", target="x0", variance=variance)
    process = process.bind(spec("real"))
    assert process.network_spec(spec("real")).out_shape is None
    n = 1000
    x0 = np.random.default_rng(1).normal(MEAN, DEVIATION, (n, 2)).astype(np.float32)
    terms = jax.jit(lambda x, k: bound(process, exact(process), x, k, 8))(jnp.asarray(x0), keys(n))
    assert set(terms) == {"diffusion", "reconstruction", "prior"}
    nats = -norm.logpdf(np.asarray(x0, np.float64), MEAN, DEVIATION).sum(axis=1)
    above = (np.asarray(sum(terms.values()), np.float64) - nats) / 2
    error = above.std() / math.sqrt(n)
    if variance == "fixed_small":  # Its expectation is over x0 too.
        assert expected(process) > 0.1
    assert abs(above.mean() - expected(process)) < 4.5 * error
    assert error < 0.02
    assert nats.mean() < -1.5


def test_reconstruction_is_a_density():
    draws = np.random.default_rng(0).normal(size=(2, 5, 2))
    x, mean = jnp.asarray(draws, jnp.float32)
    log_scale = np.linspace(-3, 1, 5, dtype=np.float32)[:, None]
    ours = DomainScale(DOMAINS["real"]).log_prob(x, mean, jnp.asarray(log_scale))
    wanted = norm.logpdf(*(np.asarray(a, np.float64) for a in (x, mean, np.exp(log_scale))))
    # (x - m) / s and its square: four roundings of 2^-24 each of a number up to 1000.
    np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_samples_and_losses_on_a_manifold(name):
    """A network that always says the same point: samples are that point, its loss there is 0."""
    process = Gaussian(num_timesteps=4, schedule="cosine", target="x0", clip="static")
    data, domain = spec(name), DOMAINS[name]
    process = process.bind(data)
    head_shape = domain.head_shape(data.shape)
    assert process.network_spec(data).out_shape == head_shape
    output = np.random.default_rng(0).normal(0, 1.5, (4, *head_shape)).astype(np.float32)

    def denoise(z_t, t):
        return process.predict(jnp.broadcast_to(output[0], output.shape), z_t, t)

    @jax.jit
    def all_of_it(keys, output):
        x0, t = domain.head(jnp.broadcast_to(output[0], output.shape)), jnp.arange(1, 5) / 4
        samples = sample(process, denoise, Ancestral(num_steps=4), keys, data.shape)
        z_t = process.forward_sample(keys, x0, t)
        prediction = denoise(z_t, t)
        loss = process.loss_terms(keys, prediction, x0, z_t, t)
        terms = process.bound_terms(keys, prediction, x0, z_t, t)
        points = domain.head(output)
        one, two = Estimate(points, points, None), Estimate(points[::-1], points, None)
        guided = process.guide(one, two, 4.0).x0
        views = process.view(z_t, t), process.view_prediction(z_t, prediction)
        shown = process.clipped(prediction), *views
        return x0, samples, loss, terms, guided, *shown

    x0, samples, loss, terms, guided, clipped, noisy, predicted = all_of_it(keys(4), output)
    for points in (samples, noisy, predicted, guided):
        assert points.dtype == jnp.float32 and domain.problem(np.asarray(points)) is None
    np.testing.assert_allclose(samples, x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(predicted, x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(clipped, x0, rtol=1e-6)
    assert set(loss) == {"simple"}
    np.testing.assert_allclose(loss["simple"], 0, atol=1e-9)
    assert all(np.isfinite(v).all() and v.shape == (4,) for v in terms.values())


def test_levels_are_as_before():
    process = Gaussian().bind(DataSpec((2,), 4))
    assert (process.levels, process.domain) == (4, None)
    assert process.network_spec(DataSpec((2,), 4)).out_shape is None
    one = jnp.ones((1, 2))
    assert process.view(one, one[0, :1]).dtype == jnp.int32
    assert process.view_prediction(one, Estimate(one, one, None)).dtype == jnp.int32


def test_real_data_are_not_clipped():
    process = Gaussian(target="v", clip="static").bind(spec("real"))
    x0 = jnp.array([[-7.0, 40.0]])
    np.testing.assert_array_equal(process.clipped(Estimate(x0, x0, None)), x0)
    decoded = process.decode(lambda z, t: None, x0)
    np.testing.assert_array_equal(decoded, x0)


@pytest.mark.parametrize(
    ("process", "name", "message"),
    [
        (Gaussian(), "sphere", r"config.process.target = 'noise': .* 'sphere', .*; use 'x0'"),
        (Gaussian(target="v"), "spd", r"config.process.target = 'v'"),
        (Gaussian(target="x0", variance="learned_range"), "simplex",
         r"config.process.variance = 'learned_range': .* use 'fixed_small' or 'fixed_large'"),
        (VDM(), "real", r"config.process.name = 'vdm': it needs integer levels"),
        (Masked(), "sphere", r"use a star-shaped or Gaussian process"),
    ],
)  # fmt: skip
def test_what_a_process_cannot_take_is_said(process, name, message):
    with pytest.raises(UserError, match=message) as error:
        process.bind(spec(name))
    assert "\n" not in str(error.value)


def test_outputs_of_another_shape_are_errors():
    process = Gaussian(target="x0").bind(spec("spd"))
    with pytest.raises(ValueError, match=r"'spd' takes an output \(2, 3\)"):
        process.predict(jnp.zeros((2, 2, 2, 1)), jnp.zeros((2, 2, 2)), jnp.ones(2))
