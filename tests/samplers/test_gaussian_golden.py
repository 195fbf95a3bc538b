"""The step functions against published numbers, of fixed outputs that stand in for a network.

`tests/golden/README.md` says where the arrays of `gaussian_samplers.npz` are from. They are channels
first, which no step function notices. Steps that draw are given the published noise.

| arrays | here |
|---|---|
| `psample/{schedule}/{target}/{variance}/{clip}/sample` | `ancestral` |
| `ddim/{schedule}/{target}/{clip}/eta0`, `eta1` | `ddim`, the same for all four variances |
| `ddim/.../reverse` | `ddim_encode`; its last index, T - 1, has no time after it here: the published one gives the noise, with A = 0, which is compared as `noise_of` |
| `loop/*/{ddim_eta0, ddim_eta1_constnoise, ancestral_constnoise, model_times}` | whole loops |
| `ddimrepo/x_*`, `xs_uniform_5`, `x0_preds_uniform_5` | whole loops of the DDIM code, without clip |
| `edm/heun_{5,18}`, `churn_{5,18}`, `sigmas_18` | `heun`; the last step, to sigma 0, is x = D |
| `space/*`, `ddimrepo/seq_*` | `test_grids.py` |

Without counterpart: EDM's ablations (`ablation_euler_vp`, `heun_ve`, `heun_iddpm`; not stored): they
are of its VP and VE formulations, in which no process here is written. The loops' `bpd` and `train`
are no samplers.

Tolerances are multiples of float32's rounding, carried through the coefficients. With the cosine
schedule at T - 1 and without clip x0 is some 8e4 times as uncertain as what it is made from, and
the comparison there is accordingly loose.
"""  # noqa: E501

import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import md4jax.processes.gaussian
import md4jax.samplers.gaussian
from md4jax import rng
from md4jax.processes.gaussian import LEARNED, Gaussian
from md4jax.processes.gaussian_math import Estimate
from md4jax.processes.vdm import VDM
from md4jax.samplers.base import Ancestral, advance
from md4jax.samplers.gaussian import DDIM, Heun, ddim_encode

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "gaussian_samplers.npz")
NOISE, STEP_NOISE = GOLDEN["in/noise"], GOLDEN["in/step_noise"]
SHAPE = NOISE.shape[1:]
KEYS = rng.example_keys(jax.random.key(0), jnp.arange(len(NOISE)))
SCHEDULES = {"linear1000": ("linear", 1000), "cosine4000": ("cosine", 4000)}
TARGETS = {"eps": "noise", "x0": "x0", "prev": "previous"}
VARIANCES = {
    "learned": "learned",
    "small": "fixed_small",
    "large": "fixed_large",
    "range": "learned_range",
}
CLIPS = {"clip": "static", "noclip": "none"}
# Roundings between the two implementations: each takes some ten operations to z_s.
ROUNDINGS = 16 * np.finfo(np.float32).eps


@pytest.fixture(autouse=True)
def published_noise(monkeypatch):
    """In place of what a step would draw."""
    for module in (md4jax.processes.gaussian, md4jax.samplers.gaussian):
        monkeypatch.setattr(module, "standard_normal", lambda keys, shape: jnp.array(STEP_NOISE))


class Case:
    """One of the published processes and fixed outputs at the four published times."""

    def __init__(self, schedule, target, variance, clip):
        name, T = SCHEDULES[schedule]
        self.process = Gaussian(
            num_timesteps=T,
            schedule=name,
            target=TARGETS[target],
            variance=VARIANCES[variance],
            clip=CLIPS[clip],
        )
        step = GOLDEN[f"t/{schedule}"]
        self.z_t = GOLDEN[f"q/{schedule}/xt"]
        self.t, self.s = (jnp.asarray(x / T, jnp.float32) for x in (step + 1, step))
        self.next = jnp.asarray(np.minimum(step + 2, T) / T, jnp.float32)
        self.output = GOLDEN["in/mo"][..., None]
        if VARIANCES[variance] in LEARNED:
            second = GOLDEN["in/mo_logvar" if variance == "learned" else "in/mo_range"]
            self.output = np.stack([GOLDEN["in/mo"], second], axis=-1)
        # In float64, for the tolerances.
        A = np.exp(self.process.log_alpha_bar)
        self.A = lambda t: A[np.rint(np.asarray(t) * T).astype(int)][:, None, None, None]

    def denoise(self, z_t, t):
        return self.process.predict(jnp.asarray(self.output[: len(z_t)]), z_t, t)

    def x0_error(self):
        """How far roundings may take x0, entry by entry; nowhere if both are clipped."""
        A, A_s, z, o = self.A(self.t), self.A(self.s), np.abs(self.z_t), np.abs(GOLDEN["in/mo"])
        b = 1 - A / A_s
        size = {
            "noise": (z + np.sqrt(1 - A) * o) / np.sqrt(A),
            "x0": o,
            "previous": ((1 - A) * o + (1 - A_s) * np.sqrt(1 - b) * z) / (b * np.sqrt(A_s)),
        }[self.process.target]
        error = ROUNDINGS * size
        if self.process.clip == "none":
            return error
        x0 = np.abs(self.denoise(jnp.asarray(self.z_t), self.t).x0)
        return np.where(x0 > 1 + error, 0.0, error)

    def tolerance(self, s, eta=None):
        """Of z_s: x0's, as it enters the signal and the noise, and the roundings of the sum.

        With `eta`, also what the published DDIM loses in 1 - A, from an A in float32: with the
        cosine schedule's second step up to a hundredth of the noise.
        """
        A_t, A_s, error = self.A(self.t), self.A(s), self.x0_error()
        S_t, S_s = 1 - A_t, 1 - A_s
        x0 = np.asarray(self.process.clipped(self.denoise(jnp.asarray(self.z_t), self.t)))
        noise = np.abs(self.z_t - np.sqrt(A_t) * x0) / np.sqrt(S_t)
        noise_error = np.sqrt(A_t / S_t) * error
        noise_error += ROUNDINGS * (np.abs(self.z_t) + np.sqrt(A_t) * np.abs(x0)) / np.sqrt(S_t)
        fresh = ROUNDINGS * (1 + np.abs(STEP_NOISE))
        total = np.sqrt(A_s) * error + np.sqrt(S_s) * noise_error + fresh
        if eta is None:
            return total
        lost = np.finfo(np.float32).eps / 2  # Rounding of a number just below 1.
        V = eta**2 * (1 - A_t / A_s) * S_s / S_t
        with np.errstate(divide="ignore"):
            # Four such roundings in S_s - V, three in V, each through a square root.
            subtracted = (4 if eta else 1) * lost / (2 * np.sqrt(S_s - V)) * noise
            subtracted += 3 * lost / (2 * np.sqrt(V)) * np.abs(STEP_NOISE) if eta else 0
        return total + np.where(S_s > 0, subtracted, 0)


