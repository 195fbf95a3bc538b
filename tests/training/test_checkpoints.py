"""Checkpoints: bit-exact, whole or skipped, on any number of devices and processes."""

import dataclasses
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_tools import (
    abstract,
    assert_same,
    damage_meta,
    data_files,
    delete,
    empty,
    flip,
    make_state,
    open_,
    restore,
    save_steps,
    truncate,
)

from md4jax.options import UserError


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
    checkpoints.save(3, make_state(3), {})  # The disk has room again.
    checkpoints.close()
    assert restore(tmp_path).step == 3


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
