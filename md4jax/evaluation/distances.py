r"""How far samples are from data, by features of both.

With features x of data `[n, d]` and y of samples `[m, d]`,

  (1)  Frechet distance  |mean x - mean y|^2 + tr(X + Y - 2 (X^1/2 Y X^1/2)^1/2),  X, Y covariances
       (FID if the features are Inception's: M. Heusel et al., arXiv:1706.08500)
  (2)  MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
       (A. Gretton et al. 2012, without bias, so it may be below 0; KID with the cubic kernel of
       Inception's features: M. Binkowski et al., arXiv:1801.01401)
  (3)  density = share of (sample, data) pairs in the k-th neighbour's ball of the data point, over
       k; coverage = share of data points that have a sample in their ball
       (M. F. Naeem et al., arXiv:2002.09797)

Values depend on features, n and m: compare only equal ones.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """k(x, y) = (gamma <x, y> + offset)^degree; degree 3 is KID's, degree 1 is linear.

    Attributes:
      degree: of the polynomial.
      gamma: None is 1 / d.
      offset: what is added.
    """

    degree: int = 3
    gamma: float | None = None
    offset: float = 1.0

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        gamma = 1 / x.shape[1] if self.gamma is None else self.gamma
        return (gamma * (x @ y.T) + self.offset) ** self.degree


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """k(x, y) = exp(-gamma |x - y|^2).

    Attributes:
      gamma: None is 1 / d.
    """

    gamma: float | None = None

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        gamma = 1 / x.shape[1] if self.gamma is None else self.gamma
        norms = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1) - 2 * x @ y.T
        return jnp.exp(-gamma * jnp.maximum(norms, 0.0))


def squared_mmd(
    x: Float[Array, "n d"], y: Float[Array, "m d"], kernel: Polynomial | Gaussian
) -> Float[Array, ""]:
    """(2), differentiable in both."""

    def off_diagonal_mean(gram):
        n = gram.shape[0]
        return (jnp.sum(gram) - jnp.trace(gram)) / (n * (n - 1))

    within = off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y))
    return within - 2 * jnp.mean(kernel(x, y))


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """(1), in float64, by eigenvalues: no complex square roots, and none of negative numbers."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    difference = x.mean(axis=0) - y.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ second @ root)
    cross = np.sqrt(np.maximum(product, 0)).sum()
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * cross)


def density_coverage(
    real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"], k: int = 5
) -> tuple[float, float]:
    """(3); where data and samples have one law, density is about 1 and coverage nearly so."""
    from scipy.spatial.distance import cdist

    # Place 0 of a sorted row is the point itself.
    radii = np.partition(cdist(real, real), k, axis=1)[:, k]
    within = cdist(real, generated) < radii[:, None]
    return float(within.sum() / (k * len(generated))), float(within.any(axis=1).mean())
