"""processes/star/draws.py against exact distribution functions, in float64.

Laws are tested by Kolmogorov-Smirnov with n draws and p > 1e-4: a right sampler fails a test with
that rate, some 70 of them together with a rate of 7e-3, once for the fixed seeds. Means are within
4.5 standard errors, rate 7e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special as sp
from scipy import stats

from md4jax import rng
from md4jax.processes.star import draws

N = 20_000
BATCH = 100  # Keys; each has N / BATCH draws.


def keys(n=BATCH, seed=0):
    return rng.example_keys(rng.stream(seed, "test"), jnp.arange(n))


def as64(x):
    return np.asarray(x, np.float64)


def each(values):
    """[BATCH, N / BATCH, len(values)]: one compiled function draws of all laws."""
    return jnp.broadcast_to(jnp.array(values, jnp.float32), (BATCH, N // BATCH, len(values)))


def assert_law(x, cdf):
    """x are draws of the law with this distribution function."""
    x = as64(x).ravel()
    assert np.isfinite(x).all()
    assert stats.kstest(x, cdf).pvalue > 1e-4


def assert_mean(x, exact):
    """Along the first axis."""
    x = as64(x)
    assert np.isfinite(x).all()
    error = x.std(0) / np.sqrt(len(x))
    assert (np.abs(x.mean(0) - exact) < 4.5 * error).all()


def log_gamma_cdf(a):
    """P(log X < y); where e^y would underflow, X^a / Gamma(a + 1)."""
    a = float(np.float32(a))
    small = lambda y: np.exp(a * np.minimum(y, -30) - sp.gammaln(a + 1))
    return lambda y: np.where(y > -30, sp.gammainc(a, np.exp(np.maximum(y, -30))), small(y))


def logit_beta_cdf(a, b):
    a, b = float(np.float32(a)), float(np.float32(b))
    return lambda y: np.where(y < 0, sp.betainc(a, b, sp.expit(y)), sp.betaincc(b, a, sp.expit(-y)))


SHAPES = [0.01, 0.3, 0.99, 1.0, 2.5, 50.0, 1e4, 1e5]


def test_gamma():
    log_x = jax.jit(draws.log_gamma)(keys(), each(SHAPES))
    for i, a in enumerate(SHAPES):
        assert_law(log_x[..., i], log_gamma_cdf(a))
        assert_mean(log_x[..., i].ravel(), sp.digamma(np.float64(np.float32(a))))


def test_gamma_of_extreme_shapes_is_finite_and_of_none_is_nan():
    a = each([1e-30, 1e-6, 1e-3, 1e6, 1e10, -1.0, jnp.inf, jnp.nan])
    log_x = np.asarray(jax.jit(draws.log_gamma)(keys(), a))
    assert np.isfinite(log_x[..., :5]).all()
    assert np.isnan(log_x[..., 5:]).all()


def test_beta():
    """Also of a total of 2e6, whose deviation is 1e-3: log X, about 14, has steps of 1e-6."""
    a = [1.0, 50.0, 0.1, 0.1, 2.0, 0.01, 3e4, 1.0, 1e6]
    b = [1.0, 0.1, 50.0, 0.1, 3.5, 0.01, 5e4, 1e4, 1e6]
    both = jax.jit(lambda *x: (draws.logit_beta(*x), *draws.log_beta(*x)))
    logit, log_x, log_rest = (as64(x) for x in both(keys(), each(a), each(b)))
    for i in range(len(a)):
        assert_law(logit[..., i], logit_beta_cdf(a[i], b[i]))
        # A grid of 1e-6 would leave 6000.
        assert len(np.unique(logit[..., i])) > 0.95 * N
    np.testing.assert_allclose(log_x - log_rest, logit, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.logaddexp(log_x, log_rest), 0, atol=1e-6)


def test_dirichlet():
    laws = [(0.01, 0.02, 0.03), (1.0, 1.0, 1.0), (0.5, 30.0, 2000.0)]
    a = jnp.broadcast_to(jnp.array(laws), (BATCH, N // BATCH, 3, 3))
    log_x = as64(jax.jit(draws.log_dirichlet)(keys(), a))
    np.testing.assert_allclose(sp.logsumexp(log_x, -1), 0, atol=1e-6)
    for i, law in enumerate(laws):
        for j in range(3):
            rest = sp.logsumexp(np.delete(log_x[:, :, i], j, axis=-1), -1)
            logit = log_x[:, :, i, j] - rest
            assert_law(logit, logit_beta_cdf(law[j], sum(law) - law[j]))


@pytest.mark.parametrize("d,dfs", [(1, (0.5, 40.0)), (3, (2.2, 20_000.0))])
def test_wishart(d, dfs):
    """Moments, the trace (chi-square of df d), diagonal entries, log det; half of N each."""
    df = jnp.repeat(jnp.array(dfs, jnp.float32), BATCH // 2)
    draw = jax.jit(draws.bartlett, static_argnums=(2, 3))
    A = as64(draw(keys(), df, (N // BATCH,), d)).reshape(2, -1, d, d)
    np.testing.assert_array_equal(A, np.tril(A))
    for df, half in zip(np.float64(np.float32(dfs)), A):
        W = half @ np.swapaxes(half, 1, 2)
        assert_law(np.trace(W, axis1=1, axis2=2), stats.chi2(df * d).cdf)
        for i in {0, d - 1}:
            assert_law(W[:, i, i], stats.chi2(df).cdf)
        assert_mean(W, df * np.eye(d))
        assert_mean((W - df * np.eye(d)) ** 2, df * (1 + np.eye(d)))
        log_det = np.log(half[:, range(d), range(d)]).sum(-1) * 2
        assert_mean(log_det, sum(sp.digamma((df - i) / 2) + np.log(2) for i in range(d)))


def excess_cdf(kappa, k):
    """Of 1 - cos(angle), by the trapezoid rule in the angle."""
    end = min(np.pi, 9 * np.sqrt(k / max(kappa, 1e-9)))
    angle = np.linspace(0, end, 100_001)
    density = np.exp(-2 * kappa * np.sin(angle / 2) ** 2) * np.sin(angle) ** (k - 2)
    mass = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return lambda e: np.interp(2 * np.arcsin(np.sqrt(np.clip(e / 2, 0, 1))), angle, mass / mass[-1])


KAPPAS = [0.0, 1e-8, 1e-3, 0.7, 20.0, 1e5]


@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_cosines(k):
    """For each entry's own kappa; NaN gives NaN and not a loop without an end."""
    e = jax.jit(draws.cosine_excess, static_argnums=2)(keys(), each([*KAPPAS, jnp.nan]), k)
    assert np.isnan(e[..., -1]).all()
    e = e[..., :-1]
    assert float(e.min()) >= 0 and float(e.max()) <= 2
    for i, kappa in enumerate(KAPPAS):
        assert_law(e[..., i], excess_cdf(kappa, k))
        # No grid: 1 - cos at 1e5 is 1e-5, a hundred roundings of a cosine in float32.
        assert len(np.unique(e[..., i])) > 0.95 * N


