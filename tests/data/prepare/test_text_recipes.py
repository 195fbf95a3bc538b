"""Recipes of one text, and WikiText-2: every character and byte is there again, in its split."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pytest
from prepare_tools import documents, make, refused, tokens

from md4jax.data.prepare.one_text import Enwik8, OneText, Text8, TinyShakespeare
from md4jax.data.prepare.wikitext import Wikitext2
from md4jax.data.tokens import Tokens

TEXT8 = " anarchism originated as a term of abuse" * 10  # 400 characters
SIZES = dict(train_size=300, valid_size=45, test_size=55)


def write(folder, how, text=TEXT8):
    path, raw = folder / f"text.{how}", text.encode()
    if how == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("text8", raw)
        return path
    pack = {"txt": bytes, "xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}[how]
    path.write_bytes(pack(raw))
    return path


def joined(data, ids):
    return "".join(map(data.to_text, ids.values()))


def test_text8_from_any_packing(tmp_path):
    prints = set()
    for how in ("txt", "zip", "xz", "gz", "bz2"):
        data, ids = tokens(Text8(**SIZES), write(tmp_path, how), tmp_path / "data", f"from_{how}")
        assert (data.spec.vocab_size, data.spec.unit) == (27, "char")
        assert {k: len(v) for k, v in ids.items()} == {"train": 300, "valid": 45, "test": 55}
        assert joined(data, ids) == TEXT8
        assert ids["train"][:3].tolist() == [26, 0, 13]  # " an"
        prints.add(data.fingerprint)
    assert len(prints) == 1
    _, other = tokens(Text8(**SIZES), write(tmp_path, "txt", TEXT8[:-1] + "x"), tmp_path / "other")
    assert (other["test"] != ids["test"]).sum() == 1
    other = Tokens(dataset="made", data_dir=str(tmp_path / "other"), length=1).load()
    assert other.fingerprint not in prints


def test_text8_windows(tmp_path):
    make(Text8(**SIZES, row_length=7), write(tmp_path, "txt"), tmp_path)
    data = Tokens(dataset="made", data_dir=str(tmp_path), length=10, train_stride=1).load()
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 291, "valid": 4, "test": 5}
    assert data.to_text(data.splits["train"].gather(np.array([5]))["x0"][0]) == TEXT8[5:15]
    assert data.to_text(data.splits["test"].gather(np.array([1]))["x0"][0]) == TEXT8[355:365]


def test_text8_takes_a_beginning(tmp_path):
    data, ids = tokens(Text8(**SIZES), write(tmp_path, "txt", TEXT8 + "MORE"), tmp_path / "data")
    assert joined(data, ids) == TEXT8


@pytest.mark.parametrize("how", ["zip", "xz", "gz", "bz2"])
def test_damaged_texts(tmp_path, how):
    path = write(tmp_path, how)
    path.write_bytes(path.read_bytes()[:40])
    message = refused(Text8(**SIZES), path, tmp_path / "data")
    assert ("text.zip" if how == "zip" else "cannot be read") in message


@pytest.mark.parametrize(
    ("recipe", "text", "words"),
    [
        (Text8(), TEXT8, "fit: --train_size=360 --valid_size=20 --test_size=20"),
        (
            Text8(**SIZES),
            "abcT" + TEXT8,
            "train: character 'T' at position 3",
        ),
        (Enwik8(), TEXT8, "holds 400 characters and the splits ask for 100000000"),
        (OneText(), "", "the text is empty"),
        (OneText(tokenizer="bytes"), "", "of 0 characters --test_fraction=0.1 is none"),
        (OneText(), "short", "of 5 characters --test_fraction=0.1 is none"),
        (OneText(alphabet=""), TEXT8, "--alphabet is missing"),
        (OneText(alphabet="abca"), TEXT8, "--alphabet=abca: 'a' is in it more than once"),
        (
            OneText(alphabet="abc"),
            TEXT8,
            "character ' ' at position 0 is not in the",
        ),
        (OneText(valid_fraction=0.5, test_fraction=0.5), TEXT8, "leave nothing to train on"),
    ],
)
def test_texts_that_are_refused(tmp_path, recipe, text, words):
    assert words in refused(recipe, write(tmp_path, "txt", text), tmp_path / "data")


def test_texts_that_are_none(tmp_path):
    (tmp_path / "latin").write_bytes(b"abc\xff")
    message = refused(OneText(), tmp_path / "latin", tmp_path / "data")
    assert "not UTF-8: byte 0xff at position 3; --tokenizer=bytes takes any file" in message
    write(tmp_path, "txt")
    message = refused(OneText(), tmp_path, tmp_path.parent / "elsewhere")
    assert "should be one text and holds 2 files" in message


def test_enwik8_is_bytes(tmp_path):
    raw = bytes(range(256)) + "Grüße".encode()
    (tmp_path / "enwik8").write_bytes(raw)
    recipe = Enwik8(train_size=200, valid_size=51, test_size=12)
    data, ids = tokens(recipe, tmp_path / "enwik8", tmp_path / "data")
    assert (data.spec.vocab_size, data.spec.unit) == (256, "byte")
    assert np.concatenate(list(ids.values())).astype(np.uint8).tobytes() == raw[:263]
    assert data.to_text(ids["test"]) == "\ufffd" * 5 + "Grüße"


def test_texts_of_ones_own(tmp_path):
    text = "Grüße — 你好 😀!\r\n" * 20
    for recipe, sizes in (
        (TinyShakespeare(), (270, 15, 15)),
        (OneText(valid_fraction=0.25, test_fraction=0.25), (150, 75, 75)),
        (OneText(test_fraction=0.5), (150, 150)),
    ):
        name = f"made{len(sizes)}{sizes[0]}"
        data, ids = tokens(recipe, write(tmp_path, "xz", text), tmp_path / "data", name)
        assert data.spec.vocab_size == len(set(text))
        assert tuple(map(len, ids.values())) == sizes
        assert joined(data, ids) == text


ARTICLES = [
    " \n = One = \n \n It begins . \n = = A section = = \n More . \n ",
    "\n = Two of it = \n \n x = y , and = z = \n",
]


def test_wikitext2_by_articles(tmp_path):
    (tmp_path / "s").mkdir()
    for i, split in enumerate(("train", "valid", "test")):
        text = " \n" + "".join(ARTICLES[: 2 - i % 2])[2:]
        (tmp_path / "s" / f"{split}.txt.xz").write_bytes(lzma.compress(text.encode()))
    (tmp_path / "s/invalid.txt").write_text("something else")
    recipe = Wikitext2(tokenizer="bytes", row_length=9)
    data, ids = tokens(recipe, tmp_path / "s", tmp_path / "data")
    assert data.spec.vocab_size == 257
    found = {split: documents(data, x) for split, x in ids.items()}
    assert {k: len(v) for k, v in found.items()} == {"train": 2, "valid": 1, "test": 2}
    assert "".join(found["train"]) == "".join(ARTICLES)[2:]
    assert found["train"][1].startswith(" = Two of it = ")
    (tmp_path / "s/valid.txt.xz").unlink()
    message = refused(recipe, tmp_path / "s", tmp_path / "other")
    assert "there is no wiki.valid.tokens or valid.txt, packed or not, in it" in message
    (tmp_path / "s/valid.txt").write_text("")
    data, ids = tokens(recipe, tmp_path / "s", tmp_path / "data", "without")
    assert set(ids) == {"train", "test"}
