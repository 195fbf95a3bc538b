"""WikiText-2: Wikipedia's good articles as words, rare ones `<unk>`; a document is an article."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

import numpy as np

from md4jax.data.prepare.archives import Files
from md4jax.data.prepare.documents import ManyTexts
from md4jax.data.prepare.one_text import as_text
from md4jax.data.prepare.recipe import About, Part, Piece, missing

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
        train="--config=configs/own/text.py --config.data.dataset=wikitext2 "
        "--config.data.tokenizer=gpt2",
    )

    def pieces(self, source: Path) -> list[Piece]:
        """One a split; see `Recipe`."""
        files, found = Files(source), {}
        for split, names in FILES.items():
            found[split] = files.one(*names)
            if found[split] is None:
                raise missing(source, f"there is no {' or '.join(names)}, packed or not, in it")
        return [functools.partial(_encode, source, name, s, self) for s, name in found.items()]


def _encode(source: Path, name: str, split: str, recipe: Wikitext2) -> dict[str, Part]:
    tokenizer, where = recipe.made_with(), f"{source}/{name}"
    ids = []
    for article in _TITLE.split(as_text(Files(source).read(name), where)):
        if article.strip():
            ids += [tokenizer.encode(article, where), np.array([tokenizer.end_of_text], np.uint32)]
    return {split: {"tokens": np.concatenate(ids).astype(ids[0].dtype)}}
