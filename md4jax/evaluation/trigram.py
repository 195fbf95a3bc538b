r"""A small model of text that knows nothing of diffusion, to measure samples by.

With c(.) counts of the training text, N tokens and V ids, a token w after u v has the probability

  (1)  p(w | u v) = (c(u v w) + k p(w | v)) / (c(u v .) + k)
  (2)  p(w | v)   = (c(v w) + k p(w)) / (c(v .) + k)
  (3)  p(w)       = (c(w) + 1) / (N + V)

each order falling back on the one below by k imagined tokens (D. MacKay, L. Peto, 1995). Samples
that are likely under it look like the text to three letters; whether they are also varied tells
their unigram entropy.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Integer

from md4jax.options import UserError

MAX_VOCAB = 256  # The counts of (1) are a table of V^3: 128 MB.
STRENGTH = 4.0  # k.


@dataclasses.dataclass(frozen=True, eq=False)
class Trigram:
    """The model; `fit` makes it.

    Attributes:
      uni: (3), `[v]`.
      bi: (2), `[v, w]`.
      tri: (1), `[u, v, w]`.
    """

    uni: Float[np.ndarray, "v"]
    bi: Float[np.ndarray, "v v"]
    tri: Float[np.ndarray, "v v v"]

    def bits(self, rows: Integer[np.ndarray, "n l"]) -> float:
        """Bits a token of rows of text; a row's first two tokens by (3) and (2)."""
        first, second, others = rows[:, :1], rows[:, :2], rows
        total = np.log2(self.uni[first]).sum() + np.log2(self.bi[tuple(second.T)]).sum()
        total += np.log2(self.tri[others[:, :-2], others[:, 1:-1], others[:, 2:]]).sum()
        return float(-total / rows.size)


def check_vocab(vocab_size: int, asked_by: str = "") -> None:
    """Raises UserError, its message begun by `asked_by`, if the vocabulary is too large."""
    if vocab_size > MAX_VOCAB:
        raise UserError(
            f"{asked_by}a trigram model of {vocab_size} ids is too large; at most {MAX_VOCAB}"
        )


def fit(tokens: Integer[np.ndarray, "t"], vocab_size: int) -> Trigram:
    """The model of a text.

    Raises:
      UserError: the vocabulary is too large for it.
    """
    check_vocab(vocab_size)
    tokens, v = tokens.astype(np.int64), vocab_size
    uni = (np.bincount(tokens, minlength=v) + 1) / (len(tokens) + v)
    pairs = tokens[:-1] * v + tokens[1:]
    counts = np.bincount(pairs, minlength=v**2).reshape(v, v)
    bi = (counts + STRENGTH * uni) / (counts.sum(-1, keepdims=True) + STRENGTH)
    counts = np.bincount(pairs[:-1] * v + tokens[2:], minlength=v**3).reshape(v, v, v)
    tri = (counts + STRENGTH * bi) / (counts.sum(-1, keepdims=True) + STRENGTH)
    return Trigram(uni, bi, tri)
