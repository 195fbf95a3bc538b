"""Batches: the order is a function of (seed, step), and each example is evaluated once."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny import write_images

from md4jax.data.base import ArraySplit, TokenWindows
from md4jax.data.images import Images
from md4jax.data.pipeline import TrainBatches, batch_indices, eval_batches
from md4jax.data.prepare.image_arrays import ImageArrays
from md4jax.data.prepare.run import prepare
from md4jax.options import UserError

ROOT = Path(__file__).parents[2]


def over(devices: int) -> NamedSharding:
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    return NamedSharding(mesh, PartitionSpec("data"))


def numbered(count: int, labels: bool = False) -> ArraySplit:
    """Example i is filled with i."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint16)[:, None, None, None], (count, 2, 2, 1)
    )
    return ArraySplit(images, np.arange(count) % 3 if labels else None)


class Counting:
    """A split that records what is gathered and fails at one example."""

    shape = (1,)

    def __init__(self, count: int, fail_at: int | None = None):
        self.count, self.fail_at, self.gathered = count, fail_at, []

    def __len__(self):
        return self.count

    def gather(self, indices):
        if self.fail_at is not None and self.fail_at in indices:
            raise ZeroDivisionError("unreadable example")
        self.gathered.append(len(indices))
        return {"x0": indices[:, None].astype(np.int32)}


@pytest.mark.parametrize("batch_size", [1, 4, 5, 7, 10, 23, 45])
def test_each_epoch_is_a_permutation_of_its_own(batch_size):
    n, epochs = 10, 9
    steps = -(-n * epochs // batch_size)
    order = np.concatenate([batch_indices(3, k, batch_size, n) for k in range(steps)])
    order = order[: n * epochs].reshape(epochs, n)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(n), (epochs, 1)))
    assert len({tuple(epoch) for epoch in order}) == epochs


def test_order_does_not_depend_on_batch_size_or_what_came_before():
    straight = np.concatenate([batch_indices(0, k, 6, 11) for k in range(20)])
    larger = np.concatenate([batch_indices(0, k, 30, 11) for k in range(4)])
    np.testing.assert_array_equal(straight, larger)
    alone = batch_indices(0, 17, 6, 11)
    np.testing.assert_array_equal(alone, straight[17 * 6 : 18 * 6])


def test_order_depends_on_the_seed():
    assert (batch_indices(0, 0, 50, 50) != batch_indices(1, 0, 50, 50)).any()


def test_order_is_the_documented_permutation():
    for epoch in (0, 5):
        expected = np.random.Generator(np.random.Philox(key=[9, epoch])).permutation(100)
        np.testing.assert_array_equal(batch_indices(9, epoch, 100, 100), expected)


def test_order_is_the_one_of_earlier_releases():
    """A run started with another NumPy must be able to go on."""
    assert batch_indices(0, 0, 12, 5).tolist() == [4, 1, 2, 0, 3, 0, 2, 4, 1, 3, 3, 1]


def test_large_positions_do_not_overflow():
    indices = batch_indices(2**63, 10**12, 8, 1000)
    assert ((indices >= 0) & (indices < 1000)).all()


def test_training_resumes_where_it_was():
    split, sharding = numbered(13, labels=True), over(1)
    options = dict(seed=4, batch_size=6, sharding=sharding)
    with TrainBatches(split, **options, start_step=0) as batches:
        straight = [next(batches) for _ in range(9)]
        assert batches.state() == {
            "next_step": 9, "seed": 4, "batch_size": 6, "num_examples": 13,
        }  # fmt: skip
    with TrainBatches(split, **options, start_step=0, prefetch=5) as batches:
        for _ in range(4):
            next(batches)
        start = batches.state()["next_step"]
    with TrainBatches(split, **options, start_step=start, prefetch=0) as batches:
        resumed = [next(batches) for _ in range(5)]
        assert batches.state()["next_step"] == 9
    for one, other in zip(straight[4:], resumed, strict=True):
        for key in ("x0", "label"):
            assert one[key].dtype == np.int32
            np.testing.assert_array_equal(one[key], other[key])
        np.testing.assert_array_equal(one["x0"][:, 0, 0, 0] % 3, one["label"])


