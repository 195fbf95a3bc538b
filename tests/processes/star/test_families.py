"""What each family says of its variables, against scipy, published numbers and its own draws.

Statistical tests draw N examples of one x0 and compare entry by entry with a threshold of 5
standard errors: below 1e-6 a comparison, below 1e-3 for all of a test.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from star_families import FAMILIES, assert_within, examples, keys, process, repeated

from md4jax.options import UserError
from md4jax.processes import PROCESSES
from md4jax.processes.base import DataSpec

N = 20_000
NAMES = sorted(FAMILIES)
GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "star_families.npz")


def steps_of(p):
    return (1, p.chain_length // 2, p.chain_length)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_moments(name):
    p = process(name)
    point = p.point(repeated(name, N))
    draw = jax.jit(lambda step: p.finish(p.draw(keys(N), p.prepare(point), step), p.prepare(point)))
    moments = jax.jit(lambda step: p.moments(point[:1], step[:1]))
    for s in steps_of(p):
        step = jnp.full(N, s)
        values = np.asarray(draw(step), np.float64)
        mean, variance = (np.asarray(x[0], np.float64) for x in moments(step))
        assert_within(values, mean, (name, s, "mean"))
        assert_within((values - mean) ** 2, variance, (name, s, "variance"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "star_categorical"])
def test_gradient_of_a_segment_has_no_bias(name):
    """By the point, along one direction: its mean is the derivative of the exact mean."""
    p, n = process(name), 1000
    point = p.point(repeated(name, n))
    first = jnp.full(n, p.chain_length // 2)
    along = jax.random.normal(jax.random.key(0), point.shape[1:])

    def moved(point, by):
        return p.project(point + by.reshape(-1, *[1] * along.ndim) * along)

    def exact(by):
        moments = [p.moments(moved(point[:1], by), first[:1] + i) for i in range(3)]
        return sum(mean for mean, _ in moments)[0]

    weights = jax.random.normal(jax.random.key(1), jax.eval_shape(exact, jnp.zeros(1)).shape)
    drawn = lambda by: jnp.sum(weights * p.segment(keys(n), moved(point, by), first, first + 3))
    gradients = jax.jit(jax.grad(drawn))(jnp.zeros(n))
    expected = jax.jit(jax.grad(lambda by: jnp.sum(weights * exact(by))))(jnp.zeros(1))
    assert_within(gradients, np.asarray(expected[0], np.float64), name)


def log_density(p, x, point, step):
    """log q(x_s | x0), summed over variables `[n]`, by scipy in float64."""
    x, point = np.asarray(x, np.float64), np.asarray(point, np.float64)
    n = len(x)
    every = lambda values: np.asarray(values).reshape(n, -1).sum(axis=1)
    one_by_one = lambda law: np.array([law(x[i], point[i]) for i in range(n)])
    name = type(p).__name__
    if name == "StarBeta":
        offset, slope, _ = p.parameters[:, step]
        a, b = offset + slope * point, offset + slope * (1 - point)
        return every(scipy.stats.beta.logpdf(x, a, b))
    if name == "StarGaussian":
        w = p.snr[step] - p.snr[step + 1]
        return every(scipy.stats.norm.logpdf(x, point, np.sqrt(1 / w)))  # x / sqrt(a)
    if name == "StarGamma":
        xi, alpha = p.schedule[:, step]
        rate = alpha * (xi + (1 - xi) / point)
        return every(scipy.stats.gamma.logpdf(x, alpha, scale=1 / rate))
    if name == "StarDirichlet":
        law = lambda x, m: scipy.stats.dirichlet.logpdf(x / x.sum(), 1 + p.nu[step] * m)
        return one_by_one(law)
    if name == "StarCategorical":
        keep = p.keep[step]
        probs = keep * point + (1 - keep) / point.shape[-1]
        return every(np.log(np.take_along_axis(probs, x.argmax(-1)[..., None], axis=-1)))
    if name == "StarWishart":
        df, xi = p.df[step], p.xi[step]
        eye = np.eye(x.shape[-1])
        scale = lambda m: np.linalg.inv(xi * np.linalg.inv(m) + (1 - xi) * eye) / df
        return one_by_one(lambda x, m: scipy.stats.wishart.logpdf(x, df, scale(m)))
    # On the circle and the sphere the normaliser does not depend on the mean.
    return every(p.kappa[step] * (x * point).sum(-1))


@pytest.mark.parametrize("name", NAMES)
def test_log_ratios_are_those_of_the_densities(name):
    """So the KL, the natural parameters and the moments that they are made of are right as well.

    A log ratio sums terms as large as |f A T|; float32 leaves 2e-6 of their sum. A step in the
    middle and early ones: late ones say nothing of x0, so there is nothing to compare.
    """
    p, n = process(name), 6
    point, other = (p.point(examples(name, n, seed)) for seed in (2, 3))
    if name == "star_categorical":  # A prediction is no token.
        other = jax.nn.softmax(jax.random.normal(jax.random.key(1), other.shape))
    for s in (1, 2, p.chain_length // 2):
        step = jnp.full(n, s)
        statistic = p.finish(p.draw(keys(n), p.prepare(point), step), p.prepare(point))
        weight = p.weights[s]
        x = np.asarray(p.undo(statistic / weight), np.float64)
        if name == "star_beta":
            x = scipy.special.expit(np.asarray(statistic, np.float64) / weight)
        want = log_density(p, x, point, s) - log_density(p, x, other, s)
        got = p.log_ratio(statistic, point, other, step)
        size = np.abs(np.asarray(p.natural(point) * statistic)).reshape(n, -1).sum(axis=1)
        size += np.abs(np.asarray(p.natural(other) * statistic)).reshape(n, -1).sum(axis=1)
        assert (np.abs(got - want) <= 2e-6 * (size + np.abs(want)) + 1e-6).all(), (s, got, want)


@pytest.mark.parametrize("name", [n for n in NAMES if FAMILIES[n][0].vocab_size is None])
def test_entry_zero_is_a_density(name):
    p, n = process(name), 5
    x0, guess = examples(name, n, 4), p.point(examples(name, n, 4))
    got = np.asarray(p.log_density(x0, guess), np.float64).reshape(n, -1).sum(axis=1)
    if hasattr(p, "kappa"):
        k = guess.shape[-1]
        at_mean = scipy.stats.vonmises_fisher(np.eye(k)[0], p.kappa[0]).logpdf(np.eye(k)[:1])
        want = np.full(n, np.prod(guess.shape[1:-1], initial=1.0) * at_mean)
    else:
        want = log_density(p, p.point(x0), guess, 0)
    np.testing.assert_allclose(got, want, rtol=2e-4)


def spec(domain, *shape):
    return DataSpec(shape, None, domain=domain)


@pytest.mark.parametrize(
    ("family", "data", "options"),
    [
        ("dirichlet", spec("simplex", 3), {}),
        ("wishart", spec("spd", 2, 2), {"loss": "rescaled"}),
        ("vmf", spec("sphere", 3), {}),
    ],
)
def test_published_kl(family, data, options):
    """Golden, float64: the loss at code index t is the KL of the entry before it."""
    name = {"vmf": "star_von_mises_fisher"}.get(family, f"star_{family}")
    p = PROCESSES[name](**options).bind(data)
    x0, guess = (jnp.asarray(GOLDEN[f"{family}/{k}"]).reshape(-1, *data.shape)
                 for k in ("x0", "x0_pred"))  # fmt: skip
    want = GOLDEN[f"{family}/kl"][..., 0]
    for t, expected in zip(GOLDEN[f"{family}/t_idx"], want):
        step = jnp.full(len(x0), t)
        got = p.kl(x0, guess, step)
        if family == "vmf" and t == 0:
            continue  # Published with kappa_1, not with the entry that samples would have.
        # x0 and guess are of length 1 up to 1e-7 only, and we take half the squared distance.
        unit = 2.4e-7 * (p.kappa * p._mean_length(3))[t] if family == "vmf" else 0
        np.testing.assert_allclose(got, expected, rtol=3e-6, atol=unit)
        if options:
            place = list(GOLDEN[f"{family}/t_idx"]).index(t)
            rescaled = GOLDEN[f"{family}/kl_rescaled"][place, :, 0]
            np.testing.assert_allclose(got / p.scale(step + 1), rescaled, rtol=3e-6)


@pytest.mark.parametrize("family", ["dirichlet", "wishart", "vmf"])
def test_published_tail_moments(family):
    """Golden, float64: means and covariances of G, whose diagonal are the variances."""
    name = {"vmf": "star_von_mises_fisher"}.get(family, f"star_{family}")
    data = {"dirichlet": spec("simplex", 3), "wishart": spec("spd", 2, 2), "vmf": spec("sphere", 3)}
    p = PROCESSES[name]().bind(data[family])
    x0 = jnp.asarray(GOLDEN[f"{family}/mc_x0"]).reshape(-1, *data[family].shape)
    moments = jax.jit(lambda s: p.moments(x0, jnp.full(len(x0), s)))
    each = [moments(s) for s in range(1, p.chain_length + 1)]
    for i, t in enumerate(GOLDEN[f"{family}/mc_t_idx"]):
        mean, variance = (
            np.sum([np.asarray(m[k], np.float64) for m in each[t:]], axis=0).reshape(len(x0), -1)
            for k in (0, 1)
        )
        cov = GOLDEN[f"{family}/G_cov"][i]
        want = GOLDEN[f"{family}/G_mean"][i]
        np.testing.assert_allclose(mean, want, rtol=1e-5, atol=1e-6 * np.abs(want).max())
        np.testing.assert_allclose(variance, np.diagonal(cov, axis1=-2, axis2=-1), rtol=1e-5)


def test_published_gamma_and_von_mises_kl():
    """Golden: the paper's table 1, at its own parameters."""
    alpha, xi = GOLDEN["paper_gamma/alpha"], GOLDEN["paper_gamma/xi"]
    x0, guess = GOLDEN["paper_gamma/x0"], GOLDEN["paper_gamma/x0_pred"]
    p = PROCESSES["star_gamma"](num_timesteps=3).bind(spec("positive", 3))
    p.__dict__["schedule"] = np.stack([np.append(xi[:1], xi), np.append(alpha[:1], alpha)])
    q = PROCESSES["star_von_mises"](num_timesteps=3).bind(spec("circle", 3))
    kappa = GOLDEN["paper_vonmises/kappa"]
    q.__dict__["kappa"] = np.append(kappa[:1], kappa)
    angle, other = GOLDEN["paper_vonmises/x0"], GOLDEN["paper_vonmises/x0_pred"]
    as_batch = lambda x: jnp.asarray(x, jnp.float32)[None]
    for s in range(3):
        step = jnp.full(1, s + 1)
        got = p.kl(as_batch(x0), as_batch(guess), step)[0]
        np.testing.assert_allclose(got, GOLDEN["paper_gamma/kl"][s], rtol=3e-6)
        got = q.kl(q.point(as_batch(angle)), q.point(as_batch(other)), step)[0]
        np.testing.assert_allclose(got, GOLDEN["paper_vonmises/kl"][s], rtol=3e-5)


