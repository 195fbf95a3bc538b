"""Beta tails: moments and quantiles against quadrature and brute force; draws and their cache."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from md4jax.options import UserError
from md4jax.processes.star import beta_tail, quantile_table, schedules, table_cache
from md4jax.processes.star.beta_tail import BOUND, EDGE

GOLDEN = pathlib.Path(__file__).parents[4] / "shared" / "golden" / "golden_star.npz"
LEVELS = np.array([0, 1, 8, 127])  # Of 255; the rows of a table that stands for 8 levels.


def concentrations(steps):
    """nu_1, ..., nu_T in closed form, from what each step adds to a cosine schedule's SNR."""
    return schedules.beta_nu_closed_form(schedules.cosine_increments(steps))


def data(levels):
    return np.clip(np.asarray(levels) / 255, EDGE, 1 - EDGE)


def quadrature():
    """Points and weights over [-C, C]: Gauss-Legendre in 200 panels."""
    points, weights = np.polynomial.legendre.leggauss(12)
    half = BOUND / 200
    centers = np.linspace(-BOUND + half, BOUND - half, 200)
    return (centers[:, None] + half * points).ravel(), np.tile(half * weights, 200)


def table_of(nu, m, nodes=33):
    mean, variance = beta_tail.tail_moments(nu, m)
    arrays = beta_tail.build(nu, m, nodes), mean, np.sqrt(variance)
    return quantile_table.Table(*(jnp.asarray(a, jnp.float32) for a in arrays))


@pytest.fixture(scope="module")
def thousand():
    return table_of(concentrations(1000), data(LEVELS))


def at_scores(scores):
    """A `standard_normal` that gives these scores to each example."""
    scores = jnp.asarray(scores, jnp.float32)
    return lambda keys, shape: jnp.broadcast_to(scores, (len(keys), *shape))


def one_key():
    return jax.random.split(jax.random.key(0), 1)


@pytest.mark.parametrize("nu", [8000.0, 130.0, 3.0, 0.002])
@pytest.mark.parametrize("m", [1e-4, 0.004, 0.5, 0.97, 1 - 1e-4])
def test_step_moments_are_those_of_a_numerical_integral(nu, m):
    a, b = 1 + nu * m, 1 + nu * (1 - m)
    # Over y = logit x the density is smooth; outside the clip there are two atoms.
    log_density = lambda y: a * special.log_expit(y) + b * special.log_expit(-y)
    density = lambda y: np.exp(log_density(y) - special.betaln(a, b))
    y, w = quadrature()
    low, high = special.betainc(a, b, EDGE), special.betainc(b, a, EDGE)
    mean = (w * density(y)) @ y + BOUND * (high - low)
    variance = (
        (w * density(y)) @ (y - mean) ** 2 + low * (BOUND + mean) ** 2 + high * (BOUND - mean) ** 2
    )
    got_mean, got_variance = beta_tail.step_moments(np.array([nu]), np.array([m]))
    assert got_mean[0, 0] == pytest.approx(nu * mean, rel=1e-9, abs=1e-10 * nu)
    assert got_variance[0, 0] == pytest.approx(nu**2 * variance, rel=1e-9)


