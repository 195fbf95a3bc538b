"""Time grids: the published subsequences, and what every grid promises of every process.

Of the golden arrays `space/{T}/{spec}/steps` are here `respaced`, `space/errors` what it rejects
(of the four, each by its own message), and `space/{T}/{spec}/betas_*` the variances that steps
between those times add. `ddimrepo/seq_uniform_{5,10,20}` and `seq_quad_{5,10,15,20}` are the grids
`leading` and `quadratic`; `seq_uniform_15`, whose 16 steps are not the 15 asked for, is `strided`.
`seq_quad_100`, four of whose steps go nowhere (0, 0, 0, 0, 1, 2, 2, ...), has no counterpart.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.options import UserError
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.masked import Masked
from md4jax.processes.vdm import VDM
from md4jax.samplers.base import Ancestral
from md4jax.samplers.grids import GRIDS, MAX_SIGMA, respaced, time_grid

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "gaussian_samplers.npz")
SPACES = [key.split("/")[1:3] for key in GOLDEN.files if key.endswith("/steps")]
PROCESSES = {
    "linear": Gaussian(),
    "cosine": Gaussian(num_timesteps=4000, schedule="cosine"),
    "jsd": Gaussian(num_timesteps=100, schedule="jsd", target="x0"),
    "respaced": Gaussian(respacing="ddim50"),
    "short": Gaussian(num_timesteps=7),
    "two": Gaussian(num_timesteps=2),
    "one": Gaussian(num_timesteps=1),
    "one_jsd": Gaussian(num_timesteps=1, schedule="jsd", target="x0"),
    "vdm": VDM(),
    "vdm_cosine": VDM(schedule="cosine", gamma_min=-9.0, gamma_max=12.0),
    "masked": Masked(vocab_size=3),
}


def sigma_of(process, times):
    t = jnp.asarray(times, jnp.float32)
    return np.sqrt(np.float64(process.noise_variance(t)) / np.float64(process.alpha_bar(t)))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("kind", PROCESSES)
def test_as_many_different_steps_as_asked_for(name, kind):
    """Down to 0, on times the process has, different also as float32; or a UserError says why."""
    process = PROCESSES[kind]
    total = process.chain_length
    if name == "karras" and kind == "masked":
        with pytest.raises(UserError, match="grid = 'karras' needs a Gaussian process"):
            time_grid(name, 5, process)
        return
    for n in [n for n in (1, 2, 3, 7, 18, 50, 99, 100, 250, 999, 1000) if n <= (total or 1000)]:
        if n == 1 and name in ("leading", "strided", "quadratic") and (total or 1) > 1:
            with pytest.raises(UserError, match=f"grid = '{name}'.*use 'uniform'"):
                time_grid(name, n, process)
            continue
        times = time_grid(name, n, process)
        if name == "strided" and (total or n) % n:
            n = -(-total // (total // n))
        assert times.shape == (n + 1,)
        assert times[-1] == 0
        assert 0 < times[0] <= 1
        assert (np.diff(times.astype(np.float32)) < 0).all()
        if total is not None:
            np.testing.assert_allclose(times * total, np.rint(times * total), atol=1e-9)
            assert np.unique(np.rint(times.astype(np.float32) * total)).size == n + 1


@pytest.mark.parametrize("name", ["uniform", "cosine"])
@pytest.mark.parametrize("kind", PROCESSES)
def test_uniform_and_cosine_begin_at_the_prior(name, kind):
    process = PROCESSES[kind]
    assert time_grid(name, min(process.chain_length or 6, 6), process)[0] == 1


@pytest.mark.parametrize("n", [5, 10, 20])
def test_leading_is_ddims_uniform_subsequence(n):
    steps = time_grid("leading", n, Gaussian())[::-1] * 1000 - 1
    np.testing.assert_allclose(steps[1:], GOLDEN[f"ddimrepo/seq_uniform_{n}"], atol=1e-9)


def test_leading_rounds_down_where_the_steps_do_not_divide():
    """15 of 1,000, where the published code takes 16."""
    steps = np.rint(time_grid("leading", 15, Gaussian())[::-1][1:] * 1000 - 1)
    np.testing.assert_array_equal(steps, [i * 1000 // 15 for i in range(15)])
    assert len(GOLDEN["ddimrepo/seq_uniform_15"]) == 16


@pytest.mark.parametrize("n", [5, 10, 15, 20])
def test_strided_is_as_published_where_the_steps_do_not_divide_too(n):
    steps = time_grid("strided", n, Gaussian())[::-1] * 1000 - 1
    np.testing.assert_allclose(steps[1:], GOLDEN[f"ddimrepo/seq_uniform_{n}"], atol=1e-9)


@pytest.mark.parametrize("n", [5, 10, 15, 20])
def test_quadratic_is_ddims_subsequence(n):
    steps = time_grid("quadratic", n, Gaussian())[::-1] * 1000 - 1
    np.testing.assert_allclose(steps[1:], GOLDEN[f"ddimrepo/seq_quad_{n}"], atol=1e-9)


def test_quadratic_moves_the_published_duplicates_up_and_nothing_else():
    published = GOLDEN["ddimrepo/seq_quad_100"]
    assert len(np.unique(published)) == 96
    steps = np.rint(time_grid("quadratic", 100, Gaussian())[::-1][1:] * 1000 - 1)
    moved = steps != published
    assert (steps[moved] > published[moved]).all()
    assert not moved[published > 11].any()  # Which is as far as four places go.


@pytest.mark.parametrize("T, spec", SPACES)
def test_respacing_is_the_published_one(T, spec):
    """Times, and the betas between them to float32's rounding of the step variance."""
    published = GOLDEN[f"space/{T}/{spec}/steps"]
    times = respaced(int(T), spec)
    np.testing.assert_allclose(times[::-1][1:] * int(T) - 1, published, atol=1e-9)
    assert times[-1] == 0
    for schedule in ("linear", "cosine"):
        process = Gaussian(num_timesteps=int(T), schedule=schedule)
        np.testing.assert_array_equal(Ancestral(respacing=spec).times(process), times)
        if f"space/{T}/{spec}/betas_{schedule}" in GOLDEN:
            betas = GOLDEN[f"space/{T}/{spec}/betas_{schedule}"]
            t = jnp.asarray(times, jnp.float32)
            np.testing.assert_allclose(
                process.step_variance(t[:-1], t[1:])[::-1], betas, rtol=1e-6, atol=0
            )


