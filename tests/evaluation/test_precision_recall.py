"""evaluation/precision_recall.py on sets whose values are known by hand."""

import numpy as np

from md4jax.evaluation.precision_recall import precision_recall


def test_by_hand_on_a_line():
    """k = 1; radii of real 0, 1, 3 are 1, 1, 2: its manifold is [-1, 5]."""
    real = np.array([[0.0], [1.0], [3.0]])
    generated = np.array([[-1.5], [-0.5], [4.9], [5.1]])
    # Radii of generated: 1, 1, 0.2, 0.2: [-2.5, 0.5] and [4.7, 5.3] hold only 0.
    assert precision_recall(real, generated, k=1) == (0.5, 1 / 3)


def test_equal_sets_and_far_sets():
    points = np.random.default_rng(0).normal(size=(50, 4))
    assert precision_recall(points, points) == (1.0, 1.0)
    assert precision_recall(points, points + 100) == (0.0, 0.0)


def test_a_collapsed_generator_has_precision_without_recall():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 2))
    precision, recall = precision_recall(real, 0.01 * rng.normal(size=(300, 2)))
    assert precision > 0.95 and recall < 0.05
