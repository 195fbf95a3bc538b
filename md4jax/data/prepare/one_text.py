"""Data sets that are one long text: its first part is for training, its last for testing."""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from md4jax.data.prepare.archives import Files
from md4jax.data.prepare.recipe import (
    About,
    Download,
    Piece,
    Read,
    Recipe,
    TextRecipe,
    missing,
)
from md4jax.data.tokenizers import Bytes, Characters, Gpt2, Tokenizer
from md4jax.options import UserError, option

_ROW = "Tokens a stored row; data that fit into memory can be read in any length."
TOKENIZERS = ("chars", "bytes", "gpt2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneText(TextRecipe):
    """One text of your own."""

    tokenizer: str = option("What a token is.", "chars", one_of=TOKENIZERS)
    vocab: str | None = option("Folder of GPT-2's encoder.json; None fetches it.", None)
    alphabet: str | None = option("The characters there may be; None is those of the text.", None)
    valid_fraction: float = option("Share before that, for validation.", 0.0, at_least=0,
                                   below=1)  # fmt: skip
    test_fraction: float = option("Share at the end, for testing.", 0.1, above=0, below=1)
    row_length: int = option(_ROW, 1024, at_least=1)
    about = About(
        what="one UTF-8 text of your own",
        licence="yours",
        home="-",
        source="a text file, packed (xz, gz, bz2, zip) or not",
        gigabytes="-",
        train="--config=configs/own/text.py --config.data.name=tokens",
    )

    def made_with(self) -> Tokenizer:
        """See `TextRecipe`; the alphabet is known once the source was read."""
        if self.tokenizer == "chars":
            return Characters(alphabet_option(self.alphabet))
        return Bytes() if self.tokenizer == "bytes" else Gpt2(self.vocab or "")

    def ready(self, source: Path, fetch_vocabulary: Callable[[], Path]) -> Recipe:
        """With the alphabet of the text, if it is asked for; see `Recipe`."""
        if self.tokenizer != "chars" or self.alphabet is not None:
            return super().ready(source, fetch_vocabulary)
        alphabet = "".join(sorted(set(_text(source))))
        if not alphabet:
            raise missing(source, "the text is empty")
        return dataclasses.replace(self, alphabet=alphabet)

    def pieces(self, source: Path) -> list[Piece]:
        """All at once; see `Recipe`."""
        self.made_with()  # Raises what would be found late.
        return [functools.partial(_encode, source, self)]

    def sizes(self, total: int, source: Path) -> dict[str, int]:
        """Characters of each split, in the order of the text.

        Raises:
          UserError: they do not fit into the text.
        """
        if self.valid_fraction + self.test_fraction >= 1:
            raise UserError(
                f"--valid_fraction={self.valid_fraction} and --test_fraction={self.test_fraction} "
                "leave nothing to train on"
            )
        test, valid = int(total * self.test_fraction), int(total * self.valid_fraction)
        if not test:
            raise missing(
                source, f"of {total} characters --test_fraction={self.test_fraction} is none"
            )
        return {"train": total - valid - test, "valid": valid, "test": test}


def _raw(source: Path) -> bytes:
    entries = Files(source).entries
    if len(entries) != 1:
        raise missing(source, f"should be one text and holds {len(entries)} files")
    return entries[0].read()


def _text(source: Path) -> str:
    return as_text(_raw(source), f"--source={source}")


def as_text(raw: bytes, where: str) -> str:
    """The characters of UTF-8.

    Raises:
      UserError: it is none.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8: byte {raw[error.start]:#04x} at position {error.start}; "
            "--tokenizer=bytes takes any file"
        ) from error


def alphabet_option(alphabet: str | None) -> str:
    """The characters of `--tokenizer=chars`.

    Raises:
      UserError: there are none, or one is there twice.
    """
    if not alphabet:
        raise UserError("--alphabet is missing: --tokenizer=chars needs the characters")
    twice = next((c for c in alphabet if alphabet.count(c) > 1), None)
    if twice is not None:
        raise UserError(f"--alphabet={alphabet}: {twice!r} is in it more than once")
    return alphabet


def _encode(source: Path, recipe: OneText) -> Iterator[Read]:
    if recipe.tokenizer == "bytes":  # So that sizes are in bytes, and any file will do.
        content, encode = np.frombuffer(_raw(source), np.uint8), lambda ids, _: ids
    else:
        content, encode = _text(source), recipe.made_with().encode
    parts, start = {}, 0
    for split, size in recipe.sizes(len(content), source).items():
        ids = encode(content[start : start + size], f"--source={source}, {split}")
        parts[split], start = {"tokens": ids}, start + size
    yield parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Published(OneText):
    """A published text of known sizes, of which the beginning may be had as well."""

    train_size: int = option("Characters of the training split.", 90_000_000, at_least=1)
    valid_size: int = option("Of the validation split, after those.", 5_000_000, at_least=1)
    test_size: int = option("Of the test split, after those.", 5_000_000, at_least=1)

    def sizes(self, total: int, source: Path) -> dict[str, int]:
        """See `OneText`.

        Raises:
          UserError: there are fewer; says which sizes would fit.
        """
        sizes = {"train": self.train_size, "valid": self.valid_size, "test": self.test_size}
        if total < sum(sizes.values()):
            part = total // 20
            raise missing(
                source,
                f"holds {total} characters and the splits ask for {sum(sizes.values())}; of a part "
                f"of the text these would fit: --train_size={total - 2 * part} --valid_size={part} "
                f"--test_size={part}",
            )
        return sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text8(_Published):
    """text8: ids 0 to 25 for a to z and 26 for space, as published."""

    alphabet: str | None = option("The characters there may be.", string.ascii_lowercase + " ")
    about = About(
        what="100 million characters of Wikipedia, a to z and space",
        licence="CC BY-SA 3.0",
        home="http://mattmahoney.net/dc/textdata.html",
        source="text8, packed (zip, xz, gz, bz2) or not; or its beginning, with --train_size=...",
        gigabytes="0.1",
        downloads=(Download("http://mattmahoney.net/dc/text8.zip", None, 31.0),),
        train="--config=configs/md4/text8.py",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enwik8(_Published):
    """enwik8: bytes."""

    tokenizer: str = option("What a token is.", "bytes", one_of=TOKENIZERS)
    about = About(
        what="100 million bytes of Wikipedia with its markup",
        licence="CC BY-SA 3.0",
        home="http://mattmahoney.net/dc/textdata.html",
        source="enwik8, packed (zip, xz, gz, bz2) or not",
        gigabytes="0.1",
        downloads=(Download("http://mattmahoney.net/dc/enwik8.zip", None, 36.0),),
        train="--config=configs/text8/small.py",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyShakespeare(OneText):
    """Forty thousand lines of Shakespeare."""

    valid_fraction: float = option("Share before that, for validation.", 0.05, at_least=0,
                                   below=1)  # fmt: skip
    test_fraction: float = option("Share at the end, for testing.", 0.05, above=0, below=1)
    about = About(
        what="1,115,394 characters of Shakespeare's plays, 65 symbols",
        licence="public domain",
        home="https://github.com/karpathy/char-rnn",
        source="the text file, packed or not",
        gigabytes="0.001",
        downloads=(
            Download(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
                "input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", 1.1,
            ),
        ),
        train="--config=configs/own/text.py --config.data.name=tokens",
    )  # fmt: skip
