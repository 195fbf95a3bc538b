"""Writes examples in the layout of tensorflow-datasets, ArrayRecord files, without TensorFlow.

Tensorflow-datasets describes the records and reads them, but its own writer holds a split in memory
and, of more than a gigabyte, asks for TensorFlow. Here records go straight into shards, in order,
in a folder of another name, which is renamed when all of it is there. Images are tensors of bytes,
as its image features need TensorFlow to be written.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from md4jax.console import Progress
from md4jax.data.prepare.recipe import Counts, Parts, Recipe
from md4jax.data.prepared import VERSION
from md4jax.options import UserError

BYTES_A_SHARD = 2**29


def write(
    recipe: Recipe, name: str, data_dir: Path, parts: Parts, counts: Counts, about: Mapping
) -> dict[str, Any]:
    """Writes `<data_dir>/<name>/<VERSION>`, which must not be there; its metadata.

    Args:
      recipe: what is stored of the examples.
      name: of the data set.
      data_dir: the folder of all data sets.
      parts: the parts of each split.
      counts: the splits, in order.
      about: JSON-able, added to the metadata: where the data are from.

    Raises:
      OSError: of the disk.
      UserError: the examples are not those that are published.
    """
    import tensorflow_datasets as tfds

    partial = data_dir / name / f"incomplete.{VERSION}"
    shutil.rmtree(partial, ignore_errors=True)  # What a killed run has left.
    partial.mkdir(parents=True)
    metadata = {"kind": recipe.kind, **about, **recipe.metadata(parts, counts)}
    features = tfds.features.FeaturesDict(recipe.features())
    template = tfds.core.ShardedFileTemplate(
        dataset_name=name, data_dir=partial, filetype_suffix="array_record"
    )
    try:
        infos, digests = [], {}
        for split, count in counts.items():
            digest = hashlib.sha256()
            examples = _told(recipe, parts, split, recipe.stored(count), name)
            shards = _Shards(template.replace(split=split))
            shards.write(_records(features, examples, digest))
            infos.append(shards.info())
            digests[split] = digest.hexdigest()
            if recipe.about.digests.get(split, digests[split]) != digests[split]:
                raise UserError(
                    f"has as many {split} examples as are published, but others: it is damaged or "
                    "was altered; other data are prepared by image_folder and image_arrays"
                )
        metadata |= {"digests": digests, "digest": _sum(digests)}
        tfds.folder_dataset.write_metadata(
            data_dir=partial, features=features, split_infos=infos, filename_template=template,
            version=VERSION, check_data=False, description=recipe.about.what,
            homepage=recipe.about.home, license=recipe.about.licence, disable_shuffling=True,
        )  # fmt: skip
        (partial / "metadata.json").write_text(json.dumps(metadata, indent=2))
        for kept, path in recipe.files().items():
            shutil.copyfile(path, partial / kept)
        os.rename(partial, data_dir / name / VERSION)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return metadata


class _Shards:
    """The files of a split, each of about `BYTES_A_SHARD`; how many is known at the end."""

    def __init__(self, template: Any):
        self._template, self._lengths, self._bytes = template, [], 0

    def write(self, records: Iterator[bytes]) -> None:
        """Writes all records.

        Raises:
          OSError: of the disk.
        """
        paths = []
        for first in records:
            paths.append(Path(self._template.data_dir) / f"{self._template.split}.{len(paths)}")
            self._write_one(paths[-1], itertools.chain([first], records))
        for number, path in enumerate(paths):
            path.rename(self._template.sharded_filepath(shard_index=number, num_shards=len(paths)))

    def _write_one(self, path: Path, records: Iterator[bytes]) -> None:
        """Takes as many records as fill one shard."""
        from array_record.python.array_record_module import ArrayRecordWriter

        count = size = 0
        try:
            writer = ArrayRecordWriter(str(path), "group_size:1")
            try:
                for record in records:
                    writer.write(record)
                    count, size = count + 1, size + len(record)
                    if size >= BYTES_A_SHARD:
                        break
            finally:
                writer.close()
        except RuntimeError as error:  # How it tells of a full disk, when it is closed.
            known = (e for e in errno.errorcode if os.strerror(e) in str(error))
            raise OSError(next(known, errno.EIO), str(error), str(path)) from error
        self._lengths.append(count)
        self._bytes += size

    def info(self) -> Any:
        """Tensorflow-datasets' description of what was written."""
        import tensorflow_datasets as tfds

        return tfds.core.SplitInfo(
            name=self._template.split, shard_lengths=self._lengths, num_bytes=self._bytes,
            filename_template=self._template,
        )  # fmt: skip


def _records(features: Any, examples: Iterable[Mapping], digest: Any) -> Iterator[bytes]:
    """Examples as they are stored; the digest is of all entries of all fields."""
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    serializer = ExampleSerializer(features.get_serialized_info())
    for example in examples:
        for field in sorted(example):
            value = example[field]
            if not isinstance(value, bytes):
                value = np.ascontiguousarray(value)
                value = value.astype(value.dtype.newbyteorder("<"), copy=False).data
            digest.update(value)
        yield serializer.serialize_example(features.encode_example(example))


def _told(
    recipe: Recipe, parts: Parts, split: str, total: int, name: str
) -> Iterator[dict[str, Any]]:
    """The examples, with word of how far they are."""
    progress = Progress(f"writing {name}, {split}", total)
    for number, example in enumerate(recipe.examples(parts(split))):
        yield example
        if number % 256 == 0:
            progress.update(number)


def _sum(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(
        "".join(f"{k}{v}" for k, v in sorted(digests.items())).encode()
    ).hexdigest()
