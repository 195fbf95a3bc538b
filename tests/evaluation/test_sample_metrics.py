"""Metrics of samples against SciPy, closed forms and counts by hand."""

import math
import types

import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.distance import cdist

from md4jax.evaluation import distances, neighbours
from md4jax.evaluation.metrics import of_images, of_texts, scored_texts
from md4jax.evaluation.metrics.base import Images, Points, Setting, Texts
from md4jax.evaluation.metrics.of_points import NearestNeighbourKL
from md4jax.evaluation.precision_recall import precision_recall

NOWHERE = Setting(options=None, dataset=None, dim=6, num_classes=4)


def features(n, m, d=6):
    """Of two laws, float32 as networks give them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(size=(m, d)) + 0.5
    return Images(x.astype(np.float32)), Images(y.astype(np.float32))


def test_fid_is_scipys():
    """float64 on both sides: the square roots of eigenvalues lose half of the digits at most."""
    samples, reference = features(40, 50)
    a, b = (np.cov(z.features.astype(np.float64), rowvar=False) for z in (samples, reference))
    x, y = (z.features.astype(np.float64).mean(0) for z in (samples, reference))
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((x - y) ** 2).sum() + np.trace(a + b - 2 * root)
    found = of_images.FID(NOWHERE)(samples, reference)["fid"]
    assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("metric", "kernel"),
    [
        (of_images.KID, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3),
        (of_images.CubicMMD, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3),
        (of_images.LinearMMD, lambda x, y: x @ y.T / x.shape[1] + 1),
        (of_images.GaussianMMD, lambda x, y: np.exp(-cdist(x, y, "sqeuclidean") / x.shape[1])),
    ],
)
def test_mmd_and_its_jackknife(metric, kernel, monkeypatch):
    """Pair by pair, and again without each point; blocks of a few rows give the same."""
    samples, reference = features(9, 7)

    def value(x, y):
        x, y = x.astype(np.float64), y.astype(np.float64)
        within = sum(
            (kernel(z, z).sum() - np.trace(kernel(z, z))) / (len(z) * (len(z) - 1)) for z in (x, y)
        )
        return within - 2 * kernel(x, y).mean()

    x, y = samples.features, reference.features
    left_x = np.array([value(np.delete(x, i, 0), y) for i in range(len(x))])
    left_y = np.array([value(x, np.delete(y, i, 0)) for i in range(len(y))])
    error = math.sqrt(8 / 9 * ((left_x - left_x.mean()) ** 2).sum()
                      + 6 / 7 * ((left_y - left_y.mean()) ** 2).sum())  # fmt: skip
    # Sums of at most 81 kernels of up to some thousands: rounding is of 1e-12.
    for size in (neighbours.BLOCK_BYTES, 8 * 7 * 2):
        monkeypatch.setattr(neighbours, "BLOCK_BYTES", size)
        found = list(metric(NOWHERE)(samples, reference).values())
        assert found == pytest.approx([value(x, y), error], rel=1e-10)


def test_the_jackknifes_error_is_that_of_repeated_draws():
    """200 pairs of one law: the mean square error is the variance, which it does not fall below.

    A variance of 200 draws has a relative deviation of about 0.1 and, as the values have heavier
    tails than a normal law, rather 0.2: 0.4 is some 3 of these below; the excess for n = 30 that
    shows here is below a factor of 2.
    """
    draws = np.random.default_rng(1).normal(size=(200, 2, 30, 2))
    draws[:, 1] += 1
    found = np.array([distances.mmd_with_error(x, y, distances.Polynomial()) for x, y in draws])
    ratio = (found[:, 1] ** 2).mean() / found[:, 0].var(ddof=1)
    assert 0.6 < ratio < 2


def test_shares_by_blocks(monkeypatch):
    """Precision, recall, density and coverage do not see the blocks."""
    samples, reference = features(40, 30)
    x, y = reference.features, samples.features
    whole = *precision_recall(x, y), *distances.density_coverage(x, y)
    assert all(0 < share < 1.5 for share in whole)
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 8 * 40 * 3)
    assert (*precision_recall(x, y), *distances.density_coverage(x, y)) == whole
    real, drawn = cdist(x, x), cdist(x, y)
    assert whole[0] == (drawn <= np.sort(real)[:, 3:4]).any(0).mean()
    assert whole[2] == pytest.approx((drawn < np.sort(real)[:, 5:6]).sum() / (5 * 40))


def test_inception_score():
    """Undecided: 1. Sure, and all k classes as often: k. Sure of one class only: 1."""
    score = of_images.inception_score
    assert score(np.full((40, 4), 0.25)) == pytest.approx((1, 0))
    assert score(np.tile(np.eye(4), (10, 1))) == pytest.approx((4, 0))
    assert score(np.tile(np.eye(4)[:1], (40, 1))) == pytest.approx((1, 0))
    # Two splits, of one and of two classes: 1 and 2.
    found = score(np.eye(4)[[0, 0, 0, 0, 1, 2, 1, 2]], splits=2)
    assert found == pytest.approx((1.5, 0.5))
    metric = of_images.InceptionScore(NOWHERE)
    images = Images(np.zeros((40, 6)), np.tile(np.eye(4, dtype=np.float32), (10, 1)))
    assert metric(images, None)["inception_score"] == pytest.approx(4)


def text_metric(cls, length, vocab_size):
    spec = types.SimpleNamespace(shape=(length,), vocab_size=vocab_size)
    return cls(Setting(None, types.SimpleNamespace(spec=spec)))


def test_texts_by_hand():
    rows = np.array([[0, 1, 0, 1, 0], [2, 2, 2, 2, 2]])
    found = text_metric(of_texts.TokenEntropy, 5, 3)(Texts(rows, 3), None)
    first = -(0.6 * math.log2(0.6) + 0.4 * math.log2(0.4))
    assert found == pytest.approx({"unigram_entropy_bits": first / 2, "bigram_entropy_bits": 0.5})
    others = np.array([[0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 1, 1]])
    assert of_texts.gram_entropy(others, 1) == pytest.approx((2 + 0 + 1) / 3)
    found = text_metric(of_texts.DistinctN, 5, 3)(Texts(rows, 3), None)
    # Of 10 tokens 3 differ; pairs 01, 10, 22 of 8; triples 010, 101, 222 of 6.
    assert found == pytest.approx({"distinct_1": 3 / 10, "distinct_2": 3 / 8, "distinct_3": 3 / 6})


class Fake:
    """Letters as ids, end of text "."; the i-th token of a chunk costs i nats."""

    end = ord(".")

    def __init__(self):
        self.chunks = []

    def encode(self, text):
        return [*text.encode()]

    def log_probs(self, ids):
        self.chunks.append(bytes(ids.astype(np.uint8)).decode())
        return -np.arange(1, len(ids), dtype=np.float32)

    def feature(self, ids):
        return np.array([len(ids), ids[-1]], np.float32)


def test_generative_perplexity(monkeypatch):
    """Chunks, their first tokens left out, and of ends only the first of a chunk."""
    scorer = Fake()
    value, count = scored_texts.generative_perplexity(["abcd", "a.b.c", "", "x"], scorer)
    # Costs 1 2 3; then 1 2 _ 4, as the second end is not scored.
    assert count == 6 and value == pytest.approx(math.exp(13 / 6))
    assert scorer.chunks == ["abcd", "a.b.c"]
    monkeypatch.setattr(scored_texts, "CHUNK", 3)
    scorer = Fake()
    value, count = scored_texts.generative_perplexity(["abcdefg", ".abcd"], scorer)
    assert scorer.chunks == ["abc", "def", ".ab", "cd"]
    assert count == 7 and value == pytest.approx(math.exp((3 + 3 + 3 + 1) / 7))
    assert math.isnan(scored_texts.generative_perplexity(["", "x"], scorer)[0])


def test_features_for_mauve():
    found = scored_texts.text_features(["ab" * 600, ""], Fake())
    assert found.tolist() == [[1024, ord("b")], [1, ord(".")]]


def test_points():
    """The divergence itself is tested elsewhere; a model that has collapsed is told, not raised."""
    points = np.random.default_rng(0).normal(size=(2, 200, 1))
    metric = NearestNeighbourKL(NOWHERE)
    found = metric(*map(Points, points))["knn_kl_nats"]
    assert abs(found) < 4.5 * 1.5 / math.sqrt(10 * 200)
    assert metric(Points(np.zeros((200, 1))), Points(points[0])) == {"knn_kl_nats": math.inf}
