r"""Divergence of two laws from samples of each, by distances to nearest neighbours.

F. Pérez-Cruz, "Kullback-Leibler Divergence Estimation of Continuous Distributions", ISIT 2008;
Q. Wang, S. R. Kulkarni, S. Verdú, "Divergence Estimation for Multidimensional Densities via
k-Nearest-Neighbor Distances", IEEE Trans. Inf. Theory 55(5), 2009. For x_1..x_n ~ p, y_1..y_m ~ q:

  (1)  KL(p || q) ~ ln m - ln(n - 1) + d mean_i(ln nu_k(i) - ln rho_k(i))
  (2)  symmetric: the mean of (1) and of (1) with p and q exchanged

rho_k(i) is the distance of x_i to its k-th nearest other x, nu_k(i) to its k-th nearest y, d the
number of coordinates. Distances are the greatest difference of a coordinate, and k = 10, as in the
experiments of star-shaped diffusion (arXiv:2302.05259, table 1), which measure (2).

(1) may be below zero. For p = q and n = m, in one to three dimensions, its standard deviation is
about 2 / sqrt(k n), and that of (2) 1.5 / sqrt(k n). For p = q there is no bias. Else there is one
that falls slowly with n and has either sign; where p has tails that q lacks, (1) is too small.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from md4jax.options import UserError

K = 10


def coordinates(domain: str, points: Float[np.ndarray, "n *s"]) -> Float[np.ndarray, "n d"]:
    """As many numbers a point as it has dimensions, for (1); float64.

    A divergence is the same in all coordinates, but d in (1) has to be that of the laws: entries
    that follow from others do not count.

    * simplex: all entries but the last, as published.
    * spd: the lower triangle by rows. The published code takes all d^2 entries. The copies change
      no distance, only the d in (1): its values of 2 x 2 matrices are 4/3 of those here.
    * sphere: the tangent vector at the first axis whose geodesic ends at the point. Only near the
      opposite of that axis are neighbours torn apart.
    * circle, positive, interval, real: as they are. On the circle the two ends are not neighbours.

    Args:
      domain: a key of `DOMAINS`.
      points: of the domain. Axes before those of a point, such as `(m, k)`, count as coordinates.
    """
    points = np.asarray(points, np.float64)
    if domain == "simplex":
        points = points[..., :-1]
    elif domain == "spd":
        rows, columns = np.tril_indices(points.shape[-1])
        points = points[..., rows, columns]
    elif domain == "sphere":
        points = _tangent(points)
    return points.reshape(len(points), -1)


def _tangent(points: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k-1"]:
    """Angle to the first axis, times the direction in which the point lies from there."""
    rest = points[..., 1:]
    norm = np.linalg.norm(rest, axis=-1, keepdims=True)
    # On the axis itself any direction will do.
    rest = np.where(norm > 0, rest, np.eye(1, rest.shape[-1])[0])
    angle = np.arctan2(norm, points[..., :1])
    return angle * rest / np.where(norm > 0, norm, 1)


def knn_kl(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], k: int = K) -> float:
    """KL(p || q), nats, by (1).

    Args:
      x: draws of p, in as many coordinates as its law has dimensions.
      y: draws of q.
      k: which neighbour.

    Raises:
      UserError: too few points, one that is not finite, or one with k copies: laws with a density
        have none, and for others (1) is infinite.
    """
    from scipy.spatial import cKDTree

    (n, d), m = x.shape, len(y)
    if not (d and n > k <= m):
        raise UserError(
            f"{n} and {m} points of {d} coordinates: the {k}-th neighbours take at least {k + 1} "
            f"and {k} points, of one coordinate or more"
        )
    for points in (x, y):
        if lost := int((~np.isfinite(points)).any(axis=1).sum()):
            raise UserError(f"{lost} of {len(points)} points have values that are not finite")
    # A point's nearest neighbour in its own set is itself.
    rho = cKDTree(x).query(x, k=[k + 1], p=np.inf)[0]
    nu = cKDTree(y).query(x, k=[k], p=np.inf)[0]
    if copied := int(((rho == 0) | (nu == 0)).sum()):
        raise UserError(
            f"{copied} of {n} points have {k} or more exact copies, in their own set or the other: "
            "their law has no density, and its divergence is no finite number"
        )
    return float(np.log(m / (n - 1)) + d * np.mean(np.log(nu) - np.log(rho)))


def symmetric_knn_kl(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], k: int = K) -> float:
    """(2), nats; see `knn_kl`."""
    return 0.5 * (knn_kl(x, y, k) + knn_kl(y, x, k))
