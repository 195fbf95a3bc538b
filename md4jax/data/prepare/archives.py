"""Files wherever they are: in a folder, a zip or a tar, packed or not."""

from __future__ import annotations

import bz2
import dataclasses
import functools
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from md4jax.options import UserError

_MAGIC = {b"\xfd7zXZ\x00": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
_PACKED = (".gz", ".xz", ".bz2")
DAMAGE = (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zlib.error,
          zipfile.BadZipFile, tarfile.TarError)  # fmt: skip


@contextmanager
def readable(path: object) -> Iterator[None]:
    """Turns what reading a damaged or unreadable file raises into one line that names it."""
    try:
        yield
    except DAMAGE as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read, perhaps cut short or damaged: {words}") from error


def unpacking(file: io.BufferedIOBase) -> io.BufferedIOBase:
    """The content of a seekable file, unpacked if its first bytes say xz, gzip or bzip2."""
    start = file.read(6)
    file.seek(0)
    opener = next((o for magic, o in _MAGIC.items() if start.startswith(magic)), None)
    return file if opener is None else opener(file)


def unpacked(raw: bytes) -> bytes:
    """The content of a file in memory, see `unpacking`."""
    return unpacking(io.BytesIO(raw)).read()


def bare(name: str) -> PurePath:
    """A name without what it was packed by."""
    path = PurePath(name)
    while path.suffix.lower() in _PACKED:
        path = path.with_suffix("")
    return path


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a folder or archive: small and picklable, read without a list of the others.

    Attributes:
      source: the folder, zip or tar.
      name: within it.
      size: in bytes, as it is there.
      offset: of its content in the (unpacked) tar; None if it is in no tar.
    """

    source: Path
    name: str
    size: int
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.source}/{self.name}"

    @property
    def path(self) -> Path | None:
        """Where it is as a file of its own; None within an archive."""
        return self.source / self.name if self.source.is_dir() else None

    def open(self) -> io.BufferedIOBase:
        """Its content from the beginning, unpacked; reading it may raise what is in `DAMAGE`."""
        if self.path is not None:
            return unpacking(self.path.open("rb"))
        archive = _archive(str(self.source))
        if self.offset is None:
            return unpacking(archive.open(self.name))
        member = tarfile.TarInfo(self.name)  # By its name tarfile would look through all of them.
        member.size, member.offset_data = self.size, self.offset
        return unpacking(archive.extractfile(member))

    def read(self) -> bytes:
        """All of its content, unpacked.

        Raises:
          UserError: it is damaged.
        """
        with readable(self), self.open() as file:
            return file.read()


class Files:
    """The files of a folder, zip or tar, or one file alone, by their names within it, sorted.

    Hidden ones, as file managers and version control leave, are not among them.
    """

    def __init__(self, source: Path):
        """Lists them; of a packed tar this takes as long as unpacking it.

        Raises:
          UserError: there is no such source, or it is a damaged archive.
        """
        self.source = source
        with readable(source):
            found = {entry.name: entry for entry in _entries(source)}
        self.entries = [found[name] for name in sorted(found)]

    def one(self, *names: str) -> Entry | None:
        """The first file of one of these names, in whatever folder, packed or not."""
        for name in names:
            for entry in self.entries:
                if bare(entry.name).name == name:
                    return entry
        return None


def _entries(source: Path) -> Iterator[Entry]:
    if source.is_dir():
        for path in source.rglob("*"):
            name = str(path.relative_to(source))
            if not _hidden(name) and path.is_file():
                yield Entry(source, name, path.stat().st_size)
        return
    archive = _archive(str(source))
    if isinstance(archive, zipfile.ZipFile):
        for info in archive.infolist():
            if not info.is_dir() and not _hidden(info.filename):
                yield Entry(source, info.filename, info.file_size)
    elif isinstance(archive, tarfile.TarFile):
        for member in archive:
            if member.isfile() and not _hidden(member.name):
                yield Entry(source, member.name, member.size, member.offset_data)
    else:
        yield Entry(source.parent, source.name, source.stat().st_size)


def _hidden(name: str) -> bool:
    return any(p.startswith((".", "__MACOSX")) and p != ".." for p in PurePath(name).parts)


def is_packed_tar(source: Path) -> bool:
    """Whether a file of a tar is reached only by unpacking all before it."""
    archive = None if source.is_dir() else _archive(str(source))
    return isinstance(archive, tarfile.TarFile) and not isinstance(
        archive.fileobj, io.BufferedReader
    )


@functools.lru_cache(maxsize=4)  # Opened once a process, however many files of it are read.
def _archive(source: str) -> Any:
    """An open zip or tar; None if the file is neither."""
    if zipfile.is_zipfile(source):
        return zipfile.ZipFile(source)
    if tarfile.is_tarfile(source):
        return tarfile.open(source)
    return None
