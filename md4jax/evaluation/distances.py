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

from md4jax.evaluation.neighbours import margin, row_blocks, squared_blocks, squared_radii

Points = Array | np.ndarray  # [n, d]; kernels are of the type they are given.


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

    def __call__(self, x: Float[Points, "n d"], y: Float[Points, "m d"]) -> Float[Points, "n m"]:
        gamma = 1 / x.shape[1] if self.gamma is None else self.gamma
        return (gamma * (x @ y.T) + self.offset) ** self.degree


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """k(x, y) = exp(-gamma |x - y|^2).

    Attributes:
      gamma: None is 1 / d.
    """

    gamma: float | None = None

    def __call__(self, x: Float[Points, "n d"], y: Float[Points, "m d"]) -> Float[Points, "n m"]:
        gamma = 1 / x.shape[1] if self.gamma is None else self.gamma
        xp = x.__array_namespace__()
        norms = xp.sum(x**2, axis=1)[:, None] + xp.sum(y**2, axis=1) - 2 * x @ y.T
        return xp.exp(-gamma * xp.maximum(norms, 0.0))


def squared_mmd(
    x: Float[Array, "n d"], y: Float[Array, "m d"], kernel: Polynomial | Gaussian
) -> Float[Array, ""]:
    """(2), differentiable in both."""

    def off_diagonal_mean(gram):
        n = gram.shape[0]
        return (jnp.sum(gram) - jnp.trace(gram)) / (n * (n - 1))

    within = off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y))
    return within - 2 * jnp.mean(kernel(x, y))


def mmd_with_error(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], kernel: Polynomial | Gaussian
) -> tuple[float, float]:
    """(2) and its standard error, in float64, a block of pairs at a time.

    The error is the jackknife's: with T_i the value without point i, its square is the sum, over
    both sets, of (n - 1) / n sum_i (T_i - mean T)^2; in the mean that is not below the variance of
    (2) of sets smaller by one (B. Efron, C. Stein 1981).

    Args:
      x: at least three points.
      y: the same.
      kernel: of (2).
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    own_x, own_y = _own_sums(x, kernel), _own_sums(y, kernel)
    cross_x, cross_y = np.empty(n), np.zeros(m)
    for rows in row_blocks(n, m):
        gram = kernel(x[rows], y)
        cross_x[rows] = gram.sum(axis=1)
        cross_y += gram.sum(axis=0)
    within_x, within_y = own_x.sum() / (n * (n - 1)), own_y.sum() / (m * (m - 1))
    cross = cross_x.sum()
    value = within_x + within_y - 2 * cross / (n * m)

    def variance(own, crossing, count, others, rest):
        left = (own.sum() - 2 * own) / ((count - 1) * (count - 2)) + rest
        left -= 2 * (cross - crossing) / ((count - 1) * others)
        return (count - 1) / count * np.sum((left - left.mean()) ** 2)

    square = variance(own_x, cross_x, n, m, within_y) + variance(own_y, cross_y, m, n, within_x)
    return float(value), float(np.sqrt(square))


def _own_sums(x: Float[np.ndarray, "n d"], kernel: Polynomial | Gaussian) -> np.ndarray:
    """sum over j != i of k(x_i, x_j), `[n]`."""
    sums = np.empty(len(x))
    for rows in row_blocks(len(x), len(x)):
        gram = kernel(x[rows], x)
        gram[np.arange(len(gram)), np.arange(rows.start, rows.stop)] = 0
        sums[rows] = gram.sum(axis=1)
    return sums


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
    real = np.asarray(real, np.float64)
    reach, pairs = squared_radii(real, k), 0
    covered = np.zeros(len(real), bool)
    for rows, squared in squared_blocks(real, generated, margin(real.shape[1])):
        within = squared < reach[rows, None]
        pairs += np.count_nonzero(within)
        covered[rows] = within.any(axis=1)
    return float(pairs / (k * len(generated))), float(covered.mean())
