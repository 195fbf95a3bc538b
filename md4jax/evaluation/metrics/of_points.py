"""Metrics of points on a manifold."""

from __future__ import annotations

import math

from md4jax.console import say
from md4jax.evaluation.metrics.base import Metric, Points, too_few
from md4jax.evaluation.nearest_neighbour_kl import K, symmetric_knn_kl
from md4jax.options import UserError


class NearestNeighbourKL(Metric):
    """The symmetric divergence of `nearest_neighbour_kl.py`, nats; infinite for copied points."""

    kind = Points

    def check(self, samples: int, reference: int) -> None:
        too_few("knn_kl", samples, reference, K + 1, f"k = {K} neighbours")

    def __call__(self, samples: Points, reference: Points) -> dict[str, float]:
        try:
            value = symmetric_knn_kl(samples.coordinates, reference.coordinates)
        except UserError as error:  # A model that has collapsed is no reason to end its training.
            say(f"knn_kl: {error}")
            value = math.inf
        return {"knn_kl_nats": value}
