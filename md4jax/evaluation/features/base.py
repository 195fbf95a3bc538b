"""What features of images promise, and how their weights are read.

Features are pure functions of weights and images: `features(features.params, images)` may be
compiled, and differentiated in the images. They are float32 throughout, also where a device would
rather multiply with fewer bits, so that numbers of two machines can be compared.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from md4jax.convert.files import read_file, state_dict
from md4jax.convert.weights import Arrays, Misfit, Origin, flat, lay_out, pieces
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.typing import PyTree

WEIGHTS = "config.eval.weights"  # The config key of a file of weights, if no other is named.


@runtime_checkable
class Features(Protocol):
    """Features of images of one data set.

    Attributes:
      dim: d, features an image.
      rule: how images are resized and normalised and which layer it is, in one line: figures are
        comparable only where it is the same.
      fingerprint: of the weights; see `fingerprint`. Empty if there are none.
      params: arrays, float32.
      num_classes: k, of `ClassFeatures.probabilities`; None if there are none.
    """

    dim: int
    rule: str
    fingerprint: str
    params: PyTree
    num_classes: int | None

    @classmethod
    def load(cls, path: str | None, spec: DataSpec, key: str = WEIGHTS) -> Features:
        """Reads the weights.

        Args:
          path: of the file; None if there is none.
          spec: of the data that the images are of.
          key: the config key that `path` is the value of, for messages.

        Raises:
          UserError: the file is not there or is another, or the data are no such images.
        """

    def __call__(
        self, params: PyTree, images: Float[Array, "b h w c"]
    ) -> Float[Array, "b {self.dim}"]:
        """Features of images in [0, 1]."""


@runtime_checkable
class ClassFeatures(Features, Protocol):
    """Features that come with probabilities of classes."""

    def probabilities(
        self, params: PyTree, images: Float[Array, "b h w c"]
    ) -> Float[Array, "b {self.num_classes}"]:
        """Of images in [0, 1]. Compiled together with the features it is one pass, not two."""


def check_images(spec: DataSpec) -> None:
    """Raises UserError if the data are no images of integer levels, grey or in colour."""
    if len(spec.shape) != 3 or spec.shape[-1] not in (1, 3) or spec.vocab_size is None:
        kind = "real" if spec.vocab_size is None else "integer"
        raise UserError(
            f"config.data has {kind} data of shape {spec.shape}; config.eval.features, "
            "config.finetune.features and classifiers are of images: integers of shape (height, "
            "width, 1 or 3)"
        )


def read_arrays(path: str | None, key: str, wanted: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file by name, and how messages call it.

    Args:
      path: of the file.
      key: the config key that it is the value of.
      wanted: which file it should be, and who publishes or makes it.

    Raises:
      UserError: it is not given, not there, or no file of arrays.
    """
    if path is None:
        raise UserError(f"{key} is missing: it should be {wanted}")
    file, given = pathlib.Path(path).expanduser(), f"{key} = {path!r}"
    if not file.is_file():
        raise UserError(f"{given}: there is no such file; it should be {wanted}")
    return state_dict(read_file(file, given), file.name, given), given


def fit(
    abstract: PyTree,
    origins: Mapping[str, Origin],
    arrays: Arrays,
    ignored: Iterable[str],
    given: str,
    whose: str,
) -> PyTree:
    """The arrays of a file as a network's variables, float32.

    Args:
      abstract: shapes of the variables.
      origins: where each module, or array, is in the file.
      arrays: of the file.
      ignored: patterns of names in the file that are of no use here.
      given: how messages call the file.
      whose: how they call the network.

    Raises:
      UserError: says what is missing, left over or of another shape.
    """
    fitted = pieces(origins, abstract, separator=".")
    try:
        params = lay_out(fitted, abstract, arrays, ignored, given)
    except Misfit as error:
        raise UserError(f"{given} does not fit {whose}: {error}") from error
    return jax.tree.map(jnp.asarray, params)


def fingerprint(params: PyTree) -> str:
    """A sha256 of the weights as float32, under our names: one for all files that hold the same."""
    digest = hashlib.sha256()
    for path, array in sorted(flat(params).items()):
        digest.update(f"{path}{array.shape}".encode())
        digest.update(np.asarray(array, "<f4", order="C").data)
    return digest.hexdigest()[:32]


def in_colour(images: Float[Array, "b h w c"]) -> Float[Array, "b h w 3"]:
    """Grey images with their one channel three times; others as they are."""
    return jnp.broadcast_to(images, (*images.shape[:-1], 3))


def colour_rule(spec: DataSpec) -> str:
    """The words of a rule for `in_colour`."""
    return "grey as three equal channels, " if spec.shape[-1] == 1 else ""


def precise(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with matrix products and convolutions of float32 that are not cut short.

    GPUs and TPUs have shorter numbers for these by default.
    """

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args)

    return wrapped
