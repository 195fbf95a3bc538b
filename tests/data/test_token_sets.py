"""Local texts and token files: what they hold, and the one line they give if something is wrong."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pytest

from md4jax.data.base import TokenWindows
from md4jax.data.text8 import Text8
from md4jax.data.text_file import TextFile
from md4jax.data.token_file import TokenFile
from md4jax.options import UserError

TEXT8 = " anarchism originated as a term of abuse" * 10  # 400 characters
SMALL = dict(length=10, train_chars=300, valid_chars=45, test_chars=55)


def everything(split):
    return split.gather(np.arange(len(split)))


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# text8.


def write_text8(folder, how: str, text: str = TEXT8):
    path, raw = folder / f"text8.{how}", text.encode()
    if how == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("text8", raw)
        return str(path)
    pack = {"txt": bytes, "xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}[how]
    path.write_bytes(pack(raw))
    return str(path)


@pytest.mark.parametrize("how", ["txt", "zip", "xz", "gz", "bz2"])
def test_text8_from_any_packing(tmp_path, how):
    data = Text8(path=write_text8(tmp_path, how), **SMALL).load()
    assert (data.spec.vocab_size, data.spec.unit, data.spec.shape) == (27, "char", (10,))
    assert {name: len(split.tokens) for name, split in data.splits.items()} == {
        "train": 300, "valid": 45, "test": 55,
    }  # fmt: skip
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 291, "valid": 4, "test": 5,
    }  # fmt: skip
    assert "".join(data.to_text(split.tokens) for split in data.splits.values()) == TEXT8
    assert data.splits["train"].tokens[:3].tolist() == [26, 0, 13]  # " an"
    assert data.fingerprint == Text8(path=write_text8(tmp_path, "txt"), **SMALL).load().fingerprint


def test_text8_reads_a_beginning(tmp_path):
    path = write_text8(tmp_path, "txt", TEXT8 + "MORE")
    assert Text8(path=path, **SMALL).load().fingerprint


def test_text8_fingerprint_sees_one_character(tmp_path):
    one = Text8(path=write_text8(tmp_path, "txt"), **SMALL).load()
    other = Text8(path=write_text8(tmp_path, "txt", TEXT8[:-1] + "x"), **SMALL).load()
    assert one.fingerprint != other.fingerprint


def test_text8_errors(tmp_path):
    with pytest.raises(UserError, match=r"config.data.path = '/no/text8': no such file; .*mattm"):
        Text8(path="/no/text8", **SMALL).load()
    path = write_text8(tmp_path, "xz")
    with pytest.raises(UserError, match="holds 400 characters") as error:
        Text8(path=path).load()
    assert "train_chars=360 --config.data.valid_chars=20 --config.data.test_chars=20" in one_line(
        error
    )
    with pytest.raises(UserError, match="length = 46: the valid split has only 45 chars"):
        Text8(path=path, **(SMALL | {"length": 46})).load()
    with pytest.raises(UserError, match="'T' at position 3 is not a to z or space"):
        Text8(path=write_text8(tmp_path, "txt", "abcT" + TEXT8), **SMALL).load()


@pytest.mark.parametrize("how", ["zip", "xz", "gz", "bz2"])
def test_damaged_files(tmp_path, how):
    path = write_text8(tmp_path, how)
    with open(path, "r+b") as file:
        file.truncate(40)
    with pytest.raises(UserError, match="cannot be read") as error:
        Text8(path=path, **SMALL).load()
    one_line(error)


def test_zip_with_two_files(tmp_path):
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "x")
        archive.writestr("b", "y")
    with pytest.raises(UserError, match="should hold one file and holds 2"):
        Text8(path=str(path), **SMALL).load()


# A text of one's own.


def test_text_file_characters_round_trip(tmp_path):
    text = "Grüße — 你好 😀!\r\n" * 20
    (tmp_path / "a.txt").write_bytes(text.encode())
    data = TextFile(path=str(tmp_path / "a.txt"), length=7, test_fraction=0.25).load()
    assert data.spec.vocab_size == len(set(text)) and data.spec.unit == "char"
    parts = [data.to_text(data.splits[name].tokens) for name in ("train", "test")]
    assert "".join(parts) == text
    assert len(parts[1]) == len(text) // 4
    assert data.to_text(np.array([0, 99])) == "\n█"


def test_text_file_bytes_round_trip(tmp_path):
    text = "Grüße 你好\n" * 20
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(text.encode()))
    data = TextFile(path=str(tmp_path / "a.txt.xz"), length=7, tokens="bytes").load()
    assert (data.spec.vocab_size, data.spec.unit) == (256, "byte")
    tokens = np.concatenate([data.splits[name].tokens for name in ("train", "test")])
    assert data.to_text(tokens) == text
    assert data.to_text(np.array([65, 256, 66])) == "A█B"


def test_text_file_errors(tmp_path):
    with pytest.raises(UserError, match="no such file; give a UTF-8 text file"):
        TextFile(path=str(tmp_path / "none.txt")).load()
    with pytest.raises(UserError, match="no such file"):
        TextFile(path=str(tmp_path)).load()
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(UserError, match="not UTF-8: byte 0xff at position 3"):
        TextFile(path=str(tmp_path / "a.txt")).load()
    for tokens in ("chars", "bytes"):
        (tmp_path / "a.txt").write_bytes(b"")
        with pytest.raises(UserError, match="the train split has only 0"):
            TextFile(path=str(tmp_path / "a.txt"), tokens=tokens).load()


# Token ids of one's own.


def write_npy(folder, name, array):
    np.save(folder / name, array)
    return str(folder / f"{name}.npy")


def test_token_file_long_sequence_and_rows(tmp_path):
    ids = np.arange(103, dtype=np.uint16) % 50
    long, rows = (
        write_npy(tmp_path, "long", ids),
        write_npy(tmp_path, "rows", ids[:100].reshape(-1, 10)),
    )
    data = TokenFile(train_path=long, test_path=rows, vocab_size=50, length=10).load()
    assert (data.spec.shape, data.spec.vocab_size, data.spec.unit) == ((10,), 50, "token")
    train, test = data.splits["train"], data.splits["test"]
    assert isinstance(train, TokenWindows) and isinstance(train.tokens, np.memmap)
    assert train.left_out == 3 and len(train) == len(test) == 10
    np.testing.assert_array_equal(everything(train)["x0"], everything(test)["x0"])
    assert type(everything(test)["x0"]) is np.ndarray and data.to_text is None
    assert set(TokenFile(train_path=long, vocab_size=50, length=10).load().splits) == {"train"}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 9), np.int32), r"has shape \[3, 9\]; config.data.length = 10 asks"),
        (np.zeros(9, np.int32), r"has shape \[9\]; config.data.length = 10 asks"),
        (np.zeros(20), "should be integers and is float64"),
        (np.full(20, 50), "ids from 50 to 50; config.data.vocab_size = 50 asks for 0 to 49"),
        (np.full(20, -1), "ids from -1 to -1"),
        (np.array([None] * 20), "cannot be read as .npy"),
    ],
)
def test_token_file_errors(tmp_path, array, message):
    path = write_npy(tmp_path, "ids", array)
    with pytest.raises(UserError, match=message) as error:
        TokenFile(train_path=path, vocab_size=50, length=10).load()
    assert one_line(error).startswith("config.data.train_path = ")


def test_token_file_missing(tmp_path):
    good = write_npy(tmp_path, "ids", np.zeros(20, int))
    with pytest.raises(UserError, match=r"config.data.test_path = 'none.npy': no such file; save"):
        TokenFile(train_path=good, test_path="none.npy", vocab_size=50, length=10).load()
    np.savez(tmp_path / "ids.npz", a=np.zeros(20, int))
    with pytest.raises(UserError, match=r"is an .npz"):
        TokenFile(train_path=str(tmp_path / "ids.npz"), vocab_size=50, length=10).load()