@pytest.mark.parametrize("name", NAMES)
def test_points_and_values(name):
    """Data survive being points; heads give points; the limit is one."""
    p = process(name)
    x0 = examples(name, 7)
    back = p.values(p.point(x0))
    np.testing.assert_allclose(back, x0, rtol=1e-5, atol=1e-6)
    out = p.network_spec(p.data).output_shape
    head = p.head(100 * jax.random.normal(jax.random.key(0), (7, *out)))
    assert head.shape == p.point(x0).shape and bool(jnp.isfinite(head).all())
    assert p.limit_point(head.shape[1:]).shape == head.shape[1:]


BAD = [
    ("star_dirichlet", {}, spec("sphere", 3), "needs data of the domain 'simplex'"),
    ("star_wishart", {"df_min": 2.0}, spec("spd", 3, 3), "config.process.df_min = 2.0"),
    ("star_wishart", {}, DataSpec((8,), 27, unit="char"), "integers (chars)"),
    ("star_von_mises_fisher", {}, spec("sphere", 4), "config.process.tail = 'table'"),
    ("star_beta", {}, DataSpec((8,), 27, unit="char"), "needs images"),
    ("star_categorical", {}, DataSpec((8, 8, 1), 17), "needs tokens"),
    ("star_categorical", {}, DataSpec((8,), 100, unit="char"), "is for 27 tokens, not 100"),
    ("star_gaussian", {}, spec("simplex", 3), "domain simplex"),
]


@pytest.mark.parametrize(("name", "options", "data", "words"), BAD)
def test_data_that_do_not_fit(name, options, data, words):
    with pytest.raises(UserError) as error:
        PROCESSES[name](**options).bind(data)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("star_dirichlet", {"loss": "rescaled"}, "config.process.loss = 'rescaled'"),
        ("star_dirichlet", {"tail": "table"}, "config.process.tail = 'table'"),
    ],
)
def test_options_that_a_family_lacks(name, options, words):
    with pytest.raises(UserError) as error:
        PROCESSES[name](**options)
    assert words in str(error.value)


def test_a_schedule_that_rises():
    p = PROCESSES["star_dirichlet"](nu_max=1.0, nu_min=2.0).bind(spec("simplex", 3))
    with pytest.raises(UserError, match="nu"):
        _ = p.nu
