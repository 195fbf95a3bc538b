"""Lengths of von Mises-Fisher tails: their law against sums of vectors, exact moments and edges."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from md4jax.processes.star import radius_tail

GOLDEN = pathlib.Path(__file__).parents[4] / "shared" / "golden" / "golden_star.npz"
KAPPA = np.geomspace(800.0, 0.002, 60)


@pytest.fixture(scope="module")
def fine():
    return radius_tail.build(KAPPA, 641)


@pytest.fixture(scope="module")
def table(fine):
    return jnp.asarray(fine[:, ::10])  # Of 65 nodes.


def resultant(kappa):
    """E cos(angle to x0)."""
    return np.where(kappa < 1e-3, kappa / 3, 1 / np.tanh(kappa) - 1 / kappa)


def vmf(rng, kappa, n):
    """Draws `[n, 3]` about (0, 0, 1) by inversion of the cosine's law."""
    u, angle = rng.random(n), rng.uniform(0, 2 * np.pi, n)
    if kappa < 1e-2:  # The logarithm below cancels; to second order in kappa:
        c = 2 * u - 1
        cosine = c + kappa * (1 - c**2) / 2
    else:
        cosine = 1 + np.log(u + (1 - u) * np.exp(-2 * kappa)) / kappa
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    return np.stack([sine * np.cos(angle), sine * np.sin(angle), cosine], axis=1)


@jax.jit
def drawn_tails(keys, table, step):
    """G_t `[b, 10_000, 3]` about (0, 0, 1)."""
    mean = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), (len(keys), 10_000, 3))
    return radius_tail.draw(keys, table, step, mean)


def test_draws_have_the_law_of_lengths_of_sums(table):
    """Two-sample KS of 200 000 draws against 100 000 sums, 7 cells, each wrong 1 time in 10^4.

    Of lengths and of cosines; the angle around is uniform.
    """
    n, many, rng = 100_000, 200_000, np.random.default_rng(0)
    limit = 2.225 * np.sqrt(1 / n + 1 / many)
    total = np.zeros((n, 3))
    for t in range(60, 0, -1):
        total += KAPPA[t - 1] * vmf(rng, KAPPA[t - 1], n)
        if t in (1, 2, 20, 40, 57, 58, 59):
            keys = jax.random.split(jax.random.key(t), many // 10_000)
            drawn = np.asarray(drawn_tails(keys, table, jnp.full(len(keys), t)), float)
            drawn = drawn.reshape(-1, 3)
            for of in (lambda x: np.linalg.norm(x, axis=1), lambda x: x[:, 2]):
                assert stats.ks_2samp(of(total), of(drawn)).statistic < limit, t
            turn = np.arctan2(drawn[:, 1], drawn[:, 0]) / (2 * np.pi) + 0.5
            assert stats.kstest(turn, "uniform").pvalue > 1e-4, t


def test_the_last_length_is_constant_and_the_one_before_has_its_edges(table):
    score = jax.random.normal(jax.random.key(0), (2, 5000))
    last, before = radius_tail.radius(table, jnp.array([60, 59]), score)
    np.testing.assert_array_equal(last, np.float32(KAPPA[-1]))
    low, high = KAPPA[-2] - KAPPA[-1], KAPPA[-2] + KAPPA[-1]
    assert before.min() > low * (1 - 1e-5) and before.max() < high * (1 + 1e-5)
    # Two lengths: r^2 is uniform between the edges as long as cosh r = 1 + r^2 / 2.
    share = (np.asarray(before, float) ** 2 - low**2) / (high**2 - low**2)
    assert stats.kstest(share, "uniform").pvalue > 1e-4


def test_one_step_is_the_tilted_uniform_law():
    for r, kappa in ((0.3, 2.0), (2.0, 2.0), (900.0, 700.0)):
        low, high = abs(r - kappa), r + kappa
        length = np.linspace(low, high, 5)
        got = radius_tail.step_cdf(length, np.array([r]), kappa)[0]
        points, weights = np.polynomial.legendre.leggauss(400)
        half = (length[:, None] - low) / 2
        x = low + half * (1 + points)
        expected = half[:, 0] * ((np.exp(x - high) - np.exp(-x - high)) @ weights)  # ~ sinh
        expected /= expected[-1]
        np.testing.assert_allclose(got, expected, atol=1e-6)
    outside = radius_tail.step_cdf(np.array([0.0, 9.0]), np.array([3.0]), 2.0)
    np.testing.assert_array_equal(outside, [[0.0, 1.0]])


def second_moments(kappa):
    """E r A(r) = E x0.G and E r^2 = |E G|^2 + trace Cov G, exact."""
    a = resultant(kappa)
    tail = lambda x: np.cumsum(x[::-1])[::-1]
    mean = tail(kappa * a)
    # Of cos(angle): 1 - 2 A / kappa - A^2 along x0, A / kappa across, twice.
    return mean, mean**2 + tail(kappa**2 * (1 - a**2))


def from_table(quantiles):
    """E r A(r) and E r^2 of a law given by its quantiles."""
    scores = np.linspace(-5, 5, quantiles.shape[1])
    weight = np.exp(-0.5 * scores**2)
    weight /= weight.sum()
    r = quantiles.astype(float)
    return (r * resultant(r)) @ weight, r**2 @ weight


def test_moments_are_exact(fine):
    for got, expected in zip(from_table(fine), second_moments(KAPPA)):
        np.testing.assert_allclose(got, expected, rtol=5e-5)


def test_moments_agree_with_the_reference():
    if not GOLDEN.exists():
        pytest.skip("the reference numbers are not in this checkout")
    golden = np.load(GOLDEN)
    ref = lambda name: golden["ref64/vmf/" + name].astype(float)
    mean, square = from_table(radius_tail.build(ref("kappa"), 201))
    axial = ref("tail_axial_mean")
    np.testing.assert_allclose(mean, axial, rtol=5e-5)
    expected = axial**2 + ref("tail_axial_var") + 2 * ref("tail_transverse_var")
    np.testing.assert_allclose(square, expected, rtol=5e-5)


def test_65_nodes_are_enough(table, fine):
    """The distribution function's error against a table of 641 nodes: below 3e-4."""
    nodes = np.linspace(-5, 5, 641)
    scores = np.linspace(-4.5, 4.5, 1501)
    rows = jnp.broadcast_to(jnp.arange(59)[:, None], (59, 1501))
    at = jnp.broadcast_to(jnp.asarray(scores, jnp.float32), (59, 1501))
    values = np.asarray(radius_tail.read_curve(table, rows, at), float)
    for t in range(59):
        got = special.ndtr(np.interp(values[t], fine[t], nodes))
        assert np.abs(got - special.ndtr(scores)).max() < 3e-4, t


def test_an_example_is_drawn_by_its_own_key_and_step(table):
    keys, step = jax.random.split(jax.random.key(1), 3), jnp.array([1, 30, 59])
    both = drawn_tails(keys, table, step)
    for i in range(3):
        alone = drawn_tails(keys[i : i + 1], table, step[i : i + 1])[0]
        # Loops over arrays of other sizes may round otherwise.
        np.testing.assert_allclose(both[i], alone, rtol=1e-6, atol=1e-6 * np.abs(alone).max())


def test_tables_are_cached(tmp_path, capsys):
    kappa = np.array([3.0, 1.0, 0.1])
    first, second = (radius_tail.load(kappa, 9, tmp_path) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert capsys.readouterr().out.count("cached in") == 1
