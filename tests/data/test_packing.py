"""Packing into rows: nothing is lost, whatever the pieces; and the documents are seen again."""

import numpy as np
import pytest

from md4jax.data.packing import pack, segments


@pytest.mark.parametrize("length", [1, 2, 5, 64])
@pytest.mark.parametrize("largest", [1, 4, 300])
def test_rows_joined_are_the_pieces(length, largest):
    rng = np.random.default_rng(length * largest)
    pieces = [rng.integers(9, size=n, dtype=np.uint16) for n in rng.integers(largest + 1, size=80)]
    rows = list(pack(iter(pieces), length))
    np.testing.assert_array_equal(np.concatenate(rows), np.concatenate(pieces))
    assert {len(row) for row in rows[:-1]} <= {length} and 1 <= len(rows[-1]) <= length
    assert {row.dtype for row in rows} == {np.dtype(np.uint16)}


def test_nothing_is_no_row():
    assert list(pack([], 3)) == []
    assert list(pack([np.zeros(0, int)] * 4, 3)) == []
    assert [len(row) for row in pack([np.zeros(6, int)], 3)] == [3, 3]


def test_rows_are_made_as_pieces_come():
    """Of a sequence without end the first rows are there."""
    endless = (np.full(2, i) for i in iter(int, 1))
    rows = pack(endless, 5)
    assert [len(next(rows)) for _ in range(3)] == [5, 5, 5]


def test_segments():
    rows = np.array([[5, 6, 9, 7], [9, 9, 1, 9], [1, 2, 3, 4]])
    found = segments(rows, 9)
    assert found.tolist() == [[0, 0, 0, 1], [0, 1, 2, 2], [0, 0, 0, 0]]
    assert found.dtype == np.int32


def test_segments_are_the_documents():
    rng = np.random.default_rng(0)
    rows = rng.integers(4, size=(50, 30))
    for row, found in zip(rows, segments(rows, 3)):
        documents = np.split(row, np.flatnonzero(row == 3) + 1)
        sizes = [len(d) for d in documents if len(d)]
        np.testing.assert_array_equal(found, np.repeat(np.arange(len(sizes)), sizes))
