"""What was read of a source, on disk until all of it is: a folder a piece, an .npz file a part."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from md4jax.data.prepare.archives import DAMAGE
from md4jax.data.prepare.recipe import Part, Piece
from md4jax.options import UserError


def store(piece: Piece, path: Path) -> None:
    """Reads a piece and writes it; the name is there only once all of it is."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.mkdir()
    try:
        for number, found in enumerate(piece()):
            arrays = {}
            for split, part in found.items():
                for field, values in part.items():
                    arrays |= _as_arrays(f"{split}/{field}", values)
            with (partial / f"{number:06d}.npz").open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _as_arrays(name: str, values: Any) -> dict[str, np.ndarray]:
    """Byte strings, which NumPy would cut at a zero, as all of them joined and their lengths."""
    if isinstance(values, np.ndarray):
        return {name: values}
    joined = np.frombuffer(b"".join(values), np.uint8)
    lengths = np.array([len(v) for v in values], np.int64)
    return {f"{name}/lengths": lengths, f"{name}/joined": joined}


class _Stored(Mapping):
    """The part of a split in a file, whose fields are read when they are asked for."""

    def __init__(self, arrays: np.lib.npyio.NpzFile, split: str):
        self._arrays, self._split = arrays, split
        names = [name.split("/") for name in arrays.files]
        self._fields = list(dict.fromkeys(name[1] for name in names if name[0] == split))

    def __getitem__(self, field: str) -> Any:
        name = f"{self._split}/{field}"
        if name in self._arrays.files:
            return self._arrays[name]
        lengths = self._arrays[f"{name}/lengths"]
        joined = self._arrays[f"{name}/joined"].tobytes()
        return [joined[b - n : b] for b, n in zip(np.cumsum(lengths).tolist(), lengths.tolist())]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        arrays = np.load(path)
    except DAMAGE as error:
        raise UserError(
            f"{path} is damaged; delete {path.parent}, and the same command reads that piece again"
        ) from error
    with arrays:
        yield arrays


def parts_of(files: Sequence[Path], split: str) -> Iterator[Part]:
    """The parts of a split, in the order of the pieces."""
    for path in files:
        with _opened(path) as arrays:
            part = _Stored(arrays, split)
            if part:
                yield part


def count(files: Sequence[Path]) -> dict[str, int]:
    """The examples of each split there is, "train" first, of what NumPy's headers say."""
    counts = {"train": 0, "valid": 0, "test": 0}
    for path in files:
        with _opened(path) as arrays:
            first = {name.split("/")[0]: name for name in reversed(arrays.files)}
            for split, name in first.items():
                with arrays.zip.open(f"{name}.npy") as file:
                    np.lib.format.read_magic(file)
                    counts[split] += np.lib.format.read_array_header_1_0(file)[0][0]
    return {split: count for split, count in counts.items() if count}
