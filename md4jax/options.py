"""Options: dataclass fields that are config keys, and the one error a user should ever see.

A component (process, network, data set, sampler, ...) is a dataclass. Each field made by
[`option`][] is a key of its config section: it carries one line of documentation and the values
it may take, so that checking a config, listing its keys and building the component all read the
same place.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import pkgutil
import types
import typing
from collections.abc import Mapping
from typing import Any

MISSING = dataclasses.MISSING


class UserError(Exception):
    """A mistake the user can mend: shown as one line, without a traceback."""


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known of one config key. `changeable` keys may differ when a run is resumed."""

    doc: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    one_of: tuple[str, ...] | None = None
    changeable: bool = False

    def expected(self) -> str:
        """The values allowed, in words; empty if all are."""
        if self.one_of:
            return "one of " + ", ".join(self.one_of)
        words = [
            ("at least", self.at_least),
            ("above", self.above),
            ("at most", self.at_most),
            ("below", self.below),
        ]
        return " and ".join(f"{word} {bound:g}" for word, bound in words if bound is not None)

    def accepts(self, value: Any) -> bool:
        """Whether a value of the right type is in range; each entry of a tuple must be."""
        if value is None:
            return True
        if isinstance(value, (tuple, list)):
            return all(self.accepts(v) for v in value)
        if self.one_of:
            return value in self.one_of
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


def option(doc: str, default: Any = MISSING, **limits: Any) -> Any:
    """A dataclass field that is a config key.

    Args:
      doc: one line for people, with the unit where there is one.
      default: the value if the config does not give one; without it the key is required.
      **limits: `at_least`, `above`, `at_most`, `below`, `one_of`, `changeable` of `Option`.
    """
    return dataclasses.field(default=default, metadata={"option": Option(doc, **limits)})


def options_of(cls: type) -> dict[str, dataclasses.Field]:
    """The config keys of a component, in the order they are written."""
    return {f.name: f for f in dataclasses.fields(cls) if "option" in f.metadata}


_type_hints = functools.cache(typing.get_type_hints)  # Parses each annotation anew.


def option_type(cls: type, name: str) -> tuple[type, bool, bool]:
    """`(scalar type, may be None, is a tuple)` of an option's annotation.

    Options are annotated `int`, `float`, `bool`, `str`, `T | None` or `tuple[T, ...]`.
    """
    hint = _type_hints(cls)[name]
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(a for a in typing.get_args(hint) if a is not types.NoneType)
        optional = True
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], optional, True
    return hint, optional, False


def _has_type(value: Any, scalar: type, optional: bool, is_tuple: bool) -> bool:
    if value is None:
        return optional
    if is_tuple:
        return isinstance(value, (tuple, list)) and all(
            _has_type(v, scalar, False, False) for v in value
        )
    if scalar is not bool and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if scalar is float else scalar)


def type_words(scalar: type, optional: bool, is_tuple: bool) -> str:
    """What `option_type` says, for people: "a tuple of int or None"."""
    words = f"a tuple of {scalar.__name__}" if is_tuple else f"{scalar.__name__}"
    return words + (" or None" if optional else "")


def check_options(cls: type, values: Mapping[str, Any], prefix: str) -> None:
    """Checks names, types and ranges of options against a component.

    Args:
      cls: the component.
      values: its options.
      prefix: of their names in messages, such as "config.network.".

    Raises:
      UserError: names the key, its value and what would be right.
    """
    known = options_of(cls)
    for name, value in values.items():
        if name not in known:
            raise UserError(
                f"{prefix}{name} = {value!r}: {cls.__name__} has no such field; "
                f"it has {', '.join(known) or 'none'}"
            )
    for name, field in known.items():
        opt = field.metadata["option"]
        if name not in values:
            if field.default is MISSING:
                raise UserError(f"{prefix}{name} is missing: {opt.doc}")
            continue
        value = values[name]
        kind = option_type(cls, name)
        if not _has_type(value, *kind):
            raise UserError(f"{prefix}{name} = {value!r} should be {type_words(*kind)}: {opt.doc}")
        if not opt.accepts(value):
            raise UserError(f"{prefix}{name} = {value!r} should be {opt.expected()}: {opt.doc}")


def parse_option(cls: type, name: str, text: str) -> Any:
    """The value that a text on the command line stands for; the text itself if it is no other.

    What it should be is `check_options`'s to say.
    """
    scalar, optional, is_tuple = option_type(cls, name)
    if optional and text == "None":
        return None
    if scalar is str and not is_tuple:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if scalar is bool else text)
    except (ValueError, SyntaxError):
        return text
    return float(value) if scalar is float and isinstance(value, int) else value


def describe_options(title: str, cls: type) -> list[str]:
    """A component's options as lines for people: type, default, values allowed, documentation."""
    lines = [title, "  " + (cls.__doc__ or "").strip().split("\n")[0]]
    for name, field in options_of(cls).items():
        opt = field.metadata["option"]
        scalar, optional, is_tuple = option_type(cls, name)
        kind = f"tuple[{scalar.__name__}]" if is_tuple else scalar.__name__
        kind += " | None" if optional else ""
        default = "required" if field.default is MISSING else f"default {field.default!r}"
        expected = f"; {opt.expected()}" if opt.expected() else ""
        lines.append(f"    {name}: {kind}, {default}{expected}")
        lines.append(f"        {opt.doc}")
    return [*lines, ""]


class Table(dict):
    """Maps a config's `name` to a component, given as `"module:Class"`, imported on first use."""

    def __init__(self, section: str, entries: Mapping[str, str], named_by: str | None = None):
        super().__init__(entries)
        self._named_by = named_by or f"config.{section}.name"

    def __getitem__(self, name: str) -> type:
        """The component's class.

        Raises:
          UserError: no such name; the message lists the names there are.
        """
        if name not in self:
            raise UserError(f"{self._named_by} = {name!r} should be one of {', '.join(self)}")
        return pkgutil.resolve_name(super().__getitem__(name))

    def name_of(self, cls: type) -> str:
        """The name that a class has here; the class's own if it is not in the table."""
        path = f"{cls.__module__}:{cls.__qualname__}"
        return next((name for name, place in self.items() if place == path), cls.__name__)
