"""Reading what `prepare_data.py` wrote: ArrayRecord files in the layout of tensorflow-datasets.

`<data_dir>/<dataset>/<VERSION>/` holds the records, tensorflow-datasets' own description of them,
and `metadata.json`, which says how they were made. A half-written data set never has that name.
Examples are read by lists of indices, or once into memory where they fit.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped, UInt8

from md4jax.options import UserError
from md4jax.processes.base import DataSpec

logger = logging.getLogger(__name__)

Example = dict[str, Any]  # Field -> bytes or an integer, as stored.

VERSION = "1.0.0"
_NEEDED = {  # In the metadata of each kind.
    "images": ("digest", "shape", "num_classes", "packed"),
    "tokens": ("digest", "tokenizer", "unit", "dtype", "row_length", "tokens"),
    "points": ("digest", "shape", "domain"),
}
READ = 4096  # Examples read at a time.


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk.

    Attributes:
      folder: of this version.
      metadata: `kind` ("images", "tokens" or "points"), `digest` of the examples, and what the
        kind needs: see `prepare.recipe.Recipe.metadata`.
      counts: examples of each split.
    """

    folder: Path
    metadata: Mapping[str, Any]
    counts: Mapping[str, int]

    def source(self, split: str) -> Source:
        """Random access to the examples of a split."""
        return Source(str(self.folder), split, self.counts[split])

    def fingerprint(self, spec: DataSpec) -> str:
        """Identity of the examples as this spec has them; nothing is read for it."""
        words = [repr(spec), spec.domain or "", self.metadata["digest"]]
        words.append(json.dumps(self.metadata.get("tokenizer"), sort_keys=True))
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples of one split by lists of indices; opened on first use, so that it may be pickled."""

    folder: str
    split: str
    count: int

    def read(self, indices: Integer[np.ndarray, "n"]) -> list[Example]:
        """The examples, in the order of the indices.

        Raises:
          UserError: the files are damaged or gone.
        """
        try:
            records = _open(self.folder, self.split).__getitems__(indices.tolist())
            return [_parse(record) for record in records]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.folder}: the {self.split} records cannot be read ({words}); delete the "
                "folder and prepare the data again"
            ) from error

    def blocks(self) -> Iterator[tuple[int, list[Example]]]:
        """Yields all examples in order, many at a time, with the index of the first."""
        for start in range(0, self.count, READ):
            yield start, self.read(np.arange(start, min(start + READ, self.count)))


@functools.lru_cache(maxsize=8)
def _open(folder: str, split: str) -> Any:
    import tensorflow_datasets as tfds
    from absl import logging as absl_logging

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.WARNING)  # It says what it opens.
    try:
        return tfds.builder_from_directory(folder).as_data_source(split, deserialize_method=raw)
    finally:
        absl_logging.set_verbosity(verbosity)


def _parse(record: bytes) -> Example:
    """The fields of a record; five times as fast as tensorflow-datasets', which fit any data."""
    from tensorflow_datasets.proto import tf_example_pb2

    fields = tf_example_pb2.Example.FromString(record).features.feature
    return {
        name: (value.bytes_list.value or value.int64_list.value)[0]
        for name, value in fields.items()
    }


def open_prepared(dataset: str, data_dir: str, kind: str) -> Prepared:
    """Opens a prepared data set; reads its description alone.

    Args:
      dataset: its name.
      data_dir: the folder of all data sets.
      kind: what `config.data.name` asks for.

    Raises:
      UserError: it is not there, half there, or of another kind.
    """
    where = f"config.data.dataset = {dataset!r}"
    folder = Path(data_dir).expanduser() / dataset / VERSION
    how = f"python prepare_data.py --dataset={dataset} --data_dir={data_dir}"
    if not (folder / "dataset_info.json").is_file():
        raise UserError(f"{where}: nothing is prepared in {str(folder)!r}; run: {how}")
    try:
        metadata = json.loads((folder / "metadata.json").read_text())
        info = json.loads((folder / "dataset_info.json").read_text())
        counts = {s["name"]: sum(map(int, s["shardLengths"])) for s in info["splits"]}
        found = metadata["kind"]
        [metadata[key] for key in _NEEDED[found]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: {str(folder)!r} was not written by prepare_data.py or is damaged "
            f"({type(error).__name__}: {error}); run in another --data_dir: {how}"
        ) from error
    if found != kind:
        raise UserError(
            f"{where} holds {found}, so config.data.name should be {found!r}, not {kind!r}"
        )
    return Prepared(folder, metadata, counts)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSplit:
    """A split whose examples stay on disk.

    Attributes:
      source: of the examples.
      shape: of one example's x0.
      decode: what makes x0 of a stored example; picklable.
      labelled: whether examples have a `label`.
    """

    source: Source
    shape: tuple[int, ...]
    decode: Callable[[Example], np.ndarray]
    labelled: bool = False

    def __len__(self) -> int:
        return self.source.count

    def gather(self, indices: Integer[np.ndarray, "n"]) -> dict[str, np.ndarray]:
        """`x0` int32 `[n, *shape]`, and `label` int32 `[n]` where there are labels."""
        examples = self.source.read(indices)
        rows = {"x0": np.stack([self.decode(e) for e in examples]).astype(np.int32)}
        if self.labelled:
            rows["label"] = np.array([e["label"] for e in examples], np.int32)
        return rows


def unpack_png(example: Example) -> UInt8[np.ndarray, "h w c"]:
    """An image that is stored as PNG."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(example["png"])))
    return pixels[..., None] if pixels.ndim == 2 else pixels


@dataclasses.dataclass(frozen=True)
class Raw:
    """Makes an array of a field that is stored as the bytes of its entries.

    Attributes:
      field: its name.
      dtype: of the entries, little-endian.
      shape: of the array; -1 is as many as there are.
    """

    field: str
    dtype: str
    shape: tuple[int, ...]

    def __call__(self, example: Example) -> Shaped[np.ndarray, "..."]:
        return np.frombuffer(example[self.field], self.dtype).reshape(self.shape)
