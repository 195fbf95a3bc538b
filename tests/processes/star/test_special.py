"""processes/star/special.py in float32 against float64 of the same float32 arguments."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special as sp

from md4jax.processes.star import special

ULP = 2.0**-24  # Of a rounding to float32.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)


def as32(x):
    return jnp.asarray(x, jnp.float32)


def power_series(coefficient, r):
    return sum(coefficient(k) * (-r) ** k for k in range(2, 25))


def exact_excess(r):
    series = power_series(lambda k: 1 / k, r)
    return np.where(np.abs(r) < 0.05, series, r - np.log1p(r))


def exact_entropy_excess(r):
    series = power_series(lambda k: 1 / (k * (k - 1)), r)
    with np.errstate(invalid="ignore"):
        direct = sp.xlog1py(1 + r, r) - r
    return np.where(np.abs(r) < 0.05, series, direct)


def exact_bregman(a, b, d=None):
    """The integral of (1 - u) psi'(a + u d) d^2 where a and b are near, else as it is defined."""
    a, b = np.float64(a), np.float64(b)
    d = b - a if d is None else np.float64(d)
    near = np.abs(d) < 0.3 * np.minimum(a, b)
    u = (NODES + 1) / 2
    trigamma = sp.zeta(2, a[..., None] + u * np.where(near, d, 0)[..., None])
    integral = d**2 * ((1 - u) * trigamma * WEIGHTS / 2).sum(-1)
    direct = sp.gammaln(b) - sp.gammaln(a) - sp.digamma(a) * d
    return np.where(near, integral, direct)


def spread(n, seed=0):
    """Arguments of all sizes: r within 1e-8 of 0, towards -1, and up to 1e8."""
    random = np.random.default_rng(seed)
    small = random.choice([-1, 1], n) * 10 ** random.uniform(-8, -1e-4, n)
    r = np.float32(np.concatenate([small, 10 ** random.uniform(-2, 8, n), [1e-12, -1e-12]]))
    return r[r > -1]


def test_excesses_have_all_digits():
    """r - log(1 + r) loses a factor of 6 where the series end, of 3 roundings in each term."""
    r = spread(20_000)
    exact = np.float64(r)
    ours = jax.jit(special.excess)(as32(r))
    np.testing.assert_allclose(ours, exact_excess(exact), rtol=20 * ULP)
    ours = jax.jit(special.entropy_excess)(as32(r))
    np.testing.assert_allclose(ours, exact_entropy_excess(exact), rtol=24 * ULP)


def test_excesses_are_smooth():
    """Their derivatives are r / (1 + r) and log(1 + r), the second finite at -1."""
    r = spread(5_000)
    exact = np.float64(r)
    for f, slope in (
        (special.excess, exact / (1 + exact)),
        (special.entropy_excess, np.log1p(exact)),
    ):
        ours = jax.jit(jax.vmap(jax.value_and_grad(f)))
        np.testing.assert_allclose(ours(as32(r))[1], slope, rtol=40 * ULP)
        zero, edge = (float(x[0]) for x in ours(jnp.zeros(1))), ours(-jnp.ones(1))
        assert list(zero) == [0, 0]
    assert float(edge[0][0]) == 1
    assert np.isfinite(edge[1]).all()


def pairs(n, nearly):
    random = np.random.default_rng(1)
    a = np.float32(np.exp(random.uniform(np.log(0.01), np.log(1e6), n)))
    if nearly:
        r = random.choice([-1, 1], n) * 10 ** random.uniform(-6, -0.2, n)
        return a, np.float32(a * (1 + r))
    return a, np.float32(np.exp(random.uniform(np.log(0.01), np.log(1e6), n)))


@pytest.mark.parametrize("nearly", [True, False])
def test_bregman_has_all_digits(nearly):
    """n = 20 000 pairs from 0.01 to 1e6; the worst of 400 000 was 1.6e-6."""
    a, b = pairs(20_000, nearly)
    ours = np.asarray(jax.jit(special.lgamma_bregman)(as32(a), as32(b)), np.float64)
    assert (ours >= 0).all()
    np.testing.assert_allclose(ours, exact_bregman(a, b), rtol=2e-6)


