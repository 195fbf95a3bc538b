"""A text of your own: one UTF-8 file, as characters or as bytes.

With `tokens="chars"` the vocabulary is the sorted set of the file's characters, and likelihoods are
per character; with `"bytes"` it is the 256 bytes of UTF-8, and they are per byte. The first part of
the file is for training, the last `test_fraction` of it, rounded down, is "test".
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from md4jax.data.base import Dataset
from md4jax.data.text import local_file, read_bytes, text_dataset
from md4jax.data.tokenizers import Bytes, Characters, Tokenizer
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
        tokenizer: Tokenizer = Bytes()
        if self.tokens == "chars":
            tokenizer = Characters("".join(sorted(set(text))) or " ")
        ids = tokenizer.encode(text, f"config.data.path = '{path}'")
        first = len(ids) - int(len(ids) * self.test_fraction)
        return text_dataset(
            {"train": ids[:first], "test": ids[first:]},
            length=self.length,
            vocab_size=tokenizer.vocab_size,
            unit=tokenizer.unit,
            to_text=tokenizer.decode,
            encode=tokenizer.encode,
        )


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"config.data.path = '{path}': not UTF-8: byte {raw[error.start]:#04x} at position "
            f"{error.start}"
        ) from error
