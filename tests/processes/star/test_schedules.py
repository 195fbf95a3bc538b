"""processes/star/schedules.py and the solver of its matched ones, processes/star/matching.py.

Matched of `star_schedules.npz`: all of it. It has closed formulas only: the tables that SS-DDPM's
authors publish as files are compared with where this checkout lies beside a copy of them.
"""

import json
import math
import pathlib

import numpy as np
import pytest
from scipy.special import digamma, i0e, i1e, roots_hermitenorm

from md4jax.options import UserError
from md4jax.processes.star import matching, schedules
from md4jax.processes.star.matching import (
    beta_information,
    d3pm_information,
    english_prior,
    gaussian_information,
    keep_information,
    pixel_law,
    solve_nu,
    walk,
)

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN = np.load(ROOT / "tests" / "golden" / "star_schedules.npz")
TABLES = ROOT.parent / "shared" / "golden" / "golden_star.npz"
FORMULAS = {
    "alpha_bar/ddpm": schedules.cosine_alpha_bar,
    "alpha_bar/star": schedules.gaussian_alpha_bar,
    "dirichlet/nu": schedules.dirichlet_nu,
    "wishart/xi": schedules.wishart_xi,
    "wishart/n": schedules.wishart_n,
    "vmf/kappa": schedules.vmf_kappa,
    "d3pm/keep": schedules.d3pm_keep,
}
DECREASING = {
    "snr": schedules.cosine_snr,
    "increments": schedules.cosine_increments,
    "gamma alpha": schedules.gamma_alpha,
    "von Mises kappa": schedules.von_mises_kappa,
    "beta nu": schedules.beta_nu,
    "keep of 2 tokens": lambda T: schedules.categorical_keep_closed_form(T, 2),
    "keep of 27 tokens": lambda T: schedules.categorical_keep_closed_form(T, 27),
    "keep of 256 tokens": lambda T: schedules.categorical_keep_closed_form(T, 256),
} | FORMULAS
THREE = np.array([0.5, 0.3, 0.2])


@pytest.mark.parametrize("key", FORMULAS)
def test_formulas_are_the_published_ones(key):
    published = GOLDEN[key]
    # Published in float32, some after a few operations in it; the log10 of a kappa is up to 3.2.
    rtol = 6 * 2.0**-24 if published.dtype == np.float32 else 1e-12
    ours = FORMULAS[key](len(published))
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, published, rtol=rtol)


@pytest.mark.parametrize("name", DECREASING)
@pytest.mark.parametrize("T", [2, 3, 10, 1000, 20_000])
def test_schedules_fall_and_stay_positive(name, T):
    values = DECREASING[name](T)
    assert values.shape == (T,) and np.all(values > 0)
    schedules.check_monotone(name, values)


@pytest.mark.parametrize("T", [1, 2, 1000, 20_000])
def test_increments_add_up_to_the_snr(T):
    S, snr = schedules.cosine_increments(T), schedules.cosine_snr(T)
    np.testing.assert_allclose(np.cumsum(S[::-1])[::-1], snr, rtol=1e-15 * T + 1e-12)
    alpha_bar = schedules.cosine_alpha_bar(T)
    # 1 - alpha_bar loses digits as alpha_bar nears 1.
    np.testing.assert_allclose(snr, alpha_bar / (1 - alpha_bar), rtol=1e-14 * snr.max())
    np.testing.assert_allclose(
        np.cumprod(1 - schedules.d3pm_betas(T)), schedules.d3pm_keep(T), rtol=1e-15 * T + 1e-12
    )


def test_geometric_schedules_keep_their_ends_at_any_length():
    for T in (2, 7, 64, 300):
        assert schedules.dirichlet_nu(T)[[0, -1]] == pytest.approx([2000, 1e-6], rel=1e-12)
        assert schedules.wishart_n(T)[[0, -1]] == pytest.approx([20000, 5], rel=1e-12)
    half = schedules.dirichlet_nu(127)[::2]  # Twice the steps through the same curve.
    np.testing.assert_allclose(half, schedules.dirichlet_nu(64), rtol=1e-12)
    with pytest.raises(UserError, match=r"config\.process\.num_timesteps = 1 should be at least 2"):
        schedules.dirichlet_nu(1)


