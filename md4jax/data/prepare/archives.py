"""Files wherever they are: in a folder, a zip or a tar, packed or not."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from md4jax.options import UserError

_MAGIC = {b"\xfd7zXZ\x00": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
DAMAGE = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, zipfile.BadZipFile,
          tarfile.TarError)  # fmt: skip


@contextmanager
def readable(path: object) -> Iterator[None]:
    """Turns what reading a damaged or unreadable file raises into one line that names it."""
    try:
        yield
    except DAMAGE as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read, perhaps cut short or damaged: {words}") from error


def open_file(path: Path) -> IO[bytes]:
    """Opens a file for reading, unpacked if its first bytes say xz, gzip or bzip2."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((o for magic, o in _MAGIC.items() if start.startswith(magic)), open)
    return opener(path, "rb")


def unpacked(raw: bytes) -> bytes:
    """The content of a file in memory, see `open_file`."""
    opener = next((o for magic, o in _MAGIC.items() if raw.startswith(magic)), None)
    return raw if opener is None else opener(io.BytesIO(raw)).read()


class Files:
    """The files of a folder, zip or tar, by their names within it, sorted."""

    def __init__(self, source: Path):
        """Lists the names.

        Raises:
          UserError: there is no such source, or it is a damaged archive.
        """
        self.source = source
        if not source.exists():
            raise UserError(f"--source={source}: no such file or folder")
        with readable(source):
            self.names = sorted(_names(source))

    def one(self, *endings: str) -> str | None:
        """The first name that ends as one of these, packed (.gz, .xz, .bz2) or not."""
        for ending in endings:
            for name in self.names:
                if (
                    name.removesuffix(".gz")
                    .removesuffix(".xz")
                    .removesuffix(".bz2")
                    .endswith(ending)
                ):
                    return name
        return None

    def read(self, name: str) -> bytes:
        """The content of a file, unpacked.

        Raises:
          UserError: it is damaged.
        """
        with readable(f"{self.source}/{name}" if self.source.is_dir() else self.source):
            return unpacked(_read(self.source, name))


def _names(source: Path) -> list[str]:
    if source.is_dir():
        return [str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()]
    archive = _archive(str(source))
    if isinstance(archive, zipfile.ZipFile):
        return [name for name in archive.namelist() if not name.endswith("/")]
    if isinstance(archive, tarfile.TarFile):
        return [member.name for member in archive if member.isfile()]
    return [source.name]


def _read(source: Path, name: str) -> bytes:
    if source.is_dir():
        return (source / name).read_bytes()
    archive = _archive(str(source))
    if isinstance(archive, zipfile.ZipFile):
        return archive.read(name)
    if isinstance(archive, tarfile.TarFile):
        return archive.extractfile(name).read()
    return source.read_bytes()


@functools.lru_cache(maxsize=2)  # Listing a large tar takes long: once a process.
def _archive(source: str) -> Any:
    """An open zip or tar; None if the file is neither."""
    if zipfile.is_zipfile(source):
        return zipfile.ZipFile(source)
    if tarfile.is_tarfile(source):
        return tarfile.open(source)
    return None