@pytest.mark.parametrize("nearly", [True, False])
def test_gradient_of_bregman(nearly):
    """By b psi(b) - psi(a), by a -psi'(a) (b - a)."""
    a, b = pairs(2_000, nearly)
    total = lambda a, b: special.lgamma_bregman(a, b).sum()
    by_a, by_b = jax.jit(jax.grad(total, (0, 1)))(as32(a), as32(b))
    a, b = np.float64(a), np.float64(b)
    d = b - a
    u = (NODES + 1) / 2
    near = np.abs(d) < 0.3 * np.minimum(a, b)
    slope = (sp.zeta(2, a[:, None] + u * np.where(near, d, 0)[:, None]) * WEIGHTS / 2).sum(-1) * d
    slope = np.where(near, slope, sp.digamma(b) - sp.digamma(a))
    # The direct form's derivatives by b are 1 / x - 1 / y: no worse than the form itself. By a
    # they are differences of terms of the size of the form's over a.
    np.testing.assert_allclose(by_b, slope, rtol=1e-5)
    np.testing.assert_allclose(by_a, -sp.zeta(2, a) * d, rtol=1e-5)


def test_bregman_of_a_difference_that_the_arguments_have_lost():
    """1 + nu m and 1 + nu m' in float32 are the same, nu (m' - m) is not."""
    nu, m, other = 1e-6, 0.3, 0.3001
    a, b, d = 1 + nu * m, 1 + nu * other, nu * (other - m)
    ours = jax.jit(special.lgamma_bregman)(as32([a]), as32([b]), as32([d]))
    np.testing.assert_allclose(ours, exact_bregman(np.array([a]), np.array([b]), [d]), rtol=1e-6)


def exact_dirichlet_kl(a1, a2):
    a1, a2 = np.float64(a1), np.float64(a2)
    return exact_bregman(a1, a2).sum(-1) - exact_bregman(a1.sum(-1), a2.sum(-1))


def test_dirichlet_and_beta_kl():
    """Relative to the first terms of (4): what the last one cancels is lost."""
    random = np.random.default_rng(2)
    a1 = np.float32(np.exp(random.uniform(np.log(0.05), np.log(1e4), (2000, 3))))
    a2 = np.float32(a1 * np.exp(random.normal(size=(2000, 3))))
    ours = np.asarray(jax.jit(special.dirichlet_kl)(as32(a1), as32(a2)), np.float64)
    terms = exact_bregman(a1, a2).sum(-1)
    # Sums of totals are rounded: 2 roundings of the total, and D(a, b) moves by 2 of its terms.
    assert (np.abs(ours - exact_dirichlet_kl(a1, a2)) < 4e-6 * terms).all()
    columns = [as32(x[:, i]) for x in (a1, a2) for i in (0, 1)]
    ours = np.asarray(jax.jit(special.beta_kl)(*columns), np.float64)
    exact = exact_dirichlet_kl(a1[:, :2], a2[:, :2])
    assert (np.abs(ours - exact) < 4e-6 * exact_bregman(a1[:, :2], a2[:, :2]).sum(-1)).all()


def test_beta_kl_of_equal_totals_has_all_digits():
    """Beta(1 + nu m, 1 + nu (1 - m)), from the difference of m: to 4e-6 at every nu and m."""
    grid = ([1e-3, 1.0, 100.0, 8695.0], [1e-5, 1e-2, 0.3], np.linspace(0.01, 0.65, 50))
    nu, error, m = (x.ravel() for x in np.meshgrid(*grid))
    a, b, d = (np.float32(x) for x in (1 + nu * m, 1 + nu * (1 - m), nu * error))
    kl = jax.jit(lambda a, b, d: special.beta_kl(a, b, a + d, b - d, (d, -d), same_total=True))
    ours = kl(as32(a), as32(b), as32(d))
    a, b, d = (np.float64(x) for x in (a, b, d))
    exact = exact_bregman(a, a + d, d) + exact_bregman(b, b - d, -d)
    np.testing.assert_allclose(ours, exact, rtol=4e-6)


def test_beta_kl_is_the_integral():
    """Of p log(p / q), by quadrature in float64: also the sign and the order of arguments."""
    x, w = np.polynomial.legendre.leggauss(400)
    x, w = (x + 1) / 2, w / 2
    cases = np.array(list(itertools.product((2.0, 5.5), (3.0, 9.0), (2.5, 7.0), (4.0,))))
    ours = jax.jit(special.beta_kl)(*as32(cases.T))
    for i, (a1, b1, a2, b2) in enumerate(cases):
        log_p = (a1 - 1) * np.log(x) + (b1 - 1) * np.log1p(-x) - sp.betaln(a1, b1)
        log_q = (a2 - 1) * np.log(x) + (b2 - 1) * np.log1p(-x) - sp.betaln(a2, b2)
        exact = (w * np.exp(log_p) * (log_p - log_q)).sum()
        np.testing.assert_allclose(ours[i], exact, rtol=1e-5)


