"""Symmetric positive definite 2 x 2 matrices from published mixtures of Wishart laws.

A. Okhotin et al., "Star-Shaped Denoising Diffusion Probabilistic Models", arXiv:2302.05259,
appendix. They are drawn anew for each (seed, split); nothing is read.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from md4jax.data.base import Dataset, domain_dataset
from md4jax.data.simplex_mixture import mixture
from md4jax.options import option

# (weight, degrees of freedom, mean) of each component; the scale matrix is mean / degrees.
MIXTURES = {
    "m1": (
        (3 / 11, 320, np.array([[10.0, -9.0], [-9.0, 10.0]]) * 400 / 540),
        (4 / 11, 40, np.array([[12.0, 3.0], [3.0, 4.0]]) * 300 / 440),
        (4 / 11, 120, np.array([[6.0, 8.0], [8.0, 25.0]]) * 200 / 720),
    ),
    "u1": ((1.0, 400, np.array([[2.0, -1.5], [-1.5, 2.0]])),),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpdMixture:
    """Drawn symmetric positive definite 2 x 2 matrices: a published mixture of Wishart laws."""

    mixture: str = option("m1 has three components, u1 one.", "m1", one_of=tuple(MIXTURES))
    num_train: int = option("Training examples.", 100_000, at_least=1)
    num_test: int = option("Test examples.", 10_000, at_least=1)
    seed: int = option("Of the draws.", 0, at_least=0)

    def load(self) -> Dataset:
        """Draws the examples."""

        def draw(generator: np.random.Generator, which: int, count: int) -> np.ndarray:
            _, degrees, mean = MIXTURES[self.mixture][which]
            return wishart(generator, degrees, mean / degrees, count)

        weights = [weight for weight, _, _ in MIXTURES[self.mixture]]
        counts = {"train": self.num_train, "test": self.num_test}
        arrays = {
            name: mixture(draw, weights, count, self.seed, number)
            for number, (name, count) in enumerate(counts.items())
        }
        return domain_dataset("spd", arrays, "config.data")


def wishart(
    generator: np.random.Generator, degrees: int, scale: Float[np.ndarray, "2 2"], count: int
) -> Float[np.ndarray, "n 2 2"]:
    """Draws of W(degrees, scale), by Bartlett's decomposition: X = L A Aᵀ Lᵀ, scale = L Lᵀ.

    A is lower triangular, with chi-distributed diagonal (`degrees` and `degrees` - 1) and a normal
    number below.
    """
    A = np.zeros((count, 2, 2))
    A[:, 0, 0] = np.sqrt(generator.chisquare(degrees, count))
    A[:, 1, 1] = np.sqrt(generator.chisquare(degrees - 1, count))
    A[:, 1, 0] = generator.standard_normal(count)
    LA = np.linalg.cholesky(scale) @ A
    return LA @ LA.swapaxes(1, 2)
