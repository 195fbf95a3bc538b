"""benchmarks/manifold_quality.py on small models, as a person starts it."""

import json
import shutil

import numpy as np
import pytest
import tiny

import md4jax
from md4jax.config import make_config, to_dict
from md4jax.training import workdir
from md4jax.training.checkpoints import Checkpoints

SCRIPT = "benchmarks/manifold_quality.py"


def config_of(data):
    return make_config(
        process=dict(name="gaussian", num_timesteps=4, target="x0", variance="fixed_small",
                     clip="none"),
        network=dict(name="mlp", feature_dim=8, num_layers=1),
        data=data,
        sampler=dict(name="ancestral", num_steps=4, batch_size=100),
        optimizer=dict(name="adamw", learning_rate=1e-2),
        train=dict(num_steps=3, batch_size=16, checkpoint_every=2, ema_decay=0.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a model of drawn data, after two steps, and one of a file's points, after none."""
    folder = tmp_path_factory.mktemp("runs")
    drawn = dict(name="simplex_mixture", num_train=200, num_test=50)
    tiny.train_until_saved(config_of(drawn), folder / "drawn")

    points = np.random.default_rng(0).normal(size=(300, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    np.savez(folder / "points.npz", train=points[:200], test=points[200:])
    file = dict(name="manifold_npz", path=str(folder / "points.npz"), domain="sphere")
    model = md4jax.assemble(config_of(file))
    workdir.prepare(folder / "file", model)
    checkpoints = Checkpoints(folder / "file/checkpoints", max_to_keep=1)
    checkpoints.save(0, model.init_state(), {})
    checkpoints.close()
    return folder


def start(*folders, **flags):
    given = [f"--config={','.join(f'{f}/config.json' for f in folders)}"]
    given += [f"--workdir={','.join(map(str, folders))}"]
    return tiny.start_main(*given, *(f"--{k}={v}" for k, v in flags.items()), script=SCRIPT)


def numbers(line):
    return [float(cell) for cell in line.split()[-5:]]


def test_tables(runs):
    """Rows of data and models; the same run twice gives the same numbers and a ratio of one."""
    twice = start(runs / "drawn", runs / "drawn", seeds=2, num_samples=300)
    once = start(runs / "file", seeds=1, num_samples=150)
    out, error = twice.communicate(timeout=300)
    assert twice.returncode == 0, error
    header, data, first, second = out.splitlines()[-4:]
    assert header.split()[:2] == ["symmetric", "sd"]
    assert data.startswith("data: 300 and 300 points")
    assert ", step 2 " in first and numbers(first) == numbers(second)
    symmetric, spread, forward, backward, ratio = numbers(first)
    np.testing.assert_allclose(symmetric, (forward + backward) / 2, atol=2e-4)
    assert symmetric > 1 and 0 < spread < symmetric and ratio == 1
    # Three standard deviations of true points against each other.
    assert abs(numbers(data)[0]) < 3 * 1.5 / np.sqrt(10 * 300 * 2)

    out, error = once.communicate(timeout=300)
    assert once.returncode == 0, error
    data, first = out.splitlines()[-2:]
    # Of a file the law is not known: its splits, and no more points than they have.
    assert data.startswith("data: 100 and 150 points") and np.isnan(numbers(data)[1])
    # All samples of a fresh network are one point.
    assert ", step 0  150 of 150 points have 10 or more exact copies" in first


def test_errors_are_one_line(runs, tmp_path):
    shutil.copytree(runs / "drawn", tmp_path / "none", ignore=shutil.ignore_patterns("checkpoints"))
    words = {
        "has 1 files and --workdir 2 folders": tiny.start_main(
            "--config=a.py", "--workdir=a,b", script=SCRIPT
        ),
        "a.py is no config file": tiny.start_main("--config=a.py", "--workdir=a", script=SCRIPT),
        "has no checkpoint": start(tmp_path / "none"),
        "of another law than those of": start(runs / "drawn", runs / "file"),
        "--num_samples=5: 5 is not integer >= 11": start(runs / "drawn", num_samples=5),
    }
    for expected, process in words.items():
        _, error = process.communicate(timeout=300)
        lines = [line for line in error.splitlines() if line.startswith("error: ")]
        assert process.returncode == 1 and len(lines) == 1 and "Traceback" not in error, error
        assert expected in lines[0]


def test_configs_of_runs_are_whole(runs):
    """`config.json` gives back the config that it was made of."""
    config = json.loads((runs / "drawn/config.json").read_text())["config"]
    assert to_dict(make_config(**config)) == to_dict(config_of(config["data"])) == config
