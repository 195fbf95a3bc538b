"""evaluation/trigram.py: a law that comes to the entropy of a known source."""

import numpy as np
import pytest

from md4jax.evaluation.trigram import fit
from md4jax.options import UserError


def chain(length, seed=0):
    """A text whose next letter depends on the two before, and the entropy rate of it, bits."""
    rng = np.random.default_rng(0)
    law = rng.dirichlet(np.ones(3), (3, 3))
    rng, text = np.random.default_rng(seed), [0, 1]
    for u in rng.random(length - 2):
        text.append(int(np.searchsorted(np.cumsum(law[text[-2], text[-1]]), u)))
    text = np.minimum(text, 2)
    pairs = np.bincount(text[:-1] * 3 + text[1:], minlength=9).reshape(3, 3) / (length - 1)
    return text, -(pairs[..., None] * law * np.log2(law)).sum()


def test_each_context_has_a_law():
    model = fit(chain(500)[0], 3)
    for law in (model.uni, model.bi, model.tri):
        np.testing.assert_allclose(law.sum(-1), 1, rtol=1e-12)


def test_it_comes_to_the_entropy_of_the_source():
    """On a second text of 40,000 letters: within 4.5 standard errors of the mean of -log2 p."""
    model, (text, rate) = fit(chain(40_000)[0], 3), chain(40_000, seed=1)
    bits = model.bits(text[None])
    error = 1.5 / 40_000**0.5  # A letter's -log2 p has a deviation below 1.5 bits here.
    assert abs(bits - rate) < 4.5 * error
    shuffled = np.random.default_rng(2).permutation(text)
    assert model.bits(shuffled[None]) > bits + 0.1


def test_the_first_two_tokens_of_a_row():
    model = fit(np.array([0, 1, 0, 1, 1, 0, 2]), 3)
    rows = np.array([[2, 1, 0]])
    expected = -np.log2([model.uni[2], model.bi[2, 1], model.tri[2, 1, 0]]).mean()
    assert model.bits(rows) == pytest.approx(expected)


def test_large_vocabularies_are_refused():
    with pytest.raises(UserError, match="trigram model of 300 ids is too large"):
        fit(np.arange(10), 300)
