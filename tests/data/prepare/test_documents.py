"""Many documents, in every form they come in: each is there again, whole and in order."""

import gzip
import io
import json
import lzma
import tarfile

import pyarrow
import pyarrow.parquet as parquet
import pytest
from prepare_tools import documents, make, pack_tar, pack_zip, refused, tokens

from md4jax.data.prepare import documents as module
from md4jax.data.prepare.documents import Documents, FinewebEdu, OpenWebText

TEXTS = [f"Document {i}:\n{'wörd ' * (i % 7)}{'x' * (i * 37 % 101)}" for i in range(120)]
BYTES = dict(tokenizer="bytes", row_length=64)


def lines(texts=TEXTS):
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts))


def split(texts, every):
    """Of documents that are one piece."""
    is_test = [i % every == 0 for i in range(1, len(texts) + 1)]
    return {
        "train": [t for t, test in zip(texts, is_test) if not test],
        "test": [t for t, test in zip(texts, is_test) if test],
    }


def prepared(recipe, source, folder, name="made"):
    data, ids = tokens(recipe, source, folder, name)
    assert data.spec.vocab_size == 257
    return {split: documents(data, x) for split, x in ids.items()}


@pytest.mark.parametrize("recipe", [Documents, OpenWebText, FinewebEdu])
def test_parquet(tmp_path, recipe):
    """Three files of several row groups; what lies beside them is no document."""
    folder = tmp_path / "source"
    (folder / ".cache").mkdir(parents=True)
    for name in ("README.md", ".gitattributes", ".cache/x.txt", "info.json"):
        (folder / name).write_text("This is no document.")
    parts = [TEXTS[:50], [*TEXTS[50:70], "", None], TEXTS[70:]]
    for i, texts in enumerate(parts):
        table = pyarrow.table({"id": range(len(texts)), "text": texts})
        parquet.write_table(table, folder / f"{i:02d}.parquet", row_group_size=10)
    found = prepared(recipe(test_every=10, **BYTES), folder, tmp_path / "data")
    wanted = [split([t for t in texts if t], 10) for texts in parts]  # A small file is one piece.
    for name in ("train", "test"):
        assert found[name] == [t for part in wanted for t in part[name]]


def test_parquet_in_pieces_and_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BYTES_A_PIECE", 1000)
    monkeypatch.setattr(module, "TOKENS_A_PART", 300)
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"body": TEXTS}), path, row_group_size=4)
    recipe = Documents(test_every=3, field="body", **BYTES)
    pieces = recipe.pieces(path)
    assert len(pieces) > 5 and len(list(pieces[0]())) > 1
    found = prepared(recipe, path, tmp_path / "data")
    assert sorted(found["train"] + found["test"]) == sorted(TEXTS)
    order = {text: i for i, text in enumerate(TEXTS)}
    for texts in found.values():
        assert texts == sorted(texts, key=order.get)


@pytest.mark.parametrize("size", [50, 64, 1000, 2**26])
def test_json_lines_in_byte_ranges(tmp_path, monkeypatch, size):
    """Lines cross the borders of pieces, and begin exactly at them."""
    texts = TEXTS[:20] if size < 1000 else TEXTS
    monkeypatch.setattr(module, "BYTES_A_PIECE", size)
    path = tmp_path / "a.jsonl"
    path.write_text(lines(texts).rstrip("\n"), encoding="utf-8")
    recipe = Documents(test_every=0, **BYTES)
    assert len(recipe.pieces(path)) == -(-path.stat().st_size // size)
    assert prepared(recipe, path, tmp_path / "data") == {"train": texts}


def test_a_line_may_begin_at_a_border(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 6)
    monkeypatch.setattr(module, "BYTES_A_PIECE", 14)
    assert prepared(Documents(test_every=0, **BYTES), path, tmp_path / "d") == {"train": ["a"] * 6}


def test_json_lines_packed_and_in_archives(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS[:60]).encode()))
    (folder / "b.jsonl.xz").write_bytes(lzma.compress(lines(TEXTS[60:]).encode()))
    sources = [folder, pack_zip(tmp_path / "s.zip", folder), pack_tar(tmp_path / "s.tar", folder)]
    for i, source in enumerate(sources):
        found = prepared(Documents(test_every=50, **BYTES), source, tmp_path / "data", f"d{i}")
        assert found == split(TEXTS, 50)


def test_texts(tmp_path):
    """Small files are read together, else none of them had a document for testing."""
    folder = tmp_path / "source"
    folder.mkdir()
    joined = "<|endoftext|>".join([*TEXTS[:7], "\n"])
    (folder / "000.txt").write_text(joined)
    for i, text in enumerate(TEXTS[7:]):
        (folder / f"{i + 1:03d}.txt").write_text(text)
    (folder / "LICENSE").write_text("no document")
    found = prepared(Documents(test_every=50, **BYTES), folder, tmp_path / "data")
    assert found == split([t.strip("\n") for t in TEXTS], 50)


