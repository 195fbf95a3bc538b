"""What turns text into ids and back: characters, bytes of UTF-8, GPT-2's byte-pair encoding.

Each has an identity that is stored with the data made by it, so that data of another tokenizer are
not taken for its own. `end_of_text` follows every document; for characters and bytes it is one id
more than they have, for GPT-2 it is 50256, as published.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from md4jax.data.text import UNKNOWN, Alphabet
from md4jax.options import UserError

END_OF_TEXT = "<|endoftext|>"
# Of the two published files the one that is enough: ids are the order in which tokens were merged.
GPT2_FILE = "encoder.json"
_GPT2_NAMES = (GPT2_FILE, "vocab.json")  # The second as Hugging Face calls it.
GPT2_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json"
_GPT2_SIZE = 50257
# Splits text into what is then merged: contractions, letters, digits, others, blanks; each but the
# blanks with one leading space (GPT-2's published rule).
_GPT2_PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@runtime_checkable
class Tokenizer(Protocol):
    """Text as ids in `[0, vocab_size)`.

    `unit` is what one id is called in likelihoods; `end_of_text` the id after a document, or None.
    """

    unit: str

    @property
    def vocab_size(self) -> int:
        """Ids there are, `end_of_text` among them."""

    @property
    def end_of_text(self) -> int | None:
        """The id that follows every document; None if the data are one text without an end."""

    def identity(self) -> dict[str, Any]:
        """JSON-able; `load(identity, folder)` gives this tokenizer again."""

    def encode(self, text: str, source: str) -> Integer[np.ndarray, "t"]:
        """Ids of one document, without `end_of_text`, of the smallest unsigned type.

        Raises:
          UserError: the text, which is from `source`, has what no id stands for.
        """

    def decode(self, ids: Integer[np.ndarray, "t"]) -> str:
        """The text; ids outside the vocabulary, such as a mask, show as `█`."""


@dataclasses.dataclass(frozen=True)
class Characters:
    """One id a character of an alphabet.

    Attributes:
      alphabet: character i has id i.
      has_end: whether there is an end-of-text id after those.
    """

    alphabet: str
    has_end: bool = False
    unit = "char"

    @property
    def vocab_size(self) -> int:
        """Characters, and one for the end."""
        return len(self.alphabet) + self.has_end

    @property
    def end_of_text(self) -> int | None:
        """The id after the characters'."""
        return len(self.alphabet) if self.has_end else None

    def identity(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": "chars", "alphabet": self.alphabet, "has_end": self.has_end}

    def encode(self, text: str, source: str) -> Integer[np.ndarray, "t"]:
        """See `Tokenizer`."""
        ids = Alphabet(self.alphabet).encode(text, source)
        return ids.astype(np.min_scalar_type(self.vocab_size - 1))

    def decode(self, ids: Integer[np.ndarray, "t"]) -> str:
        """See `Tokenizer`."""
        shown = [*self.alphabet, *[END_OF_TEXT] * self.has_end]
        return "".join(shown[i] if 0 <= i < len(shown) else UNKNOWN for i in ids.tolist())


@dataclasses.dataclass(frozen=True)
class Bytes:
    """One id a byte of UTF-8.

    Attributes:
      has_end: whether id 256 is the end of a text.
    """

    has_end: bool = False
    unit = "byte"

    @property
    def vocab_size(self) -> int:
        """256, and one for the end."""
        return 256 + self.has_end

    @property
    def end_of_text(self) -> int | None:
        """256."""
        return 256 if self.has_end else None

    def identity(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": "bytes", "has_end": self.has_end}

    def encode(self, text: str, source: str) -> Integer[np.ndarray, "t"]:
        """See `Tokenizer`; halves of a UTF-16 pair, which JSON may hold, are replaced."""
        del source
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        raw = np.frombuffer(whole.encode(), np.uint8)
        return raw.astype(np.min_scalar_type(self.vocab_size - 1))

    def decode(self, ids: Integer[np.ndarray, "t"]) -> str:
        """See `Tokenizer`; the replacement character stands for broken UTF-8."""
        end = {256: END_OF_TEXT.encode()} if self.has_end else {}
        shown = [bytes([i]) if 0 <= i < 256 else end.get(i, UNKNOWN.encode()) for i in ids.tolist()]
        return b"".join(shown).decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class Gpt2:
    """GPT-2's byte-pair encoding, 50,257 ids, from its published file in a folder."""

    folder: str
    unit = "token"
    vocab_size = _GPT2_SIZE
    end_of_text = _GPT2_SIZE - 1

    def identity(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": "gpt2", "sha256": GPT2_SHA256}

    @property
    def file(self) -> Path:
        """The path of `GPT2_FILE`.

        Raises:
          UserError: it is missing or is not the published one.
        """
        folder = Path(self.folder).expanduser()
        found = next((folder / n for n in _GPT2_NAMES if (folder / n).is_file()), None)
        if found is None:
            raise UserError(
                f"{folder} has no {' or '.join(_GPT2_NAMES)}, which GPT-2's tokenizer is made of; "
                f"it is at {GPT2_URL}"
            )
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
        if digest != GPT2_SHA256:
            raise UserError(
                f"{found} is not GPT-2's published {GPT2_FILE}: its sha256 is {digest[:16]}..., "
                f"not {GPT2_SHA256[:16]}..."
            )
        return found

    def encode(self, text: str, source: str) -> Integer[np.ndarray, "t"]:
        """See `Tokenizer`; `<|endoftext|>` within a text is text like any other."""
        del source
        return np.array(_gpt2(self).encode_ordinary(text), np.uint16)

    def decode(self, ids: Integer[np.ndarray, "t"]) -> str:
        """See `Tokenizer`."""
        known = ids < self.vocab_size
        if known.all():
            return _gpt2(self).decode(ids.tolist())
        runs = np.split(ids, np.flatnonzero(np.diff(known)) + 1)
        return "".join(
            _gpt2(self).decode(run.tolist()) if run[0] < self.vocab_size else UNKNOWN * len(run)
            for run in runs
        )


@functools.lru_cache(maxsize=2)
def _gpt2(tokenizer: Gpt2) -> Any:
    """Tiktoken's encoding: built in about a second, so once a process."""
    import tiktoken

    # Each byte has a printable character: its own, or one above 255 if that is none.
    own = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = sorted(set(range(256)) - set(own))
    byte = {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(others)}
    ids = json.loads(tokenizer.file.read_text(encoding="utf-8"))
    return tiktoken.Encoding(
        "md4jax-gpt2",
        pat_str=_GPT2_PIECES,
        mergeable_ranks={bytes(map(byte.get, t)): i for t, i in ids.items() if t != END_OF_TEXT},
        special_tokens={END_OF_TEXT: tokenizer.end_of_text},
    )


def load(identity: dict[str, Any], folder: Path) -> Tokenizer:
    """The tokenizer of prepared data.

    Args:
      identity: as `Tokenizer.identity` gave it.
      folder: of the data, where GPT-2's file is too.
    """
    fields = {key: value for key, value in identity.items() if key != "kind"}
    if identity["kind"] == "gpt2":
        return Gpt2(str(folder))
    return {"chars": Characters, "bytes": Bytes}[identity["kind"]](**fields)
