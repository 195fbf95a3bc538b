"""text8: the first 100 million characters of an English Wikipedia of 2006, cleaned by M. Mahoney.

http://mattmahoney.net/dc/textdata.html; 27 symbols, a to z and space. As published for discrete
diffusion and before: the first 90 million characters are for training, the next 5 million are
"valid", the last 5 million "test"; ids are 0 to 25 for a to z and 26 for space. Training sees every
overlapping window; evaluation disjoint chunks, of which the last `length - 1` characters at most
are left out.
"""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from md4jax.data.base import Dataset
from md4jax.data.text import Alphabet, local_file, read_bytes, text_dataset
from md4jax.options import UserError, option

ALPHABET = Alphabet(string.ascii_lowercase + " ")
_FOREIGN = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text8:
    """English text as 27 characters, from a local copy of text8 or of its beginning."""

    path: str = option(
        "text8, or the zip, xz, gz or bz2 that holds it.", "data/text8.zip", changeable=True
    )
    length: int = option("Characters an example.", 256, at_least=1)
    train_chars: int = option("Characters of the training split.", 90_000_000, at_least=1)
    valid_chars: int = option('Characters of "valid", after those.', 5_000_000, at_least=1)
    test_chars: int = option('Characters of "test", after those.', 5_000_000, at_least=1)

    def load(self) -> Dataset:
        """Reads the file.

        Raises:
          UserError: no such file, too short, or a character that is not a to z or space.
        """
        path = local_file(
            "path", self.path, "text8.zip is at http://mattmahoney.net/dc/text8.zip (31 MB)"
        )
        needed = self.train_chars + self.valid_chars + self.test_chars
        raw = read_bytes("path", path, limit=needed)
        if len(raw) < needed:
            raise UserError(self._too_short(path, len(raw), needed))
        ids = _encode(raw, path)
        first, second = self.train_chars, self.train_chars + self.valid_chars
        return text_dataset(
            {"train": ids[:first], "valid": ids[first:second], "test": ids[second:]},
            length=self.length,
            vocab_size=len(ALPHABET),
            unit="char",
            to_text=ALPHABET.decode,
        )

    def _too_short(self, path: Path, found: int, needed: int) -> str:
        part = found // 20
        return (
            f"config.data.path = '{path}' holds {found} characters; train_chars + valid_chars + "
            f"test_chars = {needed}; these fit: --config.data.train_chars={found - 2 * part} "
            f"--config.data.valid_chars={part} --config.data.test_chars={part}"
        )


def _encode(raw: bytes, path: Path) -> Integer[np.ndarray, "t"]:
    """Ids uint8, by a table of bytes: 100 million characters need no copy wider than that."""
    table = np.full(256, _FOREIGN, np.uint8)
    table[np.frombuffer(ALPHABET.characters.encode(), np.uint8)] = np.arange(len(ALPHABET))
    ids = table[np.frombuffer(raw, np.uint8)]
    foreign = ids == _FOREIGN
    if foreign.any():
        position = int(np.argmax(foreign))
        raise UserError(
            f"config.data.path = '{path}': {chr(raw[position])!r} at position {position} is not "
            "a to z or space, so this is not text8"
        )
    return ids
