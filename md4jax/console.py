"""What a person at the shell sees: one line at a time, from one process."""

from __future__ import annotations

import datetime
import signal
import time
from types import FrameType

import jax

from md4jax.hosts import is_first


def say(line: str) -> None:
    """Prints a line, on the first process only."""
    if is_first():
        print(line, flush=True)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(datetime.timedelta(seconds=round(seconds)))


class Progress:
    """Prints how far long work is, at most every few seconds, with the time it still takes."""

    def __init__(self, what: str, total: int, every_seconds: float = 5.0):
        self.what, self.total, self.every = what, total, every_seconds
        self.started = self.last = time.monotonic()

    def update(self, done: int) -> None:
        """Says that `done` of `total` parts are finished."""
        now = time.monotonic()
        if now - self.last < self.every or not done:
            return
        self.last = now
        left = (now - self.started) * (self.total - done) / done
        say(f"{self.what}: {done}/{self.total}, {duration(left)} left")


class StopSignal:
    """Turns SIGTERM and the first Ctrl-C into a flag, so that the run can save before it ends.

    `with StopSignal() as stop: ... if stop.requested: ...`. A second Ctrl-C interrupts at once.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self) -> StopSignal:
        self._previous = {}
        if jax.process_count() > 1:  # JAX passes SIGTERM on to all hosts: `hosts.preempted`.
            return self
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # Not the main thread (a notebook's worker): signals stay as they are.
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        say(f"{signal.Signals(number).name}: stopping")


class Interrupted(Exception):
    """Long work ended early because a stop was asked for."""
