"""What all star-shaped families share: tails, the bound, the sampler, what is estimated.

Statistical tests state their n; comparisons allow 5 standard errors (below 1e-6 a comparison), KS
tests a p-value of 1e-4.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from star_families import FAMILIES, assert_within, examples, keys, process, repeated

from md4jax import rng
from md4jax.objectives import bound
from md4jax.processes import PROCESSES
from md4jax.processes.base import DataSpec
from md4jax.processes.domains import DOMAINS
from md4jax.processes.gaussian import Gaussian
from md4jax.samplers.base import Ancestral, sample

NAMES = sorted(FAMILIES)


def at(p, n, s):
    """The time of step s, for n examples."""
    return jnp.full(n, s / p.chain_length)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_have_the_shapes_that_are_promised(name):
    p = process(name)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(p.statistics) == shapes(p.abstract_statistics())


@pytest.mark.parametrize("name", [n for n in NAMES if "mises" not in n and n != "star_categorical"])
def test_network_inputs_have_mean_zero_and_variance_one(name):
    """Over examples and entries, at n = 4,000; those of directions and tokens are no such thing."""
    p, n = process(name), 4000
    x0 = examples(name, 200, seed=1)  # What it was fitted to, for levels are counted.
    x0 = jnp.tile(x0, (n // 200, *[1] * (x0.ndim - 1)))
    draw = jax.jit(lambda t: p.network_input(p.forward_sample(keys(n), x0, t), t))
    for s in (1, p.chain_length // 2, p.chain_length):
        inputs = np.asarray(draw(at(p, n, s)), np.float64).reshape(n // 200, -1)
        # 20 groups of 200 examples: their means and mean squares are independent.
        assert_within(inputs.mean(axis=1), 0, (name, s))
        assert_within((inputs**2).mean(axis=1), 1, (name, s))


OWN_DRAWS = ("star_gaussian", "star_categorical")  # Exact tails that are not sums of `draw`s.


@pytest.mark.parametrize("name", [n for n in NAMES if n not in OWN_DRAWS])
def test_exact_tails_are_sums_of_the_same_draws(name):
    """`exact` and `draws` take the same draws; (5): a tail is a segment and the tail behind it."""
    exact, draws = process(name, tail="exact"), process(name, tail="draws")
    n = 7
    x0, t = examples(name, n), exact.time((jnp.arange(n) + 0.5) / n)
    z = jax.jit(exact.forward_sample)(keys(n), x0, t)
    scale = float(jnp.abs(z).max())
    every = jax.jit(draws.forward_sample)(keys(n), x0, t)
    np.testing.assert_allclose(z, every, rtol=1e-5, atol=1e-6 * scale)
    step, end = exact.step(t), jnp.full(n, exact.chain_length + 1)
    middle = jnp.minimum(step + 3, end)
    point, segment = exact.point(x0), jax.jit(exact.segment)
    parts = segment(keys(n), point, step, middle) + segment(keys(n), point, middle, end)
    np.testing.assert_allclose(z, parts, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_tails_are_those_of_brute_force(name):
    """KS of n = 4,000 tails by the family's fastest way against as many sums of all T draws.

    One entry of z at the first step, one in the middle and the last; of levels also the outer ones.
    """
    n = 4000
    fast = process(name)
    brute = process(name, tail="draws") if "draws" in fast.tails else fast
    if fast.data.vocab_size is None:
        starts = [repeated(name, n)]
    else:
        levels = (0, 2, fast.data.vocab_size - 1)
        starts = [jnp.full((n, *fast.data.shape), level, jnp.int32) for level in levels]
    draws = [jax.jit(p.forward_sample) for p in (fast, brute)]
    for x0, s in itertools.product(starts, (1, fast.chain_length // 2, fast.chain_length)):
        z = [np.asarray(d(keys(n, i), x0, at(fast, n, s))) for i, d in enumerate(draws)]
        a, b = (x.reshape(n, -1) for x in z)
        for entry in {0, a.shape[1] - 1}:
            p_value = scipy.stats.ks_2samp(a[:, entry], b[:, entry]).pvalue
            assert p_value > 1e-4, (name, s, entry, int(np.ravel(x0)[0]))


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_each_examples_own(name):
    """A batch of mixed times gives each example what it has alone."""
    p, n = process(name), 5
    if p.rescales:
        p = dataclasses.replace(p, loss="rescaled")
    x0, t = examples(name, n), p.time((jnp.arange(n) + 0.5) / n)
    z = p.forward_sample(keys(n), x0, t)
    guess = p.point(examples(name, n, seed=5))
    if name == "star_categorical":
        guess = 0.9 * guess + 0.1 / guess.shape[-1]
    terms = lambda i: sum(p.loss_terms(keys(n)[i], guess[i], x0[i], z[i], t[i]).values())
    together = terms(slice(None))
    alone = [terms(slice(i, i + 1))[0] for i in range(n)]
    np.testing.assert_allclose(together, alone, rtol=2e-6)
    assert (np.asarray(together) > 0).all()


@pytest.mark.parametrize("name", ["star_beta", "star_categorical"])
def test_reconstructions_are_probabilities(name):
    """p(x0 | G_1) of one place sums to one over its levels or tokens, whatever G_1 is."""
    p = process(name)
    p = dataclasses.replace(p, data=dataclasses.replace(p.data, shape=(1,)))
    v = p.data.vocab_size
    x0 = jnp.arange(v)[:, None]
    omega, points = p.level_log_normalisers()[0], np.asarray(p.level_points(), np.float64)
    # Halfway between two levels; between all tokens.
    between = 0.0 if p.event_ndim else (omega[3] - omega[2]) / (points[3] - points[2])
    z = jnp.full((1, *p.z_shape((1,))), between, jnp.float32)
    nats = p.reconstruction(p.point(x0), x0, jnp.repeat(z, v, axis=0))
    np.testing.assert_allclose(np.exp(-np.asarray(nats, np.float64)).sum(), 1, rtol=1e-5)
    assert float(nats.min()) > 0.1


def exact_denoiser(p, probabilities):
    """The mean of the points under the posterior (4): what is known of one variable on levels."""
    with jax.ensure_compile_time_eval():
        points = p.level_points()
        natural, m = p.natural(points), np.asarray(points, np.float64)
    if hasattr(p, "nu"):
        nu = p.nu[:, None]
        omega = scipy.special.betaln(1 + nu * m, 1 + nu * (1 - m))
    elif hasattr(p, "snr"):
        omega = 0.5 * (p.snr[1:-1] - p.snr[2:])[:, None] * m**2
    else:
        omega = np.zeros((p.chain_length, len(points)))
    tails = jnp.asarray(np.cumsum(omega[::-1], axis=0)[::-1], jnp.float32)

    def denoise(z_t, t):
        axes = (tuple(range(-p.event_ndim, 0)), tuple(range(1, natural.ndim)))
        logits = jnp.tensordot(z_t, natural, axes) - tails[p.step(t) - 1][:, None]
        posterior = jax.nn.softmax(logits + jnp.log(probabilities), axis=-1)
        return jnp.tensordot(posterior, points, 1)

    return denoise


LAW = jnp.array([0.2, 0.5, 0.3])
ENTROPY = float(-(LAW * jnp.log(LAW)).sum())  # 1.0297 nats
ONE = {
    "star_beta": DataSpec((1,), 3),
    "star_gaussian": DataSpec((1,), 3),
    "star_categorical": DataSpec((1,), 3, unit="char"),
}


def one_variable(name, steps):
    """The family on one variable of three levels, with the law's own prior; and examples."""
    options = {"schedule": "closed_form"} if name == "star_categorical" else {}
    if name == "star_beta":
        options = {"tail": "table"}
    p = PROCESSES[name](num_timesteps=steps, **options).bind(ONE[name])
    x0 = jnp.asarray(np.random.default_rng(0).choice(3, (2000, 1), p=np.asarray(LAW)), jnp.int32)
    return p.fit(np.asarray(x0)), x0


