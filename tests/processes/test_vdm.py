"""processes/vdm.py: the bound on data of known law, the schedule's gradient, the losses' forms.

There are no published numbers for it: every expected value is a closed form or an integral in
float64, written here without the process's own functions.
"""

import math

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from md4jax import rng
from md4jax.objectives import bound, training_loss
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.gaussian_math import Estimate, scale_levels, standard_normal
from md4jax.processes.vdm import VDM

LAW = np.array([0.5, 0.25, 0.15, 0.1])  # Of every pixel on its own, over V = 4 levels.
LEVELS = np.linspace(-1, 1, 4)
ENTROPY = -float((LAW * np.log(LAW)).sum())
SHAPE = (2, 2, 1)
GRID = np.linspace(-9, 9, 2001)  # Of standard normal noise; the rest has probability 1e-18.
MASS = norm.pdf(GRID) / norm.pdf(GRID).sum()
ENDS = dict(gamma_min=-5.0, gamma_max=4.0)  # Close enough for every term to count.


def log_joint(z, a):
    """log of LAW times N(z; sqrt(a) x, 1 - a) but for a constant, `[..., V]`."""
    return np.log(LAW) - (z[..., None] - math.sqrt(a) * LEVELS) ** 2 / (2 * (1 - a))


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def noise_error(gamma):
    """E |e - e_hat|^2 a pixel of the exact denoiser: SNR times the variance of x0 given z."""
    a = expit(-gamma)
    z = math.sqrt(a) * LEVELS[:, None] + math.sqrt(1 - a) * GRID
    x0_hat = softmax(log_joint(z, a)) @ LEVELS
    return math.exp(-gamma) * (LAW[:, None] * MASS * (LEVELS[:, None] - x0_hat) ** 2).sum()


def exact_bound(low, high, T=None):
    """Nats a pixel: diffusion (6) or (7), reconstruction (8) and prior, by quadrature."""
    if T is None:
        nodes, weights = np.polynomial.legendre.leggauss(100)
        gammas = low + (high - low) * (nodes + 1) / 2
        diffusion = (high - low) / 4 * sum(w * noise_error(g) for w, g in zip(weights, gammas))
    else:
        gammas = low + (high - low) * np.arange(1, T + 1) / T
        diffusion = sum(noise_error(g) for g in gammas) * math.expm1((high - low) / T) / 2
    a = expit(-low)
    z = math.sqrt(a) * LEVELS[:, None] + math.sqrt(1 - a) * GRID
    p = softmax(log_joint(z, a) - np.log(LAW))
    reconstruction = -sum((LAW[i] * MASS * np.log(p[i, :, i])).sum() for i in range(4))
    a = expit(-high)
    prior = 0.5 * (LAW * (a * LEVELS**2 - a - np.log1p(-a))).sum()
    return {"diffusion": diffusion, "reconstruction": reconstruction, "prior": prior}


def exact_denoiser(process):
    def denoise(z_t, t):
        signal, noise = (x[..., None] for x in process.signal_and_noise(t, z_t))
        logits = jnp.log(LAW) - ((z_t[..., None] - signal * LEVELS) / noise) ** 2 / 2
        x0_hat = jax.nn.softmax(logits) @ jnp.asarray(LEVELS, jnp.float32)
        return process.predict(x0_hat[..., None], z_t, t)

    return denoise


def draw_law(n):
    return jax.random.choice(jax.random.key(3), 4, (n, *SHAPE), p=jnp.asarray(LAW))


def estimated_bound(process, n, time_points, seed=0):
    """Each term's mean over n images and its standard error, nats a pixel."""
    keys = rng.example_keys(rng.stream(seed, "test"), jnp.arange(n))
    denoise = exact_denoiser(process)
    terms = jax.jit(lambda x, k: bound(process, denoise, x, k, time_points))(draw_law(n), keys)
    terms = {k: np.asarray(v, np.float64) / math.prod(SHAPE) for k, v in terms.items()}
    return {k: (v.mean(), v.std() / math.sqrt(n)) for k, v in terms.items()}


def learned(key=0, scale=1.0, **options):
    """A learned schedule at random parameters."""
    process = VDM(schedule="learned", levels=4, target="x0", **ENDS, **options)
    params = process.init_params(jax.random.key(key))
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    noise = jax.random.normal(jax.random.key(key + 1), flat.shape)
    return process, unravel(flat + scale * noise)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "learned"])