def test_gamma_and_von_mises_have_the_gaussian_fisher_information():
    for T in (1, 50, 1000):
        S = schedules.cosine_increments(T)
        alpha, xi = schedules.gamma_alpha(T), schedules.gamma_xi(T)
        assert np.all((xi > 0) & (xi < 1))
        if T > 1:
            schedules.check_monotone("xi", xi, decreasing=False)
        # 1 - xi as it is rounded: xi is next to 1 where S is small.
        np.testing.assert_allclose(alpha * (1 - xi) ** 2, S, rtol=1e-12 + 1e-15 / np.sqrt(S.min()))
        kappa = schedules.von_mises_kappa(T)
        np.testing.assert_allclose(kappa * i1e(kappa) / i0e(kappa), S, rtol=1e-10)
    S = schedules.cosine_increments(1000)
    assert kappa[0] == pytest.approx(S[0] + 0.5, rel=1e-7)
    assert kappa[-1] == pytest.approx(math.sqrt(2 * S[-1]), rel=1e-5)
    assert xi[0] == pytest.approx(0.5 / S[0], rel=1e-3) and xi[-1] > 0.998


def test_a_schedule_that_does_not_fall_is_named():
    schedules.check_monotone("kappa", np.array([3, 2, 1]))
    schedules.check_monotone("xi", np.array([1, 2, 3]), decreasing=False)
    with pytest.raises(UserError, match=r"^kappa should fall .* step, but step 3 has 2 after 2$"):
        schedules.check_monotone("kappa", np.array([3, 2, 2, 4]))
    with pytest.raises(UserError, match="xi should rise at every step, but step 2 has nan after 1"):
        schedules.check_monotone("xi", np.array([1, np.nan, 3]), decreasing=False)


@pytest.mark.parametrize("snr", [1e-9, 1e-3, 0.7, 3.0, 100.0])
def test_gaussian_information_of_gaussian_signals(snr):
    def normal(n):
        x, w = roots_hermitenorm(20 * n)  # Spaced by a part of the noise.
        seen = w > 1e-40
        return x[seen], w[seen] / w.sum()

    assert gaussian_information(snr, normal) == pytest.approx(0.5 * math.log1p(snr), rel=1e-9)


def test_information_of_two_points():
    ends = lambda n: (np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    # 2 x against 2 (1 - x) in a mixture that is even: the integral of 2 x log 2 x.
    assert beta_information(1.0, ends) == pytest.approx(math.log(2) - 0.5, rel=1e-7)
    assert beta_information(1e4, ends) == pytest.approx(math.log(2), rel=1e-9)
    assert gaussian_information(1e3, ends) == pytest.approx(math.log(2), rel=1e-9)


def test_information_in_its_limits():
    m, w = pixel_law(64)
    variance = w @ (m - w @ m) ** 2
    a, b = matching.PIXEL_LAW
    assert variance == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), rel=1e-12)
    # The logit of a uniform number has variance pi^2 / 3; corrections are of relative order nu.
    for nu in (1e-6, 1e-4):
        expected = nu**2 * variance * math.pi**2 / 6
        assert beta_information(nu) == pytest.approx(expected, rel=nu + 1e-6)
    for snr in (1e-10, 1e-5):  # 4 times the variance, as the signal is 2 m - 1.
        assert gaussian_information(snr) == pytest.approx(2 * variance * snr, rel=snr + 1e-9)
    # Ten times more is half log 10 more, but for the ends of the range.
    assert gaussian_information(1e4) - gaussian_information(1e3) == pytest.approx(
        0.5 * math.log(10), abs=0.01
    )


@pytest.mark.parametrize("nu", [1e-3, 1.0, 50.0, 2000.0])
def test_information_has_converged(nu):
    assert beta_information(nu) == pytest.approx(beta_information(nu, fineness=1.6), rel=1e-7)
    assert gaussian_information(nu) == pytest.approx(gaussian_information(nu, fineness=1.6), 1e-11)


@pytest.mark.parametrize("snr", [3e-8, 1e-3, 0.8, 25.0, 700.0])
def test_beta_table_is_what_its_solver_gives(snr):
    # Off the points of the table: cubics between them are good to 3e-6.
    nu = schedules.matched_nu(np.array([snr]))[0]
    assert nu == pytest.approx(solve_nu(snr), rel=1e-5)
    assert beta_information(nu) == pytest.approx(gaussian_information(snr), rel=2e-5)


