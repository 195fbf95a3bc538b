"""Tables that take seconds to build, kept on disk: one file for each set of parameters."""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from md4jax.console import say
from md4jax.options import UserError

Arrays = dict[str, np.ndarray]
PARAMETER, TABLE = "parameter.", "table."


def default_folder() -> pathlib.Path:
    """Where md4jax keeps tables: below $XDG_CACHE_HOME, or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "md4jax" / "tails"


def file_name(parameters: Arrays) -> str:
    """Of the file for these parameters: their hash."""
    digest = hashlib.sha256()
    for name, value in sorted(parameters.items()):
        digest.update(f"{name} {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:20] + ".npz"


def read(path: pathlib.Path, parameters: Arrays) -> Arrays | None:
    """The table in a file; None, and a line that says so, if it cannot be read.

    Raises:
      UserError: the file holds a table of other parameters.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        say(f"{path}: unreadable ({type(error).__name__}), so the table is built anew")
        return None
    stored = {k.removeprefix(PARAMETER): v for k, v in content.items() if k.startswith(PARAMETER)}
    if stored.keys() != parameters.keys() or not all(
        stored[k].dtype == v.dtype and np.array_equal(stored[k], v) for k, v in parameters.items()
    ):
        raise UserError(f"{path} holds a table of other parameters; delete it to have it made anew")
    return {k.removeprefix(TABLE): v for k, v in content.items() if k.startswith(TABLE)}


def write(path: pathlib.Path, parameters: Arrays, table: Arrays) -> None:
    """Writes both under another name first, so that no reader finds half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".npz", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                **{PARAMETER + k: v for k, v in parameters.items()},
                **{TABLE + k: v for k, v in table.items()},
            )
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def cached(
    folder: str | os.PathLike | None, parameters: Mapping, build: Callable[[], Arrays]
) -> Arrays:
    """What `build()` gives, from the disk if it was built before.

    Args:
      folder: of the files; None for `default_folder`.
      parameters: all that the table depends on: numbers, strings and arrays.
      build: makes the table, as arrays by name.

    Raises:
      UserError: a file has the right name but holds a table of other parameters.
    """
    arrays = {name: np.asarray(value) for name, value in parameters.items()}
    path = pathlib.Path(folder or default_folder()) / file_name(arrays)
    if path.is_file() and (table := read(path, arrays)) is not None:
        return table
    table = build()
    try:
        write(path, arrays, table)
        say(f"cached in {path}")
    except OSError as error:
        say(f"{path}: the table could not be cached ({error.strerror}); it is built at each start")
    return table
