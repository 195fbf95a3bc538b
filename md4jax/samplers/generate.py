"""Samples of a trained model: batches, devices, progress and files around `samplers.base`."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped, UInt

from md4jax import rng
from md4jax.console import Interrupted, Progress
from md4jax.options import UserError
from md4jax.processes.base import Denoiser, Process
from md4jax.samplers import base, prompts
from md4jax.training.partitioning import batch_sharding, replicated
from md4jax.training.state import bind_params, null_label
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.model import Model

REFERENCE_EXAMPLES = 10_000  # Of the data, drawn beside samples on a manifold.
DRAWN = 256  # Images of samples in a grid; more cannot be looked at.
FILM_ROWS = 8  # Samples in a film of images or texts.


@dataclasses.dataclass(frozen=True)
class Film:
    """Frames of some examples.

    Attributes:
      rows: what is shown of each example, one above the other, `[n, frames, *s]` each.
      titles: of each row's frames.
    """

    rows: tuple[Shaped[np.ndarray, "n frames *s"], ...]
    titles: list[list[str]]


def bind_sampler(
    model: Model, params: PyTree, label: Int[jax.Array, "b"] | None
) -> tuple[Process, Denoiser]:
    """The process and the denoiser that a model's sampler asks, guided if that is asked for.

    Args:
      params: as `TrainState.eval_params` holds them.
      label: of each sample, if there are classes.
    """
    process, scale = bind_params(model.process, params), model.experiment.sampler.guidance
    make = model.experiment.finetune.denoiser
    denoise = make(process, model.network, params, label)
    if scale != 1:
        null = jnp.full_like(label, null_label(model.network))
        unconditional = make(process, model.network, params, null)
        denoise = base.Guided(process, denoise, unconditional, scale)
    return process, denoise


# Which samples are drawn, not how.
OF_ANY_SAMPLES = ("num_samples", "seed", "label", "frames", "prompt")


class Generator:
    """Draws the samples a config asks for; compiled once, for any weights.

    Attributes:
      network_calls: how often the network was asked for each of the last samples, on average; the
        decoding is one of these where it asks. With guidance each is two.
    """

    def __init__(self, model: Model):
        self.model = model
        step, shape = model.experiment.sampler, model.spec.shape
        self._times = step.times(model.process)
        times = jnp.asarray(self._times, jnp.float32)
        self.num_steps = len(times) - 1
        self._sharding = batch_sharding(model.mesh)
        self._set(step)

        bind = functools.partial(bind_sampler, model)

        def keys_of(root, index, window):
            keys = rng.example_keys(jax.random.wrap_key_data(root), index)
            # Of one window they are as if there were no such thing.
            return keys if step.windows == 1 else rng.fold(keys, window)

        def start(params, root, index, label, window, known):
            keys = keys_of(root, index, window)
            return base.start(*bind(params, label), step, keys, shape, known)

        def advance(params, state, root, index, label, window, known, first, last):
            bound, keys = bind(params, label), keys_of(root, index, window)
            return base.advance(*bound, step, keys, times, state, first, last, known)

        def decode(params, z, label):
            process, denoise = bind(params, label)
            return process.decode(denoise, z)

        def view(params, z, label, i):
            process, denoise = bind(params, label)
            t = jnp.broadcast_to(times[i], z.shape[:1])
            return process.view(z, t), process.view_prediction(z, denoise(z, t))

        def calls(params, root, index, label):
            return base.count_calls(*bind(params, label), step, keys_of(root, index, 0), shape)

        def views(params, root, x0, times):
            process = bind_params(model.process, params)
            keys = rng.example_keys(jax.random.wrap_key_data(root), jnp.arange(len(x0)))
            return process.forward_views(keys, x0, times)

        self._calls, self._counted = calls, None
        everywhere = replicated(model.mesh)
        self._start = jax.jit(start, out_shardings=self._sharding)
        self._advance = jax.jit(advance, donate_argnums=1, out_shardings=self._sharding)
        self._decode = jax.jit(decode, out_shardings=everywhere)
        self._view = jax.jit(view, out_shardings=everywhere)
        self._views = jax.jit(views)

    def of(self, step: base.Ancestral) -> Generator:
        """The generator of other samples (`OF_ANY_SAMPLES`), drawn by the same programs."""
        other = copy.copy(self)
        other._set(step)
        return other

    def _set(self, step: base.Ancestral) -> None:
        self.step = step
        self._root = self._stream("sample")
        self._known = None
        if step.prompt is not None:
            self._known = prompts.load(step.prompt, self.model.dataset)
        self.network_calls = 0.0  # A sample, of the last samples drawn.
        self._check()

    def _stream(self, name: str) -> UInt[np.ndarray, "words"]:
        """A root key of the seed, as an argument of programs on any number of hosts."""
        return np.asarray(jax.random.key_data(rng.stream(self.step.seed, name)))

    def _batch(self, batch: int) -> tuple[jax.Array, jax.Array | None, np.ndarray | None]:
        """Indices and labels of a batch on the devices, and the labels on the host."""
        size = self.step.batch_size
        index = np.arange(batch * size, (batch + 1) * size, dtype=np.int32)
        labels = base.sample_labels(self.step, index, self.model.spec.num_classes)
        return *jax.device_put((index, labels), self._sharding), labels

    def __call__(
        self, params: PyTree, should_stop: Callable[[], bool] = lambda: False
    ) -> tuple[Shaped[np.ndarray, "n *s"], Int[np.ndarray, "n"] | None]:
        """Samples `[n, *s]`, integers or float32, and their classes `[n]`, if there are classes.

        Raises:
          Interrupted: `should_stop()` became true.
        """
        num_samples, windows = self.step.num_samples, self.step.windows
        num_batches = -(-num_samples // self.step.batch_size)
        progress = Progress("sampling", num_batches * windows * self.num_steps)
        samples, labels, self.network_calls = [], [], 0.0
        for batch in range(num_batches):
            index, label, host_label = self._batch(batch)
            labels.append(host_label)
            parts, known = [], self._known_of(batch)
            for window in range(windows):
                done = (batch * windows + window) * self.num_steps
                tell = lambda last, done=done: progress.update(done + last)
                part = self._window(params, index, label, window, known, tell, should_stop)
                parts.append(part[:, self.step.overlap :] if window else part)
                if window < windows - 1:
                    known = self._taken_over(part)
            samples.append(np.concatenate(parts, axis=1) if windows > 1 else parts[0])
        progress.end()
        self.network_calls /= num_batches
        samples = np.concatenate(samples)[:num_samples]
        if labels[0] is None:
            return samples, None
        return samples, np.concatenate(labels)[:num_samples]

    def compile(self, params: PyTree) -> None:
        """Compiles all that drawing needs, by taking no step; drawing would do it as well."""
        (index, label, _), known = self._batch(0), self._known_of(0)
        state = self._start(params, self._root, index, label, 0, known)
        state = self._advance(params, state, self._root, index, label, 0, known, 0, 0)
        jax.block_until_ready(self._decode(params, state[0], label))

    def _window(self, params, index, label, window, known, tell, should_stop) -> np.ndarray:
        """A batch of samples, of one window of a longer text."""
        of_window = self._root, index, label, window, known
        state = self._start(params, *of_window)
        for first, last in self._chunks(20):
            if should_stop():
                raise Interrupted
            state = self._advance(params, state, *of_window, first, last)
            jax.block_until_ready(state)  # Else the progress would be of what is queued.
            tell(last)
        if self._counted is None:  # Tracing a large network takes seconds.
            self._counted = self._calls(params, self._root, index, label)
        of_steps, of_decoding = self._counted
        if self.step.reuse:
            _, (_, (*_, calls)) = state
            self.network_calls += float(np.mean(calls)) + of_decoding
        else:
            self.network_calls += of_steps + of_decoding
        return np.asarray(self._decode(params, state[0], label))

    def _check(self) -> None:
        """Raises UserError if longer texts, or answers used again, are asked for and cannot be."""
        step, shape = self.step, self.model.spec.shape
        if step.reuse and self.model.network.spec.has_time:
            raise UserError(
                "config.sampler.reuse = True: this network is told the time, so that its answer "
                "changes with each step; use False (or train with process.time_features = 'none')"
            )
        if step.windows > 1 and len(shape) != 1:
            raise UserError(
                f"config.sampler.windows = {step.windows}: only sequences can be gone on with, and "
                f"the data have shape {shape}; use 1"
            )
        if step.overlap and not (step.windows > 1 and step.overlap < shape[0]):
            raise UserError(
                f"config.sampler.overlap = {step.overlap} should be 0, or, with windows, below the "
                f"length of one, {shape[0]}; config.sampler.windows = {step.windows}"
            )

    def _known_of(self, batch: int) -> base.Known:
        """What the samples of a batch keep, on the devices: prompts in turn."""
        if self._known is None:
            return None
        size = self.step.batch_size
        which = np.arange(batch * size, (batch + 1) * size) % len(self._known[0])
        return jax.device_put(tuple(x[which] for x in self._known), self._sharding)

    def _taken_over(self, part: Int[np.ndarray, "b l"]) -> base.Known:
        """The end of a window as the beginning of the next."""
        overlap = self.step.overlap
        tokens = np.zeros_like(part)
        tokens[:, :overlap] = part[:, part.shape[1] - overlap :]
        known = np.broadcast_to(np.arange(part.shape[1]) < overlap, part.shape)
        return jax.device_put((tokens, known), self._sharding)

    def films(self, params: PyTree, kinds: Sequence[str] = ("film", "forward")) -> dict[str, Film]:
        """`film`: how samples come about. `forward`: how data turn into noise. `step.frames` long.

        Of images and texts the first few; of points as many as a batch of samples has.
        """
        rows = min(self.step.num_samples, self.step.batch_size)
        if self.model.spec.vocab_size is not None:
            rows = min(rows, FILM_ROWS)
        make = {"film": self._film, "forward": self._forward}
        return {kind: make[kind](params, rows) for kind in kinds}

    def _film(self, params: PyTree, rows: int) -> Film:
        """z_t above the x0 predicted from it; both end with the sample, which is `__call__`'s."""
        (index, label, _), known = self._batch(0), self._known_of(0)
        state = self._start(params, self._root, index, label, 0, known)
        noisy, predicted, times = [], [], []
        for first, last in self._chunks(max(self.step.frames - 1, 1)):
            for frames, view in zip((noisy, predicted), self._view(params, state[0], label, first)):
                frames.append(np.asarray(view))
            times.append(f"t = {self._times[first]:.2f}")
            state = self._advance(params, state, self._root, index, label, 0, known, first, last)
        sample = np.asarray(self._decode(params, state[0], label))
        stacks = tuple(np.stack([*frames, sample], axis=1)[:rows] for frames in (noisy, predicted))
        titles = [[*times, "sample"], [*(f"predicted, {t}" for t in times), "sample"]]
        return Film(stacks, titles)

    def _forward(self, params: PyTree, rows: int) -> Film:
        """Examples of the data, and what the process makes of them at the film's times."""
        examples = _reference(self.model, rows)
        starts = [first for first, _ in self._chunks(max(self.step.frames - 1, 1))]
        times = self._times[starts][::-1]
        frames = np.asarray(times, np.float32)
        found = self._views(params, self._stream("forward"), examples, frames)
        stacks = [np.asarray(x) for x in jax.device_get(found)]
        stacks = tuple(np.concatenate([examples[:, None], x], axis=1) for x in stacks)
        # A second row is the tail of a star.
        titles = [["data", *(f"{word} = {t:.2f}" for t in times)] for word in ("t", "tail, t")]
        return Film(stacks, titles[: len(stacks)])

    def _chunks(self, pieces: int) -> list[tuple[int, int]]:
        """The grid in at most so many pieces of nearly equal length."""
        ends = np.unique(np.rint(np.linspace(0, self.num_steps, pieces + 1)).astype(int))
        return [(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def draw_samples(
    model: Model, samples: Shaped[np.ndarray, "n *s"], **grid: int | None
) -> np.ndarray | list[str]:
    """Samples as a person looks at them: a uint8 picture `[H, W, 3]` of the first, or texts.

    Args:
      **grid: options of `visualize.image_grid`, for images.
    """
    if model.spec.vocab_size is None:
        from md4jax.visualize_manifolds import draw

        return draw(model.spec.domain or "real", samples, _reference(model))
    if model.dataset.to_text is not None:
        return [model.dataset.to_text(x) for x in samples]
    if model.dataset.levels is None:  # Tokens nobody knows the words of.
        return [" ".join(map(str, x)) for x in samples]
    from md4jax.visualize import image_grid

    return image_grid(samples[:DRAWN], model.spec.vocab_size, **grid)


def draw_film(model: Model, film: Film) -> np.ndarray | list[str]:
    """A film as a picture, its rows one above the other for each sample, or as texts."""
    if model.spec.vocab_size is None:  # A panel has all samples at one time.
        from md4jax.visualize_manifolds import panels

        frames = [x for row in film.rows for x in row.swapaxes(0, 1)]
        titles = [title for row in film.titles for title in row]
        domain, reference = model.spec.domain or "real", _reference(model)
        return panels(domain, frames, titles, rows=len(film.rows), reference=reference)
    rows = np.stack(film.rows, axis=1)
    flat = rows.reshape(-1, *rows.shape[3:])
    if model.dataset.levels is None:
        return draw_samples(model, flat)
    from md4jax.visualize import image_grid

    # MASK is beyond the levels, and grey; in texts it is █.
    levels = model.spec.vocab_size
    return image_grid(np.where(flat < levels, flat, levels // 2), levels, columns=rows.shape[2])


def _reference(model: Model, count: int = REFERENCE_EXAMPLES) -> Shaped[np.ndarray, "n *s"]:
    """Examples that a model did not train on, where there are such, to draw beside samples."""
    split = model.dataset.splits.get("test", model.dataset.splits["train"])
    return split.gather(np.arange(min(len(split), count)))["x0"]


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
