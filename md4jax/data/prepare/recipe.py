"""What a data set must tell to be prepared.

A recipe is a frozen dataclass; its options are flags of `prepare_data.py`. One of the three kinds
below says how its examples are stored; the data set itself says how to read its source.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64, Integer

from md4jax.data.packing import pack
from md4jax.data.tokenizers import GPT2_FILE, Gpt2, Tokenizer
from md4jax.options import UserError

Part = Mapping[str, Any]  # Field -> array [n, ...], or a list of n bytes.
Read = dict[str, Part]  # Split -> its part of some examples, in order.
Piece = Callable[[], Iterator[Read]]  # In order; each small enough for memory.
Parts = Callable[[str], Iterable[Part]]  # Split -> its parts, in order; may be asked again.
Counts = Mapping[str, int]  # Split -> its examples; of text its tokens.


@dataclasses.dataclass(frozen=True)
class Download:
    """A file to fetch.

    Attributes:
      url: where it is.
      sha256: of its content; None if it is not known.
      megabytes: about how large it is.
    """

    url: str
    sha256: str | None = None
    megabytes: float | None = None


@dataclasses.dataclass(frozen=True)
class About:
    """What `--list` shows of a data set.

    Attributes:
      what: one line.
      licence: as its publishers say.
      home: its page.
      source: what `--source` takes, in words.
      gigabytes: of the prepared data.
      downloads: what is fetched if no source is given.
      counts: examples of each split; None if it is not known.
      digests: of each split's examples as `builder.py` sums them; empty if they are not known.
      train: arguments of `main.py` that train on it, but for its name and folder.
    """

    what: str
    licence: str
    home: str
    source: str
    gigabytes: str
    downloads: tuple[Download, ...] = ()
    counts: Counts | None = None
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    train: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(abc.ABC):
    """A data set that can be prepared; `kind` is the data component that reads it."""

    kind: ClassVar[str]
    about: ClassVar[About]
    max_workers: ClassVar[int | None] = None  # Where a piece takes gigabytes of memory.

    @abc.abstractmethod
    def pieces(self, source: Path) -> list[Piece]:
        """The source in pieces, in order; picklable, each read by one process from its beginning.

        Raises:
          UserError: the source is not what it should be. So does calling a piece.
        """

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """Tensorflow-datasets' features of one stored example."""

    @abc.abstractmethod
    def examples(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """The stored examples of a split."""

    @abc.abstractmethod
    def metadata(self, parts: Parts, counts: Counts) -> dict[str, Any]:
        """JSON-able, for `data/prepared.py` and the class that reads this kind."""

    def stored(self, count: int) -> int:
        """How many stored examples are made of as many as `counts` tells."""
        return count

    def files(self) -> Mapping[str, Path]:
        """Files kept with the data, by their name there."""
        return {}

    def ready(self, source: Path, fetch_vocabulary: Callable[[], Path]) -> Recipe:
        """The recipe with what it must know of its source, or fetch besides, before it starts."""
        del source, fetch_vocabulary
        return self

    def problem(self, counts: Counts) -> str | None:
        """What is wrong with the examples that were found, if anything."""
        if not counts.get("train"):
            return "there is nothing in it to train on"
        if self.about.counts is None or dict(counts) == dict(self.about.counts):
            return None
        words = lambda counts: ", ".join(f"{n:,} {split}" for split, n in counts.items())
        return f"has {words(counts)} examples, and should have {words(self.about.counts)}"


class ImageRecipe(Recipe):
    """Images of one size: fields `image` uint8 `[n, h, w, c]` or `png`, and `label` if classes."""

    kind = "images"
    num_classes: ClassVar[int | None] = None
    packed: ClassVar[bool] = False  # As PNG: smaller, but has to be unpacked while training.

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""

    @property
    def has_labels(self) -> bool:
        """Whether there are classes."""
        return self.num_classes is not None

    def features(self) -> dict[str, Any]:
        """See `Recipe`."""
        import tensorflow_datasets as tfds

        raw = tfds.features.Encoding.BYTES
        found = {"png": tfds.features.Tensor(shape=(), dtype=np.object_)} if self.packed else {
            "image": tfds.features.Tensor(shape=self.shape, dtype=np.uint8, encoding=raw)
        }  # fmt: skip
        return found | ({"label": tfds.features.Scalar(np.int64)} if self.has_labels else {})

    def examples(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """See `Recipe`."""
        for part in parts:
            names = list(part)
            for values in zip(*part.values()):
                yield dict(zip(names, values))

    def metadata(self, parts: Parts, counts: Counts) -> dict[str, Any]:
        """See `Recipe`."""
        classes = self.num_classes
        if self.has_labels and classes is None:
            classes = 1 + max(int(p["label"].max()) for name in counts for p in parts(name))
        return {"shape": self.shape, "num_classes": classes, "packed": self.packed}


class TextRecipe(Recipe):
    """Text: field `tokens`, packed into rows of `row_length`; a document's end is in them."""

    kind = "tokens"
    tokenizer: str
    vocab: str | None
    row_length: int

    @abc.abstractmethod
    def made_with(self) -> Tokenizer:
        """The tokenizer."""

    def features(self) -> dict[str, Any]:
        """See `Recipe`."""
        import tensorflow_datasets as tfds

        raw = tfds.features.Encoding.BYTES
        kind = np.min_scalar_type(self.made_with().vocab_size - 1)
        return {"tokens": tfds.features.Tensor(shape=(None,), dtype=kind, encoding=raw)}

    def examples(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """See `Recipe`."""
        for row in pack((part["tokens"] for part in parts), self.row_length):
            yield {"tokens": row}

    def stored(self, count: int) -> int:
        """Rows, the last of which may be shorter; see `Recipe`."""
        return -(-count // self.row_length)

    def metadata(self, parts: Parts, counts: Counts) -> dict[str, Any]:
        """See `Recipe`."""
        del parts
        tokenizer = self.made_with()
        return {
            "tokenizer": tokenizer.identity(),
            "unit": tokenizer.unit,
            "dtype": np.min_scalar_type(tokenizer.vocab_size - 1).name,
            "row_length": self.row_length,
            "tokens": dict(counts),
        }

    def files(self) -> Mapping[str, Path]:
        """GPT-2's."""
        tokenizer = self.made_with()
        return {GPT2_FILE: tokenizer.file} if isinstance(tokenizer, Gpt2) else {}

    def ready(self, source: Path, fetch_vocabulary: Callable[[], Path]) -> Recipe:
        """With the folder of GPT-2's file, fetched if none is given; see `Recipe`."""
        if self.tokenizer != "gpt2":
            return self
        vocab = self.vocab if self.vocab is not None else str(fetch_vocabulary())
        Gpt2(vocab).file  # noqa: B018  Raises now what would be found late.
        return dataclasses.replace(self, vocab=vocab)


class PointRecipe(Recipe):
    """Points of a domain: field `x` float32."""

    kind = "points"
    domain: ClassVar[str]
    shape: ClassVar[tuple[int, ...]]

    def features(self) -> dict[str, Any]:
        """See `Recipe`."""
        import tensorflow_datasets as tfds

        raw = tfds.features.Encoding.BYTES
        return {"x": tfds.features.Tensor(shape=self.shape, dtype=np.float32, encoding=raw)}

    def examples(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """See `Recipe`."""
        for part in parts:
            for x in part["x"]:
                yield {"x": x}

    def metadata(self, parts: Parts, counts: Counts) -> dict[str, Any]:
        """See `Recipe`."""
        del parts, counts
        return {"domain": self.domain, "shape": self.shape}


def check_labels(
    labels: Integer[np.ndarray, "n"], classes: int, where: str, first: int = 0
) -> Int64[np.ndarray, "n"]:
    """Labels counted from 0.

    Args:
      labels: as they were read, counted from `first`.
      classes: there are.
      where: they are from.
      first: of them.

    Raises:
      UserError: one is out of range.
    """
    if len(labels) and not first <= labels.min() <= labels.max() < first + classes:
        raise UserError(
            f"{where}: has labels from {labels.min()} to {labels.max()}, not {first} to "
            f"{first + classes - 1}"
        )
    return labels.astype(np.int64) - first


def missing(source: Path, wanted: str) -> UserError:
    """Says that a source does not hold what it should."""
    return UserError(f"--source={source}: {wanted}")
