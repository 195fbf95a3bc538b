"""Windows, fingerprints and alphabets."""

import logging

import numpy as np
import pytest

from md4jax.data import base
from md4jax.data.base import ArraySplit, Split, TokenWindows, blocks, fingerprint, value_range
from md4jax.data.text import Alphabet
from md4jax.options import UserError
from md4jax.processes.base import DataSpec

SPEC = DataSpec(shape=(4,), vocab_size=10)


@pytest.mark.parametrize("length", [1, 3, 5, 11])
@pytest.mark.parametrize("stride", [1, 2, 3, 5, 20])
def test_windows_are_slices(length, stride):
    tokens = np.arange(11, dtype=np.uint8)
    split = TokenWindows(tokens, length, stride)
    starts = [s for s in range(0, 11, stride) if s + length <= 11]
    assert len(split) == len(starts)
    assert split.left_out == 11 - (starts[-1] + length)
    windows = split.gather(np.arange(len(starts)))["x0"]
    assert windows.dtype == np.int32
    np.testing.assert_array_equal(windows, [tokens[s : s + length] for s in starts])


def test_windows_longer_than_the_tokens():
    split = TokenWindows(np.arange(3), 4, 1)
    assert len(split) == 0 and split.left_out == 3


@pytest.mark.parametrize("index", [-1, 8])
def test_windows_do_not_wrap_around(index):
    with pytest.raises(IndexError):
        TokenWindows(np.arange(11), 4, 1).gather(np.array([0, index]))


def test_splits_keep_the_protocol():
    assert isinstance(ArraySplit(np.zeros((2, 3), np.uint8)), Split)
    assert isinstance(TokenWindows(np.zeros(9, np.uint8), 3, 3), Split)


def test_left_out_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        base.log_left_out({"test": TokenWindows(np.arange(11), 4, 4)})
    assert "the last 3 of 11 tokens do not fill a window of 4" in caplog.text


def test_fingerprint_is_of_the_content():
    array = np.arange(24).reshape(6, 4) % 10
    mark = fingerprint(SPEC, {"train": array})
    assert len(mark) == 32
    assert mark == fingerprint(SPEC, {"train": array.astype(np.uint8)})
    assert mark == fingerprint(SPEC, {"train": np.asfortranarray(array)})
    changed = array.copy()
    changed[3, 2] += 1
    others = [
        fingerprint(SPEC, {"train": changed}),
        fingerprint(SPEC, {"test": array}),
        fingerprint(SPEC, {"train": array.reshape(4, 6)}),
        fingerprint(SPEC, {"train": array, "test": array}),
        fingerprint(DataSpec(shape=(4,), vocab_size=11), {"train": array}),
    ]
    assert len({mark, *others}) == 6


def test_large_arrays_are_sampled(monkeypatch):
    monkeypatch.setattr(base, "WHOLE", 1000)
    monkeypatch.setattr(base, "BLOCK", 10)
    array = np.arange(5000)
    read = [block.tolist() for block in blocks(array)]
    assert len(read) == 64 and {len(block) for block in read} == {10}
    assert read[0][0] == 0 and read[-1][-1] == 4999
    assert value_range(array) == (0, 4999)
    mark = fingerprint(SPEC, {"train": array})
    array[4999] = 0
    assert mark != fingerprint(SPEC, {"train": array})
    assert np.concatenate(list(blocks(array[:1000]))).size == 1000


def test_alphabet_round_trip_over_pieces(monkeypatch):
    monkeypatch.setattr("md4jax.data.text._PIECE", 7)
    alphabet = Alphabet("zyx😀 ")
    text = "xyz 😀" * 5
    ids = alphabet.encode(text)
    assert ids.dtype == np.uint8 and ids[:5].tolist() == [2, 1, 0, 4, 3]
    assert alphabet.decode(ids) == text
    assert alphabet.decode(np.array([0, 5, -1])) == "z██"
    with pytest.raises(
        UserError, match="here: character 'q' at position 16 is not in the alphabet"
    ):
        alphabet.encode(text[:16] + "q", "here")
    with pytest.raises(UserError, match="'\U0001f680' at position 1"):
        alphabet.encode("x\U0001f680")


def test_large_alphabets_use_wider_ids():
    characters = "".join(map(chr, range(1000, 1300)))
    alphabet = Alphabet(characters)
    ids = alphabet.encode(characters)
    assert ids.dtype == np.uint16
    np.testing.assert_array_equal(ids, np.arange(300))
