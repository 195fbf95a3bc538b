"""What a person at the shell sees: one line at a time, from one process."""

from __future__ import annotations

import datetime
import signal
import sys
import time
from collections.abc import Callable
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


def in_place() -> Callable[[str], None] | None:
    """In a notebook, shows a line in place of the one it showed before; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if not hasattr(shell, "kernel"):
        return None
    handle = None

    def show(line: str) -> None:
        nonlocal handle
        data = {"text/plain": line}
        if handle is None:
            handle = ipython.display.display(data, raw=True, display_id=True)
        else:
            handle.update(data, raw=True)

    return show


class Progress:
    """Says how far long work is, at most every few seconds, with the time it still takes.

    In a notebook in one line, which `end` takes away.
    """

    def __init__(self, what: str, total: int, every_seconds: float = 5.0):
        self.what, self.total = what, total
        self.show = in_place()
        self.every = min(every_seconds, 0.5) if self.show else every_seconds
        self.started = self.last = time.monotonic()

    def update(self, done: int) -> None:
        """Says that `done` of `total` parts are finished."""
        now = time.monotonic()
        if now - self.last < self.every or not done:
            return
        self.last = now
        left = (now - self.started) * (self.total - done) / done
        line = f"{self.what}: {done}/{self.total}, {duration(left)} left"
        self.show(line) if self.show else say(line)

    def end(self) -> None:
        """Nothing is left to wait for."""
        if self.show and self.last > self.started:
            self.show("")


class Bar:
    """A bar with a note, written over in a notebook and in a terminal; elsewhere a few lines.

    What is shown last stays.
    """

    WIDTH = 30

    def __init__(self, what: str, total: int):
        self.what, self.total = what, total
        self.show = in_place() or (self._over if sys.stdout.isatty() else say)
        self.every = 5.0 if self.show is say else 0.2
        self.started = self.last = time.monotonic()

    @staticmethod
    def _over(line: str) -> None:
        print(f"\r{line}\x1b[K", end="", flush=True)

    def update(self, done: int, note: Callable[[], str]) -> None:
        """Says that `done` of `total` parts are finished; the note is asked for only if shown."""
        now = time.monotonic()
        if now - self.last < self.every:
            return
        what = note()  # It may have to wait for the device.
        self.last = now = time.monotonic()
        left = duration((now - self.started) * (self.total - done) / done)
        self.show(f"{self._line(done)}  {what}  {left} left")

    def end(self, done: int, note: str) -> None:
        """Says what has come of it."""
        self.show(f"{self._line(done)}  {note}")
        if self.show is self._over:
            print()

    def _line(self, done: int) -> str:
        full = self.WIDTH * done // max(self.total, 1)
        return f"{self.what} {'█' * full}{'░' * (self.WIDTH - full)} {done}/{self.total}"


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
