"""processes/gaussian.py against Improved DDPM's published numbers and closed forms.

Matched of `gaussian_process.npz` (published time index t is our time (t + 1) / T): q/*,
pmv/*, vb/*, loss/*, grad/*, kl/*, sched/*/prior_bpd, loop/*/{bpd,train}/*, lucid/*/{loss_weight,
p_losses,xt,pred_noise,pred_x_start,p_mean}; dll/* and cdf/* in `test_gaussian_math.py`, tables and
respacings in `test_gaussian_schedules.py`. Not matched, on purpose:
  - the published floor of 1e-12 under the decoder's probabilities, and what float32 cancels above
    it: vb at t = 0 is compared with ours brought to what theirs can resolve, and the losses at
    t = 0 with the same, through `step_bound`;
  - the posterior's variance at t = 0, which is 0: its logarithm, which is what is used, is matched;
  - pmv/*/variance for the same reason: it is e^log_variance elsewhere;
  - of a network that gives the previous mean, pred_xstart clipped to [-1, 1]: it is used nowhere.
"""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.gaussian_math import (
    PER_NOISE_ERROR,
    discretized_log_prob,
    scale_levels,
)

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "gaussian_process.npz")
CHAINS = {
    "linear1000": dict(schedule="linear", num_timesteps=1000),
    "cosine4000": dict(schedule="cosine", num_timesteps=4000),
}
TARGETS = {"prev": "previous", "x0": "x0", "eps": "noise"}
VARIANCES = {
    "learned": "learned",
    "small": "fixed_small",
    "large": "fixed_large",
    "range": "learned_range",
}
LOSSES = {"mse": "mse", "rmse": "mse", "kl": "vlb", "rkl": "vlb"}
EACH = pytest.mark.parametrize("mean,var", [(m, v) for m in TARGETS for v in VARIANCES])
ON = pytest.mark.parametrize("name", CHAINS)

X0 = jnp.asarray(GOLDEN["in/x0_uint8"], jnp.int32)
D = math.prod(X0.shape[1:])
BITS = D * math.log(2)
ULP = 2.0**-24  # Of a rounding to float32.
KEYS = jax.random.split(jax.random.key(0), 4)


def golden(key):
    return jnp.asarray(GOLDEN[key])


def times(name):
    T = CHAINS[name]["num_timesteps"]
    index = GOLDEN[f"t/{name}"]
    return jnp.asarray((index + 1) / T, jnp.float32), jnp.asarray(index / T, jnp.float32)


def fake_network(var):
    """What the published numbers were computed with: it ignores z and t."""
    second = {"learned": ["in/mo_logvar"], "range": ["in/mo_range"]}.get(var, [])
    return jnp.stack([golden(key) for key in ["in/mo", *second]], axis=-1)


def allclose(value, published, rtol, atol=0.0):
    np.testing.assert_allclose(np.asarray(value, np.float64), published, rtol=rtol, atol=atol)


@ON
def test_forward_process_and_posterior_are_the_published_ones(name):
    process, (t, s) = Gaussian(levels=256, **CHAINS[name]), times(name)
    published = lambda key: GOLDEN[f"q/{name}/{key}"]
    x0, z_t = scale_levels(X0, 256), golden(f"q/{name}/xt")
    allclose(x0, GOLDEN["in/x0"], 0, 2 * ULP)
    allclose(process.diffuse(x0, golden("in/noise"), t), z_t, 0, 16 * ULP)
    allclose(process.diffuse(x0, 0 * z_t, t), published("mean"), 0, 4 * ULP)
    allclose(process.noise_variance(t), published("variance"), 2 * ULP)
    allclose(jnp.log(process.noise_variance(t)), published("log_variance"), 4 * ULP, 2 * ULP)
    allclose(process.posterior_mean(x0, z_t, t, s), published("post_mean"), 0, 16 * ULP)
    allclose(process.posterior_variance(t, s), published("post_variance"), 16 * ULP)
    fixed = Gaussian(levels=256, variance="fixed_small", **CHAINS[name])
    log_variance = fixed.reverse_log_variance(fixed.predict(fake_network("small"), z_t, t), t, s)
    allclose(log_variance.ravel(), published("post_log_variance"), 4 * ULP, 16 * ULP)


@ON
def test_prior_is_the_published_one(name):
    """Published as -1 - l + e^l + m^2, each rounded: half a unit of 1 each in float32."""
    process = Gaussian(levels=256, **CHAINS[name])
    allclose(process.prior_kl(X0) / BITS, GOLDEN[f"sched/{name}/prior_bpd"], 8 * ULP, 2 * ULP)


