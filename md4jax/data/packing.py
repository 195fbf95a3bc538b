"""Documents as rows of one length, with nothing lost, and the documents seen in the rows again.

Every document's tokens come in order, each followed by the end-of-text token; the sequence is cut
into rows, whatever is left of one document going on in the next row. So joining the rows gives the
sequence again, and a row tells by its end-of-text tokens where its documents begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Integer


def pack(
    pieces: Iterable[Integer[np.ndarray, "_"]], length: int
) -> Iterator[Integer[np.ndarray, "_"]]:
    """Yields rows of `length` tokens; the last may be shorter, and is not empty.

    Args:
      pieces: of one sequence, of any lengths.
      length: tokens a row.
    """
    rest: list[np.ndarray] = []
    have = 0
    for piece in pieces:
        rest.append(piece)
        have += len(piece)
        if have < length:
            continue
        joined = np.concatenate(rest)
        whole = have // length * length
        yield from joined[:whole].reshape(-1, length)
        rest, have = [joined[whole:]], have - whole
    if have:
        yield np.concatenate(rest)


def segments(
    rows: Integer[np.ndarray, "n length"], end_of_text: int
) -> Integer[np.ndarray, "n length"]:
    """The number of each token's document in its row, from 0; an end belongs to what it ends.

    Returns:
      int32; `[[5, 6, E, 7]]` with end E gives `[[0, 0, 0, 1]]`.
    """
    ends = (rows == end_of_text).astype(np.int32)
    return np.cumsum(ends, axis=1, dtype=np.int32) - ends