def test_categorical_kl():
    """Of q and differences of any size, in float64 by its series; zeros where p or q are 0."""
    random = np.random.default_rng(3)
    q = np.float32(random.dirichlet(np.ones(27), 500))
    kl = jax.jit(special.categorical_kl)
    for size in (1e-7, 1e-4, 1e-1):
        d = random.normal(size=q.shape) * size * np.minimum(q, 1 - q) * 0.3
        d = np.float32(d - d.mean(-1, keepdims=True) * q * 27)
        d = np.maximum(d, -q * np.float32(0.999))
        exact = (np.float64(q) * exact_entropy_excess(np.float64(d) / np.float64(q))).sum(-1)
        np.testing.assert_allclose(kl(as32(d), as32(q)), exact, rtol=2e-6)
    p, q = as32([[0, 0.5, 0.5], [0, 0.25, 0.75]]), as32([[0.2, 0.3, 0.5], [0, 0.5, 0.5]])
    exact = sp.rel_entr(np.float64(p), np.float64(q)).sum(-1)
    np.testing.assert_allclose(kl(p - q, q), exact, rtol=1e-6)
    assert np.isinf(kl(as32([[0.1, -0.1]]), as32([[0.0, 1.0]]))).all()


def test_gradient_of_categorical_kl_of_a_one_hot_p():
    """By the logits of q it is q - p, although log p is not finite."""
    logits = jax.random.normal(jax.random.key(0), (5, 7))
    p = jax.nn.one_hot(jnp.arange(5), 7)
    kl = lambda l: special.categorical_kl(p - jax.nn.softmax(l), jax.nn.softmax(l)).sum()
    ours = jax.jit(jax.grad(kl))(logits)
    # Terms of up to 88, the logarithm of the least float, cancel.
    np.testing.assert_allclose(ours, jax.nn.softmax(logits) - p, atol=88 * 8 * ULP)


@pytest.mark.parametrize("d", [1, 2, 6])
def test_log_det_divergence(d):
    """The sum of the excess of the eigenvalues of E, which are from 1e-7 to 20, in float64."""
    random = np.random.default_rng(d)
    L = np.tril(random.normal(size=(200, d, d)) * 0.3)
    L[..., range(d), range(d)] = np.exp(L[..., range(d), range(d)])
    L = np.float32(L)
    E = random.normal(size=(200, d, d))
    E = E + np.swapaxes(E, -1, -2)
    size = 10 ** random.uniform(-7, 0, (200, 1, 1))
    E = E * (0.9 * size / np.linalg.norm(E, 2, (-2, -1))[:, None, None])
    E[100:] = 30 * size[100:] * (E @ E)[100:] - 0.5 * np.eye(d)
    D = np.float32(L @ E @ np.swapaxes(L, -1, -2))
    D = (D + np.swapaxes(D, -1, -2)) / 2
    inverse = np.linalg.inv(np.float64(L))
    values = np.linalg.eigvalsh(inverse @ D @ np.swapaxes(inverse, -1, -2))
    exact = exact_excess(values).sum(-1)
    ours = np.asarray(jax.jit(special.log_det_divergence)(as32(D), as32(L)), np.float64)
    assert (ours >= 0).all()
    # E is rounded by its size times the condition of L, and f is of second order in it; more so
    # where the least eigenvalue of I + E, 0.1, is near 0.
    allowed = 10 * ULP * d * np.linalg.cond(np.float64(L)) / np.minimum(1, 1 + values.min(-1))
    assert (np.abs(ours / exact - 1) < allowed).all()


def test_gradient_of_log_det_divergence():
    """By D, along a direction V: tr(L^-1 V L^-T) - tr((L L^T + D)^-1 V), at D = 0 it is 0."""
    random = np.random.default_rng(0)
    L = np.float32([[1.2, 0, 0], [0.3, 0.8, 0], [-0.5, 0.2, 1.5]])
    base = np.float64(L) @ L.T
    V = random.normal(size=(3, 3))
    V = np.float32(V + V.T)
    along_V = jax.jit(jax.grad(lambda s, D: special.log_det_divergence(D + s * V, as32(L))))
    for size in (0.0, 1e-4, 0.1):
        D = np.float32(size * V)
        inverse = np.linalg.inv(base + np.float64(D))
        # The difference of inverses, as a product.
        exact = np.trace(np.linalg.inv(base) @ np.float64(D) @ inverse @ V)
        np.testing.assert_allclose(along_V(0.0, as32(D)), exact, rtol=1e-5, atol=0)
