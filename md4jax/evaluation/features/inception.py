"""Features of Inception-v3: the last pool's, of which the Frechet Inception distance is made.

FID: M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, arXiv:1706.08500; Inception
score: T. Salimans et al., arXiv:1606.03498. Weights are those of TensorFlow's
`inception-2015-12-05` as https://github.com/mseitzer/pytorch-fid publishes them:
`pt_inception-2015-12-05-6726825d.pth`, of its release `fid_weights`. Its rule is taken too: images
in [0, 1] to 299 x 299 bilinearly, then 2x - 1. (TensorFlow's code resizes after another rule, and
clean-fid with antialiasing: their figures differ.)

Probabilities are of logits without the last layer's bias, as the published code of the Inception
score has them (and torch-fidelity's `logits_unbiased`).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.convert.weights import TORCH, Origin, as_is, flat
from md4jax.evaluation.features.base import (
    WEIGHTS,
    check_images,
    colour_rule,
    fingerprint,
    fit,
    in_colour,
    precise,
    read_arrays,
)
from md4jax.evaluation.features.resize import resize
from md4jax.networks.towers.inception import CLASSES, FEATURES, SMALLEST, InceptionV3
from md4jax.processes.base import DataSpec
from md4jax.typing import PyTree

PUBLISHED = InceptionV3()
SIZE = 299
WANTED = (
    "pt_inception-2015-12-05-6726825d.pth, which the project pytorch-fid publishes "
    "(https://github.com/mseitzer/pytorch-fid, release fid_weights)"
)
SUFFIXES = TORCH | {("mean", 1): ("running_mean", as_is), ("var", 1): ("running_var", as_is)}
# Training's count of batches; the bias that the Inception score leaves out.
IGNORED = (r".*\.num_batches_tracked", r"fc\.bias")


@dataclasses.dataclass(frozen=True, eq=False)
class Inception:
    """2,048 means over the last block's pixels, and 1,008 probabilities; see `Features`."""

    rule: str
    fingerprint: str
    params: PyTree
    tower: InceptionV3 = PUBLISHED
    size: int = SIZE
    num_classes: ClassVar[int] = CLASSES

    @property
    def dim(self) -> int:
        """d."""
        return FEATURES // self.tower.divisor

    @classmethod
    def load(
        cls,
        path: str | None,
        spec: DataSpec,
        key: str = WEIGHTS,
        tower: InceptionV3 = PUBLISHED,
        size: int = SIZE,
    ) -> Inception:
        """See `Features.load`; a tower may be given, of other sizes than the published."""
        check_images(spec)
        arrays, given = read_arrays(path, key, WANTED)
        abstract = abstract_variables(tower)
        params = fit(
            abstract, origins(abstract), arrays, IGNORED, given, "Inception-v3 of pytorch-fid"
        )
        rule = (
            f"Inception-v3 of pytorch-fid: {colour_rule(spec)}bilinear to {size} x {size} without "
            f"antialiasing, 2x - 1, {FEATURES // tower.divisor} features of the last pool"
        )
        return cls(rule, fingerprint(params), params, tower, size)

    @precise
    def _outputs(self, params: PyTree, images: Array) -> tuple[Array, Array]:
        images = resize(in_colour(images), self.size, "bilinear")
        return self.tower.apply(params, 2 * images - 1)

    def __call__(
        self, params: PyTree, images: Float[Array, "b h w c"]
    ) -> Float[Array, "b {self.dim}"]:
        """See `Features`."""
        return self._outputs(params, images)[0]

    def probabilities(
        self, params: PyTree, images: Float[Array, "b h w c"]
    ) -> Float[Array, "b {self.num_classes}"]:
        """See `ClassFeatures`."""
        return jax.nn.softmax(self._outputs(params, images)[1])


def abstract_variables(tower: InceptionV3) -> PyTree:
    """Shapes of the weights, and of the stored means and variances."""
    images = jnp.zeros((1, SMALLEST, SMALLEST, 3))
    return jax.eval_shape(tower.init, jax.random.key(0), images)


def origins(variables: PyTree) -> dict[str, Origin]:
    """By our names, where all is: modules are named as published, after their collection."""
    modules = {path.rpartition("/")[0] for path in flat(variables)}
    return {
        module: Origin(module.partition("/")[2].replace("/", "."), suffixes=SUFFIXES)
        for module in modules
    }
