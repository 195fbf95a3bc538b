"""Two hosts with two devices each are one run: the numbers of one process with one device."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SMALL = {
    "data.length": 16,
    "network.feature_dim": 32,
    "network.num_layers": 1,
    "network.num_heads": 2,
    "network.dropout_rate": 0.0,
    "train.num_steps": 4,
    "train.batch_size": 8,
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "eval.time_points": 2,
    "eval.num_examples": 20,
    "eval.batch_size": 8,
    "sampler.num_steps": 4,
    "sampler.num_samples": 8,
    "sampler.batch_size": 8,
}
FLAGS = ["--config=configs/own/text.py"]
FLAGS += [f"--config.{key}={value}" for key, value in SMALL.items()]


def start(workdir, devices, flags=(), **env):
    text = workdir.parent / "text"
    text.write_text("It is the same run on two hosts, whatever they are. " * 40)
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "NPROC": "32",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={devices}",
        **env,
    }
    command = [
        sys.executable,
        "main.py",
        *FLAGS,
        f"--workdir={workdir}",
        f"--config.data.path={text}",
    ]
    return subprocess.Popen(
        [*command, *flags],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def two_hosts(workdir, *flags):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [
        start(
            workdir,
            2,
            ["--distributed", *flags],
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]
    return [finish(host) for host in hosts]


def lines(workdir, name):
    text = (workdir / "metrics" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_two_hosts_are_one_run(tmp_path):
    finish(start(tmp_path / "one", 1))
    first, second = two_hosts(tmp_path / "two", "--config.mesh.fsdp=2")
    assert "done: 4 steps" in first and not second.count("done:")
    one, two = (lines(tmp_path / name, "train.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in two] == [2, 4]
    for a, b in zip(one, two):
        # Sums over examples in another order, through four steps of Adam.
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    one, two = (lines(tmp_path / name, "eval.jsonl") for name in ("one", "two"))
    assert two[0]["bits_per_dim"] == pytest.approx(one[0]["bits_per_dim"], rel=1e-4)
    # Two hosts go on, and sample.
    outputs = two_hosts(tmp_path / "two", "--config.train.num_steps=6")
    assert "resuming at step 4" in outputs[0]
    outputs = two_hosts(tmp_path / "two", "--mode=sample", "--config.sampler.seed=1")
    assert "8 samples in" in outputs[0]
