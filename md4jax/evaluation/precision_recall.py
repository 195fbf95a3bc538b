"""Improved precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def _radii(points: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, "n"]:
    """Distance from each point to its k-th nearest other point."""
    from scipy.spatial.distance import cdist

    # Place 0 of a sorted row is the point itself.
    return np.partition(cdist(points, points), k, axis=1)[:, k]


def precision_recall(
    real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"], k: int = 3
) -> tuple[float, float]:
    """How much of the generated is real, and how much of the real is generated.

    A set's manifold is the union of balls around its points that reach to their k-th neighbour.
    Precision is the share of `generated` on the manifold of `real`, recall the share of `real` on
    the manifold of `generated`. Values depend on n, m and the features: compare only equal ones.

    Args:
      real: features, or pixels, one row an example.
      generated: the same of samples.
    """
    from scipy.spatial.distance import cdist

    distance = cdist(real, generated)  # [n, m]
    precision = (distance <= _radii(real, k)[:, None]).any(axis=0).mean()
    recall = (distance <= _radii(generated, k)[None, :]).any(axis=1).mean()
    return float(precision), float(recall)
