r"""Metrics of images, by their features.

Distances and shares are those of `distances.py` and `precision_recall.py`. With p_i the class
probabilities of image i and p their mean over a split of the samples,

  (1)  IS = exp(mean_i KL(p_i || p)), mean and standard deviation over ten splits
       (T. Salimans et al., arXiv:1606.03498, section 4)
  (2)  KID = MMD^2 with the kernel (<x, y> / d + 1)^3 (M. Binkowski et al., arXiv:1801.01401)

The published KID is the mean of (2) over subsets of 1,000; here it is (2) of all pairs, which has
the same mean and a smaller variance, beside its jackknife standard error.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float

from md4jax.evaluation import distances
from md4jax.evaluation.metrics.base import Images, Metric, Setting, too_few
from md4jax.evaluation.precision_recall import precision_recall
from md4jax.options import UserError

SPLITS = 10  # Of (1), as published.


def inception_score(
    probabilities: Float[np.ndarray, "n k"], splits: int = SPLITS
) -> tuple[float, float]:
    """(1): from 1, where all images look alike, to k; mean and standard deviation over splits.

    Args:
      probabilities: of the classes, one row an image.
      splits: consecutive parts of the rows, of nearly equal size.
    """
    scores = []
    for part in np.array_split(np.asarray(probabilities, np.float64), splits):
        mean = part.mean(axis=0)
        # 0 log 0 = 0, and where the mean is 0 every row is.
        ratio = np.divide(part, mean, out=np.ones_like(part), where=part > 0)
        scores.append(np.exp((part * np.log(ratio)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


class OfImages(Metric):
    """What compares features."""

    kind = Images


class FID(OfImages):
    """Frechet distance; it is FID of Inception's features."""

    def check(self, samples: int, reference: int) -> None:
        dim = self.setting.dim
        why = f"covariances of {dim} features of fewer are singular"
        too_few("fid", samples, reference, dim + 1, why)

    def __call__(self, samples: Images, reference: Images) -> dict[str, float]:
        return {"fid": distances.frechet_distance(reference.features, samples.features)}


class LinearMMD(OfImages):
    """Squared MMD, its kernel linear: of the means alone."""

    name: ClassVar[str] = "mmd_linear"
    kernel: ClassVar[distances.Polynomial | distances.Gaussian] = distances.Polynomial(1)

    def check(self, samples: int, reference: int) -> None:
        too_few(self.name, samples, reference, 3, "the jackknife leaves one out of a pair")

    def __call__(self, samples: Images, reference: Images) -> dict[str, float]:
        value, error = distances.mmd_with_error(reference.features, samples.features, self.kernel)
        return {self.name: value, f"{self.name}_standard_error": error}


class CubicMMD(LinearMMD):
    """The same number as KID, beside the other kernels."""

    name = "mmd_cubic"
    kernel = distances.Polynomial(3)


class KID(CubicMMD):
    """(2); it is KID of Inception's features."""

    name = "kid"


class GaussianMMD(LinearMMD):
    """Squared MMD, its kernel exp(-|x - y|^2 / d)."""

    name = "mmd_rbf"
    kernel = distances.Gaussian()


class InceptionScore(OfImages):
    """(1)."""

    uses_reference = False
    uses_probabilities = True

    def __init__(self, setting: Setting):
        super().__init__(setting)
        if setting.num_classes is None:
            raise UserError(
                f"config.eval.metrics has 'inception_score': config.eval.features = "
                f"{setting.options.features!r} tell no classes apart; use features that do"
            )

    def check(self, samples: int, reference: int) -> None:
        if samples < SPLITS:
            raise UserError(
                f"config.eval.metrics has 'inception_score': {samples} samples make no {SPLITS} "
                "splits; use a larger config.sampler.num_samples"
            )

    def __call__(self, samples: Images, reference: Images | None) -> dict[str, float]:
        mean, spread = inception_score(samples.probabilities)
        return {"inception_score": mean, "inception_score_deviation": spread}


class PrecisionRecall(OfImages):
    """Of manifolds of k = 3 neighbours."""

    k: ClassVar[int] = 3

    def check(self, samples: int, reference: int) -> None:
        too_few("precision_recall", samples, reference, self.k + 1, f"k = {self.k} neighbours")

    def __call__(self, samples: Images, reference: Images) -> dict[str, float]:
        values = precision_recall(reference.features, samples.features, self.k)
        return dict(zip(("precision", "recall"), values))


class DensityCoverage(OfImages):
    """Of balls of k = 5 neighbours."""

    k: ClassVar[int] = 5

    def check(self, samples: int, reference: int) -> None:
        too_few("density_coverage", samples, reference, self.k + 1, f"k = {self.k} neighbours")

    def __call__(self, samples: Images, reference: Images) -> dict[str, float]:
        values = distances.density_coverage(reference.features, samples.features, self.k)
        return dict(zip(("density", "coverage"), values))
