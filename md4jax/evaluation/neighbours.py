"""Distances between two sets of points, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

BLOCK_BYTES = 2**26  # Of a block of float64; kernels of it have a few beside it.


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Cuts the rows of a float64 table so that each block is of at most `BLOCK_BYTES`."""
    size = max(1, BLOCK_BYTES // (8 * max(1, columns)))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def distance_blocks(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> Iterator[tuple[slice, Float[np.ndarray, "rows m"]]]:
    """Which points of x, and their distances to all y."""
    from scipy.spatial.distance import cdist

    for rows in row_blocks(len(x), len(y)):
        yield rows, cdist(x[rows], y)


def radii(points: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, "n"]:
    """Distance from each point to its k-th nearest other point; k is below n."""
    found = np.empty(len(points))
    for rows, distance in distance_blocks(points, points):
        distance.partition(k, axis=1)  # Place 0 of a sorted row is the point itself.
        found[rows] = distance[:, k]
    return found
