"""Diffusion models in a notebook: `md4jax.build`, `fit`, `sample`, `bound`, `draw`, `film`.

    model = md4jax.build("configs/digits/masked.py", {"network.feature_dim": 32})
    model = md4jax.build(process=md4jax.Masked(), network=md4jax.UViT, data=md4jax.Digits())
    losses = model.fit(300)
    images = model.sample(64)
    model.draw(images)

All of it is what `main.py` does, a step at a time and without a folder; `save` and `restore` go
over to the folders of `main.py` and back.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from md4jax import config as config_lib
from md4jax import parts as parts_lib
from md4jax.diffusion import Diffusion
from md4jax.model import assemble, put_together
from md4jax.options import UserError
from md4jax.training import workdir as workdir_lib

# Where `build` is given no config: small models, trained for minutes.
DEFAULTS: dict[str, Any] = {
    "sampler": {"name": "ancestral"},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "schedule": "constant",
                  "warmup_steps": 50, "b2": 0.99},
    "train": {"num_steps": 1000, "batch_size": 64, "ema_decay": 0.998, "ema_warmup": True},
    "eval": {"time_points": 32},
    "mesh": {},
    "finetune": {"name": "none"},
}  # fmt: skip
SAMPLER_STEPS = 128


def build(
    config: str | pathlib.Path | Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Diffusion:
    """A model to train, of a config, of objects, or of a config with some objects in place.

    Args:
      config: a file in `configs/`, or what `make_config` gives; None if `process`, `network` and
        `data` are given. What is missing then are `DEFAULTS`, such as Adam and batches of 64, and
        the process's own sampler of 128 steps, or as many as it has if these are fewer.
      changes: of keys of the config, `{"network.feature_dim": 32}`.
      **sections: `process`, `network`, `data`, `sampler`, `optimizer`, `train`, `eval`, `mesh`,
        `finetune`. Each is an object (`process=md4jax.Gaussian()`), or a dict as in a config
        (`data=dict(name="digits")`), which without a `name` changes what is there
        (`train=dict(batch_size=32)`). A network is its class, or `functools.partial` of that with
        options, as it is made when the data's shape is known. Data are a data set's object
        (`md4jax.Digits()`) or what `md4jax.dataset` makes of arrays.

    Raises:
      UserError: something is missing or wrong, or parts do not fit each other; nothing compiles.
    """
    if isinstance(config, str | pathlib.Path):
        config = config_lib.load_config(str(config))
    parts = DEFAULTS if config is None else config_lib.to_dict(config)
    parts = parts_lib.changed(parts, changes or {})
    for section, given in sections.items():
        parts[section] = parts_lib.merged(section, parts.get(section), given)
    if config is None and isinstance(parts["sampler"], Mapping):
        parts["sampler"] = {"num_steps": _default_steps(parts.get("process"))} | parts["sampler"]
    if config is None and isinstance(parts["eval"], Mapping):
        parts["eval"] = {"splits": _default_splits(parts.get("data"))} | parts["eval"]
    experiment, config = parts_lib.experiment(parts)
    return Diffusion(put_together(experiment, config))


def _default_steps(process: Any) -> int:
    """At most as many as the process has."""
    there = process.get if isinstance(process, Mapping) else functools.partial(getattr, process)
    steps = there("num_timesteps", None)
    return min(SAMPLER_STEPS, steps) if isinstance(steps, int) else SAMPLER_STEPS


def _default_splits(data: Any) -> tuple[str, ...]:
    """The test split, if it is not known to be missing."""
    has_test = not isinstance(data, parts_lib.Loaded) or "test" in data.dataset.splits
    return ("test",) if has_test else ()


def restore(workdir: str | pathlib.Path, changes: Mapping[str, Any] | None = None) -> Diffusion:
    """The model of a folder that `main.py` or `Diffusion.save` made, at its newest checkpoint.

    Args:
      changes: of keys of the folder's config, `{"data.path": ...}`.

    Raises:
      UserError: the folder has no whole checkpoint, or the changes make another model.
    """
    from md4jax.modes import restored_state

    path = pathlib.Path(workdir).absolute()
    saved = workdir_lib.read_config(path)
    if saved is None or "config" not in saved:
        raise UserError(f"{path} is no folder of a run: it has no config.json of one")
    model = Diffusion(assemble(parts_lib.changed(saved["config"], changes or {})))
    found = restored_state(model.parts, path)
    model.state, model.step = found.state, found.step
    model.seconds = found.meta["train_seconds"]
    return model
