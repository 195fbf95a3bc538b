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
from jaxtyping import Array, Float, Int

from md4jax import rng
from md4jax.options import UserError, option
from md4jax.processes.base import Denoiser, Prediction, Process
from md4jax.typing import Data, Keys, Time

GRIDS = {
    "uniform": lambda tau: tau,
    # Small steps near t = 1, where a linear schedule would unmask many tokens at once (MD4, 4.4).
    "cosine": lambda tau: np.cos(0.5 * np.pi * (1 - tau)),
}


def time_grid(name: str, num_steps: int) -> Float[Array, "times"]:
    """Times from 1 down to 0, `num_steps + 1` of them; made in float64, returned in float32."""
    times = GRIDS[name](np.arange(num_steps, -1, -1) / num_steps)
    times[0], times[-1] = 1.0, 0.0
    return jnp.asarray(times, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
    """The process's own reverse transition. Other step functions are subclasses."""

    num_steps: int = option("Steps of the time grid: network calls a sample.", 256, at_least=1)
    grid: str = option("How the times are spaced.", "uniform", one_of=tuple(GRIDS))
    num_samples: int = option("How many samples.", 64, at_least=1)
    batch_size: int = option("Samples drawn together; changes none of them.", 64, at_least=1)
    seed: int = option("Sample i is a function of (weights, seed, i).", 0, at_least=0)
    label: int | None = option(
        "Class to draw; None goes through all classes in turn.", None, at_least=0
    )

    def check(self, process: object) -> None:
        """Raises UserError if this step function cannot serve the process."""

    def __call__(
        self, process: Process, keys: Keys, z_t: Data, prediction: Prediction, t: Time, s: Time
    ) -> Data:
        """z_s `[b, *s]` given z_t and the prediction of x0."""
        return process.reverse_sample(keys, z_t, prediction, t, s)


def _step(process, denoise, step, keys, times, z, i):
    """One step of the grid: from times[i] to times[i + 1]."""
    t = jnp.broadcast_to(times[i], z.shape[:1])
    s = jnp.broadcast_to(times[i + 1], z.shape[:1])
    # 0 is the prior's; steps count from 1.
    return step(process, rng.fold(keys, i + 1), z, denoise(z, t), t, s)


def start(process: Process, keys: Keys, shape: tuple[int, ...]) -> Data:
    """z_1, from the prior."""
    return process.prior_sample(rng.fold(keys, 0), shape)


def advance(
    process: Process,
    denoise: Denoiser,
    step: Ancestral,
    keys: Keys,
    times: Float[Array, "times"],
    z: Data,
    first: int | Int[Array, ""],
    last: int | Int[Array, ""],
) -> Data:
    """Steps `first` to `last - 1` of the grid, whose bounds may be traced: one compilation does."""
    body = lambda i, z: _step(process, denoise, step, keys, times, z, i)
    return jax.lax.fori_loop(first, last, body, z)


def sample(
    process: Process,
    denoise: Denoiser,
    step: Ancestral,
    keys: Keys,
    shape: tuple[int, ...],
) -> Data:
    """Draws samples `[b, *shape]`, one a key.

    Differentiable in whatever `denoise` closes over where the process's draws are.

    Args:
      denoise: `(z_t, t) -> prediction`.
      step: the step function with its grid.
    """
    times = time_grid(step.grid, step.num_steps)

    def body(z: Any, i: Array):
        return _step(process, denoise, step, keys, times, z, i), None

    z, _ = jax.lax.scan(body, start(process, keys, shape), jnp.arange(step.num_steps))
    return process.decode(denoise, z)


def check_label(step: Ancestral, num_classes: int | None) -> None:
    """Raises UserError if the class asked for does not exist."""
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
