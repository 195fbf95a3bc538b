"""processes/gaussian_schedules.py, and the tables that the processes make of it.

Matched of `gaussian_process.npz` (tables at the steps `sched/index/T`): sched/*, space/*,
loop/*/model_times and lucid/betas_*. Not matched: the last of alphas_cumprod_next, a 0 that stands
for a step beyond the chain. Not matched, because not reproduced: a chain of one step, which the
published code cannot make.
"""

import math
import pathlib

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.options import UserError
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.gaussian_schedules import (
    BETAS,
    GAMMAS,
    cosine_gamma,
    init_learned_gamma,
    learned_gamma,
    space_timesteps,
)

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "gaussian_process.npz")
PUBLISHED = ("linear1000", "linear4000", "cosine1000", "cosine4000")
SPACES = sorted({k.split("/", 1)[1][:-6] for k in GOLDEN.files if k.endswith("/steps")})
# Results of a few float32 operations on numbers that were rounded to float32 once.
FLOAT32 = 4 * 2.0**-24
EXPM1 = 8 * 2.0**-24  # XLA's expm1 on the CPU is good to 4 units of the last place.


def chain(schedule, T, **options):
    return Gaussian(schedule=schedule, num_timesteps=T, target="x0", levels=256, **options)


def times(index, T):
    """t and s of steps counted from 0."""
    index = np.asarray(index)
    return jnp.asarray((index + 1) / T, jnp.float32), jnp.asarray(index / T, jnp.float32)


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_are_the_published_ones(name):
    schedule, T = name[:-4], int(name[-4:])
    published = lambda key: GOLDEN[f"sched/{name}/{key}"]
    index = GOLDEN[f"sched/index/{T}"]
    np.testing.assert_allclose(BETAS[schedule](T)[index], published("betas"), rtol=1e-12)
    process, (t, s) = chain(schedule, T, variance="fixed_small"), times(index, T)
    alpha_bar, noise = process.alpha_bar(t), process.noise_variance(t)
    one, zero = jnp.ones_like(t), jnp.zeros_like(t)
    some_x0 = process.predict(one[:, None, None], one[:, None], t)
    ours = {
        "betas": process.step_variance(t, s),
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": process.alpha_bar(s),
        "posterior_variance": process.posterior_variance(t, s),
        "posterior_mean_coef1": process.posterior_mean(one, zero, t, s),
        "posterior_mean_coef2": process.posterior_mean(zero, one, t, s),
        "sqrt_recip_alphas_cumprod": 1 / jnp.sqrt(alpha_bar),
        "sqrt_recipm1_alphas_cumprod": jnp.sqrt(noise / alpha_bar),
    }
    for key, value in ours.items():
        np.testing.assert_allclose(value, published(key), rtol=EXPM1 + FLOAT32, err_msg=key)
    # A relative error of what the logarithm is taken of is an absolute one of the logarithm.
    for key, value in {
        "log_one_minus_alphas_cumprod": jnp.log(noise),
        "posterior_log_variance_clipped": process.reverse_log_variance(some_x0, t, s)[:, 0],
    }.items():
        np.testing.assert_allclose(value, published(key), FLOAT32, EXPM1 + FLOAT32, err_msg=key)
    later, _ = times(index[:-1] + 1, T)
    np.testing.assert_allclose(
        process.alpha_bar(later), published("alphas_cumprod_next")[:-1], rtol=FLOAT32
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_betas_are_those_of_denoising_diffusion_pytorch(schedule):
    index, published = GOLDEN["sched/index/1000"], GOLDEN[f"lucid/betas_{schedule}_1000"]
    ours = BETAS[schedule](1000)[index]
    tolerance = np.full(len(index), 1e-9)
    if schedule == "sigmoid":
        # Its g(0) and g(1) are float32, half a unit of 2^-24 off, and alpha_bar is their distance
        # from g(u); what is left of it in the last steps makes that a larger share.
        u = (index + 1) / 1000
        left = 1 / (1 + math.exp(-3.0)) - 1 / (1 + np.exp(-(6 * np.minimum(u, 0.999) - 3)))
        tolerance = 2.0**-24 / left + 1e-9
    assert (np.abs(ours - published) <= tolerance * np.maximum(published, 1e-3)).all()


@pytest.mark.parametrize("T", [1000, 4000])
@pytest.mark.parametrize("schedule", BETAS)
def test_tables_to_float64(schedule, T):
    """alpha_bar, noise and step variances of times next to each other and far apart."""
    betas = BETAS[schedule](T)
    assert betas.dtype == np.float64 and betas.shape == (T,)
    assert (betas > 0).all() and (betas <= 1).all()
    exact = np.concatenate([[1.0], np.cumprod(1 - betas)])
    process = chain(schedule, T)
    every = np.arange(T + 1)
    t = jnp.asarray(every / T, jnp.float32)
    np.testing.assert_allclose(process.alpha_bar(t), exact, rtol=FLOAT32)
    np.testing.assert_allclose(process.noise_variance(t), 1 - exact, rtol=FLOAT32)
    assert not np.signbit(process.noise_variance(t)).any()
    rng = np.random.default_rng(0)
    i = np.concatenate([every[1:], rng.integers(1, T + 1, 1000)])
    j = np.concatenate([every[:-1], (rng.random(1000) * i[T:]).astype(int)])
    step = process.step_variance(jnp.asarray(i / T, jnp.float32), jnp.asarray(j / T, jnp.float32))
    np.testing.assert_allclose(step, 1 - exact[i] / exact[j], rtol=EXPM1)


def test_jsd_ends_without_signal():
    """alpha_bar_i = 1 - i / T; nothing is infinite or undefined at the end."""
    process, (t, s) = chain("jsd", 10), times(np.arange(10), 10)
    np.testing.assert_allclose(process.alpha_bar(t), 1 - np.arange(1, 11) / 10, atol=1e-7)
    assert float(process.alpha_bar(t)[-1]) == 0 and float(process.noise_variance(t)[-1]) == 1
    assert float(process.step_variance(t, s)[-1]) == 1
    x0, z_t = jnp.full((10, 2), 7), jnp.ones((10, 2))
    keys = jax.random.split(jax.random.key(0), 10)
    bound_terms = lambda z: process.bound_terms(keys, process.predict(z[..., None], z, t), x0, z, t)
    terms = jax.jit(bound_terms)(z_t)
    assert all(np.isfinite(v).all() for v in terms.values())
    np.testing.assert_array_equal(terms["prior"], 0)


@pytest.mark.parametrize("spec", SPACES)
def test_respacing_is_the_published_one(spec):
    total, respacing = spec.split("/")
    T = int(total)
    assert space_timesteps(T, respacing) == GOLDEN[f"space/{spec}/steps"].tolist()
    for schedule in ("linear", "cosine"):
        if f"space/{spec}/betas_{schedule}" not in GOLDEN.files:
            continue  # A chain of one step.
        process = chain(schedule, T, respacing=respacing)
        n = process.chain_length
        assert n == len(GOLDEN[f"space/{spec}/steps"])
        step = process.step_variance(*times(np.arange(n), n))
        published = GOLDEN[f"space/{spec}/betas_{schedule}"]
        np.testing.assert_allclose(step, published, rtol=EXPM1)


@pytest.mark.parametrize("name", ["linear1000_25", "cosine4000_ddim50"])
def test_respaced_network_times_are_the_published_ones(name):
    kind, respacing = name.split("_")
    process = chain(kind[:-4], int(kind[-4:]), respacing=respacing)
    n = process.chain_length
    t, _ = times(np.arange(n)[::-1], n)
    published = GOLDEN[f"loop/{name}/model_times"]
    np.testing.assert_allclose(1000 * process.network_time(t), published, rtol=FLOAT32)


def test_network_times_without_rescaling_are_steps():
    process = chain("cosine", 4000, rescale_timesteps=False)
    t, _ = times([0, 1, 2000, 3999], 4000)
    np.testing.assert_allclose(1000 * process.network_time(t), [0, 1, 2000, 3999], rtol=FLOAT32)


def test_every_step_is_drawn_and_none_beyond_the_last():
    process = chain("cosine", 4000)
    middle = (jnp.arange(4000) + 0.5) / 4000
    np.testing.assert_allclose(process.time(middle) * 4000, np.arange(1, 4001), rtol=FLOAT32)
    assert float(process.time(jnp.array([1.0]))[0]) == 1.0  # A u that was rounded up.


@pytest.mark.parametrize("case", GOLDEN["space/errors"].tolist())
def test_impossible_respacings_are_errors_as_published(case):
    T, respacing, _ = case.split("|")
    with pytest.raises(UserError, match=r"^respacing = "):
        space_timesteps(int(T), respacing)
    with pytest.raises(UserError, match=r"^config\.process\.respacing = "):
        Gaussian(num_timesteps=int(T), respacing=respacing)


@pytest.mark.parametrize("respacing", ["ddim", "ddim-5", "0", "10,", "a", "3.5", "10,0"])
def test_respacings_that_are_none_are_errors(respacing):
    with pytest.raises(UserError, match="respacing"):
        space_timesteps(1000, respacing)


def test_one_step_chains_have_a_variance():
    """The published chain of one step is an error: it has no second step to borrow from."""
    for options in (dict(respacing="1"), dict(num_timesteps=1)):
        process = Gaussian(levels=2, variance="fixed_small", target="x0", **options)
        one, z_t = jnp.ones(1), jnp.zeros((1, 3))
        estimate = process.predict(z_t[..., None], z_t, one)
        log_variance = process.reverse_log_variance(estimate, one, 0 * one)
        np.testing.assert_allclose(jnp.exp(log_variance), 1e-4 if "respacing" in options else 0.1,
                                   rtol=1e-6)  # fmt: skip


# gamma(t) of continuous time.


@pytest.mark.parametrize("low,high", [(-13.3, 5.0), (-15.0, 15.0), (-4.0, 3.0)])
def test_gamma_to_float64(low, high):
    t = np.linspace(0, 1, 1001).astype(np.float32)
    exact = t.astype(np.float64)
    first, last = (2 / np.pi * np.arctan(np.exp(g / 2)) for g in (low, high))
    tangent = 2 * np.log(np.tan(np.pi / 2 * (first + (last - first) * exact)))
    # Where u or 1 - u is small its absolute rounding, 2^-24, is a share of it, and gamma's error.
    ends = min(first, 1 - last)
    np.testing.assert_allclose(
        cosine_gamma(None, jnp.asarray(t), low, high), tangent, rtol=FLOAT32, atol=2.0**-22 / ends
    )
    linear = GAMMAS["linear"](None, jnp.asarray(t), low, high)
    # Half a unit each of the range, the product and the sum.
    np.testing.assert_allclose(
        linear, low + (high - low) * exact, atol=2.5 * (high - low) * 2.0**-24
    )


def test_learned_gamma_rises_between_pinned_ends():
    """Whatever the parameters; VDM's own network leaves the ends to what it learns."""
    key_init, key_noise = jax.random.split(jax.random.key(0))
    params = init_learned_gamma(key_init)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    noise = jax.random.normal(key_noise, flat.shape)
    t = jnp.linspace(0, 1, 257)

    @jax.jit
    def gamma_and_rate(flat):
        gamma = lambda t: learned_gamma(unravel(flat), t, -13.3, 5.0)
        return jax.jvp(gamma, (t,), (jnp.ones_like(t),))

    for scale in (0.0, 1.0, 3.0, 20.0):
        gamma, rate = gamma_and_rate(flat + scale * noise)
        np.testing.assert_allclose(gamma[jnp.array([0, -1])], [-13.3, 5.0], rtol=1e-6)
        # What gamma is scaled from is rounded by 2^-23 of itself, and gamma by 2^-21.
        assert (jnp.diff(gamma) > -4e-6).all()
        assert (rate > 0).all()
        if scale == 0.0:  # All but linear at first.
            linear = GAMMAS["linear"](None, t, -13.3, 5.0)
            assert float(jnp.abs(gamma - linear).max()) < 0.3
