"""A run that is stopped, or killed, and started again ends bit for bit as one that is not.

What is started, killed and started again is main.py, in processes of its own.
"""

import json
import random
import time

import jax
import numpy as np
import pytest
import tiny

from md4jax.config import load_config
from md4jax.model import assemble
from md4jax.training.checkpoints import Checkpoints

PATH = "configs/text8/small.py"
TIMING = {"examples_per_second"}
STEPS = 300


@pytest.fixture(scope="module")
def shipped():
    return load_config(tiny.ROOT / PATH)


@pytest.fixture(scope="module")
def config(shipped, tmp_path_factory):
    """A run of some seconds; lines are logged at other steps than checkpoints are saved."""
    small = tiny.override(
        tiny.tiny(shipped),
        network__dropout_rate=0.1,
        optimizer__clip_norm=1.0,
        train__num_steps=STEPS,
        train__log_every=7,
        train__checkpoint_every=10,
        train__eval_every=20,
        train__sample_every=0,
        train__checkpoints_to_keep=2,
    )
    # An eighth of the text is for evaluations, which are to be long below.
    return tiny.with_data(small, tmp_path_factory.mktemp("data"), characters=160_000)


@pytest.fixture(scope="module")
def start(shipped, config):
    """Starts main.py on a folder, with further flags."""

    def start(workdir, *more):
        given = tiny.flags(config, shipped)
        return tiny.start_main(f"--config={PATH}", f"--workdir={workdir}", *given, *more)

    return start


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory):
    """The folder of the run that nothing happens to."""
    workdir = tmp_path_factory.mktemp("straight")
    finish(start(workdir))
    return workdir


def finish(process):
    """Waits for the process; its output, if it ended well."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out


def wait_for(process, there):
    """Waits until `there()`, while the process runs."""
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def final_state(config, workdir):
    """All arrays of the last checkpoint, by name."""
    checkpoints = Checkpoints(workdir / "checkpoints", max_to_keep=2)
    restored = checkpoints.restore(assemble(config).abstract_state(), move_aside=False)
    checkpoints.close()
    assert restored.step == STEPS
    leaves = jax.tree_util.tree_leaves_with_path(restored.state)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def lines(workdir, name):
    """A metrics file without what depends on the clock."""
    text = (workdir / "metrics" / f"{name}.jsonl").read_text()
    return [
        {k: v for k, v in json.loads(line).items() if k not in TIMING} for line in text.splitlines()
    ]


def assert_same_run(config, workdir, straight):
    """The last state bit for bit, and each logged line, once."""
    ours, theirs = final_state(config, workdir), final_state(config, straight)
    assert ours.keys() == theirs.keys()
    assert any("opt_state" in name for name in ours) and any("ema_params" in name for name in ours)
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert not different
    logged = [*range(7, STEPS, 7), STEPS]
    assert [line["step"] for line in lines(workdir, "train")] == logged
    assert lines(workdir, "train") == lines(straight, "train")
    assert lines(workdir, "eval") == lines(straight, "eval")


def test_killed_run(config, start, straight, tmp_path):
    """kill -9 at an arbitrary moment, twice; nothing of the killed processes remains."""
    steps = lambda: [int(p.name) for p in (tmp_path / "checkpoints").glob("*") if p.name.isdigit()]
    for first in (10, 50):
        process = start(tmp_path)
        wait_for(process, lambda first=first: max(steps(), default=0) >= first)
        delay = random.uniform(0, 0.2)
        print(f"killed {delay:.4f} s after step {first} was saved")  # Shown if the test fails.
        time.sleep(delay)
        process.kill()
        process.communicate()
        assert process.returncode == -9, "the run was over before it was killed"
    out = finish(start(tmp_path))
    assert "resuming at step" in out
    assert_same_run(config, tmp_path, straight)
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def test_stopped_run(config, start, straight, tmp_path):
    """SIGTERM: the step is saved, the exit status is 0, and the same command goes on."""
    process = start(tmp_path)
    wait_for(process, lambda: (tmp_path / "metrics" / "train.jsonl").exists())
    process.terminate()
    out = finish(process)
    assert "stopped and saved at step" in out and "done:" not in out
    stopped_at = int(out.split("stopped and saved at step ")[1].split(";")[0])
    assert 0 < stopped_at < STEPS
    assert f"resuming at step {stopped_at} of {STEPS}" in finish(start(tmp_path))
    assert_same_run(config, tmp_path, straight)


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_finished_run_again(start, straight):
    """It says where the results are and leaves every file as it was."""
    before = snapshot(straight)
    out = finish(start(straight))
    assert f"done: {STEPS} steps" in out and f"results: {straight}" in out
    assert snapshot(straight) == before


# Minutes long, in pieces of less than a second.
LONG_EVALUATION = ("--config.train.num_steps=2", "--config.eval.time_points=1000",
                   "--config.eval.num_examples=1600", "--config.eval.batch_size=1")  # fmt: skip
LONG_SAMPLING = ("--config.train.num_steps=2", "--config.sampler.num_samples=1000000")


def stop_while(process, line):
    """SIGTERM a moment after a line is printed; the rest of the output, within seconds."""
    seen = next((printed for printed in process.stdout if line in printed), None)
    assert seen, process.communicate()[1]
    time.sleep(1)
    process.terminate()
    began = time.monotonic()
    out = finish(process)
    assert time.monotonic() - began < 15  # Far less than is left; a busy machine may be slow.
    return out


@pytest.mark.parametrize("long", [LONG_EVALUATION, LONG_SAMPLING], ids=["evaluation", "samples"])
def test_stop_in_long_work_of_training(start, long, tmp_path):
    """It ends at once, saved; started again, it does what is missing and no more training."""
    seen = "step 2/2" if long is LONG_EVALUATION else "step 2  valid"
    assert "stopped and saved at step 2" in stop_while(start(tmp_path, *long), seen)
    out = finish(start(tmp_path, "--config.train.num_steps=2"))
    assert "resuming at step 2 of 2" in out and "done: 2 steps" in out
    assert "first step after" not in out
    evaluated = [(line["step"], line["split"]) for line in lines(tmp_path, "eval")]
    assert evaluated == [(2, "valid"), (2, "test")]
    assert (tmp_path / "samples" / "step_00000002.txt").exists()


def test_stop_in_other_modes(start, straight):
    """Evaluation and sampling of a trained folder end at once and write nothing half."""
    before = snapshot(straight)
    process = start(straight, "--mode=sample", *LONG_SAMPLING[1:])
    assert "stopped; nothing was written" in stop_while(process, "sampling: ")
    process = start(straight, "--mode=evaluate", *LONG_EVALUATION[1:])
    out = stop_while(process, "evaluating valid: ")
    assert "stopped" in out and "results:" not in out
    assert snapshot(straight) == before
