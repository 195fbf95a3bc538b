"""Features of many images on all devices, and those of a reference kept in a file.

`metrics/reference_<hash>.npz` of a run holds `features` [m, d] and `made_of`, JSON of all that they
depend on: data, split, how many, features, their rule and weights. It is used again where all of it
is the same, and by other runs as `config.eval.reference`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Integer

from md4jax import hosts
from md4jax.console import Interrupted, Progress, say
from md4jax.evaluation.features import FEATURES
from md4jax.evaluation.metrics.base import Images
from md4jax.options import UserError
from md4jax.training.partitioning import batch_sharding, replicated

if TYPE_CHECKING:
    from md4jax.model import Model

# How a damaged file shows.
DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)
# What has to be the same for features of two sets to be compared.
COMPARED = ("features", "rule", "weights", "shape")


class ImageFeatures:
    """The features a config asks for; compiled once."""

    def __init__(self, model: Model, probabilities: bool):
        """Loads the weights.

        Args:
          model: of images.
          probabilities: whether they are wanted as well.

        Raises:
          UserError: there are no weights, or they do not fit.
        """
        options = model.experiment.eval
        self.model, self.size = model, options.batch_size
        self.features = FEATURES[options.features].load(options.weights, model.spec)
        self.of_weights = {
            "features": options.features,
            "rule": self.features.rule,
            "weights": self.features.fingerprint,
            "shape": list(model.spec.shape),
        }
        everywhere = replicated(model.mesh)
        self._params = jax.device_put(self.features.params, everywhere)

        def extract(params, images):
            found = self.features(params, images)
            return found, self.features.probabilities(params, images) if probabilities else None

        self._extract = jax.jit(extract, out_shardings=everywhere)

    def __call__(
        self,
        read: Callable[[np.ndarray], Integer[np.ndarray, "b h w c"]],
        count: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Images:
        """Features of `count` images, each once whatever the batch size and the devices.

        Args:
          read: indices `[b]` to images, of levels.
          count: how many there are.
          should_stop: asked before each batch.

        Raises:
          Interrupted: `should_stop()` became true.
        """
        sharding, highest = batch_sharding(self.model.mesh), self.model.spec.vocab_size - 1
        progress, parts = Progress("features", count), []
        for start in range(0, count, self.size):
            if should_stop():
                raise Interrupted
            index = np.arange(start, start + self.size)
            images = read(np.where(index < count, index, 0)).astype(np.float32) / highest
            parts.append(self._extract(self._params, jax.device_put(images, sharding)))
            jax.block_until_ready(parts[-2:-1])  # One batch is always ready to go.
            progress.update(start)
        progress.end()
        join = lambda *x: np.concatenate([np.asarray(part) for part in x])[:count]
        return Images(*jax.tree.map(join, *parts))


def examples(split: Any, count: int) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """So many examples of a split, evenly spaced, to be read by index, and their number.

    The order of a split may be that of its classes.
    """
    apart = lambda index: index.astype(np.int64) * len(split) // count
    return (lambda index: split.gather(apart(index))["x0"]), count


def reference(
    of: ImageFeatures,
    name: str,
    count: int,
    workdir: pathlib.Path | None,
    should_stop: Callable[[], bool],
) -> Images:
    """Features of a split's examples, from the run's folder if they are there and undamaged.

    Args:
      of: the features.
      name: of the split.
      count: how many examples.
      workdir: where to keep them; None is nowhere.
      should_stop: as of `ImageFeatures`.

    Raises:
      Interrupted: `should_stop()` became true.
    """
    made_of = of.of_weights | {
        "data": of.model.dataset.fingerprint, "split": name, "examples": count,
    }  # fmt: skip
    words = json.dumps(made_of, sort_keys=True)
    path = None
    if workdir is not None:
        digest = hashlib.sha256(words.encode()).hexdigest()[:16]
        path = workdir / "metrics" / f"reference_{digest}.npz"
        if hosts.agree(path.exists()):
            try:
                return hosts.everywhere(lambda: Images(_arrays(path)[0]))
            except hosts.Failed as error:
                say(f"{path} is damaged and made anew ({error})")
    found = of(*examples(of.model.split(name, "config.eval.reference"), count), should_stop)
    if path is not None and hosts.is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")  # Never there by half; ends in .npz.
        np.savez(temporary, features=found.features, made_of=words)
        os.replace(temporary, path)
    return Images(found.features)


def read(path: pathlib.Path) -> tuple[Float[np.ndarray, "m d"], dict[str, Any]]:
    """Features of a reference file, and what they are made of.

    Raises:
      UserError: it cannot be read, or is another kind of file.
    """
    try:
        return _arrays(path)
    except DAMAGE as error:
        raise UserError(
            f"config.eval.reference = '{path}' is no file of reference features, as evaluation "
            f"leaves it in metrics/reference_*.npz ({hosts.one_line(error)})"
        ) from error


def _arrays(path: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
    with np.load(path) as arrays:
        return arrays["features"], json.loads(str(arrays["made_of"]))


def read_checked(path: pathlib.Path, of_weights: dict[str, Any]) -> Images:
    """Features of a reference file that may be compared with a model's samples.

    Raises:
      UserError: it cannot be read, or they are other features.
    """
    features, made_of = read(path)
    other = [
        f"{key}: {made_of.get(key)!r} there, {of_weights[key]!r} here"
        for key in COMPARED
        if made_of.get(key) != of_weights[key]
    ]
    if other:
        raise UserError(
            f"config.eval.reference = '{path}' cannot be compared with these samples; "
            + "; ".join(other)
        )
    return Images(features)
