"""From a source to a prepared data set: piece by piece, so that no work is done twice.

Under `<data_dir>/.preparing/<name>-<key>/` each piece of the source that was read is one folder,
written under another name and renamed. The key is made of the recipe, its options and the source,
so that other options never meet parts of these. At the end the parts are joined by `builder.py` and
deleted. Whatever is interrupted, the same command goes on.
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
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from md4jax.console import Progress, say
from md4jax.data.prepare.builder import write
from md4jax.data.prepare.download import fetch, is_url
from md4jax.data.prepare.parts import count, parts_of, store
from md4jax.data.prepare.recipe import Counts, Download, Piece, Recipe, missing
from md4jax.data.prepared import VERSION
from md4jax.data.tokenizers import GPT2_SHA256, GPT2_URL
from md4jax.options import Table, UserError, options_of

_WORDS = {
    errno.ENOSPC: "there is no space left on its disk",
    errno.EDQUOT: "there is no quota left",
    errno.EROFS: "it is on a read-only disk",
    errno.EACCES: "it may not be written",
    errno.EPERM: "it may not be written",
    errno.EEXIST: "a file is in its place",
    errno.ENOTDIR: "a file is in its place",
}
_LARGE = 2**30  # Bytes of an archive that takes long to list.


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
    about = {"dataset": dataset, "options": _options(recipe)}
    with _in_one_line(data_dir):
        if source is None and _is_made_of(target, about):
            return _there_already(target)
        place = _source(recipe, dataset, data_dir, source)
        about |= {"key": _key(about, place), "source": str(place.absolute())}
        work = data_dir / ".preparing" / f"{name}-{about['key'][:16]}"
        if target.exists():
            _check_same(target, about, name)
            shutil.rmtree(work, ignore_errors=True)  # Of a run that was killed at its very end.
            return _there_already(target)
        recipe = recipe.ready(place, functools.partial(_vocabulary, data_dir))
        with _alone(data_dir, name):
            if target.exists():  # By now.
                _check_same(target, about, name)
                return _there_already(target)
            try:
                counts = _make(recipe, name, data_dir, place, work, about, workers)
            finally:
                if not any(work.glob("*-of-*")):  # Nothing that the next run could use.
                    shutil.rmtree(work, ignore_errors=True)
            for unused in work.parent.glob(f"{name}-*"):  # Parts with options given up since.
                shutil.rmtree(unused, ignore_errors=True)
    say("\n".join(_summary(recipe, dataset, counts, target)))
    return target


def _make(
    recipe: Recipe, name: str, data_dir: Path, place: Path, work: Path, about: Mapping, workers: int
) -> Counts:
    if place.is_file() and place.stat().st_size > _LARGE:
        say(f"{name}: looking through {place}")
    pieces = recipe.pieces(place)
    work.mkdir(parents=True, exist_ok=True)
    files = _read_pieces(pieces, work, min(workers, recipe.max_workers or workers), name)
    counts = count(files)
    try:
        problem = recipe.problem(counts)
        if problem is not None:
            raise UserError(problem)
        write(recipe, name, data_dir, functools.partial(parts_of, files), counts, about)
    except UserError as error:
        shutil.rmtree(work)  # It is of a source or options that are to be mended.
        raise missing(place, str(error)) from error
    return counts


def _there_already(target: Path) -> Path:
    say(f"{target} is there already; nothing was done")
    return target


@contextlib.contextmanager
def _in_one_line(data_dir: Path) -> Iterator[None]:
    """What is wrong with a file or its disk, and what an interrupted run has to say."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on") from None
    except OSError as error:
        path = Path(error.filename or data_dir)
        if not path.absolute().is_relative_to(data_dir.absolute()):
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        words = _WORDS.get(error.errno, error.strerror or str(error))
        raise UserError(
            f"--data_dir={data_dir}: {path} cannot be written: {words}; after that is mended the "
            "same command goes on"
        ) from error


def _options(recipe: Recipe) -> dict[str, Any]:
    """What fixes the result; `vocab` is where a file is whose content is known."""
    return {name: getattr(recipe, name) for name in options_of(type(recipe)) if name != "vocab"}