def test_workers_read_the_same_batches(tmp_path):
    """In processes of their own, from images on disk; the order is still that of (seed, step)."""
    write_images(tmp_path / "images.npz", np.random.default_rng(0), 256)
    source = str(tmp_path / "images.npz")
    prepare(ImageArrays(size=4, classes=True), "image_arrays", tmp_path, source, "small", 1)
    split = Images(dataset="small", data_dir=str(tmp_path), labels=True, memory_gb=0.0).load()
    options = dict(seed=4, batch_size=5, sharding=over(1), start_step=3)
    with TrainBatches(split.splits["train"], **options) as batches:
        expected = [next(batches) for _ in range(4)]
    with TrainBatches(split.splits["train"], workers=1, **options) as batches:
        for one in expected:
            other = next(batches)
            assert one.keys() == other.keys() == {"x0", "label"}
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])


def test_batches_are_prepared_ahead():
    split = Counting(100)
    with TrainBatches(split, seed=0, batch_size=4, sharding=over(1), prefetch=3) as batches:
        for handed_out in range(3):
            deadline = time.monotonic() + 10
            while len(split.gathered) < handed_out + 3 and time.monotonic() < deadline:
                time.sleep(0.005)
            assert len(split.gathered) == handed_out + 3
            next(batches)


def test_an_error_in_the_thread_comes_out_of_next():
    split = Counting(10, fail_at=int(batch_indices(0, 1, 2, 10)[0]))
    before = threading.active_count()
    batches = TrainBatches(split, seed=0, batch_size=2, sharding=over(1))
    next(batches)
    with pytest.raises(ZeroDivisionError, match="unreadable"):
        next(batches)
    assert batches.state()["next_step"] == 1
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_an_error_in_evaluation_comes_out():
    batches = eval_batches(Counting(10, fail_at=5), 4, over(1))
    next(batches)
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_close_ends_the_thread():
    before = threading.active_count()
    batches = TrainBatches(numbered(5), seed=0, batch_size=2, sharding=over(1))
    assert threading.active_count() == before + 1
    batches.close()
    batches.close()
    assert threading.active_count() == before
    evaluation = eval_batches(numbered(50), 2, over(1))
    next(evaluation)
    evaluation.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("batch_size", [1, 3, 10, 11, 64])
@pytest.mark.parametrize("num_examples", [None, 7, 10, 99])
def test_evaluation_counts_each_example_once(batch_size, num_examples):
    expected = 10 if num_examples is None else min(10, num_examples)
    seen = []
    for batch in eval_batches(numbered(10, labels=True), batch_size, over(1), num_examples):
        assert {k: (v.shape[0], v.dtype.name) for k, v in batch.items()} == {
            "x0": (batch_size, "int32"),
            "label": (batch_size, "int32"),
            "mask": (batch_size, "float32"),
            "index": (batch_size, "int32"),
        }
        # Padding is example 0, and every row is the example that index says.
        np.testing.assert_array_equal(batch["x0"][:, 0, 0, 0], batch["index"])
        assert set(np.asarray(batch["index"])[np.asarray(batch["mask"]) == 0]) <= {0}
        seen += np.asarray(batch["index"])[np.asarray(batch["mask"]) == 1].tolist()
    assert seen == list(range(expected))


def test_windows_of_text_are_batched():
    split = TokenWindows(np.arange(20, dtype=np.uint8), length=4, stride=4)
    (batch,) = eval_batches(split, 5, over(1))
    np.testing.assert_array_equal(batch["x0"], np.arange(20).reshape(5, 4))


def test_empty_splits_are_refused():
    empty = numbered(0)
    with pytest.raises(UserError, match="no examples"):
        TrainBatches(empty, seed=0, batch_size=2, sharding=over(1))
    with pytest.raises(UserError, match="no examples"):
        eval_batches(empty, 2, over(1))


def test_two_processes_read_their_own_rows():
    """Also: the same batch on any mesh, with a replicated axis, and batches that do not divide."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "NPROC": "32",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(ROOT),
    }
    script = Path(__file__).with_name("two_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), port, str(i)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [p.communicate(timeout=120)[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
