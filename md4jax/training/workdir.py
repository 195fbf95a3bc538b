"""The folder of a run. What is in it belongs to one config; that is checked first.

config.json        the config, the versions of the libraries, the commit, the data's fingerprint
checkpoints/       one folder a saved step
metrics/           train.jsonl, eval.jsonl
samples/           grids and texts
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import TYPE_CHECKING, Any

import jax

from md4jax import hosts
from md4jax.config import differences
from md4jax.options import UserError
from md4jax.training.checkpoints import Checkpoints

if TYPE_CHECKING:
    from md4jax.model import Model

PACKAGES = ("md4jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git_commit() -> str | None:
    folder = pathlib.Path(__file__).parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def read_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What `config.json` holds; None if there is none.

    Raises:
      UserError: it cannot be read.
    """
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away to go on") from error


def check_config(workdir: pathlib.Path, model: Model) -> dict[str, Any] | None:
    """Raises UserError if the workdir is another model's; returns what `config.json` holds."""
    saved = read_config(workdir)
    if saved is None:
        return None
    lines = differences(saved["config"], model.config)
    if saved["data_fingerprint"] != model.dataset.fingerprint and not lines:
        lines = [
            f"data: {saved['data_fingerprint']} -> {model.dataset.fingerprint} (other content)"
        ]
    if lines:
        raise UserError(
            f"{workdir} holds a run with another config: {'; '.join(lines)} (saved -> given). "
            "Give another --workdir, or set these fields back"
        )
    return saved


def prepare(workdir: pathlib.Path, model: Model) -> None:
    """Makes or opens a folder for training and writes `config.json`.

    Raises:
      UserError: the folder cannot be written, or holds a run with another config.
    """
    check_config(workdir, model)
    if not hosts.is_first():
        return
    content = {
        "config": model.config,
        "data_fingerprint": model.dataset.fingerprint,
        "constants": model.experiment.finetune.fingerprint(model),
        "versions": _versions(),
        "git_commit": _git_commit(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = workdir / "config.json.tmp"
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(temporary, workdir / "config.json")
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from error


def open_checkpoints(workdir: pathlib.Path, model: Model) -> Checkpoints:
    """The checkpoints of a run, kept as its config says."""
    options = model.experiment.train
    return Checkpoints(
        workdir / "checkpoints",
        max_to_keep=options.checkpoints_to_keep,
        keep_period=options.checkpoint_keep_period,
    )


def checkpoint_meta(model: Model, step: int, train_seconds: float) -> dict[str, Any]:
    """What is saved beside the state of a step."""
    return {
        "step": step,
        "next_batch": step,  # The data's position is the step.
        "train_seconds": train_seconds,
        "config": model.config,
        "data_fingerprint": model.dataset.fingerprint,
    }


def no_checkpoint(workdir: pathlib.Path) -> UserError:
    """The error for a folder that has nothing to evaluate or sample."""
    return UserError(f"--workdir={workdir} has no checkpoint; train it first")


def require_run(workdir: pathlib.Path, model: Model) -> None:
    """Raises UserError if the folder has no checkpoint of this config."""
    if check_config(workdir, model) is None or not (workdir / "checkpoints").is_dir():
        raise no_checkpoint(workdir)
