"""States, damage and processes for the tests of checkpoints."""

import dataclasses
import os
import pathlib
import re
import signal  # noqa: F401, here and below for the scripts of `start`
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from md4jax.options import UserError  # noqa: F401
from md4jax.training.checkpoints import Checkpoints
from md4jax.training.fingerprints import fingerprint  # noqa: F401

NUM_STEPS = 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: Any
    params: Any
    ema_params: Any
    opt_state: Any
    key: Any


def make_state(seed: int, width: int = 300) -> State:
    """Values that do not compress, one of each dtype that a state may hold."""
    rng = np.random.default_rng(seed)
    bits = lambda *shape: jnp.asarray(rng.integers(0, 2**32, shape, np.uint32))
    params = {
        "kernel": jnp.asarray(rng.normal(size=(20, width)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(7, 3)), jnp.bfloat16),
        "table": jnp.asarray(rng.integers(-128, 128, 9), jnp.int8),
        "mask": jnp.asarray(rng.integers(0, 2, 5), bool),
        "bits": jax.lax.bitcast_convert_type(bits(50), jnp.float32),  # NaNs of all kinds.
        "nothing": jnp.zeros((0, 3)),
        "list": [jnp.float32(seed), bits(4)],
    }
    floats = {"kernel": params["kernel"], "half": params["half"]}
    return State(
        step=jnp.int32(seed),
        params=params,
        ema_params=jax.tree.map(lambda x: x.astype(jnp.float32) * 0.5, floats),
        opt_state=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(floats),
        key=jax.random.key(seed),
    )


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def raw(x: jax.Array) -> bytes:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x).tobytes()


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        name = jax.tree_util.keystr(path)
        assert (x.dtype, x.shape, x.sharding) == (y.dtype, y.shape, y.sharding), name
        assert raw(x) == raw(y), name


def open_(path: pathlib.Path, **options: Any) -> Checkpoints:
    return Checkpoints(path / "checkpoints", **{"max_to_keep": 5, "keep_period": None} | options)


def save_steps(path: pathlib.Path, steps=range(1, NUM_STEPS + 1), **options: Any) -> None:
    checkpoints = open_(path, **options)
    for step in steps:
        checkpoints.save(step, make_state(step), {"step": step})
    checkpoints.close()


def restore(path: pathlib.Path, **options: Any) -> Any:
    return open_(path).restore(abstract(make_state(0)), **options)


def data_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files with the arrays of the state, largest first."""
    files = [p for p in (folder / "state").rglob("*") if p.is_file() and p.parent.name == "d"]
    return sorted(files, key=lambda p: p.stat().st_size, reverse=True)


# ------------------------------------------------------------------------------- round trip


def truncate(folder: pathlib.Path) -> None:
    file = data_files(folder)[0]
    os.truncate(file, file.stat().st_size // 2)


def delete(folder: pathlib.Path) -> None:
    data_files(folder)[0].unlink()


def empty(folder: pathlib.Path) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()


def flip(folder: pathlib.Path, seed: int = 0, files: list[pathlib.Path] | None = None) -> None:
    rng = np.random.default_rng(seed)
    for file in files or data_files(folder):
        content = bytearray(file.read_bytes())
        for _ in range(4):
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)


def damage_meta(folder: pathlib.Path) -> None:
    file = folder / "meta" / "metadata"
    file.write_text(file.read_text().replace('"step": 3', '"step": 7'))


def told(output: str) -> list[str]:
    """The lines of a process without those of its network."""
    # Ranks write at once: the number that ends one's line may stand alone on the next.
    return [x for x in output.splitlines() if not re.fullmatch(r"\[Gloo\].*|\d*", x)]


def start(tmp_path: pathlib.Path, code: str, devices: int = 1, *args: str) -> subprocess.Popen:
    """Runs code after the helpers above, on so many fake devices."""
    prelude = f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
    script = prelude + "from checkpoint_tools import *\n" + textwrap.dedent(code)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "NPROC": "32",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", script, str(tmp_path), *args]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def mesh_and_shardings(state: Any) -> Any:
    """Each array spread over all devices along the first axis that can be."""
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(x):
        axes = [i for i, n in enumerate(x.shape) if n and n % jax.device_count() == 0][:1]
        spec = [None] * axes[0] + ["d"] if axes else []
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    return jax.tree.map(place, state)
