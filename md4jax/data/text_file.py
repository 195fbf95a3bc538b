"""A text of your own: one UTF-8 file, as characters or as bytes.

With `tokens="chars"` the vocabulary is the sorted set of the file's characters, and likelihoods are
per character; with `"bytes"` it is the 256 bytes of UTF-8, and they are per byte. The first part of
the file is for training, the last `test_fraction` of it, rounded down, is "test".
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from md4jax.data.base import Dataset
from md4jax.data.text import UNKNOWN, Alphabet, local_file, read_bytes, text_dataset
from md4jax.options import UserError, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFile:
    """One UTF-8 text file of your own, as characters or bytes."""

    path: str = option(
        "UTF-8 text; may be packed by xz, gz, bz2 or zip.", "data/text.txt", changeable=True
    )
    length: int = option("Characters or bytes an example.", 256, at_least=1)
    tokens: str = option("What an id stands for.", "chars", one_of=("chars", "bytes"))
    test_fraction: float = option(
        "Share of the file, at its end, to test on.", 0.1, above=0, below=1
    )

    def load(self) -> Dataset:
        """Reads the file.

        Raises:
          UserError: no such file, not UTF-8, or a split shorter than `length`.
        """
        path = local_file("path", self.path, "give a UTF-8 text file of your own")
        raw = read_bytes("path", path)
        text = _decode(raw, path)
        if self.tokens == "bytes":
            ids, vocab_size, to_text = np.frombuffer(raw, np.uint8), 256, bytes_to_text
        else:
            alphabet = Alphabet("".join(sorted(set(text))) or " ")
            ids, vocab_size, to_text = alphabet.encode(text), len(alphabet), alphabet.decode
        first = len(ids) - int(len(ids) * self.test_fraction)
        return text_dataset(
            {"train": ids[:first], "test": ids[first:]},
            length=self.length,
            vocab_size=vocab_size,
            unit=self.tokens.removesuffix("s"),
            to_text=to_text,
        )


def bytes_to_text(ids: Integer[np.ndarray, "t"]) -> str:
    """Bytes as text: `█` for ids that are no byte, the replacement character for broken UTF-8."""
    shown = [bytes([i]) if 0 <= i < 256 else UNKNOWN.encode() for i in ids.tolist()]
    return b"".join(shown).decode("utf-8", "replace")


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"config.data.path = '{path}': not UTF-8: byte {raw[error.start]:#04x} at position "
            f"{error.start}"
        ) from error
