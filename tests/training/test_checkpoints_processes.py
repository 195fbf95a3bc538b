"""Checkpoints and other processes: killed ones, ones with more devices, several at once."""

import signal
import socket

import pytest
from checkpoint_tools import (
    abstract,
    assert_same,
    make_state,
    open_,
    restore,
    save_steps,
    start,
    told,
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
    # Of the lines before none but the warnings count: those of the network run into each other.
    assert [o.count("WARNING:absl:checkpoint") for o in outputs] == [2, 0], "\n".join(outputs)
    names = lambda folder: sorted(p.name for p in (tmp_path / folder).iterdir())
    assert names("checkpoints") == ["1", "2", "3"]
    assert names("damaged_checkpoints") == ["3", "4"]
