"""What the text data sets share: an alphabet, cutting into splits, reading local files."""

from __future__ import annotations

import bz2
import dataclasses
import functools
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from md4jax.data.base import Dataset, TokenWindows, fingerprint, log_left_out
from md4jax.options import UserError
from md4jax.processes.base import DataSpec

UNKNOWN = "█"  # Shown for ids outside the vocabulary, such as a mask.
_PIECE = 2**22  # Characters encoded at a time: utf-32 needs four times the memory.


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """Characters and their ids: `characters[i]` has id i."""

    characters: str

    def __len__(self) -> int:
        return len(self.characters)

    @functools.cached_property
    def _ids(self) -> Integer[np.ndarray, "codepoints"]:
        """Id of each code point; those beyond it and -1 are not in the alphabet."""
        codes = _codepoints(self.characters)
        ids = np.full(int(codes.max()) + 2, -1, np.int32)  # The last entry is for all beyond it.
        ids[codes] = np.arange(len(codes))
        return ids

    def encode(self, text: str, source: str = "the text") -> Integer[np.ndarray, "t"]:
        """Ids of the characters, of the smallest unsigned type that holds them.

        Args:
          text: to be encoded.
          source: where it comes from, for the error.

        Raises:
          UserError: names the first character that is not in the alphabet, and its position.
        """
        ids = np.empty(len(text), np.min_scalar_type(len(self) - 1))
        for start in range(0, len(text), _PIECE):
            codes = _codepoints(text[start : start + _PIECE])
            piece = self._ids[np.minimum(codes, len(self._ids) - 1)]
            if (piece < 0).any():
                position = start + int(np.argmax(piece < 0))
                raise UserError(
                    f"{source}: character {text[position]!r} at position {position} is not in the "
                    f"alphabet {self.characters!r}"
                )
            ids[start : start + len(piece)] = piece
        return ids

    def decode(self, ids: Integer[np.ndarray, "t"]) -> str:
        """The characters; ids outside the alphabet show as `█`."""
        return "".join(self.characters[i] if 0 <= i < len(self) else UNKNOWN for i in ids.tolist())


def _codepoints(text: str) -> Integer[np.ndarray, "t"]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def text_dataset(
    parts: Mapping[str, Integer[np.ndarray, "t"]],
    *,
    length: int,
    vocab_size: int,
    unit: str,
    to_text: Callable[[np.ndarray], str] | None,
    encode: Callable[[str, str], np.ndarray] | None = None,
    train_stride: int = 1,
) -> Dataset:
    """A data set of windows: overlapping in "train", disjoint chunks in all others.

    Args:
      parts: token ids of each split.
      length: tokens a window.
      vocab_size: ids are in [0, vocab_size).
      unit: what likelihoods are counted in.
      to_text: ids of one window as text.
      encode: a text's ids.
      train_stride: tokens between the starts of two training windows.

    Raises:
      UserError: a split is shorter than one window.
    """
    splits = {}
    for name, tokens in parts.items():
        if len(tokens) < length:
            raise UserError(
                f"config.data.length = {length}: the {name} split has only {len(tokens)} {unit}s"
            )
        splits[name] = TokenWindows(tokens, length, train_stride if name == "train" else length)
    log_left_out(splits)
    spec = DataSpec(shape=(length,), vocab_size=vocab_size, unit=unit)
    return Dataset(spec, splits, fingerprint(spec, parts), to_text=to_text, encode=encode)


def local_file(option_name: str, path: str, how_to_get: str) -> Path:
    """The path of a file that is there.

    Raises:
      UserError: it is not; says which and how to get it.
    """
    found = Path(path).expanduser()
    if not path or not found.is_file():
        raise UserError(f"config.data.{option_name} = {path!r}: no such file; {how_to_get}")
    return found


def read_bytes(option_name: str, path: Path) -> bytes:
    """The content of a file, which may be packed by xz, gzip, bzip2, or zip with one file in it.

    Args:
      option_name: the config key that names the file, for the error.
      path: of the file; how it is packed is seen from its first bytes, not from its name.

    Raises:
      UserError: the file cannot be read or is damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(option_name, path)
        openers = {b"\xfd7zXZ\x00": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
        opener = next((o for magic, o in openers.items() if start.startswith(magic)), open)
        with opener(path, "rb") as file:
            return file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"config.data.{option_name} = '{path}': cannot be read: {error}") from error


def _read_zip(option_name: str, path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/")]
        if len(names) != 1:
            raise UserError(
                f"config.data.{option_name} = '{path}': should hold one file and holds {len(names)}"
            )
        with archive.open(names[0]) as file:
            return file.read()
