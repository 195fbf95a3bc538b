"""Entropies against closed forms and hand counts."""

import math

import numpy as np
import pytest
from scipy.stats import entropy

from md4jax.data import statistics
from md4jax.data.base import ArraySplit, TokenWindows
from md4jax.data.digits import Digits
from md4jax.data.statistics import (
    marginal_entropies,
    ngram_entropies,
    plug_in_entropy,
    position_counts,
    smoothed_code_length,
)


def test_plug_in_entropy_of_known_laws():
    counts = np.array([[1, 1, 1, 1], [5, 0, 0, 0], [2, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(plug_in_entropy(counts), [2, 0, 1.5, 0], atol=1e-12)


def test_smoothed_code_length_by_hand():
    train, test = np.array([[3, 1], [0, 4]]), np.array([[1, 1], [0, 2]])
    bits = [-math.log2(4 / 6), -math.log2(2 / 6), 2 * -math.log2(5 / 6)]
    assert smoothed_code_length(train, test, 1.0) == pytest.approx(sum(bits) / 4)
    # As a vanishes, coding the training counts costs their entropy.
    tiny = smoothed_code_length(train, train, 1e-12)
    assert tiny == pytest.approx(plug_in_entropy(train).mean())


def test_position_counts_of_positions(monkeypatch):
    images = np.random.default_rng(0).integers(0, 5, (50, 2, 3, 1), np.uint8)
    expected = [np.bincount(column, minlength=5) for column in images.reshape(50, 6).T]
    np.testing.assert_array_equal(position_counts(ArraySplit(images), 5), expected)
    monkeypatch.setattr(statistics, "_TOKENS_AT_ONCE", 40)  # Several pieces, the last smaller.
    np.testing.assert_array_equal(position_counts(ArraySplit(images), 5), expected)


def test_marginal_entropies_of_known_positions():
    values = np.arange(16)
    images = np.stack([values % 2, values % 16, 0 * values, values % 4], -1)[:, None, :, None]
    result = marginal_entropies(ArraySplit(images), ArraySplit(images), 16, smoothing=1e-12)
    assert result["entropy"] == pytest.approx((1 + 4 + 0 + 2) / 4)
    assert result["cross_entropy"] == pytest.approx(result["entropy"], abs=1e-6)
    assert set(marginal_entropies(ArraySplit(images), None, 16)) == {"entropy"}


def test_digits_marginals():
    data = Digits().load()
    result = marginal_entropies(data.splits["train"], data.splits["test"], 17)
    pixels = data.splits["train"].examples.reshape(1500, 64)
    expected = np.mean([entropy(np.bincount(column), base=2) for column in pixels.T])
    assert result["entropy"] == pytest.approx(expected)
    assert result["entropy"] == pytest.approx(2.4132, abs=1e-4)
    assert result["cross_entropy"] == pytest.approx(2.4191, abs=1e-4)


def test_ngrams_of_a_cycle():
    """Three tokens in turn: log2(3) bits alone, none given the one before."""
    tokens = np.arange(3001) % 3
    result = ngram_entropies(TokenWindows(tokens, 5, 1), None, 3)
    assert result["unigram"] == pytest.approx(math.log2(3), abs=1e-6)
    assert result["bigram"] == pytest.approx(0, abs=1e-12)
    assert set(result) == {"unigram", "bigram"}


def test_ngrams_of_a_markov_chain():
    """A two-state chain that stays with probability 0.9: 1 bit alone, h(0.1) given the last.

    n = 200,000 tokens; the standard error of the second is about 0.002, so 0.02 is 10 of them.
    """
    jumps = np.random.default_rng(0).random(200_000) < 0.1
    split = TokenWindows(np.cumsum(jumps) % 2, 8, 1)
    result = ngram_entropies(split, split, 2)
    rate = entropy([0.1, 0.9], base=2)
    for key, expected in {"unigram": 1, "bigram": rate}.items():
        assert result[key] == pytest.approx(expected, abs=0.02)
        assert result[f"{key}_cross"] == pytest.approx(result[key], abs=1e-3)


def test_ngrams_do_not_depend_on_pieces_or_windows(monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 4, 1000)
    whole = ngram_entropies(TokenWindows(tokens, 10, 1), TokenWindows(tokens, 10, 10), 4)
    for at_once in (1, 7, 100, 999, 1000):
        monkeypatch.setattr(statistics, "_TOKENS_AT_ONCE", at_once)
        pieces = ngram_entropies(TokenWindows(tokens, 30, 3), TokenWindows(tokens, 7, 7), 4)
        assert pieces == pytest.approx(whole)
    counts = np.zeros((4, 4))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    pairs = entropy(counts.ravel(), base=2) - entropy(counts.sum(1), base=2)
    assert whole["bigram"] == pytest.approx(pairs)


def test_ngrams_of_rows_stay_in_their_row():
    rows = ArraySplit(np.array([[0, 1], [2, 3]] * 5))
    assert ngram_entropies(rows, None, 4)["bigram"] == pytest.approx(0)


def test_no_bigrams_for_large_vocabularies():
    split = TokenWindows(np.arange(100), 10, 10)
    assert set(ngram_entropies(split, split, 50_257)) == {"unigram", "unigram_cross"}