@pytest.mark.parametrize("name", sorted(ONE))
def test_the_bound_of_exact_denoisers_comes_down_to_the_entropy(name):
    """At T = 8, 32, 128; all steps for each of n = 2,000 examples.

    The examples' own frequencies take the place of the law: then their entropy is what the mean of
    -log p is, and only the noise of the bound is left. A reverse step of tokens is exact, whatever
    T is, so that theirs is the entropy; the others' is above it.
    """
    over, errors = [], []
    for steps in (8, 32, 128):
        p, x0 = one_variable(name, steps)
        shares = jnp.bincount(x0[:, 0], length=3) / len(x0)
        denoise = exact_denoiser(p, shares)
        of_all = jax.jit(lambda x0, p=p, denoise=denoise: bound(
            p, denoise, x0, keys(len(x0)), p.chain_length))  # fmt: skip
        total = np.asarray(sum(of_all(x0).values()), np.float64)
        over.append(total.mean() + float((shares * jnp.log(shares)).sum()))
        errors.append(5 * total.std() / np.sqrt(len(total)))
    if name == "star_categorical":
        assert (np.abs(over) < errors).all(), (over, errors)
    else:
        assert over[0] > over[1] > over[2] > -errors[2], (over, errors)
        assert over[2] < 0.1 * over[0], over