def assert_within(actual, expected, tolerance):
    excess = np.abs(np.asarray(actual) - expected) - tolerance
    assert (excess <= 0).all(), f"by {excess.max()} at {np.argwhere(excess > 0)[:5].tolist()}"


@pytest.mark.parametrize("schedule, clip", list(itertools.product(SCHEDULES, CLIPS)))
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_steps(schedule, target, variance, clip):
    """Ancestral and DDIM, at the first two, the middle and the last of the T steps."""
    case = Case(schedule, target, variance, clip)
    process, z_t = case.process, jnp.asarray(case.z_t)
    prediction = case.denoise(z_t, case.t)
    z_s = Ancestral().move(process, KEYS, z_t, prediction, case.t, case.s)
    tolerance = case.tolerance(case.s)
    if variance == "learned":  # It may be above 1: the noise is then that much larger.
        tolerance = tolerance * np.exp(0.5 * np.maximum(GOLDEN["in/mo_logvar"], 0))
    published = GOLDEN[f"psample/{schedule}/{target}/{variance}/{clip}/sample"]
    assert_within(z_s, published, tolerance)
    for eta in (0.0, 1.0):
        z_s = DDIM(eta=eta).move(process, KEYS, z_t, prediction, case.t, case.s)
        published = GOLDEN[f"ddim/{schedule}/{target}/{clip}/eta{eta:.0f}"]
        assert_within(z_s, published, case.tolerance(case.s, eta))


@pytest.mark.parametrize("schedule, clip", list(itertools.product(SCHEDULES, CLIPS)))
@pytest.mark.parametrize("target", TARGETS)
def test_encoding(schedule, target, clip):
    case = Case(schedule, target, "small", clip)
    published = GOLDEN[f"ddim/{schedule}/{target}/{clip}/reverse"]
    tolerance = case.tolerance(case.next, 0.0)
    signal = np.sqrt(case.A(case.t)).astype(np.float32)
    for i in range(3):
        denoise = lambda z_t, t, i=i: jax.tree.map(
            lambda x: x[i : i + 1],
            case.denoise(jnp.broadcast_to(z_t, NOISE.shape), jnp.broadcast_to(t, 4)),
        )
        image = jnp.asarray((case.z_t / signal)[i : i + 1])
        times = np.array([case.t[i], case.next[i]])
        z_s = ddim_encode(case.process, denoise, image, times)
        assert_within(z_s, published[i : i + 1], tolerance[i : i + 1])
    z_t = jnp.asarray(case.z_t)
    noise = case.process.noise_of(z_t, case.process.clipped(case.denoise(z_t, case.t)), case.t)
    assert_within(noise[3], published[3], tolerance[3])


def loop(process, denoise, step, times, state=None):
    """All steps from the published start."""
    times = jnp.asarray(times, jnp.float32)
    z = jnp.asarray(NOISE) if state is None else state
    run = lambda z: advance(
        process, denoise, step, KEYS, times, (z, step.memory(z)), 0, len(times) - 1
    )
    return np.asarray(jax.jit(run)(z)[0])


# Of a loop's result: all of these processes are linear but for the clip, so that what a step rounds
# grows on the way as z itself does: 16 roundings a step, relative to the largest z, which is the
# start's 3 in the clipped loops and the result's in the others.


