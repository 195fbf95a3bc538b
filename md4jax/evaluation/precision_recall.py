"""Improved precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from md4jax.evaluation.neighbours import margin, squared_blocks, squared_radii


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
    real, generated = (np.asarray(z, np.float64) for z in (real, generated))
    of_real, of_generated = squared_radii(real, k), squared_radii(generated, k)
    precise = np.zeros(len(generated), bool)
    recalled = np.zeros(len(real), bool)
    for rows, squared in squared_blocks(real, generated, -margin(real.shape[1])):
        precise |= (squared <= of_real[rows, None]).any(axis=0)
        recalled[rows] = (squared <= of_generated).any(axis=1)
    return float(precise.mean()), float(recalled.mean())