@pytest.mark.parametrize("row", list(GOLDEN["space/errors"]))
def test_what_the_published_respacing_rejects(row):
    T, spec, _ = str(row).split("|")
    with pytest.raises(UserError, match=f"config.sampler.respacing = '{spec}'"):
        Ancestral(respacing=spec).check(Gaussian(num_timesteps=int(T)))


@pytest.mark.parametrize("spec", ["ddim", "10,,20", "0", "-5", "ten", "ddim1.5"])
def test_respacing_that_means_nothing(spec):
    with pytest.raises(UserError, match="config.sampler.respacing"):
        Ancestral(respacing=spec).check(Gaussian())


def test_times_that_a_process_does_not_have():
    with pytest.raises(UserError, match="config.sampler.num_steps = 1001: the process has 1000"):
        Ancestral(num_steps=1001).check(Gaussian())
    with pytest.raises(UserError, match="num_steps = 51: the process has 50 steps"):
        Ancestral(num_steps=51).check(Gaussian(respacing="ddim50"))
    for process in (VDM(), Masked(vocab_size=2)):
        with pytest.raises(UserError, match="config.sampler.respacing = '50'.*no chain"):
            Ancestral(respacing="50").check(process)
    learned = VDM(schedule="learned").with_params({})
    with pytest.raises(UserError, match="grid = 'karras'.*not learned; use 'uniform'"):
        Ancestral(grid="karras").check(learned)
    Ancestral(grid="uniform").check(learned)


@pytest.mark.parametrize("kind", ["vdm", "vdm_cosine"])
def test_karras_spaces_the_seventh_root_of_sigma(kind):
    """Evenly to 2e-4 of the range, what interpolating between 10,000 times leaves."""
    process = PROCESSES[kind]
    times = time_grid("karras", 18, process)
    roots = sigma_of(process, times) ** (1 / 7)
    even = np.linspace(roots[0], roots[-1], 19)
    np.testing.assert_allclose(roots, even, atol=2e-4 * (roots[0] - roots[-1]))
    highest = sigma_of(process, [1.0])[0]
    np.testing.assert_allclose(roots[0] ** 7, min(highest, MAX_SIGMA), rtol=1e-3)
    assert (times[0] == 1) == (highest <= MAX_SIGMA)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_karras_in_a_chain_is_rounded_to_its_steps(kind):
    """Each sigma within those of the neighbouring steps, up to where those are distinct."""
    process = PROCESSES[kind]
    total = process.chain_length
    times = time_grid("karras", 18, process)
    low, high = sigma_of(process, [1 / total, 1])
    high = min(high, MAX_SIGMA)
    wanted = np.linspace(high ** (1 / 7), low ** (1 / 7), 18) ** 7
    assert times[-2] == 1 / total
    for t, sigma in zip(times[:-1], wanted):
        below, above = sigma_of(process, [t - 1 / total, min(t + 1 / total, 1)])
        assert below <= sigma * (1 + 1e-6)
        assert sigma <= above * (1 + 1e-6)


def test_grids_are_made_while_traced_as_well():
    for name in GRIDS:
        for process in (PROCESSES["linear"], PROCESSES["vdm"]):
            traced = jax.jit(lambda x, n=name, p=process: x + jnp.asarray(time_grid(n, 9, p)))(0.0)
            np.testing.assert_allclose(traced, time_grid(name, 9, process), rtol=1e-6)


@pytest.mark.parametrize(
    ("calls", "published"),
    [
        (1, [999]),
        (2, [0, 999]),
        (3, [0, 500, 999]),
        (10, [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]),
    ],
)
def test_endpoints_are_those_of_star_shaped_diffusion(calls, published):
    """Published steps count from 0, ours from 1; the last call's time is followed by 0."""
    process = Gaussian(num_timesteps=1000)
    times = time_grid("endpoints", calls, process)
    assert np.rint(times * 1000).astype(int).tolist() == [*(p + 1 for p in published[::-1]), 0]