@pytest.mark.parametrize("name", ["linear1000_25", "cosine4000_ddim50"])
def test_loops(name):
    schedule, respacing = name.split("_")
    kind, T = SCHEDULES[schedule]
    process = Gaussian(num_timesteps=T, schedule=kind, variance="learned_range")

    def denoise(z_t, t):
        told = 1000 * process.network_time(t)[:, None, None, None]
        output = jnp.stack([0.5 * z_t + 0.1 * jnp.sin(0.01 * told), 0.2 * z_t], axis=-1)
        return process.predict(output, z_t, t)

    times = Ancestral(respacing=respacing).times(process)
    told = 1000 * process.network_time(jnp.asarray(times[:-1], jnp.float32))
    np.testing.assert_allclose(told, GOLDEN[f"loop/{name}/model_times"], rtol=1e-6, atol=0)
    for key, step in {
        "ddim_eta0": DDIM(respacing=respacing),
        "ddim_eta1_constnoise": DDIM(respacing=respacing, eta=1.0),
        "ancestral_constnoise": Ancestral(respacing=respacing),
    }.items():
        z = loop(process, denoise, step, times)
        np.testing.assert_allclose(
            z, GOLDEN[f"loop/{name}/{key}"], rtol=0, atol=3 * ROUNDINGS * len(times)
        )


def test_loops_of_the_ddim_code():
    process = Gaussian(clip="none")

    def denoise(z_t, t):
        index = 1000 * process.network_time(t)[:, None, None, None]
        output = 0.5 * z_t + 0.1 * jnp.sin(0.01 * index)
        return process.predict(output[..., None], z_t, t)

    def compare(z, published, steps):
        # Beside the steps' roundings, those of the published product of 1,000 float32.
        relative = ROUNDINGS * steps + np.sqrt(1000) * np.finfo(np.float32).eps
        np.testing.assert_allclose(z, published, rtol=0, atol=relative * np.abs(published).max())

    for key in ["uniform_5", "uniform_10", "uniform_15", "uniform_20", "quad_5"]:
        times = np.array([0, *(GOLDEN[f"ddimrepo/seq_{key}"] + 1)])[::-1] / 1000
        z = loop(process, denoise, DDIM(), times)
        compare(z, GOLDEN[f"ddimrepo/x_{key}"], len(times))
        name = {"uniform": "leading", "quad": "quadratic"}[key.split("_")[0]]
        if key != "uniform_15":
            grid = DDIM(num_steps=len(times) - 1, grid=name).times(process)
            np.testing.assert_allclose(grid, times, atol=1e-12)
    times = DDIM(num_steps=5, grid="leading").times(process)
    z = loop(process, denoise, DDIM(eta=1.0), times)
    compare(z, GOLDEN["ddimrepo/x_uniform_5_eta1_constnoise"], 5)
    xs, x0 = GOLDEN["ddimrepo/xs_uniform_5"], GOLDEN["ddimrepo/x0_preds_uniform_5"]
    for i in range(5):
        t = jnp.full(4, times[i], jnp.float32)
        compare(denoise(jnp.asarray(xs[i]), t).x0, x0[i], 1)
        compare(loop(process, denoise, DDIM(), times[i : i + 2], jnp.asarray(xs[i])), xs[i + 1], 1)


@pytest.mark.parametrize("steps", [5, 18])
@pytest.mark.parametrize("kind", ["heun", "churn"])
def test_edm(steps, kind):
    """D = x / (1 + sigma^2), which is sqrt(A) z, from noise of sigma 80."""
    low, high = 2 * math.log(0.002), 10.0
    process = VDM(gamma_min=low, gamma_max=high, clip="none")

    def denoise(z_t, t):
        signal, _ = process.signal_and_noise(t, z_t)
        return Estimate(signal * z_t, z_t, None)

    sigmas = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), steps) ** 7
    np.testing.assert_allclose(sigmas[-1], GOLDEN["edm/sigmas_18"][-2], rtol=1e-6)
    if steps == 18:
        np.testing.assert_allclose(sigmas, GOLDEN["edm/sigmas_18"][:-1], rtol=1e-6)
    times = np.clip((2 * np.log(sigmas) - low) / (high - low), 0, 1)
    churn = dict(churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003) if kind == "churn" else {}
    z_1 = jnp.asarray(NOISE * 80 / math.sqrt(1 + 80**2), jnp.float32)
    z = loop(process, denoise, Heun(num_steps=steps, **churn), times, z_1)
    x = denoise(jnp.asarray(z), jnp.zeros(4)).x0
    published = GOLDEN[f"edm/{kind}_{steps}"]
    # Beside the steps' roundings those of the times: of log sigma^2, 22 times theirs.
    relative = ROUNDINGS * steps + 22 * np.finfo(np.float32).eps / 2
    np.testing.assert_allclose(x, published, rtol=0, atol=relative * np.abs(published).max())


def test_the_published_churn_does_something():
    for steps in (5, 18):
        assert np.abs(GOLDEN[f"edm/churn_{steps}"] - GOLDEN[f"edm/heun_{steps}"]).max() > 1
