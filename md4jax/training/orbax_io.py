"""Orbax, imported late, silent about its own work and clean after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from absl import logging as absl_logging


class _Quiet(logging.Filter):
    """Drops what Orbax tells of its work, and tracebacks of errors that are raised as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        if "/orbax/" not in record.pathname.replace(os.sep, "/"):
            return True
        return record.levelno >= logging.WARNING and not record.exc_info


_QUIET = _Quiet()


def quiet_orbax() -> Any:
    """Orbax, imported when it is first needed: that takes most of a second."""
    import orbax.checkpoint as ocp

    absl_logging.get_absl_logger().addFilter(_QUIET)  # Once: a filter is not added twice.
    return ocp


class _DrainingLoop(asyncio.SelectorEventLoop):
    """An event loop that lets its tasks end before it closes."""

    def close(self) -> None:
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _DrainingPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _DrainingLoop()


@contextlib.contextmanager
def draining() -> Iterator[None]:
    """Gives Orbax event loops that end properly.

    Its own leaves the loop at the first array that cannot be read, while others are being read:
    a page of tracebacks follows for each, from other threads and at the interpreter's end.
    """
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_DrainingPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
