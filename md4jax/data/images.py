"""Image data sets that `prepare_data.py` made: uint8, `[height, width, channels]`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from md4jax.data.base import ArraySplit, Dataset, Split
from md4jax.data.prepared import (
    Example,
    Prepared,
    Raw,
    RecordSplit,
    Source,
    open_prepared,
    unpack_png,
)
from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec

LEVELS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Images of 256 levels, by prepare_data.py: its --list says which."""

    dataset: str = option("The data set's name.", "cifar10")
    data_dir: str = option("The folder of all prepared data.", "data", changeable=True)
    labels: bool = option("Give the classes to the network.", False)
    memory_gb: float = option(
        "Data of up to so many GB are read into memory at the start; others stay on disk.",
        2.0, at_least=0, changeable=True,
    )  # fmt: skip

    def load(self) -> Dataset:
        """Opens the data.

        Raises:
          UserError: they are not prepared, damaged, or have no classes and `labels` asks for them.
        """
        prepared = open_prepared(self.dataset, self.data_dir, "images")
        classes = prepared.metadata["num_classes"]
        if self.labels and classes is None:
            raise UserError(f"config.data.labels = True: {self.dataset} has no classes; use False")
        spec = DataSpec(
            shape=tuple(prepared.metadata["shape"]),
            vocab_size=LEVELS,
            num_classes=classes if self.labels else None,
            unit="dim",
        )
        size = sum(prepared.counts.values()) * np.prod(spec.shape)
        make = _in_memory if size <= self.memory_gb * 1e9 else _on_disk
        splits = {
            name: make(prepared, prepared.source(name), spec) for name in prepared.counts
        }  # fmt: skip
        return Dataset(spec, splits, prepared.fingerprint(spec), levels=LEVELS)


def _decode(prepared: Prepared) -> Callable[[Example], np.ndarray]:
    shape = tuple(prepared.metadata["shape"])
    return unpack_png if prepared.metadata["packed"] else Raw("image", "u1", shape)


def _on_disk(prepared: Prepared, source: Source, spec: DataSpec) -> Split:
    decode = _decode(prepared)
    return RecordSplit(source, spec.shape, decode, labelled=spec.num_classes is not None)


def _in_memory(prepared: Prepared, source: Source, spec: DataSpec) -> Split:
    decode = _decode(prepared)
    images = np.empty((source.count, *spec.shape), np.uint8)
    labels = None if spec.num_classes is None else np.empty(source.count, np.int32)
    for start, examples in source.blocks():
        for i, example in enumerate(examples, start):
            images[i] = decode(example)
            if labels is not None:
                labels[i] = example["label"]
    return ArraySplit(images, labels)
