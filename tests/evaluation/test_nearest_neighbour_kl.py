"""evaluation/nearest_neighbour_kl.py against published code and divergences in closed form."""

import pathlib

import numpy as np
import pytest
from scipy.special import digamma, gammaln, multigammaln

from md4jax.data.spd_mixture import wishart
from md4jax.evaluation.nearest_neighbour_kl import coordinates, knn_kl, symmetric_knn_kl
from md4jax.options import UserError

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden/star_knn_kl.npz")
N, DRAWS = 2000, 12


def test_published_estimates():
    x, y = GOLDEN["x"], GOLDEN["y"]
    np.testing.assert_allclose(knn_kl(x, y), GOLDEN["kl_xy"], rtol=1e-12)
    np.testing.assert_allclose(symmetric_knn_kl(x, y), GOLDEN["kl_sym"], rtol=1e-12)


def test_by_hand_on_a_line():
    """k = 1: rho = 1, 1, 2 and nu = 1, 2, 3 for m = 2, n = 3."""
    x, y = np.array([[0.0], [1.0], [3.0]]), np.array([[-1.0], [6.0]])
    np.testing.assert_allclose(knn_kl(x, y, k=1), np.log(2 / 2) + np.log(1 * 2 * 3 / 2) / 3)


def gaussians():
    mean, covariance = np.array([0.5, -0.3]), np.array([[2.5, 0.5], [0.5, 1.5]])
    inverse = np.linalg.inv(covariance)
    kl = 0.5 * (np.trace(inverse) + mean @ inverse @ mean - 2 + np.log(np.linalg.det(covariance)))
    p = lambda rng: rng.normal(size=(N, 2))
    return "real", p, lambda rng: rng.multivariate_normal(mean, covariance, size=N), kl


def dirichlets():
    a, b = np.array([9.0, 7.0, 6.0]), np.array([4.0, 5.0, 3.0])
    kl = gammaln(a.sum()) - gammaln(b.sum()) + np.sum(gammaln(b) - gammaln(a))
    kl += np.sum((a - b) * (digamma(a) - digamma(a.sum())))
    return "simplex", lambda rng: rng.dirichlet(a, N), lambda rng: rng.dirichlet(b, N), kl


def wisharts():
    """So narrow that they are nearly Gaussian: wider ones have a large bias."""
    V, W = np.eye(2), np.array([[1.38, 0.05], [0.05, 1.38]])
    M = np.linalg.solve(W, V)
    kl = 0.5 * (400 * (np.trace(M) - 2) - 300 * np.log(np.linalg.det(M)))
    kl += multigammaln(150, 2) - multigammaln(200, 2) + 50 * (digamma(200) + digamma(199.5))
    return "spd", lambda rng: wishart(rng, 400, V, N), lambda rng: wishart(rng, 300, W, N), kl


def uniform(rng):
    x = rng.normal(size=(N, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def towards_the_tear(kappa):
    """Von Mises-Fisher law around the point that is worst for the coordinates of a sphere."""

    def draw(rng):
        u = rng.uniform(size=N)
        cosine = 1 + np.log(u + (1 - u) * np.exp(-2 * kappa)) / kappa
        angle = rng.uniform(-np.pi, np.pi, size=N)
        radius = np.sqrt(1 - cosine**2)
        return np.stack([-cosine, radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    return draw


def spheres():
    """Against the uniform law: ln(kappa / sinh kappa) + kappa coth kappa - 1."""
    kl = np.log(2 / np.sinh(2)) + 2 / np.tanh(2) - 1
    return "sphere", towards_the_tear(2.0), uniform, kl


@pytest.mark.parametrize("case", [gaussians, dirichlets, wisharts, spheres])
def test_divergences_in_closed_form(case):
    """The mean of twelve estimates: within four of its standard errors, and 0.025 for the bias.

    At n = 2000 the bias is 0.010, 0.014, 0.008 and -0.021, with errors of 0.002, each from some
    hundred estimates; at n = 8000 it is half of that.
    """
    domain, p, q, kl = case()
    rng = np.random.default_rng(0)
    draw = lambda law: coordinates(domain, law(rng))
    estimates = [knn_kl(draw(p), draw(q)) for _ in range(DRAWS)]
    error = np.std(estimates, ddof=1) / np.sqrt(DRAWS)
    assert error < 0.012 < kl / 8  # Else this test would be weak.
    assert abs(np.mean(estimates) - kl) < 4 * error + 0.025
    # The same law: zero within four standard errors, of which the module's docstring tells.
    same = [symmetric_knn_kl(draw(p), draw(p)) for _ in range(DRAWS)]
    assert abs(np.mean(same)) < 4 * 1.5 / np.sqrt(10 * N * DRAWS)


def test_copies_of_an_entry_only_change_the_dimension():
    """The four entries of a 2 x 2 matrix have the distances of three: (1) with d = 4."""
    _, p, q, _ = wisharts()
    rng = np.random.default_rng(0)
    x, y = p(rng), q(rng)
    three = knn_kl(coordinates("spd", x), coordinates("spd", y))
    four = knn_kl(x.reshape(N, 4), y.reshape(N, 4))
    offset = np.log(N / (N - 1))
    np.testing.assert_allclose(four - offset, 4 / 3 * (three - offset), rtol=1e-9)


def test_coordinates():
    simplex = np.arange(12.0).reshape(2, 2, 3)  # Two points an example.
    np.testing.assert_array_equal(coordinates("simplex", simplex), [[0, 1, 3, 4], [6, 7, 9, 10]])
    spd = np.array([[[1.0, 2, 4], [2, 3, 5], [4, 5, 6]]])
    np.testing.assert_array_equal(coordinates("spd", spd), [[1, 2, 3, 4, 5, 6]])
    for domain in ("circle", "positive", "interval", "real"):
        np.testing.assert_array_equal(coordinates(domain, np.ones((3, 2))), np.ones((3, 2)))
    # Angles from the first axis, kept in the direction of the point; the end of the chart is pi.
    sphere = np.array([[1, 0, 0], [0, 0, 1], [np.sqrt(0.5), -np.sqrt(0.5), 0], [-1, 0, 0]])
    expected = [[0, 0], [0, np.pi / 2], [-np.pi / 4, 0], [np.pi, 0]]
    np.testing.assert_allclose(coordinates("sphere", sphere), expected, atol=1e-15)


def test_what_has_no_estimate_is_said():
    x = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(UserError, match="10 and 40 points of 2 coordinates: the 10-th"):
        knn_kl(x[:10], x)
    with pytest.raises(UserError, match="1 of 40 points have values that are not finite"):
        knn_kl(np.where(np.arange(40)[:, None] == 3, np.nan, x), x + 1)
    y = x + 1
    y[:10] = x[0]
    with pytest.raises(UserError, match="1 of 40 points have 10 or more exact copies"):
        knn_kl(x, y)
    x[5:16] = x[5]
    with pytest.raises(UserError, match="11 of 40 points have 10 or more exact copies"):
        symmetric_knn_kl(x, np.random.default_rng(1).normal(size=(40, 2)))
