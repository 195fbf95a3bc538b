"""The sections of a config as objects, dicts or both, made into an experiment."""

from __future__ import annotations

import copy
import dataclasses
import functools
import textwrap
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from md4jax import config as config_lib
from md4jax import small
from md4jax.config import SECTIONS, Experiment
from md4jax.data.base import Dataset
from md4jax.options import Table, UserError, check_options, options_of
from md4jax.processes.base import Process

# By section: a dict as in a config, or an object. A network is a `functools.partial` of its class.
Parts = dict[str, Any]


# What an object has that can stand for a section, and one that does.
KINDS = {
    "process": (
        [name for name in (*Process.__annotations__, *vars(Process)) if name[0] != "_"],
        "md4jax.Gaussian()",
    ),
    "data": (["load"], "md4jax.Digits()"),
    "sampler": (["times", "num_steps"], "md4jax.Ancestral()"),
    "optimizer": (["build"], "md4jax.AdamW()"),
    "train": (["batch_size"], "md4jax.Train(num_steps=1000, batch_size=64)"),
    "eval": (["time_points"], "md4jax.Eval()"),
    "mesh": (["fsdp"], "md4jax.Mesh()"),
    "finetune": (["gradient"], "md4jax.MMD()"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A data set that is there already, as a component of an experiment."""

    dataset: Dataset

    def load(self) -> Dataset:
        """The data set."""
        return self.dataset


def changed(parts: Mapping[str, Any], changes: Mapping[str, Any]) -> Parts:
    """A config's sections with other values, `{"network.feature_dim": 32}`.

    Raises:
      UserError: there is no such section; which fields it has is checked later.
    """
    parts = copy.deepcopy(dict(parts))
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if section not in parts or not name:
            raise UserError(
                f"{key!r} should be 'section.key', of the sections {', '.join(parts)}, such as "
                "'train.batch_size'"
            )
        parts[section][name] = _plain(value)
    return parts


def component(section: str, there: Any, given: Any) -> Any:
    """The object that stands for a section, of what `merged` takes. Raises UserError as it does."""
    made = merged(section, there, given)
    if not isinstance(made, Mapping):
        return made
    return config_lib.components({section: SECTIONS[section]}, {section: dict(made)})[section]


def _plain(value: Any) -> Any:
    """A number of NumPy or JAX as Python's."""
    is_number = isinstance(value, np.generic | jax.Array) and np.ndim(value) == 0
    return value.item() if is_number else value


def merged(section: str, there: Any, given: Any) -> Any:
    """What stands for a section: what is given, or, if that is a dict without a name, both.

    Raises:
      UserError: there is no such section, or what is given is nothing for it.
    """
    if section not in SECTIONS:
        raise UserError(f"{section} = {_line(given)}: the sections are {', '.join(SECTIONS)}")
    if not isinstance(given, Mapping):
        return _as_object(section, given)
    given = {name: _plain(value) for name, value in given.items()}
    if "name" in given or there is None:
        return dict(given)
    if isinstance(there, Mapping):
        return {**there, **given}
    if isinstance(there, functools.partial):
        return functools.partial(there, **given)
    check_options(type(there), _values(there) | dict(given), f"{section}.")
    return dataclasses.replace(there, **given)


def _as_object(section: str, given: Any) -> Any:
    """The object a section is to be, checked as far as its kind goes."""
    if section == "network":
        return _network(given)
    if isinstance(given, Dataset):
        given = Loaded(given)
    needs, example = KINDS[section]
    missing = [name for name in needs if not hasattr(given, name)]
    if isinstance(given, type) or missing:
        lacks = "it is a class" if isinstance(given, type) else f"it has no {', '.join(missing)}"
        raise UserError(f"{section} = {_line(given)} should be like {example}: {lacks}")
    check_options(type(given), _values(given), f"{section}.")
    return given


def _network(given: Any) -> functools.partial:
    if isinstance(given, type):
        given = functools.partial(given)
    if not (isinstance(given, functools.partial) and isinstance(given.func, type)):
        raise UserError(
            f"network = {_line(given)} should be a class like md4jax.UViT, or functools.partial of "
            "one with its options: it is made when the shape of the data is known"
        )
    if given.args:
        raise UserError(f"network = {_line(given)}: give options by name, not {given.args!r}")
    cls, options = given.func, {name: _plain(x) for name, x in given.keywords.items()}
    own = [f.name for f in dataclasses.fields(cls) if f.name not in ("spec", "parent", "name")]
    if wrong := [name for name in options if name not in own]:
        raise UserError(
            f"network.{wrong[0]} = {options[wrong[0]]!r}: {cls.__name__} has no such field; it has "
            f"{', '.join(own)}"
        )
    check_options(cls, {k: v for k, v in options.items() if k in options_of(cls)}, "network.")
    return functools.partial(cls, **options)


def _line(given: Any) -> str:
    """What was given, in one line that is not long."""
    return textwrap.shorten(repr(given), 60, placeholder="...")


def _values(component: Any) -> dict[str, Any]:
    return {name: getattr(component, name) for name in options_of(type(component))}


def of(experiment: Experiment) -> Parts:
    """The sections of an experiment there is."""
    network = functools.partial(experiment.network_class, **experiment.network_options)
    others = {name: getattr(experiment, name) for name in SECTIONS if name != "network"}
    return others | {"network": network}


def experiment(parts: Parts) -> tuple[Experiment, dict[str, Any]]:
    """The experiment, and its config, in which a class that is in no table has its own name.

    Raises:
      UserError: a section is missing or wrong, or they do not fit each other.
    """
    if missing := [section for section in SECTIONS if section not in parts]:
        raise UserError(f"{', '.join(missing)} missing: give a config, or each as an object")
    given = {name: part for name, part in parts.items() if isinstance(part, Mapping)}
    made = config_lib.components({name: SECTIONS[name] for name in given}, given)
    for name, part in parts.items():
        if isinstance(part, functools.partial):
            made |= {"network_class": part.func, "network_options": dict(part.keywords)}
        elif name not in given:
            made[name] = part
    for name in small.SIZES.keys() - {"network"}:
        made[name] = small.component(name, made[name])
    network = small.network(made["network_class"], made["network_options"])
    made["network_class"], made["network_options"] = network
    return config_lib.fitting(Experiment(**made)), _config(made)


def _config(made: Parts) -> dict[str, Any]:
    """The config of these fields of an experiment, as plain Python."""
    sections = {}
    for name, entry in SECTIONS.items():
        if name == "network":
            cls = made["network_class"]
            defaults = {key: field.default for key, field in options_of(cls).items()}
            values = defaults | made["network_options"]
        else:
            cls, values = type(made[name]), _values(made[name])
        named = {"name": entry.name_of(cls)} if isinstance(entry, Table) else {}
        sections[name] = named | values
    return config_lib.to_dict(sections)
