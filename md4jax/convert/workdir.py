"""The folder of a run made of published weights: what `python -m md4jax.convert` does."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from md4jax.console import say
from md4jax.convert import make_source
from md4jax.convert.files import read_file
from md4jax.convert.weights import Source, Weights, convert_params
from md4jax.finetuning.base import Nothing
from md4jax.model import Model, assemble
from md4jax.options import UserError
from md4jax.training import workdir as workdir_lib
from md4jax.training.state import TrainState
from md4jax.typing import PyTree


def convert(
    source: str,
    config: Mapping[str, Any],
    checkpoint: str | pathlib.Path,
    workdir: str | pathlib.Path,
    ema_checkpoint: str | pathlib.Path | None = None,
    step: int | None = None,
) -> int:
    """Makes a folder that evaluation, sampling and training accept; returns the step it is at.

    The weights that evaluation and sampling use, averaged if training averages them, are those of
    `ema_checkpoint`, or the averages in `checkpoint`, or else its only ones. The optimizer starts
    anew.

    Args:
      source: a key of `SOURCES`.
      config: of the model, and of the data, from which some processes take statistics.
      checkpoint: the published file.
      workdir: a folder without a run.
      ema_checkpoint: a second file, with averaged weights.
      step: the number of steps the weights were trained for; None if that is to be read off the
        file, or is 0 if the file does not tell.

    Raises:
      UserError: the config or a file is wrong, they do not fit, or there is a run in the folder.
    """
    found = make_source(source)
    path = pathlib.Path(workdir).absolute()
    _check_no_run(path)
    model = assemble(config)
    _check_config(found, source, model)
    weights = _read(found, checkpoint)
    params = convert_params(found, model, weights.params, f"--checkpoint={checkpoint}")
    averaged = None
    if ema_checkpoint is not None:
        second = _read(found, ema_checkpoint)
        arrays = second.params if second.ema is None else second.ema
        averaged = convert_params(found, model, arrays, f"--checkpoint={ema_checkpoint}")
    elif weights.ema is not None:
        averaged = convert_params(
            found, model, weights.ema, f"--checkpoint={checkpoint} (averages)"
        )
    if step is None:
        step = weights.step or 0
    _save(path, model, _state(model, params, averaged, step))
    count = sum(x.size for x in jax.tree.leaves(params))
    averages = "no averages, which are the same" if averaged is None else "and their averages"
    say(f"results: {path}/checkpoints/{step}: {count:,} parameters, {averages}")
    for note in found.notes:
        say(f"note: {note}")
    return step


def _check_no_run(workdir: pathlib.Path) -> None:
    """Raises UserError if there is something in the folder that would be written over."""
    for name in ("config.json", "checkpoints"):
        if (workdir / name).exists():
            raise UserError(f"--to={workdir} holds a run already ({name}); give another folder")


def _check_config(source: Source, name: str, model: Model) -> None:
    """Raises UserError if the config is not of the source's model in what weights do not show."""
    if not isinstance(model.experiment.finetune, Nothing):
        raise UserError(
            f"config.finetune.name = {model.config['finetune']['name']!r}: published weights are "
            "of trained models; give the config of one, and the folder as config.finetune.start"
        )
    network = model.config["network"]["name"]
    if network not in source.networks:
        raise UserError(
            f"config.network.name = {network!r}: --from={name} has weights of "
            f"{' and '.join(source.networks)}"
        )
    for key, value in source.required.items():
        section, _, field = key.partition(".")
        if (given := model.config[section].get(field)) != value:
            raise UserError(f"config.{key} = {given!r} should be {value!r} for --from={name}")


def _read(source: Source, file: str | pathlib.Path) -> Weights:
    path = pathlib.Path(file).expanduser()
    return source.states(read_file(path), path.name)


def _state(model: Model, params: PyTree, averaged: PyTree | None, step: int) -> TrainState:
    """As after so many steps, but for the optimizer, which is fresh."""
    if averaged is not None and not model.experiment.train.ema_decay:
        params = averaged  # Without averages these are what is used.
    state = model.init_state(params)
    shardings = jax.tree.map(lambda x: x.sharding, model.abstract_state())
    ema, step = state.ema_params, jax.device_put(np.int32(step), shardings.step)
    if averaged is not None and ema is not None:
        ema = jax.device_put(averaged, shardings.ema_params)
    return dataclasses.replace(state, step=step, ema_params=ema)


def _save(workdir: pathlib.Path, model: Model, state: TrainState) -> None:
    """Writes the checkpoint, then what says that there is one."""
    checkpoints = workdir_lib.open_checkpoints(workdir, model)
    step = int(state.step)
    checkpoints.save(step, state, workdir_lib.checkpoint_meta(model, step, 0.0))
    checkpoints.close()
    workdir_lib.prepare(workdir, model)
