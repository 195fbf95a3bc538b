"""Checkpoints: bit-exact, whole or skipped, on any number of devices and processes."""

import dataclasses
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from md4jax.options import UserError
from md4jax.training.checkpoints import Checkpoints
from md4jax.training.fingerprints import fingerprint  # noqa: F401, for the scripts below

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


def test_round_trip_is_bit_exact(tmp_path):
    assert restore(tmp_path) is None
    save_steps(tmp_path)
    restored = restore(tmp_path)
    assert (restored.step, restored.skipped) == (3, [])
    assert restored.meta == {"step": 3}
    assert_same(restored.state, make_state(3))
    assert not (tmp_path / "damaged_checkpoints").exists()


def test_meta_is_what_it_was_when_saved(tmp_path):
    checkpoints = open_(tmp_path)
    meta = {"seconds": 0.1 + 0.2, "list": [1, None, True], "nested": {"é": float("inf")}}
    kept = json.loads(json.dumps(meta))
    checkpoints.save(1, make_state(1), meta)
    meta["list"].append(2)
    checkpoints.close()
    assert restore(tmp_path).meta == kept


def test_donating_the_state_after_a_save_does_not_reach_it(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    checkpoints = open_(tmp_path)
    state = {str(i): jax.random.normal(jax.random.key(i), (500, 1000)) for i in range(8)}
    jax.block_until_ready(step(jax.tree.map(jnp.copy, state)))
    expected, target = jax.tree.map(np.array, state), abstract(state)
    checkpoints.save(1, state, {})
    state = step(step(state))
    jax.block_until_ready(state)
    restored = checkpoints.restore(target)
    assert restored.step == 1
    for name, x in expected.items():
        np.testing.assert_array_equal(restored.state[name], x)
    checkpoints.close()


def test_old_steps_go_and_periodic_ones_stay(tmp_path):
    save_steps(tmp_path, range(1, 9), max_to_keep=2, keep_period=3)
    assert open_(tmp_path).all_steps() == [3, 6, 7, 8]
    assert open_(tmp_path).latest_step() == 8


def test_saving_an_old_step_is_an_error(tmp_path):
    save_steps(tmp_path)
    checkpoints = open_(tmp_path)
    for step in (2, 3):
        with pytest.raises(UserError, match=f"step {step} was not saved: .* holds step 3"):
            checkpoints.save(step, make_state(step), {})
    checkpoints.close()


# ---------------------------------------------------------------------------------- damage


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


@pytest.mark.parametrize("damage", [truncate, delete, empty, flip, damage_meta])
def test_damaged_step_is_skipped_moved_and_saved_anew(tmp_path, damage):
    save_steps(tmp_path)
    damage(tmp_path / "checkpoints" / "3")
    damaged = sorted(p.name for p in (tmp_path / "checkpoints" / "3").rglob("*"))

    untouched = restore(tmp_path, move_aside=False)
    assert untouched.step == 2
    assert open_(tmp_path).all_steps() == [1, 2, 3]
    assert not (tmp_path / "damaged_checkpoints").exists()

    checkpoints = open_(tmp_path)
    restored = checkpoints.restore(abstract(make_state(0)))
    assert restored.step == 2
    assert [step for step, _ in restored.skipped] == [3]
    assert_same(restored.state, make_state(2))
    aside = tmp_path / "damaged_checkpoints" / "3"
    assert sorted(p.name for p in aside.rglob("*")) == damaged

    checkpoints.save(3, make_state(30), {"step": 3})
    restored = checkpoints.restore(abstract(make_state(0)))
    assert restored.step == 3
    assert_same(restored.state, make_state(30))
    checkpoints.close()


def test_second_damage_of_a_step_gets_another_name(tmp_path, caplog):
    for _ in range(2):
        save_steps(tmp_path, [s for s in (1, 2, 3) if s not in open_(tmp_path).all_steps()])
        truncate(tmp_path / "checkpoints" / "2")
        truncate(tmp_path / "checkpoints" / "3")
        assert restore(tmp_path).step == 1
    names = sorted(p.name for p in (tmp_path / "damaged_checkpoints").iterdir())
    assert names == ["2", "2-1", "3", "3-1"]
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 4 and all("\n" not in line for line in lines)
    assert "checkpoints/3 is damaged" in lines[0] and "going back to step 1" in lines[0]


def test_flips_that_orbax_does_not_see_are_seen(tmp_path):
    import orbax.checkpoint as ocp

    state = {"w": jnp.asarray(np.random.default_rng(0).integers(0, 2**32, 50_000, np.uint32))}
    for step in (1, 2):
        checkpoints = open_(tmp_path)
        checkpoints.save(step, state, {})
        checkpoints.close()
    folder = tmp_path / "checkpoints" / "2"
    flip(folder, files=data_files(folder)[:1])
    target = ocp.args.StandardRestore(abstract(state))
    silent = ocp.StandardCheckpointHandler().restore(
        ocp.CheckpointManager(folder.parent).directory / "2" / "state", args=target
    )
    assert (silent["w"] != state["w"]).sum() == 4
    restored = open_(tmp_path).restore(abstract(state))
    assert restored.step == 1
    assert restored.skipped == [(2, "bits changed since it was saved: w")]


@pytest.mark.parametrize("seed", range(6))
def test_flips_anywhere_are_seen_or_harmless(tmp_path, seed):
    save_steps(tmp_path)
    folder = tmp_path / "checkpoints" / "3"
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    chosen = np.random.default_rng(seed).permutation(len(files))[:2]
    flip(folder, seed, [files[i] for i in chosen])
    restored = restore(tmp_path)
    assert restored.step in (2, 3)
    assert restored.meta == {"step": restored.step}
    assert_same(restored.state, make_state(restored.step))


def test_no_whole_step_is_an_error_and_nothing_moves(tmp_path):
    save_steps(tmp_path)
    for step, damage in ((1, truncate), (2, empty), (3, flip)):
        damage(tmp_path / "checkpoints" / str(step))
    with pytest.raises(
        UserError, match=r"checkpoints holds no whole checkpoint \(3: .*2: .*1: "
    ) as e:
        restore(tmp_path)
    assert "\n" not in str(e.value)
    assert open_(tmp_path).all_steps() == [1, 2, 3]
    assert not (tmp_path / "damaged_checkpoints").exists()


def test_another_model_is_an_error_and_nothing_moves(tmp_path):
    save_steps(tmp_path)
    damage_meta(tmp_path / "checkpoints" / "3")
    state = make_state(0, width=301)
    del state.params["mask"]
    state.params["more"] = jnp.zeros(3, jnp.int8)
    with pytest.raises(UserError) as e:
        open_(tmp_path).restore(abstract(state))
    message = str(e.value)
    assert "checkpoints/2 is the checkpoint of another model" in message
    assert "params.kernel is float32[20,300] there and float32[20,301] here" in message
    assert message.endswith("more")
    assert open_(tmp_path).all_steps() == [1, 2, 3]
    assert not (tmp_path / "damaged_checkpoints").exists()

    state = dataclasses.replace(make_state(0), key=jax.random.key(0, impl="rbg"))
    with pytest.raises(UserError, match=r"key is key<fry>\[\] there and key<rbg>\[\] here"):
        open_(tmp_path).restore(abstract(state))


# --------------------------------------------------------------------- folders and failures


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/checkpoints cannot be written: Not a directory"):
        open_(tmp_path / "file")


# Orbax leaves tasks of a save that failed behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_save_that_fails_in_the_background_is_told(tmp_path):
    save_steps(tmp_path, [1])
    checkpoints, state = open_(tmp_path), make_state(2, width=100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))  # As if the disk were full.
    try:
        checkpoints.save(2, state, {})
        with pytest.raises(UserError, match="checkpoint of step 2 could not be saved in"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.latest_step() == 1
    checkpoints.save(2, make_state(2), {})  # The disk has room again.
    checkpoints.close()
    assert restore(tmp_path).step == 2


def test_left_over_folders_are_ignored_and_cleaned(tmp_path):
    save_steps(tmp_path, [1])
    left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert open_(tmp_path).all_steps() == [1]
    assert restore(tmp_path).step == 1
    assert left.exists()  # Another process may be writing it.
    save_steps(tmp_path, [2])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "notes"]


