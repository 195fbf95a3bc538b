"""evaluation/likelihood_table.py: each process's estimators, and that they agree."""

import json

import numpy as np
import pytest

import md4jax
from md4jax.config import make_config
from md4jax.evaluation.likelihood_table import estimators
from md4jax.objectives import strata
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.genmd4 import GenMD4
from md4jax.processes.masked import Masked
from md4jax.processes.star.dirichlet import StarDirichlet
from md4jax.training import workdir
from md4jax.training.checkpoints import Checkpoints


@pytest.mark.parametrize(
    ("process", "names", "calls"),
    [
        (Masked(), ["continuous time, 8 times", "all 8 steps"], [16, 16]),
        (
            Masked(num_timesteps=100),
            ["continuous time, 8 times", "all 100 steps", "8 of 100 steps"],
            [16, 200, 16],
        ),
        (GenMD4(), ["continuous time, 8 times"], [16]),
        (Gaussian(num_timesteps=4), ["all 4 steps"], [8]),
        (
            StarDirichlet(num_timesteps=64),
            ["all 64 steps", "8 of 64 steps", "3 whole paths"],
            [128, 16, 2 + 2 * 3 * 64],
        ),
    ],
)
def test_what_a_process_has(process, names, calls):
    found = estimators(process, 8, 3)
    assert [e.name for e in found] == names
    assert [e.network_calls for e in found] == calls
    for estimator in found:
        steps = getattr(estimator.process, "num_timesteps", None)
        assert (steps is None) == estimator.name.startswith("continuous")


@pytest.mark.parametrize("points", [1, 2, 3, 8])
def test_strata(points):
    """They fill [0, 1]; of a chain the first step has one of its own."""
    for process in (Masked(), Gaussian(num_timesteps=8)):
        starts, widths = strata(process, points)
        assert len(starts) == points and starts[0] == 0
        np.testing.assert_allclose(starts + widths, [*starts[1:], 1], rtol=1e-12)
        if process.chain_length and points > 1:
            assert widths[0] == 1 / 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A star-shaped model of points that was not trained, in its folder."""
    path = tmp_path_factory.mktemp("run")
    points = np.random.default_rng(0).normal(size=(100, 1))
    np.savez(path / "points.npz", train=points[:60], test=points[60:])
    config = make_config(
        process=dict(name="star_gaussian", num_timesteps=6),
        network=dict(name="mlp", feature_dim=8, num_layers=1),
        data=dict(name="manifold_npz", path=str(path / "points.npz"), domain="real"),
        sampler=dict(name="ancestral", num_steps=4),
        optimizer=dict(name="adamw", learning_rate=1e-2),
        train=dict(num_steps=3, batch_size=16),
        eval=dict(batch_size=16, time_points=6, num_examples=40, table=True),
    )
    model = md4jax.assemble(config)
    workdir.prepare(path, model)
    checkpoints = Checkpoints(path / "checkpoints", max_to_keep=1)
    checkpoints.save(7, model.init_state(), {})
    checkpoints.close()
    return config, path


def test_rows_agree(run, capsys):
    """Of the same 40 examples each estimates the same bound, without bias.

    Their means differ by noise alone, within 5 Monte Carlo errors, which two values an example
    tell to some 10 percent; curves sum to their row, and the line of the split is a row.
    """
    config, path = run
    results = md4jax.evaluate(config, path)
    lines = [json.loads(x) for x in (path / "metrics/eval.jsonl").read_text().splitlines()]
    assert lines == [{"step": 7, **result} for result in results]
    split, bounds = results
    assert (bounds["kind"], bounds["split"], bounds["examples"]) == ("bounds", "test", 40)
    rows = bounds["estimators"]
    assert [row["estimator"] for row in rows] == ["all 6 steps", "3 of 6 steps", "1 whole path"]
    assert rows[1]["bits_per_dim"] == pytest.approx(split["bits_per_dim"], rel=1e-12)
    for row in rows[1:]:
        noise = np.hypot(row["monte_carlo_error"], rows[0]["monte_carlo_error"])
        assert 0 < abs(row["bits_per_dim"] - rows[0]["bits_per_dim"]) < 5 * noise
        assert 0 < row["monte_carlo_error"] < row["standard_error"]
    # All steps leave the noise of z_t alone.
    assert rows[0]["monte_carlo_error"] < rows[1]["monte_carlo_error"]

    with np.load(path / "metrics/bound_by_time_00000007.npz") as arrays:
        for row in rows[:2]:
            curve = {k: arrays[f"test/{row['estimator']}/{k}"] for k in ("t", "bits_per_dim")}
            # Sums over 40 examples in float32.
            assert curve["bits_per_dim"].sum() == pytest.approx(row["bits_per_dim"], rel=1e-5)
        np.testing.assert_allclose(arrays["test/all 6 steps/t"], np.arange(1, 7) / 6, rtol=1e-6)
    assert (path / "metrics/bound_by_time_00000007.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "network calls an example" in out and "3 of 6 steps" in out
