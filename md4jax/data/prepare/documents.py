"""Data sets of many documents: parquet, JSON lines or texts, in files, folders and archives.

Each document's tokens are followed by the end-of-text token. Every `test_every`-th document of a
piece is for testing, whole: no text is trained on that continues in the test split.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import TypeVar

import numpy as np
from jaxtyping import Integer

from md4jax.data.prepare.archives import Entry, Files, bare, is_packed_tar, readable, unpacked
from md4jax.data.prepare.one_text import TOKENIZERS, alphabet_option, as_text
from md4jax.data.prepare.recipe import About, Counts, Piece, Read, TextRecipe, missing
from md4jax.data.tokenizers import END_OF_TEXT, Bytes, Characters, Gpt2, Tokenizer
from md4jax.options import UserError, option

T = TypeVar("T")
# Of these the first kind that a source has is read: beside the data there may be a README.md.
_KINDS = {
    "parquet": (".parquet",),
    "JSON lines": (".jsonl", ".ndjson", ".json"),
    "text": (".txt", ".text"),
    "markdown": (".md",),
}
_TARS = (".tar", ".tgz")
BYTES_A_PIECE = 2**26  # Of the source, as it is on disk.
TOKENS_A_PART = 2**25
_PIECES_A_TAR = 32  # Each unpacks all that is before it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManyTexts(TextRecipe):
    """What all data sets of documents share: their end is a token."""

    tokenizer: str = option("What a token is.", "gpt2", one_of=TOKENIZERS)
    vocab: str | None = option("Folder of GPT-2's encoder.json; None fetches it.", None)
    alphabet: str | None = option("The characters there may be, for --tokenizer=chars.", None)
    row_length: int = option("Tokens a stored row: the length to train with.", 1024, at_least=1)

    def made_with(self) -> Tokenizer:
        """See `TextRecipe`."""
        if self.tokenizer == "gpt2":
            return Gpt2(self.vocab or "")
        if self.tokenizer == "bytes":
            return Bytes(has_end=True)
        return Characters(alphabet_option(self.alphabet), has_end=True)

    def end(self) -> Integer[np.ndarray, "1"]:
        """What follows a document, of the type of its tokens."""
        tokenizer = self.made_with()
        return np.array([tokenizer.end_of_text], np.min_scalar_type(tokenizer.vocab_size - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Documents(ManyTexts):
    """Documents of your own."""

    field: str = option("Where the text is in parquet and JSON lines.", "text")
    test_every: int = option("Every so many documents one is for testing; 0 is none.", 50,
                             at_least=0)  # fmt: skip
    about = About(
        what="documents of your own",
        licence="yours",
        home="-",
        source="a file, folder, zip or tar of .parquet, .jsonl or .txt, packed or not; in a text "
        "<|endoftext|> separates documents",
        gigabytes="-",
        train="--config=configs/own/text.py --config.data.name=tokens",
    )

    def pieces(self, source: Path) -> list[Piece]:
        """About `BYTES_A_PIECE` of the source each; see `Recipe`."""
        self.made_with()  # Raises what would be found late.
        lists = {source: Files(source).entries}
        for entry in lists[source]:
            if entry.path is not None and bare(entry.name).suffix in _TARS:  # In a folder.
                lists[entry.path] = Files(entry.path).entries
        kinds = {_kind(entry) for entries in lists.values() for entry in entries}
        kind = next((kind for kind in _KINDS if kind in kinds), None)
        if kind is None:
            raise missing(source, "there are no .parquet, .jsonl or .txt files in it")
        readers = []
        for place, entries in lists.items():
            chosen = [entry for entry in entries if _kind(entry) == kind]
            readers += _readers(place, chosen, kind, self.field)
        return [functools.partial(_encode, reader, self) for reader in readers]

    def problem(self, counts: Counts) -> str | None:
        """See `Recipe`."""
        if counts.get("train") and self.test_every and not counts.get("test"):
            return (
                f"has too few documents for --test_every={self.test_every} to choose one for "
                "testing; give a smaller number, or 0"
            )
        return super().problem(counts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenWebText(Documents):
    """OpenWebText."""

    about = About(
        what="OpenWebText, 8,013,769 documents, about 9 billion GPT-2 tokens",
        licence="CC0 (the packaging)",
        home="https://huggingface.co/datasets/Skylion007/openwebtext",
        source="its folder of .parquet files, or of .jsonl, or openwebtext.tar.xz",
        gigabytes="18",
        train="--config=configs/md4/openwebtext.py",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinewebEdu(Documents):
    """FineWeb-Edu."""

    about = About(
        what="FineWeb-Edu: 10 billion GPT-2 tokens of sample/10BT, or as much as is given",
        licence="ODC-By 1.0",
        home="https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu",
        source="a folder of its .parquet files",
        gigabytes="20 of sample/10BT",
        train="--config=configs/md4/fineweb_edu.py",
    )


def _encode(reader: Callable[[], Iterator[str]], recipe: Documents) -> Iterator[Read]:
    """Reads and encodes the documents of a piece."""
    tokenizer, end, have = recipe.made_with(), recipe.end(), 0
    found: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for number, text in enumerate(reader(), 1):
        test = recipe.test_every > 0 and number % recipe.test_every == 0
        ids = tokenizer.encode(text, f"document {number} of a piece")
        found["test" if test else "train"] += [ids, end]
        have += len(ids) + 1
        if have >= TOKENS_A_PART:
            yield _joined(found)
            found, have = {"train": [], "test": []}, 0
    yield _joined(found)


def _joined(found: dict[str, list[np.ndarray]]) -> Read:
    return {name: {"tokens": np.concatenate(ids)} for name, ids in found.items() if ids}


def _kind(entry: Entry) -> str | None:
    """Which of `_KINDS` a file is.

    OpenWebText's are packed tars of texts in a tar, without an ending that says so.
    """
    name = bare(entry.name)
    packed = name.name != PurePath(entry.name).name
    if (packed and not name.suffix) or (entry.path is None and name.suffix in _TARS):
        return "text"
    return next((kind for kind, endings in _KINDS.items() if name.suffix in endings), None)


def _readers(
    place: Path, entries: Sequence[Entry], kind: str, field: str
) -> list[Callable[[], Iterator[str]]]:
    """What reads the documents of some files of a folder or archive, a piece each.

    Args:
      place: the folder or archive.
      entries: the files.
      kind: of all of them.
      field: where the text is.
    """
    readers, alone = [], []
    for entry in entries:
        if kind == "parquet":
            readers += _parquet_readers(entry, field)
        elif kind == "JSON lines" and entry.path and bare(entry.name) == PurePath(entry.name):
            ranges = range(0, max(1, entry.size), BYTES_A_PIECE)
            readers += [functools.partial(_json_range, entry.path, at, field) for at in ranges]
        else:
            alone.append(entry)
    size = BYTES_A_PIECE
    if is_packed_tar(place):
        size = max(size, sum(entry.size for entry in alone) // _PIECES_A_TAR)
        alone.sort(key=lambda entry: entry.offset)
    groups = _groups(alone, [entry.size for entry in alone], size)
    return readers + [functools.partial(_contents, tuple(some), field) for some in groups]


def _groups(things: Sequence[T], sizes: Sequence[int], size: int) -> list[list[T]]:
    """Things in order, as many together as have at least some size."""
    groups: list[list[T]] = []
    have = size
    for thing, its_size in zip(things, sizes):
        if have >= size:
            groups.append([])
            have = 0
        groups[-1].append(thing)
        have += its_size
    return groups


def _parquet_readers(entry: Entry, field: str) -> list[Callable[[], Iterator[str]]]:
    import pyarrow.parquet as parquet

    if entry.path is None:
        raise missing(entry.source, f"{entry.name} is parquet within an archive: unpack it first")
    with readable(entry.path):
        file = parquet.ParquetFile(entry.path)
    if field not in file.schema_arrow.names:
        raise UserError(
            f"--field={field}: {entry} has no such column, but {', '.join(file.schema_arrow.names)}"
        )
    sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    groups = _groups(range(len(sizes)), sizes, BYTES_A_PIECE)
    return [functools.partial(_parquet_rows, entry.path, some, field) for some in groups]


def _parquet_rows(path: Path, groups: Sequence[int], field: str) -> Iterator[str]:
    import pyarrow.parquet as parquet

    with readable(path), parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(1024, row_groups=groups, columns=[field]):
            for text in batch.column(0).to_pylist():
                if text is not None and not isinstance(text, str):
                    raise UserError(f"--field={field}: {path} has {type(text).__name__} in it")
                if text:
                    yield text


def _json_range(path: Path, start: int, field: str) -> Iterator[str]:
    """Lines that begin in [start, start + BYTES_A_PIECE)."""
    with readable(path), path.open("rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()  # The rest of a line of the piece before, or just its end.
        while (at := file.tell()) < start + BYTES_A_PIECE and (line := file.readline()):
            yield from _document(line, field, f"{path}, byte {at}")


def _contents(entries: Sequence[Entry], field: str) -> Iterator[str]:
    """The documents of some files, whatever they are."""
    for entry in entries:
        if _kind(entry) == "JSON lines":
            with readable(entry), entry.open() as lines:
                yield from _json_lines(lines, field, str(entry))
        else:
            yield from _texts(entry.read(), bare(entry.name), field, str(entry))


def _texts(raw: bytes, name: PurePath, field: str, where: str) -> Iterator[str]:
    """The documents of an unpacked text, or of all files of a tar."""
    if _is_tar(raw):
        with readable(where), tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            for member in archive:
                if member.isfile():
                    inner = unpacked(archive.extractfile(member).read())
                    yield from _texts(inner, bare(member.name), field, f"{where}/{member.name}")
    elif name.suffix in _KINDS["JSON lines"]:
        yield from _json_lines(io.BytesIO(raw), field, where)
    else:
        for document in as_text(raw, where).split(END_OF_TEXT):
            if document.strip():
                yield document.strip("\n")


def _json_lines(lines: Iterable[bytes], field: str, where: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        yield from _document(line, field, f"{where}, line {number}")


def _document(line: bytes, field: str, where: str) -> list[str]:
    if not line.strip():
        return []
    try:
        text = json.loads(line)[field]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: is no JSON object with a field {field!r}: {error!r}") from error
    if not isinstance(text, str):
        raise UserError(f"{where}: {field!r} is {type(text).__name__}, not a text")
    return [text] if text else []


def _is_tar(raw: bytes) -> bool:
    return raw[257:262] == b"ustar"
