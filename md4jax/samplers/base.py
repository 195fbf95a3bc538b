"""The one sampler: `prior_sample`, a scan of a step function over a time grid, `decode`.

It sees a process and a denoiser `(z_t, t) -> prediction`, never a network, so a Python function
that knows the exact answer can stand in for one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int

from md4jax import rng
from md4jax.options import UserError, option
from md4jax.processes.base import Denoiser, Prediction, Process, pick
from md4jax.samplers.grids import GRIDS, respaced, time_grid
from md4jax.typing import Data, Keys, PyTree, Time, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
    """The process's own reverse transition. Other step functions are subclasses.

    They override `move`, or, if they call the denoiser elsewhere than at (z_t, t) or remember
    earlier steps, `memory` and `__call__`.
    """

    asks_for_errors: ClassVar[bool] = False  # Of guesses, which a finetuned head predicts.

    num_steps: int = option("Steps of the time grid.", 256, at_least=1)
    grid: str = option("How the times are spaced.", "uniform", one_of=tuple(GRIDS))
    respacing: str = option(
        "Improved DDPM's notation for the steps of a chain, 'ddim50', '50' or '10,15,20'; in "
        "place of num_steps and grid.",
        "",
    )
    num_samples: int = option("How many samples.", 64, at_least=1)
    batch_size: int = option("Samples drawn together; changes none of them.", 64, at_least=1)
    seed: int = option("Sample i is a function of (weights, seed, i).", 0, at_least=0)
    label: int | None = option(
        "Class to draw; None goes through all classes in turn.", None, at_least=0
    )
    guidance: float = option(
        "Classifier-free guidance, unconditional + guidance (conditional - unconditional): 1 is "
        "none, 0 ignores the class. Needs a model trained with config.train.label_dropout.",
        1.0,
        at_least=0,
    )
    prompt: str | None = option(
        "A .txt (each █ an unknown token), .png (transparent is unknown) or .npz (tokens, known) "
        "whose known part every sample keeps; for masked processes. None is nothing.",
        None,
    )
    windows: int = option(
        "Texts of so many windows: each goes on from the last `overlap` tokens of the one before; "
        "for masked processes.",
        1,
        at_least=1,
    )
    overlap: int = option("Tokens a window takes over from the one before.", 0, at_least=0)
    reuse: bool = option(
        "Ask the network only if something has changed in the batch since it was last asked; for "
        "networks that are not told the time. Keeps its last answer in memory.",
        False,
    )
    frames: int = option("Of the film strip from noise to sample that is drawn too; 0 is none.", 0,
                         at_least=0)  # fmt: skip

    def check(self, process: Process) -> None:
        """Raises UserError if this step function or its times cannot serve the process."""
        self.times(process)
        used = {"prompt": self.prompt is not None, "windows": self.windows > 1, "reuse": self.reuse}
        for key in (key for key in used if used[key] and not hasattr(process, "mask_id")):
            raise UserError(
                f"config.sampler.{key} = {getattr(self, key)!r}: only masked processes leave a "
                f"part of a sample as it is, and this is {type(process).__name__}"
            )

    def times(self, process: Process) -> Float64[np.ndarray, "times"]:
        """The times steps go through, from the first down to 0. Raises UserError if impossible."""
        if self.respacing:
            return respaced(process.chain_length, self.respacing)
        return time_grid(self.grid, self.num_steps, process)

    def memory(self, z: Data) -> PyTree:
        """What is handed from step to step beside z, before the first."""
        return ()

    def spared_calls(self, process: Process) -> int:
        """Network calls that steps of the grid do without though they could make them."""
        return 0

    def __call__(
        self,
        process: Process,
        denoise: Denoiser,
        keys: Keys,
        z_t: Data,
        memory: PyTree,
        t: Time,
        s: Time,
    ) -> tuple[Data, PyTree]:
        """z_s `[b, *s]` of z_t, and the memory for the next step."""
        return self.move(process, keys, z_t, denoise(z_t, t), t, s), memory

    def move(
        self, process: Process, keys: Keys, z_t: Data, prediction: Prediction, t: Time, s: Time
    ) -> Data:
        """z_s `[b, *s]` given z_t and the prediction of x0."""
        return process.reverse_sample(keys, z_t, prediction, t, s)


def predict_at(
    denoise: Denoiser, z_t: Tokens, t: Time, positions: Int[Array, "b k"]
) -> Float[Array, "b k v"]:
    """The logits of some positions of the flattened z_t; none but these, if the denoiser can."""
    if hasattr(denoise, "at"):
        return denoise.at(z_t, t, positions)
    return pick(denoise(z_t, t), positions)


# z and the step function's memory.
State = tuple[Data, PyTree]
# Values that samples keep, and where: `[b, *s]` each; None is nowhere.
Known = tuple[Data, Bool[Array, "b *s"]] | None


def _keep(known: Known, z: Data) -> Data:
    return z if known is None else jnp.where(known[1], known[0], z)


class _Reused:
    """A denoiser that is asked only if z is another than the last time."""

    def __init__(self, denoise: Denoiser, cache: PyTree):
        self._denoise, self.cache = denoise, cache

    def __call__(self, z_t: Data, t: Time) -> Prediction:
        last, prediction, calls = self.cache
        changed = jnp.any(z_t != last)
        prediction = jax.lax.cond(changed, lambda: self._denoise(z_t, t), lambda: prediction)
        self.cache = z_t, prediction, calls + changed
        return prediction

    @staticmethod
    def empty(denoise: Denoiser, z: Data) -> PyTree:
        """The last z, the prediction for it, and how often each example's network was asked."""
        prediction = jax.eval_shape(denoise, z, jax.ShapeDtypeStruct(z.shape[:1], jnp.float32))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), prediction)
        return jnp.full_like(z, -1), zeros, jnp.zeros(z.shape[0], jnp.int32)


