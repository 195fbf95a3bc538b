"""The features and probabilities of a classifier that was trained here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from md4jax.convert.weights import Origin, as_is, flat
from md4jax.evaluation.features.base import (
    WEIGHTS,
    check_images,
    fingerprint,
    fit,
    precise,
    read_arrays,
)
from md4jax.evaluation.features.classifier.config import ClassifierOptions
from md4jax.networks.towers.classifier import SmallClassifier
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.typing import PyTree

METADATA = "metadata"  # The array of the file that is JSON.
KEYS = ("config", "data_fingerprint", "shape", "levels", "num_classes", "test_accuracy")
WANTED = (
    "a classifier.npz, which python -m md4jax.evaluation.features.classifier "
    "--config=configs/classifier/... trains"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """The layer before the last, and probabilities of the data's classes; see `Features`."""

    dim: int
    rule: str
    fingerprint: str
    params: PyTree
    num_classes: int
    tower: SmallClassifier

    @classmethod
    def load(cls, path: str | None, spec: DataSpec, key: str = WEIGHTS) -> Classifier:
        """See `Features.load`; refuses a classifier of images of another shape or other levels."""
        check_images(spec)
        arrays, given = read_arrays(path, key, WANTED)
        trained = read_metadata(arrays, given)
        images = tuple(trained["shape"]), trained["levels"]
        if images != (spec.shape, spec.vocab_size):
            raise UserError(
                f"{given} was trained on images {images[0]} of {images[1]} levels; the data are "
                f"{spec.shape} of {spec.vocab_size}"
            )
        options = trained["options"]
        tower = options.tower(spec.shape, trained["num_classes"])
        abstract = abstract_params(tower, spec.shape)
        origins = {path: Origin(path, as_is, None) for path in flat(abstract)}
        params = fit(abstract, origins, arrays, (METADATA,), given, "the network it says it is")
        rule = (
            f"classifier of {'x'.join(map(str, spec.shape))} images of {spec.vocab_size} levels: "
            f"2x - 1, {options.features} features of the layer before the last"
        )
        return cls(
            options.features, rule, fingerprint(params), params, trained["num_classes"], tower
        )

    @precise
    def _outputs(self, params: PyTree, images: Array) -> tuple[Array, Array]:
        return self.tower.apply({"params": params}, 2 * images - 1)

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


def abstract_params(tower: SmallClassifier, shape: tuple[int, ...]) -> PyTree:
    """Shapes of the weights."""
    images = jnp.zeros((1, *shape))
    return jax.eval_shape(tower.init, jax.random.key(0), images)["params"]


def read_metadata(arrays: Mapping[str, np.ndarray], given: str) -> dict[str, Any]:
    """What a file says of the classifier in it, with its `options` as they are in `config.py`.

    Args:
      arrays: of the file.
      given: how messages call it.

    Raises:
      UserError: it is no file of a classifier.
    """
    try:
        metadata = json.loads(str(arrays[METADATA]))
        [metadata[key] for key in KEYS]
        return metadata | {"options": ClassifierOptions(**metadata["config"]["classifier"])}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{given} holds no classifier: it should be {WANTED}") from error