@pytest.mark.parametrize("name", sorted(ONE))
def test_networks_that_give_laws_over_levels(name):
    """Zeros times what G_t says is the exact denoiser; a law alone is its mean."""
    p, x0 = one_variable(name, 40)
    shares = jnp.exp(p.statistics["log_prior"])
    for s in (1, 20, 40):
        t = at(p, len(x0), s)
        z = p.forward_sample(keys(len(x0)), x0, t)
        posterior = dataclasses.replace(p, prediction="posterior")
        output = jnp.zeros((len(x0), *posterior.network_spec(p.data).output_shape))
        got = posterior.predict(output, z, t)
        np.testing.assert_allclose(got, exact_denoiser(p, shares)(z, t), rtol=2e-4, atol=2e-5)
        law = jnp.log(jnp.array([0.25, 0.5, 0.25]))
        output = jnp.broadcast_to(law.reshape((3, 1) if p.event_ndim else 3), output.shape)
        got = dataclasses.replace(p, prediction="levels").predict(output, z, t)
        want = jnp.tensordot(jnp.exp(law), p.level_points(), 1)
        np.testing.assert_allclose(got, jnp.broadcast_to(want, got.shape), atol=1e-6)


@pytest.mark.parametrize("name", sorted(ONE))
def test_path_weights_average_to_the_bound_and_to_the_likelihood(name):
    """E log w is minus the bound; E w is p(x0): here the mean over 200 paths is closer to it."""
    p, x0 = one_variable(name, 8)
    x0, paths = x0[:300], 200
    denoise = exact_denoiser(p, LAW)
    weights = jax.jit(lambda k: p.path_log_weight(k, denoise, x0))
    logs = np.stack([np.asarray(weights(rng.fold(keys(len(x0)), i))) for i in range(paths)])
    terms = jax.jit(lambda k: bound(p, denoise, x0, k, 8))
    bounds = np.stack(
        [np.asarray(sum(terms(rng.fold(keys(len(x0), 1), i)).values())) for i in range(20)]
    )
    both = np.array([-logs.mean(), bounds.mean()])
    error = np.hypot(logs.mean(axis=0).std(), bounds.mean(axis=0).std()) / np.sqrt(len(x0))
    # The same examples in both: their spread is not an error, but it bounds it from above.
    assert abs(both[0] - both[1]) < 5 * error / np.sqrt(20)
    tighter = -(scipy.special.logsumexp(logs, axis=0) - np.log(paths)).mean()
    shares = np.bincount(np.asarray(x0)[:, 0], minlength=3) / len(x0)
    cross_entropy = -(shares * np.log(np.asarray(LAW))).sum()
    assert tighter < both[0] and abs(tighter - cross_entropy) < abs(both[0] - cross_entropy)


