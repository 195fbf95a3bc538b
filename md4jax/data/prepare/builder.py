"""Writes examples as tensorflow-datasets does, into ArrayRecord files, without TensorFlow.

Tensorflow-datasets writes into a folder of another name and renames it at the end. Its `parquet`
format is never used: it loses rows (seen in 4.9.10). Images are tensors of bytes, as its image
features need TensorFlow to be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from md4jax.console import Progress
from md4jax.data.prepare.recipe import Parts, Recipe
from md4jax.data.prepared import VERSION


def write(
    recipe: Recipe, name: str, data_dir: Path, parts: Parts, splits: Sequence[str], about: Mapping
) -> dict[str, Any]:
    """Writes `<data_dir>/<name>/<VERSION>`, which must not be there; its metadata.

    Args:
      recipe: what is stored of the examples.
      parts: the parts of each split.
      splits: in order.
      about: JSON-able, added to the metadata: where the data are from.
    """
    import tensorflow_datasets as tfds
    from absl import logging as absl_logging

    _remove_unfinished(data_dir / name)
    metadata = {"kind": recipe.kind, **about, **recipe.metadata(parts, splits), "digests": {}}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(VERSION)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=recipe.about.what,
                homepage=recipe.about.home,
                license=recipe.about.licence,
                features=tfds.features.FeaturesDict(recipe.features()),
                metadata=tfds.core.MetadataDict(metadata),
                disable_shuffling=True,  # Training shuffles; joined rows give the text again.
            )

        def _split_generators(self, dl_manager):
            for kept, path in recipe.files().items():
                shutil.copyfile(path, Path(self.data_dir) / kept)
            return {split: self._numbered(split) for split in splits}

        def _numbered(self, split):
            digest = hashlib.sha256()
            for key, example in enumerate(_told(recipe, parts, split, name)):
                _add(digest, example)
                yield key, example
            # The dictionary that is written when all splits are.
            self.info.metadata["digests"][split] = digest.hexdigest()
            self.info.metadata["digest"] = _sum(self.info.metadata["digests"])

        def _generate_examples(self):
            raise NotImplementedError("the splits have generators of their own")

    Builder.name = name
    builder = Builder(data_dir=data_dir, file_format="array_record")
    unused = data_dir / ".preparing" / "unused"  # Nothing is downloaded; it makes the folder.
    tfds.disable_progress_bar()
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        with contextlib.redirect_stdout(_WithoutTheirs(sys.stdout)):
            builder.download_and_prepare(download_dir=unused)
    finally:
        absl_logging.set_verbosity(verbosity)
    shutil.rmtree(unused, ignore_errors=True)
    return dict(builder.info.metadata)


class _WithoutTheirs(io.TextIOBase):
    """Passes on what is printed, but not what tensorflow-datasets says of itself."""

    def __init__(self, out: Any):
        self._out, self._dropped = out, False

    def write(self, text: str) -> int:
        theirs = "Downloading and preparing" in text or "Subsequent calls" in text
        if not theirs and not (self._dropped and text == "\n"):
            self._out.write(text)
        self._dropped = theirs
        return len(text)

    def flush(self) -> None:
        self._out.flush()


def _told(recipe: Recipe, parts: Parts, split: str, name: str) -> Iterator[dict[str, Any]]:
    """The examples, with word of how far they are."""
    total = recipe.count(parts(split))
    unit = getattr(recipe, "row_length", 1)
    progress = Progress(f"writing {name}, {split}", -(-total // unit))
    for number, example in enumerate(recipe.examples(parts(split))):
        yield example
        if number % 256 == 0:
            progress.update(number)


def _add(digest: Any, example: Mapping[str, Any]) -> None:
    """All entries of all fields, whatever their type and order in the record."""
    for field in sorted(example):
        value = example[field]
        if not isinstance(value, bytes):
            value = np.ascontiguousarray(value)
            value = value.astype(value.dtype.newbyteorder("<"), copy=False).data
        digest.update(value)


def _sum(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(
        "".join(f"{k}{v}" for k, v in sorted(digests.items())).encode()
    ).hexdigest()


def _remove_unfinished(folder: Path) -> None:
    """What a killed run has left."""
    for left in folder.glob(f"incomplete.*_{VERSION}"):
        shutil.rmtree(left)
