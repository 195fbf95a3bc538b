"""`--mode=finetune`: the training loop, begun with the weights of another folder."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from md4jax import config as config_lib
from md4jax.console import StopSignal, say
from md4jax.finetuning import FINETUNES
from md4jax.finetuning.base import Nothing
from md4jax.model import Model
from md4jax.options import UserError
from md4jax.training import workdir as workdir_lib
from md4jax.training.loop import Run
from md4jax.training.state import TrainState

# A trained model is one of these sections of its config; how it was trained may differ.
OF_A_MODEL = {name: config_lib.SECTIONS[name] for name in ("process", "network", "data")}
# Which samples are drawn, not how.
OF_ANY_SAMPLES = {"num_samples", "batch_size", "seed", "label", "frames", "prompt", "overlap"}


def finetune(config: Mapping[str, Any], workdir: str | pathlib.Path) -> dict[str, float]:
    """Finetunes the model of `config.finetune.start` in a folder of its own.

    The folder is a run like any other: the same call goes on where it was stopped, bit for bit,
    and then asks no more for the start; `evaluate` and `sample` take the same config.

    Returns the last evaluation of the first split (empty if the run was asked to stop before it).

    Raises:
      UserError: as `train` does; or there is no trained model to begin with, or one of another
        process, network or data.
    """
    return Finetuning.of(config, workdir)


class Finetuning(Run):
    """A run that begins with trained weights; averaged ones, if training averaged them."""

    @classmethod
    def check(cls, model: Model, path: pathlib.Path) -> None:
        """Raises UserError if nothing is to be finetuned, or there is nothing to begin with."""
        if isinstance(model.experiment.finetune, Nothing):
            raise UserError(
                "config.finetune.name = 'none': --mode=finetune needs to know what to do; choose "
                f"one of {', '.join(name for name in FINETUNES if name != 'none')}"
            )
        check_same(model, path)
        if not (path / "checkpoints").is_dir():
            start_of(model)

    def at_start(self, stop: StopSignal) -> None:
        """Also evaluates and samples before the first step, with the seeds of later ones."""
        self.at_step(stop)

    def due(self, every: int) -> bool:
        return self.step == 0 or super().due(every)

    def first_state(self) -> TrainState:
        """The state before the first step, around the start's weights and statistics."""
        start, folder = start_of(self.model)
        checkpoints = workdir_lib.open_checkpoints(folder, start)
        restored = checkpoints.restore(start.abstract_state(), move_aside=False)
        checkpoints.close()
        if restored is None:
            raise _no_start(folder, "has no checkpoint")
        say(f"beginning with step {restored.step} of {folder}")
        params = restored.state.eval_params
        statistics = params["statistics"]
        return self.model.init_state(
            {name: params[name] for name in ("network", "process")}, statistics
        )


def check_same(model: Model, path: pathlib.Path) -> None:
    """Raises UserError if a folder is of another model, or of one finetuned otherwise."""
    saved = workdir_lib.check_config(path, model)
    weights = model.experiment.finetune.fingerprint(model)  # Files of weights may be missing.
    if saved is None or not (path / "checkpoints").is_dir():
        return
    if lines := other_sampler(saved["config"], model):
        raise UserError(f"{path} is finetuned for another sampler: {'; '.join(lines)}")
    if saved.get("constants", weights) != weights:
        raise UserError(
            f"{path} was begun with other weights of its features; give the same file as "
            "config.finetune.weights, or another --workdir"
        )


def other_sampler(saved: Mapping[str, Any], model: Model) -> list[str]:
    """In what the sampler differs from the one a model was finetuned for, if it was for one.

    Args:
      saved: the config it was finetuned with.
      model: of the config that is given.
    """
    if not model.experiment.finetune.uses_sampler:
        return []
    then, now = saved["sampler"], model.config["sampler"]
    return [
        f"config.sampler.{key} = {now.get(key)!r}, not {then.get(key)!r}"
        for key in sorted(set(then) | set(now))
        if key not in OF_ANY_SAMPLES and then.get(key) != now.get(key)
    ]


def start_of(model: Model) -> tuple[Model, pathlib.Path]:
    """The model to begin with, and its folder.

    Raises:
      UserError: there is none, or its process, network or data are others.
    """
    folder = pathlib.Path(model.experiment.finetune.start).absolute()
    saved = workdir_lib.read_config(folder) if model.experiment.finetune.start else None
    if saved is None or not (folder / "checkpoints").is_dir():
        raise _no_start(model.experiment.finetune.start, "has no trained model")
    start = saved["config"]
    lines = config_lib.differences(start, model.config, OF_A_MODEL)
    # One class more than the data have, if there is any.
    dropout = [c["train"]["label_dropout"] for c in (start, model.config)]
    if bool(dropout[0]) != bool(dropout[1]):
        lines.append(f"train.label_dropout: {dropout[0]!r} -> {dropout[1]!r}")
    if saved["data_fingerprint"] != model.dataset.fingerprint and not lines:
        lines = ["data (other content)"]
    if lines:
        raise _no_start(folder, f"is of another model: {'; '.join(lines)} (start -> given)")
    # Where the data lie, and on what devices, is for this run to say.
    start |= {section: model.config[section] for section in (*OF_A_MODEL, "mesh")}
    experiment = config_lib.build(start)
    return dataclasses.replace(model, config=start, experiment=experiment), folder


def _no_start(folder: pathlib.Path | str, problem: str) -> UserError:
    return UserError(
        f"config.finetune.start = {str(folder)!r} {problem}; it should be the folder of a run of "
        "--mode=train with the same process, network and data"
    )
