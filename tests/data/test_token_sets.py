"""Local texts and token files: what they hold, and the one line they give if something is wrong."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pytest

from md4jax.data.base import TokenWindows
from md4jax.data.text_file import TextFile
from md4jax.data.token_file import TokenFile
from md4jax.options import UserError

TEXT = " anarchism originated as a term of abuse" * 10  # 400 characters


def everything(split):
    return split.gather(np.arange(len(split)))


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Packed files.


def write(folder, how: str, text: str):
    path, raw = folder / f"text.{how}", text.encode()
    if how == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("text", raw)
        return str(path)
    pack = {"txt": bytes, "xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}[how]
    path.write_bytes(pack(raw))
    return str(path)


@pytest.mark.parametrize("how", ["zip", "xz", "gz", "bz2"])
def test_packed_texts(tmp_path, how):
    path = write(tmp_path, how, TEXT)
    data = TextFile(path=path, length=10).load()
    assert "".join(data.to_text(split.tokens) for split in data.splits.values()) == TEXT
    with open(path, "r+b") as file:
        file.truncate(40)
    with pytest.raises(UserError, match="cannot be read") as error:
        TextFile(path=path, length=10).load()
    one_line(error)


def test_zip_with_two_files(tmp_path):
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "x")
        archive.writestr("b", "y")
    with pytest.raises(UserError, match="should hold one file and holds 2"):
        TextFile(path=str(path), length=10).load()


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