def test_star_gaussians_are_ddpm():
    """Theorem 2: with x_t = (1 - A_t) / sqrt(A_t) G_t, the same law, bound and KL at every step."""
    data, n = DataSpec((4,), 256), 64
    star = PROCESSES["star_gaussian"](num_timesteps=1000, schedule="cosine").bind(data)
    ddpm = Gaussian(num_timesteps=1000, schedule="cosine", target="x0", clip="none",
                    variance="fixed_small").bind(data)  # fmt: skip
    x0 = jax.random.randint(jax.random.key(0), (n, 4), 0, 256)
    guess = star.point(jax.random.randint(jax.random.key(1), (n, 4), 0, 256))
    for s in (2, 3, 50, 500, 999, 1000):
        t = at(star, n, s)
        g = star.forward_sample(keys(n), x0, t)
        alpha_bar = np.exp(ddpm.log_alpha_bar[s])
        z = g * ((1 - alpha_bar) / np.sqrt(alpha_bar))
        # Conditionally on x0 both are normal with DDPM's mean and variance, from the same noise.
        noise = (z - np.sqrt(alpha_bar) * star.point(x0)) / np.sqrt(1 - alpha_bar)
        assert_within(np.ravel(noise) ** 2, 1, s)
        estimate = ddpm.predict(guess[..., None], z, t)
        ours = star.bound_terms(keys(n), guess, x0, g, t)
        theirs = ddpm.bound_terms(keys(n), estimate, x0, z, t)
        # c1^2 / 2V (x0 - x_theta)^2 of DDPM's equation (2), in float64.
        before = np.exp(ddpm.log_alpha_bar[s - 1])
        b = -np.expm1(ddpm.log_alpha_bar[s] - ddpm.log_alpha_bar[s - 1])
        c1 = b * np.sqrt(before) / (1 - alpha_bar)
        variance = b * (1 - before) / (1 - alpha_bar)
        square = (np.asarray(star.point(x0), np.float64) - np.asarray(guess, np.float64)) ** 2
        want = 1000 * 0.5 * c1**2 / variance * square.sum(axis=1)
        np.testing.assert_allclose(ours["diffusion"], want, rtol=1e-6)
        # DDPM's means differ by c1 (x0 - x_theta), which float32 has to 1e-7 of means of size 1.
        rtol = 4 * 1.2e-7 / (c1 * 0.05)
        np.testing.assert_allclose(theirs["diffusion"], want, rtol=rtol)
        np.testing.assert_allclose(ours["prior"], theirs["prior"], rtol=1e-4, atol=1e-9)
    one = at(star, n, 1)
    g = star.forward_sample(keys(n), x0, one)
    estimate = ddpm.predict(guess[..., None], g, one)
    ours = star.bound_terms(keys(n), guess, x0, g, one)["reconstruction"]
    theirs = ddpm.bound_terms(keys(n), estimate, x0, g, one)["reconstruction"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("calls", [1, 5, 40])
@pytest.mark.parametrize("name", ["star_beta", "star_gaussian", "star_categorical"])
def test_samplers_with_any_number_of_calls(name, calls):
    """One level is all there is: samples are on it; and each call is at a step of the grid."""
    p, _ = one_variable(name, 40)
    only = jnp.array([0.0, 1.0, 0.0])
    step = Ancestral(num_steps=calls, grid="endpoints")
    draws = sample(p, exact_denoiser(p, only), step, keys(50), (1,))
    assert draws.shape == (50, 1) and (np.asarray(draws) == 1).all()


@pytest.mark.parametrize("name", ["star_beta", "star_gaussian"])
def test_sampled_frequencies(name):
    """T = 200 calls of the exact denoiser, n = 4,000: within 5 standard errors and 0.01.

    The 0.01 is for the steps' finite number: the reverse step is exact in the limit only.
    """
    p, _ = one_variable(name, 200)
    draws = jax.jit(lambda k: sample(p, exact_denoiser(p, LAW), Ancestral(num_steps=200), k, (1,)))
    shares = np.bincount(np.asarray(draws(keys(4000)))[:, 0], minlength=3) / 4000
    error = np.sqrt(np.asarray(LAW * (1 - LAW)) / 4000)
    assert (np.abs(shares - np.asarray(LAW)) < 5 * error + 0.01).all(), shares


@pytest.mark.parametrize("name", NAMES)
def test_guided_predictions_are_points(name):
    """Scale 1 is the conditional one; what goes beyond is brought back."""
    p, n = process(name), 5
    one, other = (p.point(examples(name, n, seed)) for seed in (0, 1))
    np.testing.assert_allclose(p.guide(one, other, 1.0), one, rtol=1e-5, atol=1e-5)
    beyond = p.guide(0.9 * one + 0.1 * other, other, 3.0)
    assert bool(jnp.isfinite(p.kl(p.point(examples(name, n)), beyond, jnp.full(n, 2))).all())
    x = np.asarray(p.values(beyond))
    if p.data.domain:
        assert DOMAINS[p.data.domain].problem(x) is None
    else:
        assert x.min() >= 0 and x.max() < p.data.vocab_size


@pytest.mark.parametrize("name", NAMES)
def test_views_are_data(name):
    """Pictures are in the data's own values, and late in the chain near the data's average."""
    p, n = process(name), 3
    x0 = examples(name, n)
    rows = p.forward_views(keys(n), x0, jnp.array([1 / p.chain_length, 1.0]))
    assert len(rows) == 2
    for row in rows:
        assert row.shape == (n, 2, *x0.shape[1:]) and bool(jnp.isfinite(row).all())
    # G_T holds x_T alone.
    np.testing.assert_allclose(rows[0][:, 1], rows[1][:, 1], rtol=1e-4, atol=1e-4)
