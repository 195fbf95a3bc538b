r"""Metrics of texts by their ids alone.

With c(.) the counts of a row of L tokens,

  (1)  unigram entropy  -sum_v c(v) / L log2(c(v) / L); the bigrams' is the same of adjacent pairs
  (2)  distinct-n       different n-grams of all rows / n-grams of all rows
       (J. Li et al., arXiv:1510.03055, section 5); it falls as there are more rows

(1) is averaged over rows and is low where a sample repeats itself; (2) is also low where samples
repeat each other. The published code of masked models gives (1) of unigrams in nats.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Integer

from md4jax.evaluation import trigram
from md4jax.evaluation.metrics.base import Metric, Setting, Texts
from md4jax.options import UserError

DISTINCT = (1, 2, 3)
MAX_TOKENS = 2**24  # Of the text that a trigram model is made of.


def grams(rows: Integer[np.ndarray, "n l"], length: int) -> Integer[np.ndarray, "n g length"]:
    """All runs of so many adjacent tokens of each row."""
    return np.lib.stride_tricks.sliding_window_view(rows, length, axis=1)


def gram_entropy(rows: Integer[np.ndarray, "n l"], length: int) -> float:
    """(1) of runs of so many tokens, bits, averaged over rows."""
    entropies = []
    for row in grams(rows, length):
        _, counts = np.unique(row, axis=0, return_counts=True)
        share = counts / counts.sum()
        entropies.append(-(share * np.log2(share)).sum())
    return float(np.mean(entropies))


def distinct(rows: Integer[np.ndarray, "n l"], length: int) -> float:
    """(2) of runs of so many tokens, in (0, 1]."""
    flat = grams(rows, length).reshape(-1, length)
    return len(np.unique(flat, axis=0)) / len(flat)


class OfTexts(Metric):
    """What looks at ids; rows have to be long enough."""

    kind = Texts
    uses_reference = False
    least: int = 2  # Tokens a row.

    def __init__(self, setting: Setting):
        super().__init__(setting)
        (length,) = setting.dataset.spec.shape
        if length < self.least:
            raise UserError(
                f"config.eval.metrics: texts of {length} tokens are too short to count runs of "
                f"{self.least}"
            )


class TokenEntropy(OfTexts):
    """(1)."""

    def __call__(self, samples: Texts, reference: Texts | None) -> dict[str, float]:
        return {
            "unigram_entropy_bits": gram_entropy(samples.rows, 1),
            "bigram_entropy_bits": gram_entropy(samples.rows, 2),
        }


class DistinctN(OfTexts):
    """(2)."""

    least = max(DISTINCT)

    def __call__(self, samples: Texts, reference: Texts | None) -> dict[str, float]:
        return {f"distinct_{n}": distinct(samples.rows, n) for n in DISTINCT}


class TrigramBits(OfTexts):
    """Bits a token under `trigram.py`'s model of the reference split."""

    least = 3

    def __init__(self, setting: Setting):
        super().__init__(setting)
        vocab_size = setting.dataset.spec.vocab_size
        trigram.check_vocab(vocab_size, "config.eval.metrics has 'trigram': ")

    @functools.cached_property
    def _model(self) -> trigram.Trigram:
        split = self.setting.dataset.splits[self.setting.options.reference]
        # Windows may overlap: one every so many that they just do not, and fewer of a long text.
        length, stride = split.shape[0], getattr(split, "stride", split.shape[0])
        apart = -(-length // stride)
        count = -(-len(split) // apart)
        apart *= max(1, -(-count * length // MAX_TOKENS))
        rows = split.gather(np.arange(0, len(split), apart))["x0"]
        return trigram.fit(rows.reshape(-1), self.setting.dataset.spec.vocab_size)

    def __call__(self, samples: Texts, reference: Texts | None) -> dict[str, float]:
        return {"trigram_bits_per_token": self._model.bits(samples.rows)}