@ON
@EACH
def test_predictions_and_bound_terms_are_the_published_ones(name, mean, var):
    t, s = times(name)
    options = dict(target=TARGETS[mean], variance=VARIANCES[var], levels=256, **CHAINS[name])
    z_t = golden(f"q/{name}/xt")

    def everything(clip):
        process = Gaussian(clip=clip, **options)
        estimate = process.predict(fake_network(var), z_t, t)
        p_mean = process.reverse_mean(estimate, z_t, t, s)
        log_variance = process.reverse_log_variance(estimate, t, s)
        log_p = discretized_log_prob(X0, p_mean, 0.5 * log_variance, 256)
        step = process.step_bound(estimate, X0, z_t, t) / BITS
        return process.clipped(estimate), p_mean, log_variance, step, log_p

    for clip, key in (("static", "clip"), ("none", "noclip")):
        published = lambda k: GOLDEN[f"pmv/{name}/{mean}/{var}/{key}/{k}"]  # noqa: B023
        x0_hat, p_mean, log_variance, step, log_p = everything(clip)
        # x0 from noise or from the previous mean is a difference of numbers 1 / sqrt(A) or 1 / c1
        # as large: up to 8e4 times a rounding.
        x0_scale = np.maximum(
            1, np.abs(published("pred_xstart")).max(axis=(1, 2, 3), keepdims=True)
        )
        assert (np.abs(x0_hat - published("pred_xstart")) <= 64 * ULP * x0_scale).all()
        allclose(p_mean, published("mean"), 16 * ULP, 16 * ULP)
        if log_variance.shape != X0.shape:
            log_variance = log_variance.ravel()
        allclose(log_variance, published("log_variance"), 4 * ULP, 8 * ULP)
        # Published: l2 - l1 of logarithms up to 12, rounded by 2^-21 together, and -1 + e^(l1 - l2)
        # cancels; (m1 - m2)^2 of means rounded by 2^-24, here at least 1e-2 apart.
        vb = GOLDEN[f"vb/{name}/{mean}/{var}/{key}"]
        allclose(step[1:], vb[1:], 2e-5, 2.0**-20)
        # At t = 0: two float32 distribution functions are subtracted, 4 roundings of half a unit.
        p = np.exp(np.asarray(log_p[0], np.float64))
        low, high = (-np.log(np.maximum(p + d, 1e-12)).mean() / math.log(2) for d in (3e-7, -3e-7))
        assert low * (1 - 1e-5) <= vb[0] <= high * (1 + 1e-5)
        # What the step gives is the same without a floor.
        allclose(step[0], -np.asarray(log_p[0], np.float64).mean() / math.log(2), 1e-6)


@ON
@EACH
def test_losses_are_the_published_ones(name, mean, var):
    """mse and KL are vlb_weight = 1 / T, the rescaled ones 0.001 and 1, the defaults."""
    t, _ = times(name)
    T = CHAINS[name]["num_timesteps"]
    options = dict(target=TARGETS[mean], variance=VARIANCES[var], levels=256, **CHAINS[name])

    def ours(z_t):
        estimate = Gaussian(**options).predict(fake_network(var), z_t, t)
        terms = {}
        for loss, kind in LOSSES.items():
            weight = None if loss.startswith("r") else 1 / T
            process = Gaussian(loss=kind, vlb_weight=weight, **options)
            terms[loss] = process.loss_terms(KEYS, estimate, X0, z_t, t)
        step = Gaussian(clip="none", **options).step_bound(estimate, X0, z_t, t)
        return jax.tree.map(lambda x: x / BITS, (terms, step))

    all_terms, step = ours(golden(f"q/{name}/xt"))
    # The noise is worked out from z_t, rounded by half a unit: 2^-23 / sigma of it or so.
    sigma = np.sqrt(GOLDEN[f"q/{name}/variance"])
    rtol = 2e-6 + (2.0**-23 / sigma if mean == "eps" else 0.0)
    for loss, terms in all_terms.items():
        published = {
            k: GOLDEN.get(f"loss/{name}/{mean}/{var}/{loss}/{k}") for k in ("loss", "mse", "vb")
        }
        hybrid = loss.endswith("mse") and var in ("learned", "range")
        assert set(terms) == ({"simple"} if loss.endswith("mse") else {"vlb"}) | (
            {"vlb"} if hybrid else set()
        )
        weight = {"mse": 1 / T, "rmse": 0.001, "kl": 1 / T, "rkl": 1.0}[loss]
        if "simple" in terms:
            mse = published["mse" if hybrid else "loss"]
            assert (np.abs(terms["simple"] - mse) <= rtol * mse).all()
        if "vlb" in terms:
            # Twice the same, but the mean of an x0 from the mean; t = 0 is in the test above.
            allclose(terms["vlb"], weight * T * step, 1e-6)
        total = np.asarray(sum(terms.values()))
        allclose(total[1:], published["loss"][1:], 2e-5, weight * T * 2.0**-20)


