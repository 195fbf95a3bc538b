"""The step functions on data whose exact denoiser is known: pixels of N(MEAN, DEVIATION^2).

    E[x0 | z_t] = MEAN + D^2 sqrt(A) (z_t - sqrt(A) MEAN) / P(t),   P = D^2 A + S,   D = DEVIATION

It is linear, and so is the probability flow: z_t = sqrt(A) MEAN + sqrt(P(t)) u with u the same at
all times. Clipping is "none" here. Published numbers are compared in `test_gaussian_golden.py`.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, norm

import md4jax.processes.gaussian
import md4jax.processes.vdm
import md4jax.samplers.gaussian
from md4jax import rng
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.gaussian_math import Estimate, over_positions
from md4jax.processes.masked import Masked
from md4jax.processes.vdm import VDM
from md4jax.samplers import STEPS
from md4jax.samplers.base import Ancestral, Guided, advance, count_calls, sample, start
from md4jax.samplers.gaussian import DDIM, DPMSolver, Heun, ddim_encode, raised_time, slerp

MEAN, DEVIATION = 0.3, 0.25
# Those for other processes, tested with their own kind; a new one is tried on all below.
ELSEWHERE = ("mean", "joint", "confident", "first_hitting")
ELSEWHERE += ("remask", "remask_unsure", "remask_loop", "remask_errors")
GAUSSIAN_STEPS = [name for name in STEPS if name not in ELSEWHERE]
LEARNED = VDM(schedule="learned", clip="none", gamma_min=-9.0)
PROCESSES = {
    "chain": Gaussian(variance="fixed_small", clip="none"),
    "cosine": Gaussian(schedule="cosine", num_timesteps=400, variance="fixed_small", clip="none"),
    "jsd": Gaussian(
        schedule="jsd", num_timesteps=200, variance="fixed_small", target="x0", clip="none"
    ),
    "vdm": VDM(gamma_min=-9.0, gamma_max=9.0, clip="none"),
    "learned": LEARNED.with_params(LEARNED.init_params(jax.random.key(0))),
}
SAMPLERS = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "ddim_half": functools.partial(DDIM, eta=0.5),
    "ddim_posterior": functools.partial(DDIM, eta=1.0),
    "heun": Heun,
    "heun_churn": functools.partial(Heun, churn=20.0, s_min=0.01, s_max=50.0),
    "dpm_solver": DPMSolver,
}


def exact(process, mean=MEAN):
    def denoise(z_t, t):
        A, S = (over_positions(f(t), z_t) for f in (process.alpha_bar, process.noise_variance))
        gain = DEVIATION**2 * jnp.sqrt(A) / (DEVIATION**2 * A + S)
        x0 = mean + gain * (z_t - jnp.sqrt(A) * mean)
        return Estimate(x0, x0, None)

    return denoise


def keys(n, seed=0):
    return rng.example_keys(rng.stream(seed, "sample"), jnp.arange(n))


def marginal(process, time):
    """Mean and deviation of z_t, float64."""
    t = jnp.full(1, time, jnp.float32)
    A, S = (np.float64(f(t)[0]) for f in (process.alpha_bar, process.noise_variance))
    return np.sqrt(A) * MEAN, np.sqrt(DEVIATION**2 * A + S)


def run(process, step, key, state):
    """All steps."""
    times = jnp.asarray(step.times(process), jnp.float32)
    return advance(process, exact(process), step, key, times, state, 0, len(times) - 1)


def flow_maker(process, step, z):
    """z_0 of a sampler that draws nothing from z `[b, 1]`, by number of steps; compiled once."""
    z = jnp.asarray(z)
    ready = (z, step.memory(z))

    @jax.jit
    def go(times, last):
        return advance(process, exact(process), step, keys(len(z)), times, ready, 0, last)[0]

    def with_steps(n):
        times = dataclasses.replace(step, num_steps=n).times(process)
        times = jnp.zeros(1001).at[: n + 1].set(jnp.asarray(times, jnp.float32))
        return np.float64(go(times, n))[:, 0]

    return with_steps


def law_maker(process, step, monkeypatch):
    """Mean and variance of z_0 by number of steps, each of which is z_s = m z + c + r n."""
    z = jnp.array([[0.0], [1.0], [0.0]])
    if step.memory(z):  # A step is of two z, but the whole is linear and draws nothing.
        flow = flow_maker(process, step, z)
        return lambda n: (flow(n)[0], (flow(n)[1] - flow(n)[0]) ** 2)

    @jax.jit
    def one(t, s):
        t, s = jnp.full(3, t), jnp.full(3, s)
        return step(process, exact(process), keys(3), z, (), t, s)[0][:, 0]

    with monkeypatch.context() as patch:  # Until it is traced.
        for module in (md4jax.processes.gaussian, md4jax.processes.vdm, md4jax.samplers.gaussian):
            noise = lambda keys, shape: jnp.array([[0.0], [0.0], [1.0]])
            patch.setattr(module, "standard_normal", noise)
        one(jnp.float32(1.0), jnp.float32(0.5))

    def law(n):
        mean, variance = 0.0, 1.0
        times = dataclasses.replace(step, num_steps=n).times(process).astype(np.float32)
        for t, s in itertools.pairwise(times):
            c, z_1, z_n = np.float64(one(t, s))
            mean, variance = (z_1 - c) * mean + c, (z_1 - c) ** 2 * variance + (z_n - c) ** 2
        return mean, variance

    return law


@pytest.mark.parametrize("kind", ["chain", "vdm"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_datas_mean_and_variance(name, kind, monkeypatch):
    """50 steps; n = 20,000 pixels; z of the mean and chi-squared of the variance, alarm 1e-5 each.

    Against the law of these 50 steps, found without drawing, so that what is tested is that the
    noise of all steps is standard normal and independent. The law itself becomes the data's, at
    first order or better: 1,000 steps leave 0.35 of the error of 250 or less, and at most 4 %.
    """
    process = PROCESSES[kind]
    step = SAMPLERS[name](num_steps=50)
    law = law_maker(process, step, monkeypatch)
    mean, variance = law(50)
    key, n = keys(5_000), 20_000
    z, _ = jax.jit(lambda k: run(process, step, k, start(process, exact(process), step, k, (4,))))(
        key
    )
    z = np.float64(z).reshape(-1)
    assert 2 * norm.sf(abs(z.mean() - mean) / np.sqrt(variance / n)) > 1e-5
    squares = ((z - mean) ** 2).sum() / variance
    assert 2 * min(chi2.sf(squares, n), chi2.cdf(squares, n)) > 1e-5

    if name == "heun_churn":
        return  # How much is added depends on the number of steps, which this step was made with.
    true_mean, true_deviation = marginal(process, 0.0)
    error = [law(n)[1] / true_deviation**2 - 1 for n in (250, 1000)]
    # Beside it the prior's, whose variance is 1 and not P(1), and that of a chain's last step.
    assert abs(error[1]) < min(0.35 * abs(error[0]) + 1e-3, 0.04)
    # The prior has mean 0, z_1 has sqrt(A_1) MEAN: some 1 % of P(1).
    assert abs(mean - true_mean) < 0.02 * true_deviation


@pytest.mark.parametrize("name, order", [("ddim", 1), ("heun", 2), ("dpm_solver", 2)])
@pytest.mark.parametrize("kind", ["vdm", "learned"])
def test_order_of_convergence(name, order, kind):
    """z_0 / z_1 to sqrt(P(0) / P(1)), its value along the flow, as steps double."""
    process = PROCESSES[kind]
    flow = flow_maker(process, SAMPLERS[name](), [[0.0], [1.0]])
    expected = marginal(process, 0.0)[1] / marginal(process, 1.0)[1]
    error = [(flow(n)[1] - flow(n)[0]) / expected - 1 for n in (20, 40, 80, 160)]
    rates = np.log2(np.abs(error[:-1]) / np.abs(error[1:]))
    # The first still sees the next order; in the last of a second order, rounding begins to show.
    np.testing.assert_allclose(rates, order, atol=0.15)
    assert abs(error[-1]) < {1: 0.02, 2: 5e-4}[order]


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm_solver"])
@pytest.mark.parametrize("kind", ["chain", "cosine", "jsd"])
def test_the_flow_of_a_chain(name, kind):
    """All T steps, from noise of up to infinitely many times the signal: multiplier and shift.

    A chain's last step, to S = 0, is Euler's: its D^2 / (D^2 + sigma^2), the flow's square root of
    it. With that the second orders are within 0.5 %, and the first within 6 / T.
    """
    process = PROCESSES[kind]
    total = process.chain_length
    z_0 = flow_maker(process, SAMPLERS[name](), [[0.0], [1.0]])(total)
    mean, deviation = marginal(process, 1.0)
    ratio = (z_0[1] - z_0[0]) / (DEVIATION / deviation)
    A = np.exp(process.log_alpha_bar[1])
    last = DEVIATION / np.sqrt(DEVIATION**2 + (1 - A) / A)
    assert abs(ratio / last - 1) < (6 / total if name == "ddim" else 5e-3)
    # What is at the mean stays there.
    np.testing.assert_allclose(z_0[0] + (z_0[1] - z_0[0]) * mean, MEAN, atol=1e-5)


@pytest.mark.parametrize("kind", PROCESSES)
def test_eta_one_is_ancestral_with_the_posteriors_variance(kind):
    """With the same noise, in every step of 20; 1e-5 is 16 roundings of values up to 4."""
    process, key = PROCESSES[kind], keys(3)
    times = jnp.asarray(Ancestral(num_steps=20).times(process), jnp.float32)

    @jax.jit
    def both(z, t, s):
        t, s = jnp.full(3, t), jnp.full(3, s)
        prediction = exact(process)(z, t)
        steps = (Ancestral(), DDIM(eta=1.0))
        return [step.move(process, key, z, prediction, t, s) for step in steps]

    z = process.prior_sample(key, (5,))
    for t, s in itertools.pairwise(times):
        ancestral, ddim = both(z, t, s)
        np.testing.assert_allclose(ddim, ancestral, rtol=0, atol=1e-5)
        z = ancestral


@pytest.mark.parametrize("kind", ["chain", "vdm"])
def test_eta_is_the_share_of_the_posteriors_deviation(kind):
    """And what it leaves of S_s is the predicted noise's; to 1e-5, rounding in a difference."""
    process, key = PROCESSES[kind], keys(1)
    t, s = jnp.full(1, 0.5), jnp.full(1, 0.3)
    x0 = jnp.array([[0.2, -0.7, 0.5]])
    drawn = md4jax.samplers.gaussian.standard_normal(key, (3,))

    def move(eta, noise):
        z_t = process.diffuse(x0, jnp.full_like(x0, noise), t)
        return DDIM(eta=eta).move(process, key, z_t, Estimate(x0, x0, None), t, s)

    for eta in (0.0, 0.3, 0.7, 1.0):
        fresh = (move(eta, 0.0) - process.diffuse(x0, jnp.zeros_like(x0), s)) / drawn
        kept = move(eta, 1.0) - move(eta, 0.0)
        wanted = eta * np.sqrt(process.posterior_variance(t, s))
        np.testing.assert_allclose(fresh[0], np.repeat(wanted, 3), atol=1e-5)
        total = np.repeat(process.noise_variance(s), 3)
        np.testing.assert_allclose((fresh**2 + kept**2)[0], total, atol=1e-5)


