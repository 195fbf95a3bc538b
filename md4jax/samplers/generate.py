"""Samples of a trained model: batches, devices, progress and files around `samplers.base`."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Int

from md4jax import rng
from md4jax.console import Interrupted, Progress
from md4jax.samplers import base
from md4jax.training.partitioning import batch_sharding, replicated
from md4jax.training.state import make_denoiser
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.model import Model


class Generator:
    """Draws the samples a config asks for; compiled once, for any weights."""

    def __init__(self, model: Model):
        self.model = model
        self.step = model.experiment.sampler
        self.times = base.time_grid(self.step.grid, self.step.num_steps)
        sharding = batch_sharding(model.mesh)
        shape, process = model.spec.shape, model.process
        key = rng.stream(self.step.seed, "sample")

        def keys_of(index):
            return rng.example_keys(key, index)

        def start(index):
            return base.start(process, keys_of(index), shape)

        def advance(params, z, index, label, first, last):
            denoise = make_denoiser(process, model.network, params, label)
            return base.advance(
                process, denoise, self.step, keys_of(index), self.times, z, first, last
            )

        def decode(params, z, label):
            return process.decode(make_denoiser(process, model.network, params, label), z)

        self._start = jax.jit(start, out_shardings=sharding)
        self._advance = jax.jit(advance, donate_argnums=1, out_shardings=sharding)
        self._decode = jax.jit(decode, out_shardings=replicated(model.mesh))
        self._sharding = sharding

    def __call__(
        self, params: PyTree, should_stop: Callable[[], bool] = lambda: False
    ) -> tuple[Int[np.ndarray, "n *s"], Int[np.ndarray, "n"] | None]:
        """Samples `[n, *s]` and their classes `[n]`, if there are classes.

        Raises:
          Interrupted: `should_stop()` became true.
        """
        step, size = self.step, self.step.batch_size
        num_batches = -(-step.num_samples // size)
        progress = Progress("sampling", num_batches * step.num_steps)
        samples, labels = [], []
        for batch in range(num_batches):
            index = np.arange(batch * size, (batch + 1) * size, dtype=np.int32)
            label = base.sample_labels(step, index, self.model.spec.num_classes)
            labels.append(label)
            index, label = jax.device_put((index, label), self._sharding)
            z = self._start(index)
            for first, last in self._chunks():
                if should_stop():
                    raise Interrupted
                z = self._advance(params, z, index, label, first, last)
                z.block_until_ready()  # Else the progress would be of what is queued.
                progress.update(batch * step.num_steps + last)
            samples.append(np.asarray(self._decode(params, z, label)))
        samples = np.concatenate(samples)[: step.num_samples]
        if labels[0] is None:
            return samples, None
        return samples, np.concatenate(labels)[: step.num_samples]

    def _chunks(self) -> list[tuple[int, int]]:
        """The grid in at most 20 pieces, between which progress and signals are seen."""
        length = -(-self.step.num_steps // 20)
        firsts = range(0, self.step.num_steps, length)
        return [(i, min(i + length, self.step.num_steps)) for i in firsts]


def draw_samples(model: Model, samples: Int[np.ndarray, "n *s"]) -> np.ndarray | list[str]:
    """Samples as a person looks at them: a uint8 picture `[H, W, 3]`, or texts."""
    if model.dataset.to_text is not None:
        return [model.dataset.to_text(x) for x in samples]
    if model.dataset.levels is None:  # Tokens nobody knows the words of.
        return [" ".join(map(str, x)) for x in samples]
    from md4jax.visualize import image_grid

    return image_grid(samples, model.spec.vocab_size)


def save_drawing(path: pathlib.Path, drawing: np.ndarray | list[str]) -> pathlib.Path:
    """Writes a picture as `.png` or texts as `.txt`; returns the path with its ending."""
    from md4jax import visualize

    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(drawing, list):
        path = path.with_name(path.name + ".txt")
        visualize.save_texts(path, drawing)
    else:
        path = path.with_name(path.name + ".png")
        visualize.save_png(path, drawing)
    return path