def test_beta_table_goes_on_as_theory_says():
    a, b = matching.PIXEL_LAW
    high = math.exp(math.log(4) + digamma(a) + digamma(b) - 2 * digamma(a + b))
    low, top = schedules.matched_nu(np.array([1e-14, 1e8]))
    assert low == pytest.approx(math.sqrt(12e-14) / math.pi, rel=1e-5)
    assert top == pytest.approx(high * 1e8, rel=5e-3)
    S = schedules.cosine_increments(1000)
    ratio = schedules.beta_nu_closed_form(S) / schedules.beta_nu(1000)
    # As far as the table that the closed form was fitted to, and more at the last steps.
    assert np.all(np.abs(np.log(ratio)) < 0.23) and np.sqrt(np.mean(np.log(ratio) ** 2)) < 0.07


def test_information_of_a_kept_token():
    one_hot, uniform = np.eye(3)[:1], np.full((1, 3), 1 / 3)
    assert keep_information(0.3, one_hot, np.ones(1))[0] == pytest.approx(0, abs=1e-15)
    p = np.array([0.3 + 0.7 / 3, 0.7 / 3, 0.7 / 3])
    assert keep_information(0.3, uniform, np.ones(1))[0] == pytest.approx(p @ np.log(3 * p))
    told = d3pm_information(np.array([1e-5, 1 - 1e-12]), THREE)
    told_here = d3pm_information(np.array([0.3]), THREE)[0]
    assert keep_information(0.3, THREE[None], np.ones(1))[0] == pytest.approx(told_here, rel=1e-12)
    assert told[0] == pytest.approx(1.5e-10 * (1 - THREE @ THREE), rel=1e-4)
    assert told[1] == pytest.approx(-THREE @ np.log(THREE), rel=1e-9)
    up, down = (keep_information(0.3 + h, THREE[None], np.ones(1))[0] for h in (1e-5, -1e-5))
    slope = keep_information(0.3, THREE[None], np.ones(1))[1]
    assert slope == pytest.approx((up - down) / 2e-5, rel=1e-7)


def entropies_left(keep):
    """By enumeration: mean and standard deviation of H(x0 | x_1, ..., x_T) for the prior THREE."""
    joint = THREE[None]
    for a in keep:
        channel = a * np.eye(3) + (1 - a) / 3
        joint = np.concatenate([joint * channel[:, x] for x in range(3)])
    p = joint.sum(1)
    pi = joint / p[:, None]
    H = -(pi * np.log(pi)).sum(1)
    return p @ H, math.sqrt(p @ H**2 - (p @ H) ** 2)


def test_walk_follows_the_exact_laws():
    """n = 20000 paths; the mean entropy within 4.5 standard errors: false alarms 1e-5 a step."""
    keep, n = np.array([0.8, 0.5, 0.3, 0.2]), 20_000
    _, ratio = walk(4, THREE, n, 0, keep)
    left = -THREE @ np.log(THREE) - d3pm_information(schedules.d3pm_keep(4), THREE)
    for t in range(4):
        mean, sd = entropies_left(keep[t:])
        assert abs(ratio[t] * left[t] - mean) < 4.5 * sd / math.sqrt(n), t


def test_walk_matches_d3pm():
    """n = 40000 paths, as above; what is left of Newton's method is 1e-6 of the information."""
    n = 40_000
    keep, _ = walk(4, THREE, n, 0)
    told = d3pm_information(schedules.d3pm_keep(4), THREE)
    assert keep[-1] == pytest.approx(schedules.d3pm_keep(4)[-1], rel=1e-12)
    for t in range(4):
        mean, sd = entropies_left(keep[t:])
        assert abs(mean + THREE @ np.log(THREE) + told[t]) < 4.5 * sd / math.sqrt(n) + 1e-6, t


@pytest.mark.parametrize("T", [4, 5, 32, 50, 1000, 1500, 4000])
def test_shipped_categorical_schedule_loads(T):
    keep = schedules.categorical_keep(T, vocab_size=27)
    assert keep.shape == (T,) and keep.dtype == np.float64 and np.all((keep > 0) & (keep < 1))
    assert keep[-1] == pytest.approx(schedules.d3pm_keep(T)[-1], rel=1e-12)


