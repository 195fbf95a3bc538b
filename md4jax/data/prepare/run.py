"""From a source to a prepared data set: piece by piece, so that no work is done twice.

Under `<data_dir>/.preparing/<name>-<key>/` each piece of the source that was read is one file,
written under another name and renamed. The key is made of the recipe, its options and the source,
so that other options never meet parts of these. At the end the parts are written by
tensorflow-datasets and deleted. Whatever is interrupted, the same command goes on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from md4jax.console import Progress, say
from md4jax.data.prepare.builder import write
from md4jax.data.prepare.download import fetch, is_url
from md4jax.data.prepare.recipe import Download, Part, Piece, Recipe, missing
from md4jax.data.prepared import VERSION
from md4jax.data.tokenizers import GPT2_FILES, GPT2_URL
from md4jax.options import Table, UserError, options_of

_WORDS = {
    errno.ENOSPC: "there is no space left on its disk",
    errno.EDQUOT: "there is no quota left",
    errno.EROFS: "it is on a read-only disk",
    errno.EACCES: "it may not be written",
    errno.EPERM: "it may not be written",
}


def prepare(
    recipe: Recipe, dataset: str, data_dir: Path, source: str | None, name: str, workers: int
) -> Path:
    """Makes `<data_dir>/<name>/<VERSION>` and says so; nothing is done if it is there already.

    Args:
      recipe: with its options.
      dataset: the recipe's name.
      data_dir: the folder of all data sets.
      source: a path, a URL, or None to fetch what is published.
      name: of the data set there.
      workers: processes that read pieces.

    Raises:
      UserError: the source is missing, damaged or not what it should be, or the folder cannot be
        written; what was finished before stays for the next run.
    """
    target = data_dir / name / VERSION
    try:
        place = _source(recipe, dataset, data_dir, source)
        recipe = recipe.ready(place, functools.partial(_vocabulary, data_dir))
        key = _key(recipe, dataset, place)
        if target.exists():
            _check_same(target, key, name)
            say(f"{target} is there already; nothing was done")
            return target
        work = data_dir / ".preparing" / f"{name}-{key[:16]}"
        work.mkdir(parents=True, exist_ok=True)
        with _alone(work):
            splits = _read_pieces(recipe.pieces(place), work, workers, name)
            _check_counts(recipe, work, splits, place)
            about = {"dataset": dataset, "key": key, "source": str(place)}
            parts = functools.partial(_parts, work)
            metadata = write(recipe, name, data_dir, parts, splits, about)
            lines = _summary(recipe, work, splits, metadata, target)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        if error.errno not in _WORDS:
            raise UserError(f"{error.filename or data_dir}: {error}") from error
        raise UserError(
            f"--data_dir={data_dir}: {error.filename or data_dir} cannot be written: "
            f"{_WORDS[error.errno]}; after that the same command goes on"
        ) from error
    say("\n".join(lines))
    return target


def _source(recipe: Recipe, dataset: str, data_dir: Path, source: str | None) -> Path:
    if source is None:
        if not recipe.about.downloads:
            raise UserError(
                f"--source is missing: {dataset} is not offered for download; give "
                f"{recipe.about.source} ({recipe.about.home})"
            )
        folder = data_dir / "downloads" / dataset
        files = [fetch(download, folder) for download in recipe.about.downloads]
        return files[0] if len(files) == 1 else folder
    if is_url(source):
        return fetch(Download(source), data_dir / "downloads" / dataset)
    place = Path(source).expanduser()
    if not place.exists():
        raise missing(place, f"no such file or folder; {dataset} takes {recipe.about.source}")
    return place


def _vocabulary(data_dir: Path) -> Path:
    folder = data_dir / "downloads" / "gpt2"
    for name, (_, sha256) in GPT2_FILES.items():
        fetch(Download(GPT2_URL + name, sha256), folder)
    return folder


def _key(recipe: Recipe, dataset: str, source: Path) -> str:
    """What fixes the result: the recipe, its options, the files of the source and their sizes."""
    options = {name: getattr(recipe, name) for name in options_of(type(recipe)) if name != "vocab"}
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    sizes = [(p.name if p == source else str(p.relative_to(source)), p.stat().st_size)
             for p in files]  # fmt: skip
    words = json.dumps([VERSION, dataset, options, sizes], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()


def _check_same(target: Path, key: str, name: str) -> None:
    try:
        found = json.loads((target / "metadata.json").read_text()).get("key")
    except (OSError, ValueError) as error:
        raise UserError(f"{target} is there, but was not written by prepare_data.py") from error
    if found != key:
        raise UserError(
            f"--name={name}: {target} was made from another source or with other options; give "
            "another --name, or delete that folder"
        )


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keeps two runs from the same parts."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{work}: another prepare_data.py is at work on it") from error
        try:
            yield
        finally:
            if not any(work.glob("*.npz")):  # Nothing that the next run could use.
                shutil.rmtree(work, ignore_errors=True)


def _read_pieces(pieces: Sequence[Piece], work: Path, workers: int, name: str) -> list[str]:
    """Reads the pieces that are not there yet; the splits there are, "train" first."""
    paths = [work / f"{number:06d}.npz" for number in range(len(pieces))]
    left = [(piece, path) for piece, path in zip(pieces, paths) if not path.exists()]
    progress = Progress(f"reading {name}, piece", len(left))
    if len(left) < len(pieces):
        say(f"{name}: {len(pieces) - len(left)} of {len(pieces)} pieces were read before")
    if min(workers, len(left)) <= 1:
        for number, (piece, path) in enumerate(left, 1):
            _store(piece, path)
            progress.update(number)
    else:
        _read_together(left, workers, progress)
    found = {split for path in paths for split in _splits(path)}
    return [split for split in ("train", "valid", "test") if split in found]


def _read_together(left: list[tuple[Piece, Path]], workers: int, progress: Progress) -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(left)), context) as pool:
        jobs = [pool.submit(_store, piece, path) for piece, path in left]
        try:
            for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                job.result()
                progress.update(number)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _store(piece: Piece, path: Path) -> None:
    """Reads a piece and writes it; the name is there only once all of it is."""
    arrays = {}
    for split, part in piece().items():
        for field, values in part.items():
            arrays |= _as_arrays(f"{split}/{field}", values)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)


def _as_arrays(name: str, values: Any) -> dict[str, np.ndarray]:
    """Byte strings, which NumPy would cut at a zero, as all of them joined and their lengths."""
    if isinstance(values, np.ndarray):
        return {name: values}
    joined = np.frombuffer(b"".join(values), np.uint8)
    return {f"{name}/bytes": joined, f"{name}/lengths": np.array([len(v) for v in values])}


def _splits(path: Path) -> set[str]:
    with np.load(path) as arrays:
        return {name.split("/")[0] for name in arrays.files}


def _parts(work: Path, split: str) -> Iterator[Part]:
    """The parts of a split, in the order of the pieces."""
    for path in sorted(work.glob("*.npz")):
        with np.load(path) as arrays:
            names = [name for name in arrays.files if name.split("/")[0] == split]
            if names:
                yield _as_part({name: arrays[name] for name in names})


def _as_part(arrays: dict[str, np.ndarray]) -> Part:
    part: Part = {}
    for name, values in arrays.items():
        _, field, *kind = name.split("/")
        if not kind:
            part[field] = values
        elif kind == ["lengths"]:
            stops = np.cumsum(values)
            joined = arrays[name.removesuffix("lengths") + "bytes"].tobytes()
            part[field] = [joined[a - n : a] for a, n in zip(stops.tolist(), values.tolist())]
    return part


def _check_counts(recipe: Recipe, work: Path, splits: Sequence[str], source: Path) -> None:
    expected = recipe.about.counts
    if expected is None:
        return
    found = {split: recipe.count(_parts(work, split)) for split in splits}
    if found != dict(expected):
        for path in work.glob("*.npz"):  # They are of a source that is to be mended.
            path.unlink()
        words = lambda counts: ", ".join(f"{n:,} {split}" for split, n in counts.items())
        raise missing(source, f"has {words(found)} examples, and should have {words(expected)}")


def _summary(
    recipe: Recipe, work: Path, splits: Sequence[str], metadata: dict[str, Any], target: Path
) -> list[str]:
    lines = []
    for split in splits:
        count = recipe.count(_parts(work, split))
        unit = f"{metadata['unit']}s" if "unit" in metadata else "examples"
        known = recipe.about.digests.get(split)
        checked = "" if known is None else (
            "; content as published" if known == metadata["digests"][split]
            else "; CONTENT DIFFERS from the published one"
        )  # fmt: skip
        lines.append(f"{split}: {count:,} {unit}{checked}")
    size = sum(p.stat().st_size for p in target.iterdir())
    name, data_dir = target.parent.name, target.parent.parent
    lines.append(f"done: {target} ({size / 1e6:,.1f} MB)")
    lines.append(
        f"train: python main.py {recipe.about.train.format(name=name)} "
        f"--config.data.data_dir={data_dir} --workdir=/tmp/md4jax/{name}"
    )
    return lines


def listing(recipes: Table) -> str:
    """What `--list` prints: all data sets, one paragraph each."""
    paragraphs = []
    for name in recipes:
        about = recipes[name].about
        size = "" if about.gigabytes == "-" else f"; {about.gigabytes} GB"
        megabytes = sum(download.megabytes or 0 for download in about.downloads)
        fetched = f"fetched ({megabytes:.0f} MB), or " if about.downloads else ""
        paragraphs.append(
            f"{name}\n    {about.what}{size}\n    licence: {about.licence}; {about.home}\n"
            f"    source: {fetched}{about.source}"
        )
    return "\n".join(paragraphs)
