"""evaluation/distances.py against published values, closed forms and laws that are known."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.evaluation.distances import (
    Gaussian,
    Polynomial,
    density_coverage,
    frechet_distance,
    squared_mmd,
)

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "gaussian_mmd.npz")
KERNELS = {
    "linear": Polynomial(1),
    "quadratic": Polynomial(2),
    "cubic": Polynomial(3),
    "cubic_gamma0.1_coef0": Polynomial(3, 0.1, 0.0),
    "rbf": Gaussian(),
    "rbf_gamma0.5": Gaussian(0.5),
}


@pytest.mark.parametrize("name", KERNELS)
def test_mmd_is_the_published_one(name):
    """Values and gradients of the published estimator, in float32."""
    x, y = (jnp.asarray(GOLDEN[f"{z}_features"], jnp.float32) for z in "xy")
    kernel = KERNELS[name]
    scale = float(jnp.abs(kernel(x, x)).max())
    # 64 entries a Gram matrix, rounded at the size of the largest.
    np.testing.assert_allclose(
        squared_mmd(x, y, kernel), GOLDEN[name], rtol=1e-4, atol=3e-6 * scale
    )
    gradient = jax.grad(squared_mmd)(x, y, kernel)
    expected = GOLDEN[f"{name}_grad_x"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_mmd_is_without_bias():
    """Of one law its mean is 0: 400 pairs of batches, within 4.5 standard errors."""
    pairs = jax.random.normal(jax.random.key(0), (400, 2, 8, 3))
    values = np.asarray(jax.vmap(lambda p: squared_mmd(p[0], p[1], Polynomial()))(pairs))
    assert abs(values.mean()) < 4.5 * values.std() / 20
    moved = np.asarray(jax.vmap(lambda p: squared_mmd(p[0] + 1, p[1], Polynomial()))(pairs))
    assert moved.mean() > 4.5 * moved.std() / 20


def test_frechet_distance_of_diagonal_covariances():
    """Points with exactly given means and covariances: |m|^2 + sum (s - r)^2."""

    def points(mean, deviation):
        corners = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)], float)
        return mean + corners * deviation * np.sqrt(3 / 4)  # np.cov divides by n - 1.

    x, y = points([0.0, 1.0], [1.0, 2.0]), points([3.0, 1.0], [2.0, 0.5])
    assert frechet_distance(x, y) == pytest.approx(9 + 1 + 2.25)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_against_a_matrix_square_root():
    import scipy.linalg

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(60, 4)) + 1
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    # Fewer points than dimensions: a singular covariance.
    assert np.isfinite(frechet_distance(x[:3], y))


def test_density_and_coverage():
    """One law: about 1, and 1 - 2^-k for n = m in the limit; another: 0; one place: not covered."""
    rng = np.random.default_rng(0)
    real, same = rng.normal(size=(2, 1000, 2))
    density, coverage = density_coverage(real, same)
    assert abs(density - 1) < 0.1 and abs(coverage - (1 - 2**-5)) < 0.03
    assert density_coverage(real, same + 100) == (0.0, 0.0)
    density, coverage = density_coverage(real, 0.05 * same)
    assert density > 0.5 and coverage < 0.2
