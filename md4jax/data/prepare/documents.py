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
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

import numpy as np

from md4jax.data.prepare.archives import Files, open_file, readable, unpacked
from md4jax.data.prepare.one_text import TOKENIZERS, as_text
from md4jax.data.prepare.recipe import About, Part, Piece, TextRecipe, missing
from md4jax.data.tokenizers import END_OF_TEXT, Bytes, Characters, Gpt2, Tokenizer
from md4jax.options import UserError, option

_PACKED = (".gz", ".xz", ".bz2")
BYTES_A_PIECE = 2**26  # Of JSON lines.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManyTexts(TextRecipe):
    """What all data sets of documents share: their end is a token."""

    tokenizer: str = option("What a token is.", "gpt2", one_of=TOKENIZERS)
    vocab: str | None = option("Folder of GPT-2's vocab.bpe and encoder.json; None fetches them.",
                               None)  # fmt: skip
    alphabet: str | None = option("The characters there may be, for --tokenizer=chars.", None)
    row_length: int = option("Tokens a stored row: the length to train with.", 1024, at_least=1)

    def made_with(self) -> Tokenizer:
        """See `TextRecipe`."""
        if self.tokenizer == "gpt2":
            return Gpt2(self.vocab or "")
        if self.tokenizer == "bytes":
            return Bytes(has_end=True)
        if self.alphabet is None:
            raise UserError("--alphabet is missing: --tokenizer=chars needs the characters")
        return Characters(self.alphabet, has_end=True)


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
        train="--config=configs/own/text.py --config.data.dataset={name} "
        "--config.data.tokenizer=gpt2",
    )

    def pieces(self, source: Path) -> list[Piece]:
        """Row groups of parquet, 64 MB of JSON lines, or whole files; see `Recipe`."""
        readers = [r for name in Files(source).names for r in _readers(source, name, self.field)]
        if not readers:
            raise missing(source, "there are no .parquet, .jsonl or .txt files in it")
        self.made_with()  # Raises what would be found late.
        return [functools.partial(_encode, reader, self) for reader in readers]


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


def _encode(reader: Callable[[], Iterator[str]], recipe: Documents) -> dict[str, Part]:
    """Reads and encodes the documents of a piece."""
    tokenizer = recipe.made_with()
    end = np.array([tokenizer.end_of_text], np.min_scalar_type(tokenizer.vocab_size - 1))
    found: dict[str, list[np.ndarray]] = {"train": [end[:0]], "test": []}
    for number, text in enumerate(reader(), 1):
        test = recipe.test_every > 0 and number % recipe.test_every == 0
        ids = tokenizer.encode(text, f"document {number} of a piece")
        found["test" if test else "train"] += [ids, end]
    return {name: {"tokens": np.concatenate(ids)} for name, ids in found.items() if ids}


def _readers(source: Path, name: str, field: str) -> list[Callable[[], Iterator[str]]]:
    """What reads the documents of a file, in pieces; none if it holds no text."""
    bare = PurePath(name)
    while bare.suffix in _PACKED:
        bare = bare.with_suffix("")
    path = source / name if source.is_dir() else source
    alone = source.is_dir() or PurePath(name).name == source.name  # Not within an archive.
    if bare.suffix == ".parquet":
        if not alone:
            raise missing(source, f"{name} is parquet within an archive: unpack it first")
        return _parquet_readers(path, field)
    if bare.suffix in (".jsonl", ".json", ".ndjson"):
        if alone and bare == PurePath(name):
            ranges = range(0, max(1, path.stat().st_size), BYTES_A_PIECE)
            return [functools.partial(_json_range, path, start, field) for start in ranges]
        return [functools.partial(_json_file, source, name, field)]
    if bare.suffix in (".txt", ".text", ".md", ""):
        return [functools.partial(_texts, source, name)]
    if alone and bare.suffix in (".tar", ".tgz"):
        return [functools.partial(_tar_texts, path)]
    return []


def _parquet_readers(path: Path, field: str) -> list[Callable[[], Iterator[str]]]:
    import pyarrow.parquet as parquet

    with readable(path):
        try:
            file = parquet.ParquetFile(path)
        except parquet.pa.ArrowException as error:
            raise UserError(f"{path}: is no whole parquet file: {error}") from error
    if field not in file.schema_arrow.names:
        raise UserError(
            f"--field={field}: {path} has no such column, but {', '.join(file.schema_arrow.names)}"
        )
    groups = range(file.num_row_groups)
    return [functools.partial(_parquet_group, path, group, field) for group in groups]


def _parquet_group(path: Path, group: int, field: str) -> Iterator[str]:
    import pyarrow.parquet as parquet

    with readable(path):
        table = parquet.ParquetFile(path).read_row_group(group, columns=[field])
    yield from (text for text in table.column(field).to_pylist() if text)


def _json_range(path: Path, start: int, field: str) -> Iterator[str]:
    """Lines that begin in [start, start + BYTES_A_PIECE)."""
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()  # The rest of a line of the piece before, or just its end.
        while file.tell() < start + BYTES_A_PIECE:
            at, line = file.tell(), file.readline()
            if not line:
                return
            yield from _document(line, field, f"{path}, byte {at}")


def _json_file(source: Path, name: str, field: str) -> Iterator[str]:
    for number, line in enumerate(Files(source).read(name).splitlines(), 1):
        yield from _document(line, field, f"{source}/{name}, line {number}")


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


def _texts(source: Path, name: str) -> Iterator[str]:
    text = as_text(Files(source).read(name), f"{source}/{name}")
    yield from (document.strip("\n") for document in text.split(END_OF_TEXT) if document.strip())


def _tar_texts(path: Path) -> Iterator[str]:
    """Of a packed tar, which can only be read from front to back; tars in it are opened too."""
    with readable(path), open_file(path) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        yield from _member_texts(archive, str(path))


def _member_texts(archive: tarfile.TarFile, where: str) -> Iterator[str]:
    for member in (m for m in archive if m.isfile()):
        raw, name = unpacked(archive.extractfile(member).read()), f"{where}/{member.name}"
        if _is_tar(raw):
            with tarfile.open(fileobj=io.BytesIO(raw)) as inner:
                yield from _member_texts(inner, name)
        elif raw.strip():
            yield as_text(raw, name)


def _is_tar(raw: bytes) -> bool:
    return raw[257:262] == b"ustar"