@pytest.mark.parametrize("kind", ["chain", "vdm"])
def test_encoding_is_inverse_to_decoding(kind):
    """To first order: half the error with twice the steps. And what it gives is the flow's z_1."""
    process = PROCESSES[kind]
    x0 = jnp.linspace(-0.6, 0.9, 6)[None]
    z_0 = x0 * process.signal_and_noise(jnp.zeros(1), x0)[0]
    error, away = [], []
    for n in (100, 200):
        step = DDIM(num_steps=n)
        times = step.times(process)
        z_1 = jax.jit(lambda x: ddim_encode(process, exact(process), x, times[::-1]))(x0)  # noqa: B023
        back, _ = jax.jit(lambda z: run(process, step, keys(1), (z, ())))(z_1)  # noqa: B023
        error.append(np.abs(back - z_0).max())
        (mean_0, deviation_0), (mean_1, deviation_1) = (marginal(process, t) for t in (0.0, 1.0))
        flow = mean_1 + (z_0 - mean_0) / deviation_0 * deviation_1
        away.append(np.abs(z_1 - flow).max())
    for e in (error, away):
        # A chain's step to or from S = 0 is worse than first order in T / n while D is near sigma.
        assert 0.4 < e[1] / e[0] < (0.7 if kind == "chain" else 0.6)
        assert e[1] < 0.1


