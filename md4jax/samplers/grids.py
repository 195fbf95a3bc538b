"""Time grids: at which times a sampler stops on its way from 1 to 0."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from md4jax.options import UserError
from md4jax.processes.base import Process
from md4jax.processes.gaussian_math import GaussianBase
from md4jax.processes.gaussian_schedules import space_timesteps

MAX_SIGMA = 80.0  # Where EDM starts: beyond it the cosine schedule has steps that do nothing.


def uniform(process: Process, n: int) -> np.ndarray:
    """Evenly spaced."""
    return np.arange(n + 1) / n


def cosine(process: Process, n: int) -> np.ndarray:
    """Small steps near t = 1, where a linear schedule unmasks many tokens at once (MD4, 4.4)."""
    return np.cos(0.5 * np.pi * (1 - np.arange(n + 1) / n))


def leading(process: Process, n: int) -> np.ndarray:
    """DDIM's uniform subsequence: steps 0, T/n, 2T/n, ... of 0, ..., T - 1, so not the last one.

    Where n does not divide T each step is rounded down; the published code is `strided`.
    """
    total = process.chain_length or n
    _check_length("leading", process, n)
    return np.concatenate([[0], np.arange(n) * total // n + 1]) / total


def strided(process: Process, n: int) -> np.ndarray:
    """Every floor(T / n)-th step of 0, ..., T - 1 from 0 on, as the codes of DDIM and MMD-DDM do.

    Where n does not divide T there are more than n: 16 for n = 15 and T = 1000.
    """
    total = process.chain_length or n
    _check_length("strided", process, n)
    return np.concatenate([[0], np.arange(0, total, total // n) + 1]) / total


def quadratic(process: Process, n: int) -> np.ndarray:
    """Squares: of a chain, DDIM's steps up to 0.8 T; else up to 1."""
    total = process.chain_length
    if total is None:
        return uniform(process, n) ** 2
    _check_length("quadratic", process, n)
    steps = np.floor(np.linspace(0, np.sqrt(0.8 * total), n) ** 2)
    return np.concatenate([[0], steps + 1]) / total


def endpoints(process: Process, n: int) -> np.ndarray:
    """Both the first and the last step of a chain and n - 2 between, as star-shaped diffusion has.

    The distances are the published ones: floor(left / calls left), the last step replaced by T.
    """
    total = process.chain_length or n
    left, steps = total, [1]
    for i in range(n - 1):
        steps.append(steps[-1] + left // (n - 1 - i))
        left -= left // (n - 1 - i)
    return np.array([0, *steps[:-1], total]) / total


def _check_length(name: str, process: Process, n: int) -> None:
    if n == 1 and (process.chain_length or 1) > 1:
        raise UserError(
            f"config.sampler.num_steps = 1 with config.sampler.grid = {name!r}: it begins at the "
            "chain's first step, so its only step would take noise for a sample; use 'uniform'"
        )


def karras(process: Process, n: int) -> np.ndarray:
    """sigma = sqrt(S / A) evenly spaced in sigma^(1/7) (EDM, arXiv:2206.00364, eq. 5).

    From sigma(1), or 80 if that is larger: noise of that variance is all but the prior, and the
    first time below 1. To the noise that is left at time 0; in a chain, where that is none, n times
    lead to the first step's and 0 follows, as in EDM.
    """
    if not isinstance(process, GaussianBase) or process.is_learned:
        raise UserError("config.sampler.grid = 'karras' needs a Gaussian process whose schedule "
                        "is not learned; use 'uniform'")  # fmt: skip
    total = process.chain_length
    times = np.arange(total + 1)[1:] / total if total else np.arange(10_001) / 10_000
    with jax.ensure_compile_time_eval(), np.errstate(divide="ignore"):  # Also called while traced.
        t = jnp.asarray(times, jnp.float32)
        sigma = np.sqrt(np.float64(process.noise_variance(t)) / np.float64(process.alpha_bar(t)))
    high = min(sigma[-1], MAX_SIGMA)
    low = min(sigma[0], high)
    # From the top, so that a single step begins there.
    roots = np.linspace(high ** (1 / 7), low ** (1 / 7), n if total else n + 1)[::-1]
    found = np.interp(np.log(roots**7), np.log(sigma), times)
    if sigma[-1] <= MAX_SIGMA:
        found[-1] = 1.0  # Without the rounding of the seventh power.
    return np.concatenate([[0], found]) if total else found


# Each gives n + 1 increasing times from 0, for a process and n; `strided` may give more.
GRIDS: dict[str, Callable[[Process, int], np.ndarray]] = {
    "uniform": uniform,
    "cosine": cosine,
    "leading": leading,
    "strided": strided,
    "quadratic": quadratic,
    "karras": karras,
    "endpoints": endpoints,
}


def time_grid(name: str, num_steps: int, process: Process) -> Float64[np.ndarray, "times"]:
    """Times from the first down to 0, `num_steps + 1` of them (but see `strided`).

    Of a chain of T steps the nearest multiples of 1/T, all different: the grid has the number of
    steps asked for.

    Raises:
      UserError: the chain has fewer steps.
    """
    total = process.chain_length
    if total is not None and num_steps > total:
        raise UserError(
            f"config.sampler.num_steps = {num_steps}: the process has {total} steps; use at most "
            "as many"
        )
    times = GRIDS[name](process, num_steps)
    times[0] = 0.0
    if total is not None:
        steps, order = np.rint(times * total), np.arange(len(times))
        steps = order + np.maximum.accumulate(steps - order)
        times = np.minimum(steps, total - order[-1] + order) / total
    return times[::-1].copy()


def respaced(chain_length: int | None, respacing: str) -> Float64[np.ndarray, "times"]:
    """Times of the steps that `space_timesteps` keeps. Raises UserError if there are none such."""
    if chain_length is None:
        raise UserError(
            f"config.sampler.respacing = {respacing!r}: the process has no chain of steps; use "
            "num_steps and grid"
        )
    try:
        kept = space_timesteps(chain_length, respacing)
    except UserError as error:
        raise UserError(f"config.sampler.{error}") from None
    return np.array([0, *(k + 1 for k in kept)])[::-1] / chain_length