@pytest.mark.usefixtures("optimized")
@ON
@pytest.mark.parametrize("loss", ["rmse", "rkl"])
def test_gradients_are_the_published_ones(name, loss):
    """Of the batch's mean by the network's two outputs; the hybrid's bound does not move the mean.

    Tolerances are of the largest entry of an example and output: 2^-23 / sigma, as of the losses.
    The second output moves the log-variance by half of log b - log V. That is 1e-7 in the last
    step, of logarithms good to 4 units of 2^-24 here. Published is 1 - e^(l1 - l2), which cancels:
    half a unit of 2^-22, for l up to 8, of two products and a sum.
    """
    t, _ = times(name)
    process = Gaussian(loss=LOSSES[loss], variance="learned_range", levels=256, **CHAINS[name])
    z_t = golden(f"q/{name}/xt")

    def mean_loss(output, names):
        terms = process.loss_terms(KEYS, process.predict(output, z_t, t), X0, z_t, t)
        return sum(terms[k] for k in names).mean() / BITS

    gradient = jax.jit(jax.grad(mean_loss), static_argnums=1)
    output = fake_network("range")
    ours = gradient(output, ("simple", "vlb") if loss == "rmse" else ("vlb",))
    published = np.stack(np.split(GOLDEN[f"grad/{name}/{loss}"], 2, axis=1), axis=-1)
    scale = np.abs(published).max(axis=(1, 2, 3), keepdims=True)
    per_example = lambda x: np.reshape(x, (4, 1, 1, 1))
    T = CHAINS[name]["num_timesteps"]
    at = np.searchsorted(GOLDEN[f"sched/index/{T}"], GOLDEN[f"t/{name}"])
    b, log_v = (GOLDEN[f"sched/{name}/{key}"][at]
                for key in ("betas", "posterior_log_variance_clipped"))  # fmt: skip
    gap = np.log(b) - log_v
    tolerance = np.zeros_like(published)
    sigma = np.sqrt(GOLDEN[f"q/{name}/variance"])
    tolerance += per_example(1e-5 + 2.0**-22 / sigma)[..., None] * scale
    tolerance[..., 1] += per_example(8 * ULP / gap) * scale[..., 1]
    weight = T * (0.001 if loss == "rmse" else 1.0) / (4 * BITS)
    tolerance[..., 1] += per_example(weight * gap / 4 * 12 * ULP)
    np.testing.assert_array_less(np.abs(ours - published) / tolerance, 1)
    if loss == "rmse":
        np.testing.assert_array_equal(gradient(output, ("vlb",))[..., 0], 0)
        np.testing.assert_array_equal(gradient(output, ("simple",))[..., 1], 0)