def test_encoding_goes_up():
    process = PROCESSES["chain"]
    with pytest.raises(ValueError, match="increase"):
        ddim_encode(process, exact(process), jnp.zeros((1, 2)), np.array([1.0, 0.5, 0.0]))


@pytest.mark.parametrize(
    "name, kind",
    [*((name, "jsd") for name in SAMPLERS), ("heun_churn", "learned"), ("dpm_solver", "cosine")],
)
def test_gradients_reach_the_network(name, kind):
    """d z_0 / d MEAN of the denoiser: z_0 is linear in it, so a difference of 1 is exact."""
    process, step, key = PROCESSES[kind], SAMPLERS[name](num_steps=6), keys(2)
    times = jnp.asarray(step.times(process), jnp.float32)

    def last(mean):
        def body(state, pair):
            t, s = (jnp.full(2, u) for u in pair)
            return step(process, exact(process, mean), key, *state, t, s), None

        state = start(process, exact(process), step, key, (1,))
        return jax.lax.scan(body, state, (times[:-1], times[1:]))[0][0].sum()

    both = jax.jit(jax.value_and_grad(last))
    (zero, slope), (one, _) = both(0.0), both(1.0)
    assert slope > 0.1
    np.testing.assert_allclose(slope, one - zero, rtol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sample_i_is_the_same_in_every_batch(name):
    process = Gaussian(num_timesteps=50).bind(DataSpec((4,), 256))
    step = SAMPLERS[name](num_steps=5)
    draw = lambda n: jax.jit(lambda k: sample(process, exact(process), step, k, (4,)))(keys(n))
    seven = draw(7)
    assert seven.dtype == jnp.int32
    np.testing.assert_array_equal(seven[:3], draw(3))


def test_every_step_is_tested_where_it_belongs():
    """A new one is either for Gaussian processes, and drawn from here, or said not to be."""
    for name in STEPS:
        if name in GAUSSIAN_STEPS:
            assert name in SAMPLERS
            for process in PROCESSES.values():
                STEPS[name](num_steps=200).check(process)
        else:
            with pytest.raises(UserError, match="this step is for masked processes"):
                STEPS[name]().check(Gaussian())


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm_solver"])
def test_what_a_step_cannot_do_is_said(name):
    with pytest.raises(UserError, match="Gaussian processes, not Masked; use 'ancestral'"):
        STEPS[name]().check(Masked(vocab_size=2))
    with pytest.raises(UserError, match="has 1000 steps"):
        STEPS[name](num_steps=1001).check(Gaussian())
    with pytest.raises(UserError, match="no chain of steps"):
        STEPS[name](respacing="ddim50").check(VDM())


def test_churn_needs_an_interval():
    Heun(s_min=1.0, s_max=1.0).check(VDM())
    with pytest.raises(UserError, match="s_max = 0.5 should be at least config.sampler.s_min = 1"):
        Heun(s_min=1.0, s_max=0.5).check(VDM())


@pytest.mark.parametrize("kind", PROCESSES)
def test_noise_is_raised_to_a_level_the_process_has(kind):
    process = PROCESSES[kind]
    total = process.chain_length
    t = jnp.arange(1, 41) / 40 if total is None else jnp.arange(1, total + 1) / total
    sigma = lambda t: np.sqrt(np.float64(process.noise_variance(t)) / process.alpha_bar(t))
    raised = jax.jit(lambda t: raised_time(process, t, 1.2))(t)
    wanted = np.minimum(1.2 * sigma(t), sigma(jnp.ones(1)))
    assert (np.asarray(raised) <= 1).all()
    if total is None:
        # Half a rounding of a time near 1, of a log sigma that rises by less than 20 in all.
        np.testing.assert_allclose(sigma(raised), wanted, rtol=20 * 6e-8 + 1e-6)
        return
    index = np.asarray(raised) * total
    np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
    assert (sigma(raised) >= wanted * (1 - 1e-6)).all()
    below = sigma(raised - 1 / total)
    assert ((below < wanted) | (np.asarray(raised) == np.asarray(t))).all()


@pytest.mark.parametrize("kind, calls", [("chain", 2 * 6 - 2), ("cosine", 2 * 6 - 2), ("vdm", 12)])
def test_heun_asks_twice_but_where_it_need_not(kind, calls):
    """Not from a sigma of thousands, nor at the end of a chain; `vdm` ends with noise left."""
    process, step, count = PROCESSES[kind], Heun(num_steps=6), []

    def denoise(z_t, t):
        jax.debug.callback(lambda: count.append(1))
        return exact(process)(z_t, t)

    times = jnp.asarray(step.times(process), jnp.float32)
    state = start(process, denoise, step, keys(2), (1,))
    jax.block_until_ready(advance(process, denoise, step, keys(2), times, state, 0, 6))
    jax.effects_barrier()
    assert len(count) == calls
    assert count_calls(process, exact(process), step, keys(2), (1,)) == (calls, 0)


def test_guidance_scales_x0():
    """From the unconditional prediction at 0 over the conditional at 1; its learned variance."""
    process = Gaussian(variance="learned_range")
    z_t, t = jax.random.normal(jax.random.key(0), (2, 5)), jnp.full(2, 0.5)
    output = jax.random.normal(jax.random.key(1), (2, 2, 5, 2))
    conditional, unconditional = (lambda z_t, t, o=o: process.predict(o, z_t, t) for o in output)
    predict = lambda scale: Guided(process, conditional, unconditional, scale)(z_t, t)
    c, u = conditional(z_t, t), unconditional(z_t, t)
    np.testing.assert_allclose(predict(1.0).x0, c.x0, atol=1e-5)
    np.testing.assert_array_equal(predict(0.0).x0, u.x0)
    np.testing.assert_allclose(predict(2.5).x0, 2.5 * c.x0 - 1.5 * u.x0, atol=1e-4)
    for scale in (0.0, 1.0, 2.5):
        np.testing.assert_array_equal(predict(scale).variance, c.variance)


def test_slerp():
    z1, z2 = (jax.random.normal(jax.random.key(i), (3, 4, 5)) for i in (0, 1))
    np.testing.assert_allclose(slerp(z1, z2, 0.0), z1, atol=1e-6)
    np.testing.assert_allclose(slerp(z1, z2, 1.0), z2, atol=1e-6)
    np.testing.assert_allclose(slerp(z1, z1, 0.3), z1, atol=1e-6)
    # A share each; along the circle the length stays and the angle goes evenly.
    unit = lambda z: z / jnp.sqrt((z**2).sum((1, 2), keepdims=True))
    z1, z2 = unit(z1), unit(z2)
    share = jnp.array([0.25, 0.5, 0.8])
    z = slerp(z1, z2, share)
    np.testing.assert_allclose((z**2).sum((1, 2)), 1, atol=1e-5)
    angle = lambda a, b: np.arccos(np.float64((a * b).sum((1, 2))))
    np.testing.assert_allclose(angle(z1, z), share * angle(z1, z2), atol=1e-5)
