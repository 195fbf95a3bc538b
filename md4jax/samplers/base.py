"""The one sampler: `prior_sample`, a scan of a step function over a time grid, `decode`.

It sees a process and a denoiser `(z_t, t) -> prediction`, never a network, so a Python function
that knows the exact answer can stand in for one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int

from md4jax import rng
from md4jax.options import UserError, option
from md4jax.processes.base import Denoiser, Prediction, Process
from md4jax.samplers.grids import GRIDS, respaced, time_grid
from md4jax.typing import Data, Keys, PyTree, Time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
    """The process's own reverse transition. Other step functions are subclasses.

    They override `move`, or, if they call the denoiser elsewhere than at (z_t, t) or remember
    earlier steps, `memory` and `__call__`.
    """

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
    frames: int = option("Of the film strip from noise to sample that is drawn too; 0 is none.", 0,
                         at_least=0)  # fmt: skip

    def check(self, process: Process) -> None:
        """Raises UserError if this step function or its times cannot serve the process."""
        self.times(process)
        for key, used in (("prompt", self.prompt is not None), ("windows", self.windows > 1)):
            if used and not hasattr(process, "mask_id"):
                raise UserError(
                    f"config.sampler.{key} = {getattr(self, key)!r}: only masked processes draw "
                    f"given a part of the sample, and this is {type(process).__name__}"
                )

    def times(self, process: Process) -> Float64[np.ndarray, "times"]:
        """The times steps go through, from the first down to 0. Raises UserError if impossible."""
        if self.respacing:
            return respaced(process.chain_length, self.respacing)
        return time_grid(self.grid, self.num_steps, process)

    def memory(self, z: Data) -> PyTree:
        """What is handed from step to step beside z, before the first."""
        return ()

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


# z and the step function's memory.
State = tuple[Data, PyTree]
# Values that samples keep, and where: `[b, *s]` each; None is nowhere.
Known = tuple[Data, Bool[Array, "b *s"]] | None


def _keep(known: Known, z: Data) -> Data:
    return z if known is None else jnp.where(known[1], known[0], z)


def _step(process, denoise, step, keys, times, known, state, i) -> State:
    """One step of the grid: from times[i] to times[i + 1]."""
    z, memory = state
    t = jnp.broadcast_to(times[i], z.shape[:1])
    s = jnp.broadcast_to(times[i + 1], z.shape[:1])
    # 0 is the prior's; steps count from 1.
    z, memory = step(process, denoise, rng.fold(keys, i + 1), z, memory, t, s)
    return _keep(known, z), memory


def start(
    process: Process, step: Ancestral, keys: Keys, shape: tuple[int, ...], known: Known = None
) -> State:
    """z_1, from the prior, and the memory before the first step."""
    z = _keep(known, process.prior_sample(rng.fold(keys, 0), shape))
    return z, step.memory(z)


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


def sample(
    process: Process,
    denoise: Denoiser,
    step: Ancestral,
    keys: Keys,
    shape: tuple[int, ...],
    known: Known = None,
) -> Data:
    """Draws samples `[b, *shape]`, one a key.

    Differentiable in whatever `denoise` closes over where the process's draws are.

    Args:
      denoise: `(z_t, t) -> prediction`.
      step: the step function with its grid.
      known: values that samples keep, and where; for masked processes, which then draw the rest
        given these.
    """
    times = jnp.asarray(step.times(process), jnp.float32)

    def body(state: Any, i: Array):
        return _step(process, denoise, step, keys, times, known, state, i), None

    first = start(process, step, keys, shape, known)
    (z, _), _ = jax.lax.scan(body, first, jnp.arange(len(times) - 1))
    return process.decode(denoise, z)


def guided(process: Process, denoise: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """Classifier-free guidance (arXiv:2207.12598), in the usual convention: scale 1 is none."""
    return lambda z_t, t: process.guide(denoise(z_t, t), unconditional(z_t, t), scale)


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