def _step(process, denoise, step, keys, times, known, state, i) -> State:
    """One step of the grid: from times[i] to times[i + 1]."""
    z, memory = state
    if step.reuse:
        memory, cache = memory
        denoise = _Reused(denoise, cache)
    t = jnp.broadcast_to(times[i], z.shape[:1])
    s = jnp.broadcast_to(times[i + 1], z.shape[:1])
    # 0 is the prior's; steps count from 1.
    z, memory = step(process, denoise, rng.fold(keys, i + 1), z, memory, t, s)
    return _keep(known, z), (memory, denoise.cache) if step.reuse else memory


def start(
    process: Process,
    denoise: Denoiser,
    step: Ancestral,
    keys: Keys,
    shape: tuple[int, ...],
    known: Known = None,
) -> State:
    """z_1, from the prior, and the memory before the first step."""
    z = _keep(known, process.prior_sample(rng.fold(keys, 0), shape))
    memory = step.memory(z)
    return z, (memory, _Reused.empty(denoise, z)) if step.reuse else memory


class _Counted:
    """A denoiser that counts how often it is asked."""

    def __init__(self, denoise: Denoiser):
        self._denoise, self.calls = denoise, 0

    def __call__(self, z_t: Data, t: Time) -> Prediction:
        self.calls += 1
        return self._denoise(z_t, t)

    def at(self, z_t: Data, t: Time, positions: Int[Array, "b k"]) -> Prediction:
        self.calls += 1
        return predict_at(self._denoise, z_t, t, positions)

    def errors(self, guess: Tokens, t: Time) -> Float[Array, "b *s"]:
        self.calls += 1
        return self._denoise.errors(guess, t)


def count_calls(
    process: Process, denoise: Denoiser, step: Ancestral, keys: Keys, shape: tuple[int, ...]
) -> tuple[int, int]:
    """How often all steps, if nothing is reused, and decoding ask the denoiser; by tracing one."""
    counted, at_end = _Counted(denoise), _Counted(denoise)
    once = dataclasses.replace(step, reuse=False)

    def first_step(keys):
        state = start(process, counted, once, keys, shape)
        times = jnp.asarray(once.times(process), jnp.float32)
        return _step(process, counted, once, keys, times, None, state, 0)

    (z, _) = jax.eval_shape(first_step, keys)
    jax.eval_shape(lambda z: process.decode(at_end, z), z)
    steps = len(step.times(process)) - 1
    return counted.calls * steps - step.spared_calls(process), at_end.calls


