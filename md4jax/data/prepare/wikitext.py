"""WikiText-2: Wikipedia's good articles as words, rare ones `<unk>`; a document is an article."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from md4jax.data.prepare.archives import Entry, Files
from md4jax.data.prepare.documents import ManyTexts
from md4jax.data.prepare.one_text import as_text
from md4jax.data.prepare.recipe import About, Piece, Read, missing

FILES = {
    "train": ("wiki.train.tokens", "train.txt"),
    "valid": ("wiki.valid.tokens", "valid.txt"),
    "test": ("wiki.test.tokens", "test.txt"),
}
_TITLE = re.compile(r"(?<=\n)(?= = [^=\n]+ = \n)")  # Sections have more signs.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wikitext2(ManyTexts):
    """WikiText-2."""

    about = About(
        what="two million words of Wikipedia, by articles",
        licence="CC BY-SA 3.0",
        home="https://arxiv.org/abs/1609.07843",
        source="the folder of wiki.{train,valid,test}.tokens or {train,valid,test}.txt, packed or "
        "not",
        gigabytes="0.01",
        train="--config=configs/own/text.py --config.data.name=tokens",
    )

    def pieces(self, source: Path) -> list[Piece]:
        """One a split; see `Recipe`."""
        files, found = Files(source), {}
        for split, names in FILES.items():
            found[split] = files.one(*names)
            if found[split] is None:
                raise missing(source, f"there is no {' or '.join(names)}, packed or not, in it")
        self.made_with()  # Raises what would be found late.
        return [functools.partial(_encode, entry, s, self) for s, entry in found.items()]


def _encode(entry: Entry, split: str, recipe: Wikitext2) -> Iterator[Read]:
    tokenizer, end = recipe.made_with(), recipe.end()
    articles = _TITLE.split(as_text(entry.read(), str(entry)))
    ids = [x for a in articles if a.strip() for x in (tokenizer.encode(a, str(entry)), end)]
    yield {split: {"tokens": np.concatenate([end[:0], *ids])}}
