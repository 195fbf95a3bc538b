"""The reference of all config keys, docs/config.md, made from the dataclasses that check a config.

Command:   python -m md4jax.reference > docs/config.md
"""

from __future__ import annotations

import pathlib
import re
import sys

from md4jax import config
from md4jax.data.prepare import RECIPES
from md4jax.evaluation.features.classifier.config import ClassifierOptions
from md4jax.options import MISSING, Table, option_type, options_of, type_words

ROOT = pathlib.Path(__file__).parents[1]

_HEAD = """\
# Every key of a config

*Made by `python -m md4jax.reference > docs/config.md` from the dataclasses that check a config; not
to be edited. `python main.py --describe=all`, `--describe=network` or `--describe=network.unet`
prints the same.*

A config has a section for each part of an experiment. Where a section has a `name`, it chooses one
of several components, and the component's fields are the section's other keys. A file in `configs/`
gives some of them, all others have their defaults, and each, the name too, can be set on the
command line as `--config.section.key=value`. A wrong key or value ends with one line that says what
would be right, before anything compiles. `None` says that an optional key is not given.

Keys with a † may be changed when a run goes on; so may the whole sampler. The others make another
model: another folder. Numbers such as (5) are of equations in the component's file.
"""

_CLASSIFIER = """\
Keys of the configs in `configs/classifier/`, which
`python -m md4jax.evaluation.features.classifier` takes; besides, they have `data`."""

_RECIPES = """\
Flags of `python prepare_data.py --dataset=NAME`, each as `--size=64`; `python prepare_data.py
--list` tells about the data sets themselves. These have none: {}."""

# Of one component: the cells of each key's row.
Rows = dict[str, tuple[str, ...]]


def markdown() -> str:
    """The page: contents, then a part for each section with a table for each component."""
    parts = {name: _section(name, entry) for name, entry in config.SECTIONS.items()}
    parts["classifier"] = [_CLASSIFIER, "", *_table(_rows(ClassifierOptions))]
    parts["prepare_data.py"] = _recipes()
    contents = []
    for name, part in parts.items():
        inside = [line[4:] for line in part if line.startswith("### ")]
        links = ", ".join(f"[{re.split('[.=]', title)[-1]}](#{_slug(title)})" for title in inside)
        contents.append(f"- [{name}](#{_slug(name)})" + f": {links}" * bool(inside))
    pages = [line for name, part in parts.items() for line in ("", f"## {name}", "", *part)]
    return re.sub("\n{3,}", "\n\n", "\n".join([_HEAD, *contents, *pages])).rstrip() + "\n"


def _slug(title: str) -> str:
    """The anchor that code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(section: str, entry: Table | type) -> list[str]:
    """What all components of a section have, once; and what each has besides."""
    if not isinstance(entry, Table):
        return [_about(entry), "", *_table(_rows(entry))]
    rows = {name: _rows(entry[name]) for name in entry}
    first, *others = rows.values()
    common = {key: row for key, row in first.items() if all(o.get(key) == row for o in others)}
    lines = [f"Every {section} has", "", *_table(common)] if common else []
    for name, own in rows.items():
        own = {key: row for key, row in own.items() if key not in common}
        lines += [f"### {section}.{name}", "", _about(entry[name]), "", *_table(own)]
    return lines


def _recipes() -> list[str]:
    rows = {name: _rows(RECIPES[name]) for name in RECIPES}
    without = ", ".join(f"`{name}`" for name, keys in rows.items() if not keys)
    lines = [_RECIPES.format(without), ""]
    for name, keys in rows.items():
        if keys:
            what = _text(RECIPES[name].about.what)
            lines += [f"### dataset={name}", "", f"{what[0].upper()}{what[1:]}.", "", *_table(keys)]
    return lines


def _about(cls: type) -> str:
    """The first line of a component's docstring, and where its file is."""
    file = pathlib.Path(sys.modules[cls.__module__].__file__).relative_to(ROOT).as_posix()
    what = (cls.__doc__ or "").strip().split("\n")[0]
    return f"[{cls.__name__}](../{file}): {_text(what)}"


def _table(rows: Rows) -> list[str]:
    """A table in Markdown; nothing if it has no rows."""
    if not rows:
        return []
    lines = [("key", "type", "default", "allowed", "what it is"), ("---",) * 5, *rows.values()]
    return [re.sub(" +", " ", f"| {' | '.join(line)} |") for line in lines] + [""]


def _rows(cls: type) -> Rows:
    rows = {}
    for key, field in options_of(cls).items():
        option = field.metadata["option"]
        default = "required" if field.default is MISSING else f"`{field.default!r}`"
        allowed = ", ".join(f"`{value}`" for value in option.one_of or ()) or option.expected()
        rows[key] = (
            f"`{key}`{'†' * option.changeable}", type_words(*option_type(cls, key)), default,
            allowed, _text(option.doc),
        )  # fmt: skip
    return rows


def _text(words: str) -> str:
    """Plain words as Markdown: what is in `backticks` stays, papers become links."""
    plain, *more = re.split("(`[^`]*`)", words)
    escape = lambda piece: re.sub(r"([\\*<\[\]~|])", r"\\\1", piece)
    pieces = [escape(plain)]
    for code, plain in zip(more[::2], more[1::2]):
        pieces += [code.replace("|", r"\|"), escape(plain)]
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", "".join(pieces))


if __name__ == "__main__":
    print(markdown(), end="")
