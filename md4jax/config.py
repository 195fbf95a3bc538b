"""Configs: sections of `{name, **fields}`, checked and built before anything compiles.

`make_config` makes the `ConfigDict` that a file in `configs/` returns: every key of every chosen
component is in it, with its default, so that any can be overridden as `--config.section.key=value`.
`build` checks it and makes the components; whatever is wrong is a `UserError` of one line.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

from md4jax.data import DATASETS
from md4jax.finetuning import FINETUNES
from md4jax.networks import NETWORKS
from md4jax.options import (
    Table,
    UserError,
    check_options,
    describe_options,
    option_type,
    options_of,
)
from md4jax.processes import PROCESSES
from md4jax.run_options import Eval, Mesh, Train
from md4jax.samplers import STEPS
from md4jax.time_sampling import TIME_SAMPLING
from md4jax.training.optimizers import OPTIMIZERS

# The sections of a config: a table of components, or the one component there is.
Sections = Mapping[str, Table | type]
SECTIONS: Sections = {
    "process": PROCESSES,
    "network": NETWORKS,
    "data": DATASETS,
    "sampler": STEPS,
    "optimizer": OPTIMIZERS,
    "train": Train,
    "eval": Eval,
    "mesh": Mesh,
    "finetune": FINETUNES,
}
# Sections that need not be given, and that older runs have not.
_IF_NOT_GIVEN = {"finetune": {"name": "none"}}
# What makes a model another model. The sampler may change between any two runs.
_ALWAYS_CHANGEABLE = {"sampler"}


def _component(known: Sections, section: str, values: Mapping[str, Any]) -> type:
    """The class a section's values are for."""
    entry = known[section]
    if not isinstance(entry, Table):
        return entry
    if "name" not in values:
        raise UserError(f"config.{section}.name is missing; it is one of {', '.join(entry)}")
    return entry[values["name"]]


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != "name"}


# The components that a command line names, by section.
_named: dict[str, str] = {}


def note_names(argv: Sequence[str]) -> None:
    """Notes each `--config.section.name=...` for `make_config` to give it that component's keys.

    The command line's other overrides are of keys that exist, so those have to be there first.
    """
    _named.clear()
    for argument in argv:
        if match := re.fullmatch(r"--?config\.(\w+)\.name=(.*)", argument):
            _named[match[1]] = match[2]


def _renamed(known: Sections, section: str, values: dict[str, Any]) -> dict[str, Any]:
    """The section with the component that the command line names; what both have stays."""
    name, entry = _named.get(section), known[section]
    if name is None or name == values.get("name") or not isinstance(entry, Table):
        return values
    return {"name": name} | {k: v for k, v in values.items() if k in options_of(entry[name])}


