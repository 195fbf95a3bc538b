"""What a run writes down while it goes: numbers, pictures and texts.

Numbers go to JSON lines, which are the record of the run, and to TensorBoard event files, which
are a view of it:

  metrics/train.jsonl        a line a logged step
  metrics/eval.jsonl         a line an evaluation, with its `source`: "train" or "evaluate"
  metrics/superseded.jsonl   lines that a resumed run writes again, and half-written ones
  events.out.tfevents.*      the same numbers, pictures and texts

A float reads back bit for bit. JSON has no word for NaN and the infinities: they are the strings
"nan", "inf" and "-inf", so that `float(value)` is right for every number.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from md4jax.options import UserError

FLUSH_SECONDS = 10  # TensorBoard is that late, at most.


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; arrays of one number become that number."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _step_of(line: str) -> tuple[Any, int | None]:
    """A line's object and step; the line itself and None if it is not whole."""
    try:
        parsed = json.loads(line)
        return parsed, int(parsed["step"])
    except (ValueError, KeyError, TypeError):
        return line, None


class MetricWriter:
    """Writes to the folder of a run; on processes other than the first it does nothing."""

    def __init__(self, workdir: str | os.PathLike):
        """Writes nothing yet; folders and files are made with the first line."""
        self._workdir = pathlib.Path(workdir)
        self._metrics = self._workdir / "metrics"
        self._active = jax.process_index() == 0
        self._events: Any = None
        self._resumed_at: int | None = None

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends `{"step": step, **values}` to `metrics/train.jsonl`.

        Args:
          values: numbers, as Python, NumPy or JAX scalars.

        Raises:
          UserError: the file cannot be written; so for all that write.
        """
        if self._active:
            self._numbers("train", step, values)

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends `{"step": step, **values}` to `metrics/eval.jsonl`.

        Args:
          values: what was found; `source` says who evaluated ("train" or "evaluate"), `split`
            which data, or `kind` what else. Words go to the file alone, numbers to TensorBoard as
            well.
        """
        if self._active:
            about = values.get("split", values.get("kind", "eval"))
            self._numbers(str(about), step, values, file="eval")
            self._tensorboard().flush()

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "height width c"]) -> None:
        """Shows a picture, grey or colour, in TensorBoard."""
        if self._active:
            self._tensorboard().add_image(name, image, step, dataformats="HWC")
            self._tensorboard().flush()

    def text(self, step: int, name: str, text: str) -> None:
        """Shows a text in TensorBoard, as it is."""
        if self._active:
            # TensorBoard takes Markdown, in which indented lines are verbatim.
            verbatim = "\n".join("    " + line for line in text.splitlines())
            self._tensorboard().add_text(name, verbatim, step)
            self._tensorboard().flush()

    def truncate(self, step: int) -> None:
        """To be called when a run goes on from `step`: takes out the lines it will write again.

        These are the later lines of training, in both files. They go to
        `metrics/superseded.jsonl`, one object a line, with the file they are from, the step the
        run went on from, and the line; half-written lines go there as a string.
        """
        if not self._active:
            return
        self._resumed_at = step
        for name in ("train", "eval"):
            self._rewrite(name, step)

    def close(self) -> None:
        """Flushes and closes the event file."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _numbers(
        self, prefix: str, step: int, values: Mapping[str, Any], file: str = "train"
    ) -> None:
        line = _plain({"step": int(step), **values})
        self._append(self._metrics / f"{file}.jsonl", [json.dumps(line, allow_nan=False)])
        for key, value in values.items():
            number = value.item() if hasattr(value, "item") else value
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                self._tensorboard().add_scalar(f"{prefix}/{key}", number, step)

    def _append(self, path: pathlib.Path, lines: list[str]) -> None:
        """Adds whole lines, on disk when it returns.

        The file is opened each time: lines are rare, and another process may replace the file.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a+b") as f:
                # A line that a killed process left half-written must not swallow this one.
                torn = f.tell() and (f.seek(-1, os.SEEK_END), f.read(1))[1] != b"\n"
                f.write(("\n" * bool(torn) + "".join(f"{line}\n" for line in lines)).encode())
                f.flush()
                os.fsync(f.fileno())
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error

    def _rewrite(self, name: str, step: int) -> None:
        path = self._metrics / f"{name}.jsonl"
        if not path.exists():
            return
        kept, gone = [], []
        # A kill can tear a character apart; splitlines() would split at other characters too.
        for line in path.read_bytes().decode(errors="replace").split("\n"):
            parsed, at = _step_of(line)
            if not line:
                continue
            if at is None or (at > step and parsed.get("source", "train") == "train"):
                gone.append({"file": path.name, "resumed_at": step, "line": parsed})
            else:
                kept.append(line)
        if not gone:
            return
        # First the copy, then the cut: a kill between them loses nothing.
        self._append(self._metrics / "superseded.jsonl", [json.dumps(entry) for entry in gone])
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        self._append(temporary, kept)
        os.replace(temporary, path)

    def _tensorboard(self) -> Any:
        if self._events is None:
            from tensorboardX import SummaryWriter

            # Makes TensorBoard forget what the steps from here on had before.
            purge = None if self._resumed_at is None else self._resumed_at + 1
            # Names count whole seconds: without a suffix a second writer of the same second would
            # write over the first one's file.
            suffix = f".{time.time_ns()}"
            self._events = SummaryWriter(
                str(self._workdir),
                purge_step=purge,
                flush_secs=FLUSH_SECONDS,
                filename_suffix=suffix,
            )
        return self._events