# ------------------------------------------------------------------------- other processes


def told(output: str) -> list[str]:
    """The lines of a process without those of its network."""
    return [line for line in output.splitlines() if not line.startswith("[Gloo]")]


def start(tmp_path: pathlib.Path, code: str, devices: int = 1, *args: str) -> subprocess.Popen:
    """Runs code after the helpers of this file, on so many fake devices."""
    prelude = f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
    script = prelude + "from test_checkpoints import *\n" + textwrap.dedent(code)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "NPROC": "32",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", script, str(tmp_path), *args]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_killed_in_the_middle_of_a_save(tmp_path, seconds):
    code = """
        import time
        path = pathlib.Path(sys.argv[1])
        checkpoints = open_(path, max_to_keep=1)
        checkpoints.save(1, make_state(1, 100_000), {"step": 1})
        checkpoints.wait()
        checkpoints.save(2, make_state(2, 100_000), {"step": 2})
        time.sleep(float(sys.argv[2]))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = start(tmp_path, code, 1, str(seconds))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output
    checkpoints = open_(tmp_path)
    restored = checkpoints.restore(abstract(make_state(0, 100_000)))
    assert restored.step in (1, 2) and restored.skipped == []
    assert_same(restored.state, make_state(restored.step, 100_000))
    checkpoints.save(3, make_state(3), {})
    checkpoints.close()
    assert open_(tmp_path).latest_step() == 3


def mesh_and_shardings(state: Any) -> Any:
    """Each array spread over all devices along the first axis that can be."""
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(x):
        axes = [i for i, n in enumerate(x.shape) if n and n % jax.device_count() == 0][:1]
        spec = [None] * axes[0] + ["d"] if axes else []
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    return jax.tree.map(place, state)


def test_one_device_to_four_and_back(tmp_path):
    save_steps(tmp_path, [1])
    code = """
        path = pathlib.Path(sys.argv[1])
        assert jax.device_count() == 4
        state = make_state(1)
        sharded = jax.device_put(state, mesh_and_shardings(state))
        assert len(sharded.params["kernel"].addressable_shards) == 4
        for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(sharded)):
            assert fingerprint(x) == jax.jit(fingerprint)(y), x.shape
        checkpoints = open_(path)
        restored = checkpoints.restore(abstract(sharded))
        assert_same(restored.state, sharded)
        state = jax.device_put(make_state(2), mesh_and_shardings(state))
        checkpoints.save(2, state, {"step": 2})
        checkpoints.close()
        checkpoints.save(3, state, {"step": 3})
        checkpoints.close()
        flip(path / "checkpoints" / "3")
        assert open_(path).restore(abstract(sharded), move_aside=False).step == 2
        print("done")
    """
    output, _ = start(tmp_path, code, 4).communicate(timeout=120)
    lines = told(output)  # One for the damage, and no tracebacks.
    assert len(lines) == 2 and "3 is damaged" in lines[0] and lines[1] == "done", output
    restored = restore(tmp_path)
    assert restored.step == 2
    assert_same(restored.state, make_state(2))


def test_processes_agree_on_the_step(tmp_path):
    """Two processes of two devices; the damage is seen by one of them alone."""
    code = """
        path, port, process = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
        shardings = mesh_and_shardings(jax.eval_shape(lambda: make_state(1)))
        make = lambda seed: jax.tree.map(
            lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: np.asarray(x)[i])
            if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else jax.jit(lambda: jax.random.key(seed), out_shardings=s)(),
            make_state(seed), shardings)
        checkpoints = open_(path)
        for step in (1, 2, 3, 4):
            checkpoints.save(step, make(step), {"step": step})
        checkpoints.wait()
        if process == 0:
            truncate(path / "checkpoints" / "4")
        read = Checkpoints._read_arrays
        def fail(self, step, named):
            if step == 3 and process == 1:
                raise OSError("only here")
            return read(self, step, named)
        Checkpoints._read_arrays = fail
        restored = checkpoints.restore(abstract(make(0)))
        assert restored.step == 2, restored
        for x, y in zip(jax.tree.leaves(restored.state), jax.tree.leaves(make(2))):
            for a, b in zip(x.addressable_shards, y.addressable_shards):
                assert raw(a.data) == raw(b.data)
        assert "only here" in restored.skipped[1][1] or process == 0, restored.skipped
        checkpoints.save(3, restored.state, {"step": 3})
        checkpoints.close()
        try:
            open_(path).restore({"w": jax.ShapeDtypeStruct((3,), "int8")})
        except UserError as error:
            print("done" if "another model" in str(error) else error)
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    processes = [start(tmp_path, code, 2, port, str(i)) for i in range(2)]
    outputs = [p.communicate(timeout=120)[0] for p in processes]
    assert all(told(o)[-1] == "done" for o in outputs), "\n".join(outputs)
    assert [len(told(o)) for o in outputs] == [3, 1], "\n".join(outputs)
    names = lambda folder: sorted(p.name for p in (tmp_path / folder).iterdir())
    assert names("checkpoints") == ["1", "2", "3"]
    assert names("damaged_checkpoints") == ["3", "4"]
