"""Where arrays live: one mesh of `data`, `fsdp` and `tensor` devices, and rules that are data.

One device is a mesh of one; many hosts are the same mesh over more devices. `jit` inserts the
collectives, so a rule changes speed and memory, never a result.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from md4jax.options import UserError
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.config import Mesh

BATCH_AXES = ("data", "fsdp")
# A kernel's axis that is spread over `tensor`, by the parameter's path: widths that a pair of
# layers opens and closes (query/key/value -> out, gate/up -> down), and the vocabulary.
TENSOR_RULES = (
    (re.compile(r"(query|key|value|gate|up|head)/kernel$"), -1),
    (re.compile(r"(out|down)/kernel$"), -2),
    (re.compile(r"embedding$"), -2),
)
# Read at random places by every device, so each has its own.
REPLICATED = re.compile(r"^statistics/")
# Smaller arrays are cheaper to copy than to gather.
MIN_FSDP_SIZE = 2**14


def make_mesh(mesh: Mesh) -> jax.sharding.Mesh:
    """The devices of all hosts as data x fsdp x tensor.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    data = devices // (mesh.fsdp * mesh.tensor) if mesh.data == -1 else mesh.data
    if data * mesh.fsdp * mesh.tensor != devices:
        raise UserError(
            f"config.mesh = data {mesh.data} x fsdp {mesh.fsdp} x tensor {mesh.tensor} does not "
            f"fit {devices} devices: the product should be {devices} (data = -1 takes what is left)"
        )
    # make_mesh makes Explicit axes by default, which Flax Linen's dropout does not take.
    return jax.make_mesh((data, mesh.fsdp, mesh.tensor), ("data", "fsdp", "tensor"),
                         axis_types=(AxisType.Auto,) * 3)  # fmt: skip


def check_batch(mesh: jax.sharding.Mesh, batch_size: int, parts: int, key: str) -> None:
    """Raises UserError if a batch cannot be split evenly into parts and over the mesh."""
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (shares * parts):
        words = f"{shares} devices" + (f" x {parts} microbatches" if parts > 1 else "")
        raise UserError(f"{key} = {batch_size} should be a multiple of {shares * parts} ({words})")


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Examples spread over all but the `tensor` axis."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def partition_spec(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> PartitionSpec:
    """Where an array of the state lives: `tensor` by name, `fsdp` on the largest axis left."""
    axes: list[str | None] = [None] * len(shape)
    if REPLICATED.search(path):
        return PartitionSpec(*axes)
    for pattern, axis in TENSOR_RULES:
        if pattern.search(path) and len(shape) >= 2 and shape[axis] % mesh.shape["tensor"] == 0:
            axes[axis] = "tensor"
            break
    if math.prod(shape) >= MIN_FSDP_SIZE:
        free = [i for i, n in enumerate(shape) if axes[i] is None and n % mesh.shape["fsdp"] == 0]
        if free:
            axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*axes)


def state_shardings(abstract_state: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """A sharding for each array of a train state.

    An optimizer's moments end in the path of their parameter, so the same rules place them.
    """

    def place(path, leaf):
        names = "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
        return NamedSharding(mesh, partition_spec(names, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, abstract_state)