def tar_of(files) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return packed.getvalue()


def test_openwebtext_as_first_published(tmp_path, monkeypatch):
    """A packed tar of packed tars of texts, which no ending tells; or a folder of such tars."""
    monkeypatch.setattr(module, "BYTES_A_PIECE", 500)
    inner = {}
    for i in range(0, 120, 30):
        files = {f"{j:04d}.txt": TEXTS[j].encode() for j in range(i, i + 30)}
        inner[f"openwebtext/urlsf_subset00-{i:03d}_data.xz"] = lzma.compress(tar_of(files))
    path, folder = tmp_path / "openwebtext.tar.xz", tmp_path / "subsets"
    path.write_bytes(lzma.compress(tar_of(inner)))
    folder.mkdir()
    names = list(inner)
    (folder / "00.tar").write_bytes(tar_of({n: inner[n] for n in names[:2]}))
    (folder / "01.tar").write_bytes(tar_of({n: inner[n] for n in names[2:]}))
    for i, source in enumerate((path, folder)):
        recipe = OpenWebText(test_every=15, **BYTES)
        assert len(recipe.pieces(source)) > 1
        found = prepared(recipe, source, tmp_path / "data", f"d{i}")
        assert len(found["test"]) == 8
        texts = sorted(text.strip("\n") for text in TEXTS)
        assert sorted(found["train"] + found["test"]) == texts


def test_characters(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(["ab", "ba", "b"]))
    recipe = Documents(tokenizer="chars", alphabet="ab", test_every=3, row_length=2)
    data, ids = tokens(recipe, tmp_path / "a.jsonl", tmp_path / "data")
    assert ids["train"].tolist() == [0, 1, 2, 1, 0, 2] and ids["test"].tolist() == [1, 2]
    assert data.to_text(ids["test"]) == "b<|endoftext|>"


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": 3}', {}, "byte 14: 'text' is int, not a text"),
        ("a.jsonl", '{"body": "a"}\n', {}, "byte 0: is no JSON object with a field 'text'"),
        ("a.jsonl", '{"text": "a"}\n{"te', {}, "byte 14: is no JSON object"),
        ("a.jsonl", '["a"]', {}, "is no JSON object with a field 'text'"),
        ("a.jsonl", "\n\n", {}, "there is nothing in it to train on"),
        ("a.jsonl", '{"text": "a"}\n' * 9, {}, "too few documents for --test_every=50"),
        ("a.jsonl", '{"text": "a"}\n', {"test_every": 1}, "there is nothing in it to train on"),
        ("a.txt", "abc", {"tokenizer": "chars"}, "--alphabet is missing"),
        ("a.txt", "abc", {"tokenizer": "chars", "alphabet": "ab"}, "of a piece: character 'c'"),
        ("a.parquet", "none", {}, "a.parquet: cannot be read"),
        ("a.csv", "text\nabc", {}, "there are no .parquet, .jsonl or .txt files in it"),
        ("a.jsonl.gz", "\x1f\x1f", {}, "is no JSON object"),
    ],
)
def test_documents_that_are_refused(tmp_path, name, content, options, words):
    (tmp_path / name).write_text(content)
    message = refused(Documents(**BYTES | options), tmp_path / name, tmp_path / "data")
    assert words in message


def test_parquet_that_is_refused(tmp_path):
    recipe, path = Documents(**BYTES), tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": [1], "body": ["a"]}), path)
    assert "has no such column, but id, body" in refused(recipe, path, tmp_path / "data")
    message = refused(Documents(field="id", **BYTES), path, tmp_path / "data")
    assert message == f"--field=id: {path} has int in it"
    packed = pack_tar(tmp_path / "a.tar", path)
    assert "within an archive: unpack it first" in refused(recipe, packed, tmp_path / "data")


def test_half_a_surrogate_pair(tmp_path):
    """JSON may hold one, which is no text that UTF-8 can have."""
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00"}\n')
    recipe = Documents(test_every=0, **BYTES)
    assert prepared(recipe, tmp_path / "a.jsonl", tmp_path / "data") == {"train": ["a\ufffdb 😀"]}


def test_one_line_tells_how_to_train(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(lines())
    make(Documents(**BYTES), tmp_path / "a.jsonl", tmp_path / "data")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("train: python main.py --config=configs/own/text.py ")
    for flag in ("name=tokens", "dataset=made", "tokenizer=bytes", f"data_dir={tmp_path / 'data'}"):
        assert f"--config.data.{flag}" in last