def test_tail_moments_add_up():
    nu, m = concentrations(20), data([0, 40])
    step, tail = beta_tail.step_moments(nu, m), beta_tail.tail_moments(nu, m)
    for one, all_later in zip(step, tail):
        np.testing.assert_allclose(all_later[7], one[7:].sum(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(all_later[-1], one[-1])


def test_one_step_characteristic_function_is_that_of_a_numerical_integral():
    w = np.array([[0.0, 0.1, 1.0, 7.0]])
    points, weights = quadrature()
    for nu, m in ((900.0, 1e-4), (40.0, 0.3), (0.3, 0.9)):
        a, b = 1 + nu * m, 1 + nu * (1 - m)
        log_density = a * special.log_expit(points) + b * special.log_expit(-points)
        mass = weights * np.exp(log_density - special.betaln(a, b))
        y = np.concatenate([[-BOUND], points, [BOUND]])
        mass = np.concatenate([[special.betainc(a, b, EDGE)], mass, [special.betainc(b, a, EDGE)]])
        sd = np.sqrt(beta_tail.step_moments(np.array([nu]), np.array([m]))[1][0, 0])
        expected = np.exp(1j * (w[0] / sd)[:, None] * nu * y) @ mass
        got = beta_tail.step_cf(nu, np.array([m]), np.zeros(1), w / sd)[0]
        np.testing.assert_allclose(got, expected, atol=1e-9)


@pytest.mark.parametrize("m", [1e-4, 0.02, 0.5, 0.9])
def test_two_steps_have_the_law_of_a_convolution(m, monkeypatch):
    nu = np.array([30.0, 0.5])
    table = table_of(nu, np.array([m]), 129)  # So that the table's own error is small.
    scores = np.linspace(-4, 4, 33) + 0.03  # Not at the nodes.
    monkeypatch.setattr(quantile_table, "standard_normal", at_scores(scores))
    level = jnp.zeros((1, 33), int)
    got = quantile_table.draw(one_key(), table, jnp.array([1]), level, 2)[0]
    a, b = 1 + nu * m, 1 + nu * (1 - m)

    def first(p):  # The quantile of nu_1 T(x_1)
        return nu[0] * np.clip(special.logit(special.betaincinv(a[0], b[0], p)), -BOUND, BOUND)

    def second(g):  # P(nu_2 T(x_2) <= g)
        y = g / nu[1]
        inside = special.betainc(a[1], b[1], special.expit(y))
        return np.where(y >= BOUND, 1.0, np.where(y < -BOUND, 0.0, inside))

    # The step that is wide is integrated over: the other's law is smooth in comparison.
    z = np.linspace(-6, 6, 12_001)
    weight = np.exp(-0.5 * z**2)
    given = second(np.asarray(got, float)[:, None] - first(special.ndtr(z)))
    p = given @ (weight / weight.sum())
    # At 1e-4 an atom of 0.3 % is wider than it should be: what 512 frequencies cannot resolve.
    assert np.abs(p - special.ndtr(scores)).max() < (2.4e-4 if m == 1e-4 else 1e-5)


def test_draws_have_the_law_of_sums_of_beta_draws(thousand):
    """Two-sample KS of 200 000 draws against 20 000 sums, 20 cells, each wrong 1 time in 10^4."""
    n, many = 20_000, 200_000
    nu, rng = concentrations(1000), np.random.default_rng(0)
    rows = {0: 0, 1: 1, 2: 8, 4: 128, 7: 255}  # Level of 8: level of 255.
    limit, draw = 2.225 * np.sqrt(1 / n + 1 / many), jax.jit(quantile_table.draw, static_argnums=4)
    for level, of_255 in rows.items():
        m = data(of_255)
        keys = jax.random.split(jax.random.key(level), 20)
        levels = jnp.full((20, many // 20), level)
        total = np.zeros(n)
        for t in range(1000, 0, -1):
            x = rng.beta(1 + nu[t - 1] * m, 1 + nu[t - 1] * (1 - m), n)
            total += nu[t - 1] * special.logit(np.clip(x, EDGE, 1 - EDGE))
            if t in (1, 500, 999, 1000):
                drawn = np.ravel(draw(keys, thousand, jnp.full(20, t), levels, 8))
                assert stats.ks_2samp(total, drawn).statistic < limit, (t, of_255)


def test_33_nodes_are_enough(thousand, monkeypatch):
    """The distribution function's error against a table of 641 nodes: below 2.4e-4."""
    nu, m = concentrations(1000), data(LEVELS[:1])  # Level 0 has the worst.
    fine, nodes = beta_tail.build(nu, m, 641)[:, 0].astype(float), np.linspace(-5, 5, 641)
    scores = np.linspace(-4.5, 4.5, 1501)
    monkeypatch.setattr(quantile_table, "standard_normal", at_scores(scores))
    for t in (1, 2, 10, 100, 500, 990, 999, 1000):
        level = jnp.zeros((1, len(scores)), int)
        value = quantile_table.draw(one_key(), thousand, jnp.array([t]), level, 8)[0]
        value = (np.asarray(value, float) - thousand.mean[t - 1, 0]) / thousand.sd[t - 1, 0]
        expected = special.ndtr(scores)
        # Within an atom any score is right.
        low, high = (
            special.ndtr(np.interp(value + shift, fine[t - 1], nodes)) for shift in (-1e-5, 1e-5)
        )
        assert np.maximum(low - expected, expected - high).max() < 2.4e-4, t


def test_between_rows_the_law_is_interpolated(monkeypatch):
    """65 knots: the distribution function is less than 6e-4 from that of a table built there."""
    nu = concentrations(100)
    knots = np.linspace(-BOUND, 0, 65)
    m = special.expit(np.array([knots[:2].mean(), knots[12:14].mean(), knots[50:52].mean()]))
    exact, table = table_of(nu, m, 129), table_of(nu, beta_tail.half_knots(65))
    scores = np.linspace(-4, 4, 401)
    monkeypatch.setattr(quantile_table, "standard_normal", at_scores(scores))
    for t in (1, 3, 20, 60, 99, 100):
        step = jnp.array([t])
        for row in range(3):
            curve = quantile_table.draw(one_key(), exact, step, jnp.full((1, 401), row), 6)[0]
            for sign, x0 in ((1, m[row]), (-1, 1 - m[row])):
                x0 = jnp.full((1, 401), x0, jnp.float32)
                got = quantile_table.draw_between(one_key(), table, step, x0)[0]
                low, high = (
                    np.interp(sign * got + shift * exact.sd[t - 1, row], curve, scores)
                    for shift in (-1e-4, 1e-4)
                )
                low, high, right = (special.ndtr(x) for x in (low, high, scores))
                assert np.maximum(low - right, right - high).max() < 6e-4, (t, row)


def test_an_example_is_drawn_by_its_own_key_step_and_levels(thousand):
    keys = jax.random.split(jax.random.key(3), 3)
    step, level = jnp.array([1, 400, 1000]), jnp.arange(3 * 10).reshape(3, 10) % 8
    draw = jax.jit(quantile_table.draw, static_argnums=4)
    between = jax.jit(quantile_table.draw_between)
    m = jnp.linspace(0, 1, 30).reshape(3, 10)
    for i in range(3):
        one = slice(i, i + 1)
        np.testing.assert_allclose(
            draw(keys, thousand, step, level, 8)[i],
            draw(keys[one], thousand, step[one], level[one], 8)[0],
            rtol=2.4e-7,  # Another batch size is another program: it may round the last bit.
        )
        np.testing.assert_allclose(
            between(keys, thousand, step, m)[i],
            between(keys[one], thousand, step[one], m[one])[0],
            rtol=2.4e-7,
        )


def test_curves_are_monotone_and_linear_beyond_the_nodes():
    values = jnp.array([[-3.0, -3.0, -2.9, 0.0, 0.01, 5.0]])
    score = jnp.linspace(-7, 7, 2001)[None]
    curve = quantile_table.read_curve(values, jnp.zeros((1, 2001), int), score)[0]
    assert np.all(np.diff(curve) >= -1e-6)
    np.testing.assert_allclose(curve[-1], 5.0 + 2 * (5.0 - 0.01) / 2, rtol=1e-2)
    np.testing.assert_allclose(curve[0], -3.0, atol=1e-6)


def test_concentrations_out_of_range_are_an_error():
    for wrong in (0.0, 1e6):
        with pytest.raises(UserError, match="concentrations nu"):
            beta_tail.build(np.array([wrong, 1.0]), data([3]))


def test_moments_and_quantiles_agree_with_the_reference():
    if not GOLDEN.exists():
        pytest.skip("the reference numbers are not in this checkout")
    golden = np.load(GOLDEN)
    nu, ref = golden["beta/nu"].astype(float), lambda name: golden["ref64/beta/" + name]
    mean, variance = beta_tail.tail_moments(nu, data([0, 77, 255]))
    for i, level in enumerate((0, 77, 255)):
        sd = ref(f"all_t_std_clipped_level{level}")
        np.testing.assert_allclose(np.sqrt(variance[:, i]), sd, rtol=1e-10)
        error = mean[:, i] - ref(f"all_t_mean_clipped_level{level}")
        assert np.abs(error / sd).max() < 1e-10
    cells = ref("quantile_cells_t_level")
    levels = np.unique(cells[:, 1])
    m = data(levels)
    mean, variance = beta_tail.tail_moments(nu, m)
    # At the reference's own probabilities only a fine table is exact.
    quantiles = beta_tail.build(nu, m, 641)
    for (t, level), expected in zip(cells, ref("quantiles_clipped")):
        row = np.searchsorted(levels, level)
        score = special.ndtri(ref("quantile_p"))
        got = np.interp(score, np.linspace(-5, 5, 641), quantiles[t, row])
        expected = (expected - mean[t, row]) / np.sqrt(variance[t, row])
        np.testing.assert_allclose(got, expected, atol=6e-5)


class TestCache:
    parameters = {"nu": np.array([1.0, 2.0]), "nodes": 3, "law": "a law"}  # noqa: RUF012

    def build(self):
        self.built = getattr(self, "built", 0) + 1
        return {"quantiles": np.arange(6, dtype=np.float32).reshape(2, 3)}

    def file(self, folder):
        (path,) = folder.glob("*.npz")
        return path

    def test_a_table_is_built_once(self, tmp_path, capsys):
        for _ in range(2):
            table = table_cache.cached(tmp_path, self.parameters, self.build)
            np.testing.assert_array_equal(table["quantiles"], self.build()["quantiles"])
            self.built -= 1
        assert self.built == 1
        assert capsys.readouterr().out == f"cached in {self.file(tmp_path)}\n"
        table_cache.cached(tmp_path, self.parameters | {"nodes": 4}, self.build)
        assert self.built == 2 and len(list(tmp_path.iterdir())) == 2

    def test_a_file_of_other_parameters_is_refused(self, tmp_path):
        table_cache.cached(tmp_path, self.parameters, self.build)
        path = self.file(tmp_path)
        other = self.parameters | {"nu": np.array([1.0, 3.0])}
        arrays = {k: np.asarray(v) for k, v in other.items()}
        path.rename(tmp_path / table_cache.file_name(arrays))
        with pytest.raises(UserError, match=r"npz holds a table of other parameters; delete it"):
            table_cache.cached(tmp_path, other, self.build)

    @pytest.mark.parametrize("part", [0, 0.3, 0.9])
    def test_a_damaged_file_is_said_and_replaced(self, tmp_path, capsys, part):
        table_cache.cached(tmp_path, self.parameters, self.build)
        path = self.file(tmp_path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])
        capsys.readouterr()
        table_cache.cached(tmp_path, self.parameters, self.build)
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith(f"{path}: unreadable") and len(said) == 2
        table_cache.cached(tmp_path, self.parameters, self.build)
        assert self.built == 2

    def test_a_flipped_byte_is_noticed(self, tmp_path, capsys):
        table_cache.cached(tmp_path, self.parameters, self.build)
        path = self.file(tmp_path)
        content = bytearray(path.read_bytes())
        place = content.find(np.float32(5).tobytes())
        content[place + 1] ^= 1
        path.write_bytes(bytes(content))
        assert table_cache.cached(tmp_path, self.parameters, self.build)["quantiles"][1, 2] == 5
        assert "unreadable" in capsys.readouterr().out

    def test_without_a_place_for_it_the_table_is_still_given(self, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        table = table_cache.cached(tmp_path / "file" / "tails", self.parameters, self.build)
        assert table["quantiles"].shape == (2, 3)
        assert "could not be cached" in capsys.readouterr().out

    def test_the_default_folder_follows_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        nu, m = concentrations(5), beta_tail.half_levels(4)
        table = quantile_table.load(nu, m)
        again = quantile_table.load(nu, m)
        assert self.file(tmp_path / "md4jax" / "tails").exists()
        for one, other in zip(jax.tree.leaves(table), jax.tree.leaves(again)):
            np.testing.assert_array_equal(one, other)
        assert table.quantiles.shape == (5, 2, 33) and table.mean.dtype == jnp.float32
