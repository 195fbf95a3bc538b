"""A reader who follows a page word for word: makes its files, adds its lines, runs its Python.

All of it happens in a folder that looks like the repository, in this process, and is undone.
"""

import contextlib
import importlib
import importlib.util
import pathlib
import runpy
import shutil
import sys
import types
from typing import Any
from unittest import mock

import docs_pages
import ml_collections
import pytest
import tiny
from docs_pages import ROOT

import md4jax
from md4jax import config as config_lib
from md4jax.networks.base import Network
from md4jax.options import Table


class Reader:
    """Reads a page in a folder; `patch` undoes what that changes outside of it.

    Raises:
      AssertionError: a page says of a file that is here that it is another, or adds lines between
        lines that a file does not have.
    """

    def __init__(self, text: str, folder: pathlib.Path, patch: pytest.MonkeyPatch):
        self.text, self.folder, self.patch = text, folder, patch
        blocks = docs_pages.fences(text)
        copies = ("configs", "md4jax") if any(fence.file for fence in blocks) else ()
        for name in copies:
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for path in ROOT.iterdir():
            if path.name not in copies:
                (folder / path.name).symlink_to(path)
        patch.chdir(folder)
        for fence in blocks:
            if fence.language == "diff":
                self._add_line(fence)
            elif fence.file and fence.language == "python":
                self._make_file(fence)

    def _make_file(self, fence: docs_pages.Fence) -> None:
        file = self.folder / fence.file
        if file.exists():
            assert file.read_text() == fence.text, f"{fence.file} is not as on line {fence.line}"
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fence.text)
        if fence.file.startswith("md4jax/"):
            self._import(fence.file)

    def _import(self, path: str) -> None:
        """As a module of the package."""
        name = path.removesuffix(".py").replace("/", ".")
        spec = importlib.util.spec_from_file_location(name, self.folder / path)
        module = importlib.util.module_from_spec(spec)
        self.patch.setitem(sys.modules, name, module)
        package, _, last = name.rpartition(".")
        self.patch.setattr(importlib.import_module(package), last, module, raising=False)
        spec.loader.exec_module(module)

    def _add_line(self, fence: docs_pages.Fence) -> None:
        """To a file; what tables are in it are those in use."""
        lines = [(line[:1], line[1:]) for line in fence.text.splitlines(keepends=True)]
        old, new = ("".join(x for mark, x in lines if mark != other) for other in "+-")
        file = self.folder / fence.file
        text = file.read_text()
        assert text.count(old) == 1, f"{fence.file} has no such lines as those on line {fence.line}"
        file.write_text(text.replace(old, new))
        package = importlib.import_module(
            str(pathlib.PurePath(fence.file).parent).replace("/", ".")
        )
        for name, changed in runpy.run_path(str(file)).items():
            if isinstance(changed, Table):
                for key, place in changed.items():
                    self.patch.setitem(getattr(package, name), key, place)

    def run_python(self) -> dict[str, Any]:
        """Runs the blocks that are no files in one module, shrunk; returns its names."""
        _shrink(self.patch)
        module = types.ModuleType("page")
        self.patch.setitem(sys.modules, "page", module)
        (self.folder / "tmp").mkdir()
        with contextlib.ExitStack() as stack:
            for table in config_lib.SECTIONS.values():
                if isinstance(table, Table):  # What the page adds is gone afterwards.
                    stack.enter_context(mock.patch.dict(table))
            for fence in docs_pages.fences(self.text):
                if fence.language == "python" and not fence.file:
                    code = fence.text.replace("/tmp/", f"{self.folder}/tmp/")
                    exec(compile(code, f"line {fence.line} of the page", "exec"), module.__dict__)
        return module.__dict__


def _small_network(value: Any) -> Any:
    """A network a few numbers wide; all else as it is."""
    if not isinstance(value, Network):
        return value
    sizes = tiny.SMALL["network"] | {"ch_mult": (1, 2), "attention_levels": (2,)}
    return value.clone(**{k: v for k, v in sizes.items() if hasattr(value, k)})


def _shrink(patch: pytest.MonkeyPatch) -> None:
    """Models of configs and networks without a config become small, whatever is asked for."""
    build = config_lib.build

    def small_build(config):
        if not isinstance(config, ml_collections.ConfigDict):
            config = ml_collections.ConfigDict(config_lib.to_dict(config))
        return build(tiny.tiny(config))

    def set_small(name, function):
        small = lambda *args, **kwargs: function(*map(_small_network, args), **kwargs)
        patch.setattr(md4jax, name, small, raising=False)

    for name in ("init_params", "make_denoiser"):
        set_small(name, getattr(md4jax, name))
    patch.setattr(config_lib, "build", small_build)
    patch.setenv("MD4JAX_SMALL", "1")