@pytest.mark.parametrize("k", [2, 3, 5])
def test_around(k):
    """Unit vectors at the angle asked for, the rest of them uniform in direction."""
    mean = as64(jax.random.normal(jax.random.key(0), (BATCH, N // BATCH, k)))
    mean[0], mean[1] = np.eye(k)[-1], -np.eye(k)[-1]
    mean = jnp.asarray(mean / np.linalg.norm(mean, axis=-1, keepdims=True), jnp.float32)
    e = 10 ** jax.random.uniform(jax.random.key(1), (BATCH, N // BATCH), minval=-6, maxval=0.3)
    x, m = as64(jax.jit(draws.around)(keys(), mean, e)), as64(mean)
    np.testing.assert_allclose((x**2).sum(-1), 1, atol=1e-6)
    # 1 - cos of unit vectors is half of their squared distance, whose entries are rounded.
    distance = np.linalg.norm(x - m, axis=-1)
    np.testing.assert_allclose(distance, np.sqrt(2 * as64(e)), rtol=1e-6, atol=1e-6)
    tangent = x - (1 - as64(e))[..., None] * m
    tangent = tangent / np.linalg.norm(tangent, axis=-1, keepdims=True)
    # Against a fixed vector's tangent part at each point: a coordinate of a uniform point on the
    # sphere in k - 1 dimensions.
    fixed = np.eye(k)[0] - m[..., :1] * m
    fixed = fixed / np.linalg.norm(fixed, axis=-1, keepdims=True)
    cosine = (tangent * fixed).sum(-1).ravel()
    assert_mean(cosine, 0)
    if k == 2:
        np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-2)
    else:
        assert_law((1 + cosine) / 2, stats.beta(k / 2 - 1, k / 2 - 1).cdf)


@pytest.mark.parametrize("k", [3, 4])
def test_von_mises_fisher(k):
    """Cosines to the mean by example, and sums over all as those of another sampler's law."""
    kappa = jnp.where(jnp.arange(BATCH) < BATCH // 2, 0.5, 40.0)
    mean = as64(jax.random.normal(jax.random.key(0), (BATCH, N // BATCH, k)))
    mean = jnp.asarray(mean / np.linalg.norm(mean, axis=-1, keepdims=True), jnp.float32)
    x = jax.jit(draws.von_mises_fisher)(keys(), mean, kappa)
    np.testing.assert_allclose(as64(x**2).sum(-1), 1, atol=1e-6)
    excess = (as64(x - mean) ** 2).sum(-1) / 2
    for half, concentration in ((slice(None, BATCH // 2), 0.5), (slice(BATCH // 2, None), 40.0)):
        assert_law(excess[half], excess_cdf(concentration, k))
        # E[x | mean] = mean I_(k/2) / I_(k/2 - 1).
        ratio = sp.ive(k / 2, concentration) / sp.ive(k / 2 - 1, concentration)
        assert_mean(as64(x - ratio * mean)[half].reshape(-1, k), 0)


def test_an_example_is_the_same_in_every_batch():
    """Whatever the other rows are, also where they take more rounds."""
    a = jnp.exp(jax.random.normal(jax.random.key(0), (64, 30)))
    other = a.at[:7].set(1e-3).at[9:].set(30.0)

    @jax.jit
    def draw(keys, a):
        mean = jnp.broadcast_to(jnp.array([0.0, 0.6, 0.8, 0.0]), (*a.shape, 4))
        vmf = draws.von_mises_fisher(keys, mean, a[:, 0])
        sphere = draws.cosine_excess(keys, a, 3)
        return draws.logit_beta(keys, a, a + 1), vmf, sphere

    k = keys(64)
    for x, y, z in zip(draw(k, a), draw(k[7:9], a[7:9]), draw(k, other)):
        # Loops over arrays of other sizes may round otherwise.
        np.testing.assert_allclose(x[7:9], y, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(x[7:9], z[7:9])
        assert not np.array_equal(x[7], x[8])


def test_gradients_of_gamma_and_beta():
    """E[logit X] = psi(a) - psi(b), E[log X] = psi(a) of Gammas; psi' is trigamma."""
    loss = lambda a, b: draws.logit_beta(keys(), a, b).sum()
    by_a, by_b = jax.jit(jax.grad(loss, (0, 1)))(each(SHAPES), each(SHAPES[::-1]))
    for i, a in enumerate(SHAPES):
        trigamma = sp.polygamma(1, np.float64(np.float32(a)))
        assert_mean(by_a[..., i].ravel(), trigamma)
        assert_mean(by_b[..., -1 - i].ravel(), -trigamma)


def test_derivative_of_a_quantile():
    """log(X / a) by a, at fixed probability: differences of quantiles in float64."""
    a = np.array([[1.0], [7.0], [49.0], [51.0], [300.0], [1e4]])
    p = np.array([1e-5, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-5])
    h = a * 1e-3
    log_ratio = lambda a: np.log(sp.gammaincinv(a, p) / a)
    near, far = (log_ratio(a + k * h) - log_ratio(a - k * h) for k in (1, 2))
    exact = (8 * near - far) / (12 * h)
    w, a = jnp.asarray(log_ratio(a), jnp.float32), jnp.broadcast_to(a, exact.shape)
    slope = jax.jit(lambda a: jax.jvp(lambda a: draws._with_gradient(a, w), (a,), (0 * a + 1,))[1])
    # It is 1 / (2 a^1.5) for each deviation of X.
    difference = np.abs(slope(jnp.asarray(a, jnp.float32)) - exact)
    assert (difference < 1e-3 * np.abs(exact) + 3e-4 * a**-1.5).all()


def test_gradient_of_the_sphere():
    """E[cos] = coth(kappa) - 1 / kappa."""
    kappas = [1e-6, 0.5, 4.0, 300.0]
    loss = lambda kappa: draws.cosine_excess(keys(), kappa, 3).sum()
    slope = as64(-jax.jit(jax.grad(loss))(each(kappas)))
    assert np.isfinite(slope).all()
    for i, kappa in enumerate(kappas[1:], 1):
        assert_mean(slope[..., i].ravel(), 1 / kappa**2 - 1 / np.sinh(kappa) ** 2)