@pytest.mark.parametrize("name", ["linear1000_25", "cosine4000_ddim50"])
def test_bound_and_losses_of_a_respaced_chain_are_the_published_ones(name):
    kind, respacing = name.split("_")
    process = Gaussian(
        variance="learned_range", respacing=respacing, vlb_weight=None, levels=256, **CHAINS[kind]
    )
    n = process.chain_length
    x0 = scale_levels(X0, 256)
    published = lambda key: GOLDEN[f"loop/{name}/{key}"]

    def estimate(z, t):
        told = 1000 * process.network_time(t).reshape(-1, 1, 1, 1)
        output = jnp.stack([0.5 * z + 0.1 * jnp.sin(0.01 * told), 0.2 * z], axis=-1)
        return process.predict(output, z, t)

    @jax.jit
    def at(t):
        z = process.diffuse(x0, golden("in/step_noise"), t)
        prediction = estimate(z, t)
        x0_hat = process.clipped(prediction)
        square = lambda e: (e**2).mean(axis=(1, 2, 3))
        noise_error = process.noise_of(z, x0_hat, t) - golden("in/step_noise")
        step = process.step_bound(prediction, X0, z, t) / BITS
        return step, square(x0_hat - x0), square(noise_error)

    steps = [at(jnp.full(4, i / n)) for i in range(n, 0, -1)]
    vb, x0_error, noise_error = (np.stack(v, axis=1) for v in zip(*steps))
    # Noise of z_t, rounded: 2^-23 / sigma of it; and the bound's float32 as above. The first
    # column is the last step, where an error of 1e-3 is left of numbers of 3: 2^-23 * 3 / 1e-3.
    sigma = float(jnp.sqrt(process.noise_variance(jnp.array([1 / n]))[0]))
    allclose(vb, published("bpd/vb"), 2e-6 + 2.0**-22 / sigma, 2.0**-20)
    allclose(x0_error, published("bpd/xstart_mse"), 2e-6 + 2.0**-22 / sigma)
    allclose(noise_error, published("bpd/mse"), 2e-6 + 2.0**-22 / sigma, 2.0**-23)
    prior = np.asarray(process.prior_kl(X0)) / BITS
    allclose(prior, published("bpd/prior_bpd"), 8 * ULP, 2 * ULP)
    allclose(vb.sum(axis=1) + prior, published("bpd/total_bpd"), 2e-6 + 2.0**-22 / sigma)
    t = jnp.array([1, 2, 13, 25]) / n
    z = process.diffuse(x0, golden("in/noise"), t)
    terms = process.loss_terms(KEYS, estimate(z, t), X0, z, t)
    allclose(terms["simple"] / BITS, published("train/mse"), 2e-6 + 2.0**-22 / sigma)
    allclose(terms["vlb"] / BITS, published("train/vb"), 2e-6 + 2.0**-22 / sigma, n * 1e-9)
    allclose(sum(terms.values()) / BITS, published("train/loss"), 2e-6 + 2.0**-22 / sigma)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize(
    "objective,target", [("pred_noise", "noise"), ("pred_x0", "x0"), ("pred_v", "v")]
)
def test_weighted_losses_are_those_of_denoising_diffusion_pytorch(schedule, objective, target):
    """Its plain weighting is `snr` here; its float32 sigmoid schedule is 2e-5 off at the end."""
    options = dict(schedule=schedule, target=target, variance="fixed_small", levels=256)
    published = lambda key: GOLDEN[f"lucid/{objective}/{schedule}/{key}"]
    last = 3e-5 if schedule == "sigmoid" else 0.0
    t, s = times("linear1000")
    table_t = jnp.asarray((GOLDEN["sched/index/1000"] + 1) / 1000, jnp.float32)
    process = Gaussian(**options)
    z_t = process.diffuse(scale_levels(X0, 256), golden("in/noise"), t)
    allclose(z_t, published("plain/xt"), 0, 16 * ULP)
    prediction = process.predict(golden("in/mo")[..., None], z_t, t)
    x0_hat = process.clipped(prediction)
    allclose(x0_hat, published("plain/pred_x_start"), 0, 16 * ULP)
    allclose(process.reverse_mean(prediction, z_t, t, s), published("plain/p_mean"), 0, 16 * ULP)
    sigma = np.sqrt(process.noise_variance(t)).reshape(4, 1, 1, 1)
    noise_hat = process.noise_of(z_t, x0_hat, t)
    assert (np.abs(noise_hat - published("plain/pred_noise")) <= 8 * ULP / sigma + 8 * ULP).all()
    for weighting, mode in {"snr": "plain", "min_snr": "minsnr"}.items():
        process = Gaussian(weighting=weighting, **options)
        loss = process.loss_terms(KEYS, prediction, X0, z_t, t)["simple"] / BITS
        rtol = 2e-6 + 2.0**-23 / sigma.ravel() + last
        assert (
            np.abs(loss - published(f"{mode}/p_losses")) <= rtol * published(f"{mode}/p_losses")
        ).all()
        snr = process.alpha_bar(table_t) / process.noise_variance(table_t)
        weight = jnp.minimum(snr, jnp.inf if mode == "plain" else 5) * PER_NOISE_ERROR[target](snr)
        allclose(weight, published(f"{mode}/loss_weight"), 8 * ULP + last)


def test_wrong_options_data_and_networks_are_errors():
    with pytest.raises(UserError, match="no signal is left"):
        Gaussian(schedule="jsd", target="noise")
    with pytest.raises(UserError, match=r"config\.process\.weighting"):
        Gaussian(target="previous", weighting="min_snr")
    text = DataSpec(shape=(8,), vocab_size=27, unit="token")
    with pytest.raises(UserError, match="tokens"):
        Gaussian().bind(text)
    image = DataSpec(shape=(4, 4, 3), vocab_size=256, num_classes=10)
    assert Gaussian().bind(image).levels == 256
    z_t, t = jnp.zeros((2, 4, 4, 3)), jnp.ones(2)
    for variance, wanted in (("fixed_small", 1), ("learned", 2), ("learned_range", 2)):
        process = Gaussian(variance=variance)
        assert process.network_spec(image).out_features == wanted
        process.predict(jnp.zeros((2, 4, 4, 3, wanted)), z_t, t)
        with pytest.raises(ValueError, match=r"config\.process\.variance"):
            process.predict(jnp.zeros((2, 4, 4, 3, 3 - wanted)), z_t, t)
