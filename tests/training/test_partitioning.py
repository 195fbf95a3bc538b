"""training/partitioning.py: rules by name and size."""

import types

import jax
import pytest
from jax.sharding import PartitionSpec as P

from md4jax.config import Mesh
from md4jax.options import UserError
from md4jax.training.partitioning import check_batch, make_mesh, partition_spec

MESH = types.SimpleNamespace(shape={"data": 2, "fsdp": 2, "tensor": 2})


@pytest.mark.parametrize(
    "path,shape,spec",
    [
        ("params/network/block_0/attention/query/kernel", (256, 128), P("fsdp", "tensor")),
        ("params/network/block_0/attention/out/kernel", (128, 256), P("tensor", "fsdp")),
        # Stacked by a scan over layers: the rules count from the end.
        ("opt_state/1/0/mu/network/blocks/down/kernel", (12, 128, 512), P(None, "tensor", "fsdp")),
        ("params/network/embedding/embedding", (27, 64), P(None, None)),
        ("params/network/conv/kernel", (3, 3, 64, 64), P(None, None, "fsdp", None)),
        ("params/network/norm/scale", (64,), P(None)),
        ("step", (), P()),
    ],
)  # fmt: skip
def test_rules(path, shape, spec):
    assert partition_spec(path, shape, MESH) == spec


def test_a_mesh_takes_all_devices_or_says_why_not():
    assert make_mesh(Mesh()).shape == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}
    with pytest.raises(UserError, match=r"config\.mesh = data 7 x fsdp 1 x tensor 1 does not fit"):
        make_mesh(Mesh(data=7))


def test_a_batch_must_divide():
    check_batch(MESH, 24, 2, "config.train.batch_size")
    with pytest.raises(UserError, match="batch_size = 20 should be a multiple of 8"):
        check_batch(MESH, 20, 2, "config.train.batch_size")