def test_continuous_bound_of_the_exact_denoiser_is_the_integral(schedule):
    """n = 20,000 images of 4 pixels, 4 times each; |mean - integral| < 4.5 standard errors of each
    term, false alarm 7e-6 each. The integral is the same for every schedule between the ends."""
    exact = exact_bound(*ENDS.values())
    process = VDM(schedule=schedule, levels=4, target="x0", **ENDS)
    if schedule == "learned":
        process, params = learned()
        process = process.with_params(params)
    estimate = estimated_bound(process, 20_000, 4)
    # Rounding of the sums, next to standard errors that are 0 for the prior of equal pixels.
    for name, (mean, error) in estimate.items():
        assert abs(mean - exact[name]) < 4.5 * error + 1e-6, name
    assert estimate["diffusion"][1] < 0.01 * ENTROPY  # Else the line above says nothing.
    assert ENTROPY < sum(exact.values()) < ENTROPY + 0.002


def test_published_ends_leave_nothing_but_the_entropy_and_the_prior():
    """By I-MMSE the integral over all gamma is the entropy: 2e-3 nats of prior are left, at 5."""
    exact = exact_bound(-13.3, 5.0)
    assert exact["reconstruction"] < 1e-9
    assert ENTROPY < sum(exact.values()) < ENTROPY + exact["prior"]


