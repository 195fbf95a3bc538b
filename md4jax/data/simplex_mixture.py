"""Points of the 3-simplex from published mixtures of Dirichlet laws.

A. Okhotin et al., "Star-Shaped Denoising Diffusion Probabilistic Models", arXiv:2302.05259,
appendix. They are drawn anew for each (seed, split); nothing is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from md4jax.data.base import Dataset, domain_dataset
from md4jax.options import option

LEAST = 1e-6  # Entries are raised to it, so that their logarithms are finite in float32.
# (weight, concentrations) of each component.
MIXTURES = {
    "m1": (
        (3 / 11, (28.0, 1.2, 16.8)),
        (4 / 11, (12.0, 12.2, 2.8)),
        (4 / 11, (6.0, 36.2, 6.8)),
    ),
    "u1": ((1.0, (18.0, 1.2, 13.8)),),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimplexMixture:
    """Drawn points of the 3-simplex: a published mixture of Dirichlet laws."""

    mixture: str = option("m1 has three components, u1 one.", "m1", one_of=tuple(MIXTURES))
    num_train: int = option("Training examples.", 100_000, at_least=1)
    num_test: int = option("Test examples.", 10_000, at_least=1)
    seed: int = option("Of the draws.", 0, at_least=0)

    def load(self) -> Dataset:
        """Draws the examples."""

        def draw(generator: np.random.Generator, which: int, count: int) -> np.ndarray:
            return generator.dirichlet(MIXTURES[self.mixture][which][1], size=count)

        def finish(x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
            x = np.maximum(x, LEAST)
            return x / x.sum(-1, keepdims=True)

        weights = [weight for weight, _ in MIXTURES[self.mixture]]
        counts = {"train": self.num_train, "test": self.num_test}
        arrays = {
            name: finish(mixture(draw, weights, count, self.seed, number))
            for number, (name, count) in enumerate(counts.items())
        }
        return domain_dataset("simplex", arrays, "config.data")


def mixture(
    draw: Callable[[np.random.Generator, int, int], np.ndarray],
    weights: list[float],
    count: int,
    seed: int,
    split: int,
) -> Float[np.ndarray, "n *s"]:
    """Independent draws `[count, *s]` from a mixture, in random order, a function of the numbers.

    Args:
      draw: `(generator, component, n) -> [n, *s]`.
      weights: of the components, summing to one.
      seed: of the data set.
      split: number of the split, so that no two share their draws.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, split]))
    component = generator.choice(len(weights), size=count, p=weights)
    parts = [draw(generator, k, int(np.sum(component == k))) for k in range(len(weights))]
    result = np.empty((count, *parts[0].shape[1:]))
    for k, part in enumerate(parts):
        result[component == k] = part
    return result
