"""Squared distances between two sets of points, a block of rows at a time.

They are |x|^2 + |y|^2 - 2 <x, y>, in float64: matrix products are much faster than differences. Its
rounding is small beside |x|^2 + |y|^2, not beside the distance, so that of exact copies is not
quite 0, and one pair has not quite the same distance in two tables. What asks whether a point is in
a ball does so with a margin: see `margin`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

BLOCK_BYTES = 2**26  # Of a block of float64; kernels of it have a few beside it.


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Cuts the rows of a float64 table so that each block is of at most `BLOCK_BYTES`."""
    size = max(1, BLOCK_BYTES // (8 * max(1, columns)))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def margin(dim: int) -> float:
    """Share of |x|^2 + |y|^2 by which a squared distance has to pass a squared radius to count.

    A sum of d products is off by at most d u of the sum of their sizes, u = 2^-53, and so a squared
    distance by (2 d + 4) u (|x|^2 + |y|^2). A squared radius at x that is equal to it, to a point
    z, is off by as much of |x|^2 + |z|^2, which is at most 6 (|x|^2 + |y|^2), for |z| <= 2 |x| +
    |y|. Seven times the first are 14 (d + 2) u; 16 leave room for what is rounded twice. For the
    2,048 features of Inception that is 4e-12: points whose distance is below 3e-6 of their norms
    count as copies.
    """
    return 16 * (dim + 2) * 2.0**-53


def squared_blocks(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], slack: float = 0.0
) -> Iterator[tuple[slice, Float[np.ndarray, "rows m"]]]:
    """Which points of x, and their squared distances to all y; may be a little below 0.

    Args:
      x: float64, or it is converted.
      y: the same.
      slack: share of |x|^2 + |y|^2 that is added. Take that of `<=` as -`margin`: ties are inside.
        Take that of `<` as `margin`: they are outside.
    """
    x, y = (np.asarray(z, np.float64) for z in (x, y))
    of_x, of_y = ((1 + slack) * np.einsum("nd,nd->n", z, z) for z in (x, y))
    for rows in row_blocks(len(x), len(y)):
        squared = (-2 * x[rows]) @ y.T
        squared += of_x[rows, None]
        squared += of_y
        yield rows, squared


def squared_radii(points: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, "n"]:
    """Squared distance from each point to its k-th nearest other point; k is below n."""
    found = np.empty(len(points))
    for rows, squared in squared_blocks(points, points):
        squared.partition(k, axis=1)  # Place 0 of a sorted row is the point itself.
        found[rows] = squared[:, k]
    return np.maximum(found, 0)
