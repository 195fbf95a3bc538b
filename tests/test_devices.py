"""Devices change speed, never a result; and what a train step may not do.

The comparisons of one device with four are in `four_devices.py`, which runs in a process of its
own: the number of devices is fixed when jax starts.
"""

import dataclasses
import json
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import md4jax
from md4jax.config import load_config
from md4jax.model import assemble
from md4jax.samplers.generate import Generator
from md4jax.training import loop, partitioning
from md4jax.training.state import make_train_step

PATH = "configs/text8/small.py"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    shipped = load_config(tiny.ROOT / PATH)
    return tiny.with_data(tiny.tiny(shipped), tmp_path_factory.mktemp("data"))


def test_four_devices():
    """All tests of `four_devices.py`, with four devices."""
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "--color=no"]
    done = subprocess.run(
        [*command, str(tiny.ROOT / "tests" / "four_devices.py")],
        capture_output=True, text=True, cwd=tiny.ROOT, env=tiny.environment(devices=4),
        timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_checkpoint_of_four_devices_goes_on_on_one(config, tmp_path, capsys):
    """A run that changes its devices halfway logs what a run on one device does.

    Adam with a large epsilon, for with a small one rounding decides the sign of steps whose
    gradient is 0. Losses agree to the rounding that `four_devices.py` derives.
    """
    given = tiny.override(config, optimizer__adam_eps=0.1, optimizer__schedule="constant")
    shipped = load_config(tiny.ROOT / PATH)

    def train(workdir, steps, devices, *more):
        if devices == 1:
            md4jax.train(tiny.override(given, train__num_steps=steps), workdir)
            return capsys.readouterr().out
        overrides = tiny.flags(tiny.override(given, train__num_steps=steps), shipped)
        done = tiny.run_main(
            f"--config={PATH}", f"--workdir={workdir}", *overrides, *more, devices=devices
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    changed, straight = tmp_path / "changed", tmp_path / "straight"
    out = train(changed, 2, 4, "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    assert "on 1 data x 2 fsdp x 2 tensor" in out
    assert "resuming at step 2 of 4" in train(changed, 4, 1)
    train(straight, 4, 1)
    ours, theirs = (
        [json.loads(line) for line in (w / "metrics" / "train.jsonl").read_text().splitlines()]
        for w in (changed, straight)
    )
    assert [line["step"] for line in ours] == [1, 2, 3, 4]
    for key in ("loss", "grad_norm", "param_norm", "update_norm"):
        assert [a[key] for a in ours] == pytest.approx([b[key] for b in theirs], rel=2e-5)


def first_step(config):
    """The train step, a state and a batch."""
    model = assemble(config)
    train = model.experiment.train
    step = make_train_step(train, model.gradient(), model.optimizer())
    batch = model.split("train").gather(np.arange(train.batch_size))
    batch = jax.device_put(batch, partitioning.batch_sharding(model.mesh))
    return step, tiny.shaken(model.init_state()), batch


def test_a_step_moves_nothing_between_host_and_device(config):
    """All that a step needs is on the devices already."""
    step, state, batch = first_step(config)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, metrics = compiled(state, batch)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            jnp.add(metrics["loss"], np.float32(1))  # The guard is awake.
    assert int(state.step) == 3


def test_the_loop_does_not_compile_again(config, tmp_path, monkeypatch, caplog):
    """After the first evaluation, samples and checkpoint nothing is compiled any more."""
    compiled = []

    def count_and_log(run):
        compiled.append((run.step, sum("Finished XLA compilation" in m for m in caplog.messages)))
        log(run)

    log = loop.Run.log
    monkeypatch.setattr(loop.Run, "log", count_and_log)
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        md4jax.train(tiny.override(config, train__num_steps=12), tmp_path)
    counts = dict(compiled)  # The last count of each step.
    assert counts[1] > 0
    assert counts[5] == counts[12]


class Table:
    """A network without Flax: logits of each position, alike for every input but for the class."""

    def __init__(self, spec):
        self.spec = spec

    def check(self):
        pass

    def init(self, key, z_t, t, label):
        shape = (*self.spec.shape, self.spec.out_features)
        return {"params": {"logits": jnp.zeros(shape), "class": jnp.zeros((10, *shape))}}

    def apply(self, variables, z_t, t, label, train, rngs):
        assert z_t.shape[1:] == self.spec.shape and t.shape == label.shape == z_t.shape[:1]
        assert train == (rngs is not None)
        params = variables["params"]
        return params["logits"] + params["class"][label]


def test_a_network_without_flax():
    """Training and sampling see a network only as `spec`, `init` and `apply`."""
    config = tiny.tiny(load_config(tiny.ROOT / "configs/digits/masked.py"))
    config = tiny.override(
        config,
        data__labels=True,
        train__batch_size=64,
        train__num_steps=30,
        train__ema_decay=0.0,
        optimizer__learning_rate=0.3,
        sampler__num_steps=64,
        sampler__num_samples=40,
    )
    model = assemble(config)
    model = dataclasses.replace(model, network=Table(model.network.spec))
    _, first = tiny.take_steps(model, 1, model.init_state())
    state, last = tiny.take_steps(model, 30, model.init_state())
    # From uniform over 17 levels to the levels' frequencies at each pixel, about 2.6 bits.
    assert first["loss"] > 3.5 and last["loss"] < 3.2
    samples, labels = Generator(model)(state.params)
    assert samples.shape == (40, 8, 8, 1) and labels.tolist() == [*range(10)] * 4
    # Corners are blank in the data, the middle is not.
    assert samples[:, 0, 0].mean() < 2 < samples[:, 3:5, 3:5].mean()