def test_discrete_bound_falls_to_the_continuous_one():
    """(7) is above (6) for every T and falls towards it as 1 / T."""
    limit = exact_bound(*ENDS.values())["diffusion"]
    excess = [exact_bound(*ENDS.values(), T)["diffusion"] - limit for T in (4, 16, 64, 256)]
    assert excess == sorted(excess, reverse=True) and excess[-1] > 0
    assert excess[-2] / excess[-1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("T,time_points", [(16, 16), (16, 3)])
def test_discrete_bound_is_the_sum_and_its_estimates(T, time_points):
    """n = 20,000, 4.5 standard errors, false alarm 7e-6 each; all T steps, or 3 times of 16."""
    exact = exact_bound(*ENDS.values(), T)
    process = VDM(num_timesteps=T, levels=4, target="x0", **ENDS)
    for name, (mean, error) in estimated_bound(process, 20_000, time_points).items():
        assert abs(mean - exact[name]) < 4.5 * error + 1e-6, name


def test_steps_compose_and_are_bayes_rule():
    """(2) by completing the square in float64; b of the linear schedule to float32."""
    process = VDM(levels=4, **ENDS)
    t, s = np.array([0.9, 0.5, 1.0]), np.array([0.2, 0.49, 0.0])
    gamma_t, gamma_s = (-5.0 + 9.0 * x for x in (t, s))
    a_t, a_s, s_s = expit(-gamma_t), expit(-gamma_s), expit(gamma_s)
    b = 1 - a_t / a_s
    precision = 1 / s_s + (a_t / a_s) / b
    x0, z = np.array([0.3, -1.0, 1.0]), np.array([-0.5, 2.0, 0.1])
    mean = (np.sqrt(a_s) * x0 / s_s + np.sqrt(a_t / a_s) * z / b) / precision
    as32 = lambda x: jnp.asarray(x, jnp.float32)
    t, s = as32(t), as32(s)
    # gamma up to 5, rounded by 2^-22, and t by 2^-24 of it: 2^-21 of steps of 0.09 and more.
    rtol = 2.0**-21 / 0.09
    np.testing.assert_allclose(process.step_variance(t, s), b, rtol=rtol)
    np.testing.assert_allclose(process.posterior_variance(t, s), 1 / precision, rtol=2 * rtol)
    ours = process.posterior_mean(as32(x0)[:, None], as32(z)[:, None], t, s)[:, 0]
    np.testing.assert_allclose(ours, mean, rtol=2 * rtol)


def test_reverse_step_has_the_posteriors_moments_also_at_the_end():
    """n = 40,000 draws; mean and variance within 4.5 standard errors, false alarm 7e-6 each."""
    process, n = VDM(levels=4, target="x0", **ENDS), 40_000
    z_t, x0 = jnp.full((1, n), 0.4), jnp.full((1, n), 1.0)
    for t, s in ((0.7, 0.3), (0.1, 0.0)):
        t, s = jnp.array([t]), jnp.array([s])
        z_s = process.reverse_sample(
            jax.random.split(jax.random.key(0), 1),
            z_t,
            process.predict(x0[..., None], z_t, t),
            t,
            s,
        )
        variance = float(process.posterior_variance(t, s)[0])
        mean = float(process.posterior_mean(x0[:, :1], z_t[:, :1], t, s)[0, 0])
        draws = np.asarray(z_s, np.float64)
        assert variance > 1e-3
        assert abs(draws.mean() - mean) < 4.5 * math.sqrt(variance / n)
        assert abs(draws.var() / variance - 1) < 4.5 * math.sqrt(2 / n)


@pytest.mark.parametrize("target", ["noise", "x0", "v"])
def test_losses_of_every_target(target):
    """The bound is of the noise's error whatever is predicted; simple ones are means of entries."""
    t = jnp.array([0.1, 0.5, 0.9])
    key, keys = jax.random.key(1), jax.random.split(jax.random.key(0), 3)
    x0 = jax.random.randint(key, (3, *SHAPE), 0, 4)
    output = jax.random.normal(key, (3, *SHAPE, 1))
    bits = math.prod(SHAPE) * math.log(2)
    for loss in ("vlb", "mse", "l1", "huber"):
        process = VDM(levels=4, target=target, loss=loss, **ENDS)
        z_t = process.forward_sample(keys, x0, t)
        terms = process.loss_terms(keys, process.predict(output, z_t, t), x0, z_t, t)
        x, z, o = (np.asarray(a, np.float64) for a in (scale_levels(x0, 4), z_t, output[..., 0]))
        gamma = (-5 + 9 * np.asarray(t, np.float64)).reshape(3, 1, 1, 1)
        signal, sigma = np.sqrt(expit(-gamma)), np.sqrt(expit(gamma))
        e = (z - signal * x) / sigma
        wanted = {"noise": e, "x0": x, "v": signal * e - sigma * x}[target]
        d = wanted - o
        if loss == "vlb":
            # Errors of v are those of x0 over sigma, and those the noise's over sqrt(SNR).
            per_noise = {"noise": 1, "x0": signal / sigma, "v": signal}[target]
            expected = 0.5 * 9.0 * ((per_noise * d) ** 2).sum(axis=(1, 2, 3))
            name = "diffusion"
        else:
            huber = np.where(np.abs(d) < 1, 0.5 * d**2, np.abs(d) - 0.5)
            entry = {"mse": d**2, "l1": np.abs(d), "huber": huber}[loss]
            expected, name = entry.mean(axis=(1, 2, 3)) * bits, "simple"
        assert set(terms) == {name}
        # gamma is rounded by 2^-22, and all else by 2^-24 / sigma, sigma 0.13 at least.
        np.testing.assert_allclose(terms[name], expected, rtol=1e-5)


def error_curve(gamma):
    """|e - e_hat|^2 a pixel in terms of gamma: uneven, so that no fixed schedule is the best."""
    return 0.2 + jnp.exp(-0.5 * (gamma - 1.0) ** 2) + 0.1 * jnp.tanh(gamma)


def test_schedules_gradient_is_that_of_the_variance():
    """(9) against d/d theta of the integral of L^2 over t, both by the midpoint rule at n points.

    The two are equal by parts, with the ends pinned; the rule errs by 1 / n^2 of what bends, and
    float32 by 1e-5 or so: compared at 1e-3 of the largest entry of each parameter.
    """
    process, params = learned(scale=0.5)
    n = 4096
    t = (jnp.arange(n) + 0.5) / n
    x0 = jnp.ones((n, *SHAPE), jnp.int32)
    keys = jax.random.split(jax.random.key(0), n)

    def surrogate(params):
        bound_process = process.with_params(params)
        z_t = bound_process.forward_sample(keys, x0, t)
        gamma = bound_process.gamma(t)
        off = jnp.sqrt(error_curve(gamma) * jnp.exp(gamma)).reshape(n, 1, 1, 1)
        x0_hat = scale_levels(x0, 4) + off * jnp.ones_like(z_t)
        terms = bound_process.loss_terms(keys, Estimate(x0_hat, x0_hat, None), x0, z_t, t)
        return terms["schedule"].mean(), terms

    def second_moment(params):
        gamma, rate = jax.jvp(process.with_params(params)._gamma, (t,), (jnp.ones_like(t),))
        loss = 0.5 * rate * error_curve(gamma)
        return (loss**2).mean(), loss

    (_, terms), ours = jax.jit(jax.value_and_grad(surrogate, has_aux=True))(params)
    exact, per_pixel = jax.jit(jax.grad(second_moment, has_aux=True))(params)
    assert set(terms) == {"diffusion", "schedule"}
    np.testing.assert_allclose(terms["diffusion"] / 4, per_pixel, rtol=1e-4)
    np.testing.assert_array_equal(terms["schedule"], 0)
    for name in params:
        scale = float(jnp.abs(exact[name]).max())
        assert scale > 0
        assert float(jnp.abs(ours[name] - exact[name]).max()) < 1e-3 * scale, name


def test_the_schedules_gradient_lowers_the_variance():
    """A step down it, between ends that stay: less variance of (6), whose mean stays."""
    process, params = learned(scale=0.5)
    t = (jnp.arange(2048) + 0.5) / 2048

    @jax.jit
    def moments(params):
        bound_process = process.with_params(params)
        loss = 0.5 * bound_process.gamma_rate(t) * error_curve(bound_process._gamma(t))
        return loss.mean(), loss.var()

    gradient = jax.jit(jax.grad(lambda p: moments(p)[1]))(params)
    moved = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)
    (mean, variance), (new_mean, new_variance) = moments(params), moments(moved)
    assert float(new_variance) < float(variance)
    assert float(new_mean) == pytest.approx(float(mean), rel=1e-3)


