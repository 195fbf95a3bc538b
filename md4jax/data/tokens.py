"""Text data sets that `prepare_data.py` made: tokens, stored in rows that were cut from documents.

Rows joined give the sequence of all documents again. Where a split fits into memory it is joined,
and windows may have any length and start anywhere; otherwise an example is a row as it is stored.
The last `length - 1` tokens of a split at most are in no window.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Integer

from md4jax.data import tokenizers
from md4jax.data.base import Dataset, Split, TokenWindows, log_left_out
from md4jax.data.packing import segments
from md4jax.data.prepared import Prepared, Raw, RecordSplit, Source, open_prepared
from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of text, by prepare_data.py: its --list says which data sets there are."""

    dataset: str = option("The data set's name.", "text8")
    data_dir: str = option("The folder of all prepared data.", "data", changeable=True)
    tokenizer: str = option("What it was made with; other data are refused.", "chars",
                            one_of=("chars", "bytes", "gpt2"))  # fmt: skip
    length: int = option("Tokens an example.", 256, at_least=1)
    train_stride: int | None = option(
        "Tokens between the starts of two training examples, 1 for all windows; None is length.",
        None, at_least=1,
    )  # fmt: skip
    documents: bool = option(
        "Attend within documents alone: where they begin and end is told to the network.", False
    )
    memory_gb: float = option(
        "Data of up to so many GB are read into memory at the start; others stay on disk.",
        2.0, at_least=0, changeable=True,
    )  # fmt: skip

    def load(self) -> Dataset:
        """Opens the data.

        Raises:
          UserError: they are not prepared, damaged, made with another tokenizer, too short, have
            no documents, or stay on disk in rows of another length.
        """
        prepared = open_prepared(self.dataset, self.data_dir, "tokens")
        tokenizer = self._tokenizer(prepared)
        spec = DataSpec(
            shape=(self.length,), vocab_size=tokenizer.vocab_size, unit=tokenizer.unit,
            has_segments=self.documents,
        )  # fmt: skip
        size = sum(prepared.metadata["tokens"].values()) * _type(prepared).itemsize
        make = self._in_memory if size <= self.memory_gb * 1e9 else self._on_disk
        splits = {name: make(prepared, name) for name in prepared.counts}
        log_left_out(splits)
        if self.documents:
            splits = {k: WithSegments(v, tokenizer.end_of_text) for k, v in splits.items()}
        return Dataset(spec, splits, prepared.fingerprint(spec), to_text=tokenizer.decode,
                       encode=tokenizer.encode)  # fmt: skip

    def _tokenizer(self, prepared: Prepared) -> tokenizers.Tokenizer:
        identity = prepared.metadata["tokenizer"]
        if identity["kind"] != self.tokenizer:
            raise UserError(
                f"config.data.tokenizer = {self.tokenizer!r}: {prepared.folder} was made with "
                f"{identity['kind']!r}; choose that, or prepare the data again"
            )
        tokenizer = tokenizers.load(identity, prepared.folder)
        if self.documents and tokenizer.end_of_text is None:
            raise UserError(
                f"config.data.documents = True: {self.dataset} is one text, not many; use False"
            )
        return tokenizer

    def _in_memory(self, prepared: Prepared, name: str) -> Split:
        count, at = prepared.metadata["tokens"][name], 0
        if count < self.length:
            raise UserError(
                f"config.data.length = {self.length}: the {name} split of {self.dataset} has only "
                f"{count} {prepared.metadata['unit']}s"
            )
        tokens, decode = np.empty(count, _type(prepared)), _row(prepared)
        for _, examples in prepared.source(name).blocks():
            block = np.concatenate([decode(e) for e in examples])
            tokens[at : at + len(block)] = block
            at += len(block)
        stride = (self.train_stride if name == "train" else None) or self.length
        return TokenWindows(tokens, self.length, stride)

    def _on_disk(self, prepared: Prepared, name: str) -> Split:
        rows = prepared.metadata["row_length"]
        for key, value in (("length", self.length), ("train_stride", self.train_stride)):
            if value not in (None, rows):
                raise UserError(
                    f"config.data.{key} = {value}: {self.dataset} is larger than "
                    f"config.data.memory_gb = {self.memory_gb} and stays on disk in rows of "
                    f"{rows}, so this should be {rows}; or prepare it with "
                    f"--row_length={self.length}"
                )
        source: Source = prepared.source(name)
        whole = prepared.metadata["tokens"][name] // rows  # The last row may be shorter.
        return RecordSplit(dataclasses.replace(source, count=whole), (rows,), _row(prepared))


def _type(prepared: Prepared) -> np.dtype:
    return np.dtype(prepared.metadata["dtype"]).newbyteorder("<")


def _row(prepared: Prepared) -> Raw:
    return Raw("tokens", _type(prepared).str, (-1,))


@dataclasses.dataclass(frozen=True, eq=False)
class WithSegments:
    """A split of token rows that also says which document each token is of.

    Attributes:
      rows: the split.
      end_of_text: the id that ends a document.
    """

    rows: Split
    end_of_text: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's x0."""
        return self.rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: Integer[np.ndarray, "n"]) -> dict[str, Any]:
        """`x0` int32 `[n, length]` and `segment` int32 `[n, length]`, see `packing.segments`."""
        batch = self.rows.gather(indices)
        return batch | {"segment": segments(batch["x0"], self.end_of_text)}
