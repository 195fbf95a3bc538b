"""Programs of the documents' commands, started in this process up to where they would work.

Flags are parsed by the programs themselves, with their own checks; what takes long is replaced by
a look at the config: it is built as given, and with its sizes shrunk its parts are put together,
unless its data are a file of the reader's.
"""

import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import runpy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import docs_pages
import ml_collections
import tiny
from absl import flags

from md4jax import cli
from md4jax import config as config_lib
from md4jax.evaluation.features.classifier.config import SECTIONS as CLASSIFIER
from md4jax.model import assemble
from md4jax.options import UserError

# What programs call for their work.
WORK = (
    "md4jax.train",
    "md4jax.finetune",
    "md4jax.evaluate",
    "md4jax.sample",
    "md4jax.hosts.join",
    "md4jax.data.prepare.run.prepare",
    "md4jax.convert.workdir.convert",
    "md4jax.evaluation.features.classifier.training.train",
)


def source(words: list[str]) -> pathlib.Path | None:
    """The file of the program that a command starts, if it is one of ours."""
    if len(words) < 2 or pathlib.Path(words[0]).name not in ("python", "python3"):
        return None
    if words[1] == "-m" and len(words) > 2 and words[2].startswith("md4jax"):
        spec = importlib.util.find_spec(words[2])
        if spec and spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{words[2]}.__main__")
        return pathlib.Path(spec.origin) if spec else tiny.ROOT / words[2]
    return tiny.ROOT / words[1] if words[1].endswith(".py") else None


def arguments(words: list[str]) -> list[str]:
    return words[3 if words[1] == "-m" else 2 :]


class ConfigChecks:
    """Looks at configs in place of the work; each once."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.seen = folder, set()

    def __call__(self, *values: Any, **others: Any) -> None:
        for value in values:
            if isinstance(value, ml_collections.ConfigDict):
                self.check(value)

    def check(self, config: ml_collections.ConfigDict) -> None:
        if "classifier" in config:
            for cls, fields in config_lib.checked(CLASSIFIER, config).values():
                cls(**fields)
            return
        config_lib.build(config)
        small = tiny.tiny(config)
        small.mesh.update(dataclasses.asdict(config_lib.Mesh()))  # There is one device.
        small.eval.texts = ()  # They are the reader's.
        text = json.dumps(config_lib.to_dict(small), sort_keys=True)
        if text not in self.seen:
            self.seen.add(text)
            folder = self.folder / str(len(self.seen))
            folder.mkdir()
            small = tiny.with_data(small, folder)
            if pathlib.Path(small.data.get("path") or folder).exists():
                assemble(small)


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
    """Flags as in a process of its own: those of programs that tests import are set aside."""
    FLAGS = flags.FLAGS
    ours = lambda: [f for f in FLAGS if f.startswith("config") or f in docs_pages.program_flags()]
    aside = {name: FLAGS[name] for name in ours()}
    for name in aside:
        delattr(FLAGS, name)
    try:
        yield
    finally:
        config_lib.note_names([])
        for name in ours():
            delattr(FLAGS, name)
        for name, flag in aside.items():
            FLAGS[name] = flag
        FLAGS.unparse_flags()


@contextlib.contextmanager
def _parsed(words: list[str], work: Callable | None) -> Iterator[Callable[[], None]]:
    """A program's main, with the flags of a command parsed as it does and `work` for its work.

    None is the work itself.
    """
    file, started = source(words), []
    if "cli.run_main" not in file.read_text():
        raise UserError(f"{file.name} is no program whose work can be left out")
    argv = [str(file), *arguments(words)]
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(_own_flags())
        enter(mock.patch("sys.argv", argv))
        for name in WORK if work else ():
            enter(mock.patch(name, work, create=True))
        note = lambda main, before=lambda argv: None: started.append((main, before))
        enter(mock.patch.object(cli, "run_main", note))
        runpy.run_path(str(file), run_name="__main__")
        (main, before), *_ = started
        cli._parse_flags(before, argv)
        yield lambda: main(argv)


def config_of(words: list[str]) -> ml_collections.ConfigDict:
    """The config that a command gives its program."""
    with _parsed(words, None):
        return flags.FLAGS["config"].value.copy_and_resolve_references()


def run(words: list[str]) -> None:
    """Does all that a command of a program here does."""
    with _parsed(words, None) as main:
        main()


def check(words: list[str], checks: ConfigChecks) -> None:
    """Parses a command as its program does, and does what it does but the work.

    Raises:
      SystemExit, UserError: the program refuses it.
    """
    with _parsed(words, checks) as main:
        if source(words).parent.name == "benchmarks":  # They do their work themselves.
            checks(flags.FLAGS["config"].value if "config" in flags.FLAGS else None)
        else:
            main()
