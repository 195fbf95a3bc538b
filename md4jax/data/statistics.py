r"""How much simple models know of a data set: the numbers that a diffusion model must beat.

With c(p, v) how often value v stands at position p in the training split, n = sum_v c(p, v) and V
the vocabulary,

  (1)  entropy        H = mean over p of -sum_v c(p, v)/n log2(c(p, v)/n)
  (2)  cross entropy  C = mean over p and test examples x of -log2 q_p(x_p),
                      q_p(v) = (c(p, v) + a) / (n + a V)

in bits a dimension. C is what a model of independent positions needs on the test split; a > 0 is
there because a value may be new to its position. For text positions do not matter: a unigram model
has one c(v), a bigram model a c(u, v) for each preceding token u, in the same formulas weighted by
how often u comes. Bigrams do not reach across examples that are stored as rows.

(1) is the plug-in estimate, too low where there are few counts an entry (many symbols, little
text). All counts are exact: every example or token is read.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Integer

from md4jax.data.base import Split, TokenWindows

# Beyond this a dense table of pairs is larger than 128 MB, and text to fill it is rare.
MAX_BIGRAM_VOCAB = 4096
_TOKENS_AT_ONCE = 2**22


def plug_in_entropy(counts: Integer[np.ndarray, "p v"]) -> Float[np.ndarray, "p"]:
    """Entropy of each row's empirical distribution, bits; 0 for a row without counts."""
    total = np.maximum(counts.sum(-1, keepdims=True), 1)
    probability = counts / total
    log = np.log2(probability, out=np.zeros_like(probability), where=counts > 0)
    return -(probability * log).sum(-1)


def smoothed_code_length(
    train: Integer[np.ndarray, "p v"], test: Integer[np.ndarray, "p v"], smoothing: float
) -> float:
    """Mean of -log2 q over all that `test` counts, q from `train` by (2), bits.

    Args:
      train: counts c(p, v).
      test: counts of what is to be coded.
      smoothing: a, above 0.
    """
    total = train.sum(-1, keepdims=True) + smoothing * train.shape[-1]
    bits = np.log2(total) - np.log2(train + smoothing)
    return float((test * bits).sum() / test.sum())


def position_counts(split: Split, vocab_size: int) -> Integer[np.ndarray, "p v"]:
    """How often each value stands at each position (pixel and channel), over all examples.

    Args:
      split: examples of shape `*s`, whose values are in [0, vocab_size).
      vocab_size: v.

    Returns:
      Counts int64; `p` runs over `*s` flattened.
    """
    positions = int(np.prod(split.shape))
    counts = np.zeros(positions * vocab_size, np.int64)
    step = max(1, _TOKENS_AT_ONCE // positions)
    for start in range(0, len(split), step):
        index = np.arange(start, min(start + step, len(split)))
        x0 = split.gather(index)["x0"].reshape(len(index), positions)
        cells = x0 + vocab_size * np.arange(positions)
        counts += np.bincount(cells.ravel(), minlength=counts.size)
    return counts.reshape(positions, vocab_size)


def marginal_entropies(
    train: Split, test: Split | None, vocab_size: int, smoothing: float = 1.0
) -> dict[str, float]:
    """`entropy` (1) of the training split and `cross_entropy` (2) of the test split, bits/dim.

    Args:
      train: examples of shape `*s`.
      test: the same; None leaves `cross_entropy` out.
      vocab_size: values are in [0, vocab_size).
      smoothing: a of (2), above 0.
    """
    counts = position_counts(train, vocab_size)
    result = {"entropy": float(plug_in_entropy(counts).mean())}
    if test is not None:
        test_counts = position_counts(test, vocab_size)
        result["cross_entropy"] = smoothed_code_length(counts, test_counts, smoothing)
    return result


def _token_rows(split: Split) -> Iterator[Integer[np.ndarray, "r t"]]:
    """The tokens of a text split, each pair of neighbours in exactly one of the pieces.

    Overlapping windows are read as the one sequence they are cut from, so that no token counts
    twice; its pieces overlap by the one token a pair needs.
    """
    if isinstance(split, TokenWindows):
        for start in range(0, len(split.tokens), _TOKENS_AT_ONCE):
            yield np.asarray(split.tokens[start : start + _TOKENS_AT_ONCE + 1])[None]
        return
    step = max(1, _TOKENS_AT_ONCE // split.shape[0])
    for start in range(0, len(split), step):
        yield split.gather(np.arange(start, min(start + step, len(split))))["x0"]


def _bigram_counts(split: Split, vocab_size: int) -> Integer[np.ndarray, "v v"]:
    counts = np.zeros(vocab_size**2, np.int64)
    for rows in _token_rows(split):
        pairs = rows[:, :-1].astype(np.int64) * vocab_size + rows[:, 1:]
        counts += np.bincount(pairs.ravel(), minlength=counts.size)
    return counts.reshape(vocab_size, vocab_size)


def _unigram_counts(split: Split, vocab_size: int) -> Integer[np.ndarray, "1 v"]:
    counts = np.zeros(vocab_size, np.int64)
    for rows in _token_rows(split):
        overlap = isinstance(split, TokenWindows) and rows.shape[1] > _TOKENS_AT_ONCE
        own = rows[:, :-1] if overlap else rows
        counts += np.bincount(own.ravel(), minlength=vocab_size)
    return counts[None]


def ngram_entropies(
    train: Split, test: Split | None, vocab_size: int, smoothing: float = 1.0
) -> dict[str, float]:
    """Unigram and bigram entropies of a text split, bits a token.

    Args:
      train: examples `[length]`.
      test: the same; None leaves the cross entropies out.
      vocab_size: ids are in [0, vocab_size).
      smoothing: a of (2), above 0.

    Returns:
      `unigram` and `bigram`, (1) of the training split, the second given the token before;
      `unigram_cross` and `bigram_cross`, (2) of the test split. No bigrams where vocab_size is
      above 4,096.
    """
    names = {"unigram": _unigram_counts}
    if vocab_size <= MAX_BIGRAM_VOCAB:
        names["bigram"] = _bigram_counts
    result = {}
    for name, count in names.items():
        counts = count(train, vocab_size)
        weight = counts.sum(-1) / max(1, counts.sum())
        result[name] = float((weight * plug_in_entropy(counts)).sum())
        if test is not None:
            test_counts = count(test, vocab_size)
            if test_counts.any():
                code = smoothed_code_length(counts, test_counts, smoothing)
                result[f"{name}_cross"] = code
    return result
