"""Several hosts as one: who writes, and how all come to the same decision."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from md4jax.options import UserError

T = TypeVar("T")


def join() -> None:
    """Makes this process one of several, before anything else is done with jax.

    On TPU pods, Slurm and Open MPI jax finds out by itself; elsewhere the environment tells:
    JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    Raises:
      UserError: jax cannot tell which hosts there are, or does not reach them.
    """
    numbers = {}
    for name, variable in (
        ("num_processes", "JAX_NUM_PROCESSES"),
        ("process_id", "JAX_PROCESS_ID"),
    ):
        value = os.environ.get(variable)
        if value is not None and not value.isdecimal():
            raise UserError(f"{variable} = {value!r} should be a number")
        numbers[name] = None if value is None else int(value)
    try:
        jax.distributed.initialize(**numbers)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--distributed: {one_line(error)}") from error


def is_first() -> bool:
    """Whether this is the process that prints and writes what only one may."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """The first process's answer, on every process; all must ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def preempted(step: int) -> bool:
    """Whether some host was told to stop and all are to do so after this step.

    To be asked once a step. A host alone sees signals by itself (`console.StopSignal`).
    """
    if jax.process_count() == 1:
        return False
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if len(lines[0]) <= 160 else lines[0][:160] + "..."
    return f"{type(error).__name__}: {text}"


class Failed(Exception):
    """Something did not succeed on every process; the message says why, on one line."""


def everywhere(call: Callable[[], T]) -> T:
    """`call()`, if it succeeds on every process; none returns before all have called.

    Raises:
      Failed: on all processes alike, so that all go on the same way.
    """
    result, reason = None, None
    try:
        result = call()
    except Failed as error:
        reason = str(error)
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise  # Nothing is wrong with the step.
        reason = one_line(error)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        whole = multihost_utils.process_allgather(np.asarray(reason is None))
        if not whole.all():
            reason = reason or "it failed on another process"
    if reason is not None:
        raise Failed(reason)
    return result


def of_first(numbers: list[int]) -> list[int]:
    """The numbers that process 0 gives."""
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    if count == 0:
        return []
    padded = np.resize(np.asarray(numbers, np.int32), count)
    return [int(n) for n in multihost_utils.broadcast_one_to_all(padded)]
