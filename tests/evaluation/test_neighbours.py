"""evaluation/neighbours.py: distances against SciPy, and ties, which rounding must not decide."""

import numpy as np
from scipy.spatial.distance import cdist

from md4jax.evaluation.distances import density_coverage
from md4jax.evaluation.neighbours import margin, squared_blocks, squared_radii
from md4jax.evaluation.precision_recall import precision_recall


def points(n, seed=0):
    """Far from the origin, where norms are large beside distances; float32 as of networks."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 300)) + 10).astype(np.float32)


def test_distances_are_scipys():
    """To the rounding that `margin` is over seven times of."""
    x, y = points(20), points(30, seed=1)
    ((rows, squared),) = squared_blocks(x, y)
    assert rows == slice(0, 20)
    norms = (x.astype(np.float64) ** 2).sum(1)[:, None] + (y.astype(np.float64) ** 2).sum(1)
    assert np.all(np.abs(squared - cdist(x, y, "sqeuclidean")) < margin(300) / 7 * norms)
    expected = np.sort(cdist(x, x, "sqeuclidean"))[:, 3]
    np.testing.assert_allclose(squared_radii(x, 3), expected, rtol=1e-10)


def test_copies_are_in_a_ball_of_no_radius():
    """Each point five times, so that the fourth neighbour is a copy; one set in another order.

    `<=` holds where all are copies, `<` does not. Other points are on none of the balls.
    """
    real = np.repeat(points(20), 5, axis=0)
    copies = real[np.random.default_rng(1).permutation(100)]
    assert precision_recall(real, copies) == (1.0, 1.0)
    assert density_coverage(real, copies, k=4) == (0.0, 0.0)
    others = np.repeat(points(20, seed=2), 5, axis=0)
    assert precision_recall(real, others) == (0.0, 0.0)


def test_a_ball_does_not_reach_its_own_radius():
    """A set against its copies: each ball holds the point and k - 1 others, not the k-th."""
    real = points(100)
    copies = real[np.random.default_rng(1).permutation(100)]
    assert density_coverage(real, copies, k=5) == (1.0, 1.0)
    assert precision_recall(real, copies) == (1.0, 1.0)


def test_far_samples_do_not_blur_the_others():
    """One sample that has gone astray leaves the others' distances as they are."""
    real, drawn = points(40), points(40, seed=1)
    expected = precision_recall(real, drawn)
    drawn = np.concatenate([drawn, np.full((1, 300), 1e30, np.float32)])
    precision, recall = precision_recall(real, drawn)
    assert 0 < expected[0] < 1
    assert precision == expected[0] * 40 / 41
    # The astray one's ball holds all.
    assert recall == 1