@pytest.mark.parametrize("loss,T", [("vlb", None), ("mse", 8)])
def test_no_other_term_moves_the_schedule(loss, T):
    process, params = learned(loss=loss, num_timesteps=T)
    x0 = draw_law(8)
    keys = rng.example_keys(jax.random.key(0), jnp.arange(8))
    u = (jnp.arange(8) + 0.5) / 8
    network = lambda z, t: jnp.tanh(z + t.reshape(-1, 1, 1, 1))[..., None]

    def losses(params):
        p = process.with_params(params)
        denoise = lambda z, t: p.predict(network(z, p.network_time(t)), z, t)
        terms = training_loss(p, denoise, x0, u, keys)[1]
        return terms, terms

    gradients, values = jax.jit(jax.jacrev(losses, has_aux=True))(params)
    name = "loss_diffusion" if loss == "vlb" else "loss_simple"
    assert all((g == 0).all() for g in jax.tree.leaves(gradients[name]))
    assert any((g != 0).any() for g in jax.tree.leaves(gradients["loss_schedule"]))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert float(values["loss_schedule"]) == 0.0


def published_loss(params, network, x0, t, noise, noise_0):
    """Bits/dim of a schedule with learned ends, by the paper's equations 11, 13 and 17."""
    f = 2 * (x0 + 0.5) / 4 - 1
    signal = lambda g: jnp.sqrt(jax.nn.sigmoid(-g)).reshape(-1, 1, 1, 1)
    gamma = params["b"] + jnp.abs(params["w"]) * t
    z = signal(gamma) * f + signal(-gamma) * noise
    place = (gamma - ENDS["gamma_min"]) / (ENDS["gamma_max"] - ENDS["gamma_min"])
    error = ((noise - network(z, place)) ** 2).sum(axis=(1, 2, 3))
    low, high = params["b"], params["b"] + jnp.abs(params["w"])
    rescaled = (f + jnp.exp(low / 2) * noise_0)[..., None]
    values = 2 * (jnp.arange(4) + 0.5) / 4 - 1
    log_p = jax.nn.log_softmax(-0.5 * ((rescaled - values) * jnp.exp(-low / 2)) ** 2)
    reconstruction = -(jax.nn.one_hot(x0, 4) * log_p).sum(axis=(1, 2, 3, 4))
    v = jax.nn.sigmoid(high)
    prior = 0.5 * ((1 - v) * f**2 + v - jnp.log(v) - 1).sum(axis=(1, 2, 3))
    nats = 0.5 * jnp.abs(params["w"]) * error + reconstruction + prior
    return nats.mean() / (math.prod(SHAPE) * math.log(2))