def test_shipped_files_are_small_and_say_where_they_come_from():
    for family in ("beta", "categorical"):
        table = schedules.read_matched(family)
        assert "matching --family=" + family in table["made_by"] and "numpy" in table["versions"]
    for T, (rms, largest) in table["entropy_off_rms_max"].items():
        assert rms < 0.03 and largest < 0.07, T
    folder = ROOT / "md4jax" / "processes" / "star" / "schedules_data"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40_000


def test_shipped_categorical_schedule_is_what_a_short_rerun_gives():
    keep, _ = walk(32, english_prior(), 4000, 5)
    np.testing.assert_allclose(keep, schedules.categorical_keep(32), rtol=0.1)


@pytest.mark.parametrize("T, largest", [(23, 0.1), (90, 0.1)])
def test_lengths_between_the_solved_ones_match_d3pm_as_well(T, largest):
    _, ratio = walk(T, english_prior(), 4000, 9, schedules.categorical_keep(T))
    assert np.abs(ratio - 1).max() < largest


def test_what_there_is_no_schedule_for(tmp_path):
    for T in (3, 4001):
        with pytest.raises(UserError, match=f"config.process.num_timesteps = {T}: .* 4 to 4000"):
            schedules.categorical_keep(T)
    with pytest.raises(UserError, match="is for 27 tokens, not 5"):
        schedules.categorical_keep(10, vocab_size=5)
    with pytest.raises(UserError, match="nowhere.json: no schedule of"):
        schedules.categorical_keep(10, tmp_path / "nowhere.json")


def test_tool_writes_what_is_read(tmp_path, capsys):
    file = tmp_path / "keep.json"
    call = ["--family=categorical", "--num_timesteps=2,5", "--vocab_size=3", "--work=50000"]
    matching.main([*call, f"--output={file}"])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{file}: categorical schedule, in")
    keep = schedules.categorical_keep(5, file, vocab_size=3)
    solved, _ = walk(5, np.full(3, 1 / 3), 10_000, 0)
    np.testing.assert_allclose(keep, solved, rtol=1e-4)
    assert set(json.loads(file.read_text())["entropy_off_rms_max"]) == {"2", "5"}
    assert len(schedules.categorical_keep(3, file)) == 3
    with pytest.raises(UserError, match="should be of --family=beta"):
        schedules.beta_nu(10, file)
    table = tmp_path / "nu.json"
    matching.main(["--family=beta", "--points=3", "--highest_snr=10", f"--output={table}"])
    solved = np.array([1e-10, 10**-4.5, 10.0])
    np.testing.assert_allclose(
        schedules.matched_nu(solved, table), schedules.matched_nu(solved), rtol=1e-5
    )


def test_tool_refuses_what_it_cannot_do(tmp_path):
    call = ["--family=categorical", f"--output={tmp_path}/x.json"]
    with pytest.raises(UserError, match="--num_timesteps=10,x should be numbers"):
        matching.main([*call, "--num_timesteps=10,x"])
    with pytest.raises(UserError, match="no folder"):
        matching.main(["--family=beta", f"--output={tmp_path}/no/x.json"])


@pytest.mark.skipif(not TABLES.exists(), reason="the published tables are not beside this checkout")
def test_distance_to_the_published_tables():
    """Theirs are of noisy estimates, looked up on a grid; the bounds are what we measured."""
    published = np.load(TABLES)
    off = np.log(schedules.beta_nu(1000) / published["beta/nu"])
    assert np.sqrt(np.mean(off**2)) < 0.062 and np.abs(off).max() < 0.145
    closed = schedules.beta_nu_closed_form(schedules.cosine_increments(1000))
    off = np.log(closed / published["beta/nu"])
    assert np.sqrt(np.mean(off**2)) < 0.02 and np.abs(off).max() < 0.135
    ratio = schedules.categorical_keep(1000) / (1 - published["categorical/cum_beta"])
    # At both ends theirs is a line of 20 steps, which neither the first steps nor the last follow.
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)
    assert ratio[20:960].min() > 0.8 and ratio[20:960].max() < 1.3