def _source(recipe: Recipe, dataset: str, data_dir: Path, source: str | None) -> Path:
    downloads = data_dir / "downloads"
    if source is None:
        if not recipe.about.downloads:
            raise UserError(
                f"--source is missing: {dataset} is not offered for download; give "
                f"{recipe.about.source} ({recipe.about.home})"
            )
        files = [fetch(download, downloads / dataset) for download in recipe.about.downloads]
        return files[0] if len(files) == 1 else downloads / dataset
    if is_url(source):  # Two may have the same name at their ends.
        return fetch(Download(source), downloads / hashlib.sha256(source.encode()).hexdigest()[:16])
    place = Path(source).expanduser()
    if not place.exists():
        raise missing(place, f"no such file or folder; {dataset} takes {recipe.about.source}")
    if data_dir.resolve().is_relative_to(place.resolve()):
        raise missing(place, f"--data_dir={data_dir} is in it; choose another outside of it")
    return place


def _vocabulary(data_dir: Path) -> Path:
    return fetch(Download(GPT2_URL, GPT2_SHA256), data_dir / "downloads" / "gpt2").parent


def _key(about: Mapping[str, Any], source: Path) -> str:
    """What fixes the result: the recipe, its options, the files of the source and their sizes."""
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    sizes = [(p.name if p == source else str(p.relative_to(source)), p.stat().st_size)
             for p in files]  # fmt: skip
    words = json.dumps([VERSION, about["dataset"], about["options"], sizes], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()


def _is_made_of(target: Path, about: Mapping[str, Any]) -> bool:
    """Whether a data set is there already and was made by this recipe with these options."""
    return target.exists() and all(_metadata(target).get(k) == v for k, v in about.items())


def _check_same(target: Path, about: Mapping[str, Any], name: str) -> None:
    if _metadata(target).get("key") != about["key"]:
        raise UserError(
            f"--name={name}: {target} was made from another source or with other options; give "
            "another --name, or delete that folder"
        )


def _metadata(target: Path) -> dict[str, Any]:
    try:
        return json.loads((target / "metadata.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{target} was not written by prepare_data.py or is damaged; give another --name, or "
            "delete that folder"
        ) from error


@contextlib.contextmanager
def _alone(data_dir: Path, name: str) -> Iterator[None]:
    """Keeps two runs from making the same data set; the file it leaves has no content."""
    path = data_dir / ".preparing" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--name={name}: another prepare_data.py is at work on it in {data_dir}"
            ) from error
        except OSError:  # Some clusters' disks have no locks.
            pass
        yield


def _read_pieces(pieces: Sequence[Piece], work: Path, workers: int, name: str) -> list[Path]:
    """Reads the pieces that are not there yet; the files of all of them, in order."""
    total = len(pieces)
    for left in work.glob("*.part"):  # Of a run that was killed.
        shutil.rmtree(left, ignore_errors=True)
    paths = [work / f"{number:06d}-of-{total:06d}" for number in range(total)]
    left = [(piece, path) for piece, path in zip(pieces, paths) if not path.exists()]
    progress = Progress(f"reading {name}, piece", len(left))
    workers = min(workers, len(left))
    if total > 1:
        before = f", {total - len(left)} of them read before" if len(left) < total else ""
        say(f"{name}: {total} pieces{before}, {workers} at a time")
    if workers <= 1:
        for number, (piece, path) in enumerate(left, 1):
            store(piece, path)
            progress.update(number)
    else:
        _read_together(left, workers, progress)
    return [file for path in paths for file in sorted(path.iterdir())]


def _read_together(left: list[tuple[Piece, Path]], workers: int, progress: Progress) -> None:
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_follow_parent
    ) as pool:
        try:
            jobs = [pool.submit(store, piece, path) for piece, path in left]
            for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                job.result()
                progress.update(number)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a process that read a piece was killed, perhaps as memory was short; the same "
                    "command with fewer --workers goes on"
                ) from error
            raise


def _follow_parent() -> None:
    """In a process that reads pieces: ends with the one that started it, however that ends."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to tell of.
    threading.Thread(target=follow, daemon=True).start()


def _summary(recipe: Recipe, dataset: str, counts: Counts, target: Path) -> list[str]:
    name, data_dir, metadata = target.parent.name, target.parent.parent, _metadata(target)
    unit, lines = f"{metadata.get('unit', 'example')}s", []
    for split, size in counts.items():
        checked = "; content as published" if split in recipe.about.digests else ""
        lines.append(f"{split}: {size:,} {unit}{checked}")
    size = sum(p.stat().st_size for p in target.iterdir())
    lines.append(f"done: {target} ({size / 1e6:,.1f} MB)")
    train = f"train: python main.py {recipe.about.train} --config.data.dataset={name}"
    if "tokenizer" in metadata:
        train += f" --config.data.tokenizer={metadata['tokenizer']['kind']}"
    lines.append(f"{train} --config.data.data_dir={data_dir} --workdir=/tmp/md4jax/{name}")
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
