"""Character-level text that every Python has: the language reference in `pydoc_data.topics`.

About 465,000 characters, the pages that `help("if")` shows. Nothing is downloaded. The pages differ
a little between versions of Python, so numbers compare only where the fingerprint is the same.

The pages are joined in the order of their names, two newlines between. Curly quotes, dashes and the
ellipsis become their look-alikes in ASCII; all that is then not printable ASCII or a newline is
dropped. By position, the first 8/10 are for training, the next 1/10 is "valid", the last is "test".
"""

from __future__ import annotations

import dataclasses

from md4jax.data.base import Dataset
from md4jax.data.text import Alphabet, text_dataset
from md4jax.options import option

ALPHABET = Alphabet("\n" + "".join(map(chr, range(32, 127))))
_LOOK_ALIKES = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\u00a0": " "}
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonDocs:
    """The Python language reference as characters: 96 ids, shipped with Python."""

    length: int = option("Characters an example.", 256, at_least=1)

    def load(self) -> Dataset:
        """Joins the pages. Raises UserError if a split is shorter than `length`."""
        ids = ALPHABET.encode(reference_text())
        first, second = len(ids) * 8 // 10, len(ids) * 9 // 10
        return text_dataset(
            {"train": ids[:first], "valid": ids[first:second], "test": ids[second:]},
            length=self.length,
            vocab_size=len(ALPHABET),
            unit="char",
            to_text=ALPHABET.decode,
            encode=ALPHABET.encode,
        )


def reference_text() -> str:
    """All pages as one text of printable ASCII and newlines."""
    from pydoc_data.topics import topics

    return normalise("\n\n".join(topics[name] for name in sorted(topics)))


def normalise(text: str) -> str:
    """Replaces look-alikes, then drops what is not printable ASCII or a newline."""
    kept = set(ALPHABET.characters)
    return "".join(c for c in text.translate(_LOOK_ALIKES) if c in kept)