def test_learned_ends_follow_the_whole_bound():
    """Loss and gradient of the published form, which is written without alpha_bar and x0."""
    process = VDM(schedule="learned_linear", centre_levels=True, levels=4, **ENDS)
    params = {"b": jnp.float32(-4.3), "w": jnp.float32(8.1)}
    x0, t = draw_law(16), (jnp.arange(16) + 0.5) / 16
    keys = rng.example_keys(jax.random.key(0), jnp.arange(16))
    noise, noise_0 = (standard_normal(rng.fold(keys, i), SHAPE) for i in range(2))
    network = lambda z, place: jnp.tanh(z + place.reshape(-1, 1, 1, 1))

    def loss(params):
        p = process.with_params(params)
        denoise = lambda z, t: p.predict(network(z, p.network_time(t))[..., None], z, t)
        value, metrics, _ = training_loss(p, denoise, x0, t, keys)
        return value, metrics

    (ours, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    published = jax.jit(jax.value_and_grad(published_loss), static_argnums=1)
    theirs, wanted = published(params, network, x0, t, noise, noise_0)
    assert set(metrics) == {"loss", "loss_diffusion", "loss_reconstruction", "loss_prior"}
    # sigma is 0.12 at least, and what cancels in float32 is of the size of x0: 2^-24 / 0.12^2.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for name in params:
        assert abs(float(wanted[name])) > 1e-3
        np.testing.assert_allclose(gradient[name], wanted[name], rtol=1e-4)


def test_learned_ends_begin_as_the_linear_schedule():
    process = VDM(schedule="learned_linear", levels=4, **ENDS)
    process = process.with_params(process.init_params(jax.random.key(0)))
    t = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(process.gamma(t), VDM(levels=4, **ENDS).gamma(t), rtol=1e-6)
    np.testing.assert_allclose(process.network_time(t), t, atol=1e-6)
    with pytest.raises(UserError, match=r"config\.process\.loss = 'mse' with .*'learned_linear'"):
        VDM(schedule="learned_linear", loss="mse")


@pytest.mark.parametrize("levels", [2, 9, 256])
def test_centred_levels(levels):
    """The middles of equal parts of [-1, 1]; the nearest level is the part something is in."""
    x = jnp.arange(levels)
    scale = VDM(levels=levels, centre_levels=True).scale
    x0 = scale.to_x0(x)
    np.testing.assert_allclose(x0, (2 * np.arange(levels) + 1) / levels - 1, atol=2.0**-23)
    for off in (-0.99, 0, 0.99):
        np.testing.assert_array_equal(scale.to_values(x0 + off / levels), x)
    ends = scale.to_values(jnp.array([-7.0, 7.0]))
    np.testing.assert_array_equal(ends, [0, levels - 1])


def test_parameters_are_the_learned_schedules_alone():
    assert VDM().init_params(jax.random.key(0)) == {} and not VDM().is_learned
    process, params = learned()
    assert process.is_learned and set(params) == {"linear", "slope", "centre", "height"}
    ends = process.with_params(params).gamma(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, [-5.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(
        process.with_params(params).network_time(jnp.array([0.0, 1.0])), [0.0, 1.0], atol=1e-6
    )


def test_wrong_options_and_data_are_errors():
    for low, high in ((5.0, 5.0), (6.0, 5.0)):
        with pytest.raises(UserError, match=r"config\.process\.gamma_min"):
            VDM(gamma_min=low, gamma_max=high)
    text = DataSpec(shape=(8,), vocab_size=27, unit="char")
    with pytest.raises(UserError, match="chars"):
        VDM().bind(text)
    image = DataSpec(shape=SHAPE, vocab_size=4, num_classes=3)
    assert VDM().bind(image).levels == 4
    spec = VDM().network_spec(image)
    assert (spec.vocab_size, spec.out_features, spec.num_classes) == (None, 1, 3)
    z_t = jnp.zeros((1, *SHAPE))
    with pytest.raises(ValueError, match="one number a channel"):
        VDM().predict(jnp.zeros((1, *SHAPE, 2)), z_t, jnp.ones(1))