def make_config(**sections: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Fills in every default, so that each key can be overridden on the command line.

    Args:
      **sections: `process`, `network`, `data`, `sampler`, `optimizer`, `finetune` as
        `{name, **fields}`; `train`, `eval` and `mesh` as `{**fields}`.

    Raises:
      UserError: a section, name or field that does not exist, or one that is missing.
    """
    return fill_in(SECTIONS, sections)


def fill_in(
    known: Sections, sections: Mapping[str, Mapping[str, Any]]
) -> ml_collections.ConfigDict:
    """See `make_config`, of any sections."""
    unknown = set(sections) - set(known)
    if unknown:
        raise UserError(f"config.{min(unknown)}: the sections are {', '.join(known)}")
    config = ml_collections.ConfigDict()
    for section in known:
        values = dict(sections.get(section, _IF_NOT_GIVEN.get(section, {})))
        cls = _component(known, section, values)
        check_options(cls, _fields(values), f"config.{section}.")
        values = _renamed(known, section, values)
        cls = _component(known, section, values)
        filled = ml_collections.ConfigDict({"name": values["name"]} if "name" in values else {})
        for name, field in options_of(cls).items():
            value = values.get(name, field.default)
            if value is None:
                scalar, _, is_tuple = option_type(cls, name)
                value = config_dict.placeholder(tuple if is_tuple else scalar)
            filled[name] = value
        config[section] = filled
    return config.lock()


def load_config(path: str) -> ml_collections.ConfigDict:
    """The config of a file in `configs/`, for notebooks; `main.py` takes the path as `--config`.

    Raises:
      UserError: the file is not there, or has no `get_config()`.
    """
    import runpy

    try:
        return runpy.run_path(path)["get_config"]()
    except (OSError, KeyError) as error:
        raise UserError(f"{path} is no config file: {error}") from error


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The built components of a config."""

    process: Any
    network_class: type
    network_options: dict[str, Any]
    data: Any
    sampler: Any
    optimizer: Any
    train: Train
    eval: Eval
    mesh: Mesh
    finetune: Any


def build(config: Mapping[str, Any]) -> Experiment:
    """Checks a config and makes its components.

    The network is made later by `bind`, when the data's shape is known.

    Raises:
      UserError: names the key, its value and what would be right.
    """
    return fitting(Experiment(**components(SECTIONS, config)))


def components(known: Sections, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Experiment` that these sections of a config are for. Raises UserError."""
    parts: dict[str, Any] = {}
    for section, (cls, fields) in checked(known, config).items():
        if section == "network":  # Needs the data's shape.
            parts["network_class"], parts["network_options"] = cls, fields
        else:
            parts[section] = cls(**fields)
    return parts


def fitting(made: Experiment) -> Experiment:
    """The same experiment. Raises UserError if its components do not fit each other."""
    made.sampler.check(made.process)
    if made.eval.path_samples and not hasattr(made.process, "path_log_weight"):
        raise UserError(
            f"config.eval.path_samples = {made.eval.path_samples}: only star-shaped processes "
            "weigh whole paths; use None"
        )
    if made.sampler.asks_for_errors and not made.finetune.predicts_errors:
        raise UserError(
            f"config.sampler.name = {STEPS.name_of(type(made.sampler))!r} needs a model that tells "
            "what is wrong in its guesses: one that --mode=finetune --config.finetune.name="
            "remasker made"
        )
    TIME_SAMPLING[made.train.time_sampling].check(made.process)
    return made


def checked(known: Sections, config: Mapping[str, Any]) -> dict[str, tuple[type, dict[str, Any]]]:
    """The class of each section, and its fields.

    Raises:
      UserError: see `build`.
    """
    values, parts = to_dict(config, known), {}
    if set(values) != set(known):
        wrong = min(set(values) ^ set(known))
        missing = " is missing" if wrong in known else ""
        raise UserError(f"config.{wrong}{missing}: the sections are {', '.join(known)}")
    for section, section_values in values.items():
        cls = _component(known, section, section_values)
        fields = _fields(section_values)
        check_options(cls, fields, f"config.{section}.")
        parts[section] = cls, {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return parts


def to_dict(config: Mapping[str, Any], known: Sections = SECTIONS) -> dict[str, Any]:
    """A config as plain, JSON-able Python, with the sections that need not be given.

    The text None is None: so a command line can say that an optional path is not given.
    """
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    missing = {section: _IF_NOT_GIVEN[section] for section in _IF_NOT_GIVEN if section in known}
    plain = missing | json.loads(json.dumps(config))
    unset = lambda values: {k: None if v == "None" else v for k, v in values.items()}
    return {k: unset(v) if isinstance(v, dict) else v for k, v in plain.items()}


def differences(
    saved: Mapping[str, Any], given: Mapping[str, Any], sections: Sections = SECTIONS
) -> list[str]:
    """Keys in which two configs are of different models or runs, as `key: saved -> given` lines.

    Keys that may change when a run goes on (how often, where the data lies, the sampler, the mesh)
    are not compared.

    Args:
      sections: those to compare.
    """
    saved, given = to_dict(saved), to_dict(given)
    lines = []
    for section in sections:
        if section in _ALWAYS_CHANGEABLE:
            continue
        old, new = saved.get(section, {}), given.get(section, {})
        known = options_of(_component(sections, section, given[section]))
        for key in sorted(set(old) | set(new)):
            if key in known and known[key].metadata["option"].changeable:
                continue
            if key not in old and key in known and new[key] == known[key].default:
                continue  # Of a run from before there was such a key.
            if old.get(key) != new.get(key):
                lines.append(f"{section}.{key}: {old.get(key)!r} -> {new.get(key)!r}")
    return lines


def describe(what: str = "all") -> str:
    """The keys of each component, as text.

    Args:
      what: "all", a section ("network") or a component ("network.unet").
    """
    section, _, name = what.partition(".")
    sections = list(SECTIONS) if what == "all" else [section]
    lines = []
    for section in sections:
        if section not in SECTIONS:
            raise UserError(f"no config section {section!r}; there are {', '.join(SECTIONS)}")
        entry = SECTIONS[section]
        if not isinstance(entry, Table):
            lines += describe_options(f"config.{section}", entry)
            continue
        for key in [name] if name else entry:
            lines += describe_options(f"config.{section}  name = {key!r}", entry[key])
    return "\n".join(lines)
