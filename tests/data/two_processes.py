"""One of two processes with two CPU devices each; run by test_pipeline.py with `port rank`."""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from md4jax.data.base import ArraySplit
from md4jax.data.pipeline import TrainBatches, batch_indices, eval_batches
from md4jax.options import UserError


class Recording(ArraySplit):
    """Remembers how many rows each call gathers."""

    gathered: list[int] = []  # noqa: RUF012

    def gather(self, indices):
        self.gathered.append(len(indices))
        return super().gather(indices)


def check_shards(array: jax.Array, expected: np.ndarray) -> None:
    assert array.shape == expected.shape
    assert len(array.addressable_shards) == 2
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, expected[shard.index])


def main() -> None:
    port, rank = sys.argv[1], int(sys.argv[2])
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
    examples = np.arange(22, dtype=np.uint8)[:, None]
    for shape, rows in {(4, 1, 1): 4, (2, 2, 1): 4, (2, 1, 2): 4, (1, 1, 4): 8}.items():
        mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
        sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        split = Recording(examples, np.arange(22))
        split.gathered.clear()
        with TrainBatches(split, seed=1, batch_size=8, sharding=sharding, start_step=2) as batches:
            for step in range(2, 6):
                batch, indices = next(batches), batch_indices(1, step, 8, 22)
                check_shards(batch["x0"], examples[indices].astype(np.int32))
                check_shards(batch["label"], indices.astype(np.int32))
        for number, batch in enumerate(eval_batches(split, 8, sharding)):
            index = np.arange(8 * number, 8 * number + 8)
            check_shards(batch["mask"], (index < 22).astype(np.float32))
            check_shards(batch["index"], np.where(index < 22, index, 0).astype(np.int32))
        assert set(split.gathered) == {rows}, split.gathered
    sharding = NamedSharding(
        jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data")
    )
    try:
        TrainBatches(split, seed=1, batch_size=6, sharding=sharding)
    except UserError as error:
        assert "batch of 6 examples" in str(error) and "4 devices" in str(error)
    else:
        raise AssertionError("6 examples over 4 devices")


if __name__ == "__main__":
    main()