def advance(
    process: Process,
    denoise: Denoiser,
    step: Ancestral,
    keys: Keys,
    times: Float[Array, "times"],
    state: State,
    first: int | Int[Array, ""],
    last: int | Int[Array, ""],
    known: Known = None,
) -> State:
    """Steps `first` to `last - 1` of the grid, whose bounds may be traced: one compilation does."""
    body = lambda i, state: _step(process, denoise, step, keys, times, known, state, i)
    return jax.lax.fori_loop(first, last, body, state)


def path(
    process: Process,
    denoise: Denoiser,
    step: Ancestral,
    keys: Keys,
    shape: tuple[int, ...],
    known: Known = None,
    remember: Callable[[Data], PyTree] = lambda z: None,
    rematerialise: bool = True,
) -> tuple[Data, PyTree]:
    """z_0 `[b, *shape]`, one a key, and `remember(z)` of z at each time before, stacked.

    Differentiable in whatever `denoise` closes over, where the process's draws are.

    Args:
      remember: see above.
      rematerialise: compute each step again for its gradient, whose memory is then that of one
        step, and z of each. If not, all steps are kept, laid out one after another: CPUs are slow
        at gradients in loops.
      process, denoise, step, keys, shape, known: as those of `sample`.
    """
    times = jnp.asarray(step.times(process), jnp.float32)

    def body(state: State, i: Array):
        return _step(process, denoise, step, keys, times, known, state, i), remember(state[0])

    first = start(process, denoise, step, keys, shape, known)
    if rematerialise:  # In a loop XLA cannot merge what is computed twice.
        body = jax.checkpoint(body, prevent_cse=False)
    (z, _), seen = jax.lax.scan(body, first, jnp.arange(len(times) - 1), unroll=not rematerialise)
    return z, seen


def sample(
    process: Process,
    denoise: Denoiser,
    step: Ancestral,
    keys: Keys,
    shape: tuple[int, ...],
    known: Known = None,
) -> Data:
    """Draws samples `[b, *shape]`, one a key.

    Args:
      denoise: `(z_t, t) -> prediction`.
      step: the step function with its grid.
      known: values that samples keep, and where; for masked processes, which then draw the rest
        given these.
    """
    z, _ = path(process, denoise, step, keys, shape, known)
    return process.decode(denoise, z)


@dataclasses.dataclass(frozen=True, eq=False)
class Guided:
    """Classifier-free guidance (arXiv:2207.12598), in the usual convention: scale 1 is none."""

    process: Process
    conditional: Denoiser
    unconditional: Denoiser
    scale: float

    def __call__(self, z_t: Data, t: Time) -> Prediction:
        """The prediction beyond the conditional one."""
        both = self.conditional(z_t, t), self.unconditional(z_t, t)
        return self.process.guide(*both, self.scale)

    def at(self, z_t: Data, t: Time, positions: Int[Array, "b k"]) -> Prediction:
        """The same of some positions."""
        both = (
            predict_at(one, z_t, t, positions) for one in (self.conditional, self.unconditional)
        )
        return self.process.guide(*both, self.scale)

    def errors(self, guess: Tokens, t: Time) -> Float[Array, "b *s"]:
        """What of a guess is wrong, given the class."""
        return self.conditional.errors(guess, t)


def check_label(step: Ancestral, num_classes: int | None, label_dropout: float) -> None:
    """Raises UserError if the class asked for does not exist, or guidance is not possible."""
    if step.guidance != 1 and not (num_classes and label_dropout):
        raise UserError(
            f"config.sampler.guidance = {step.guidance}: the model was trained "
            + (
                "without config.train.label_dropout, so it knows no unconditional prediction; "
                if num_classes
                else "without classes; "
            )
            + "use 1"
        )
    if step.label is not None and step.label >= (num_classes or 0):
        raise UserError(
            f"config.sampler.label = {step.label}: the model has "
            + (f"classes 0 to {num_classes - 1}" if num_classes else "no classes")
        )


def sample_labels(
    step: Ancestral, index: Int[np.ndarray, "b"], num_classes: int | None
) -> np.ndarray | None:
    """The class of each sample: `step.label`, or all classes in turn; None without classes."""
    if num_classes is None:
        return None
    if step.label is not None:
        return np.full(len(index), step.label, np.int32)
    return (index % num_classes).astype(np.int32)
