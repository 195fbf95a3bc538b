"""Checkpoints that are known to be whole: saved asynchronously, restored with every bit checked.

A step is a folder `<directory>/<step>/` with three parts: `state` (the arrays, by name, written by
Orbax), `fingerprints` (one hash an array, computed on the devices when it was saved) and `meta`
(JSON: what the caller gave, name, dtype and shape of each array, and a checksum of these).

Orbax restores flipped bits in silence and takes the newest folder whatever is in it. Here a step
counts only if all of it can be read and every array has the fingerprint it was saved with;
otherwise the step before it is tried.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
import zlib
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array

from md4jax.hosts import Failed, everywhere, of_first, one_line
from md4jax.options import UserError
from md4jax.training.fingerprints import fingerprints
from md4jax.training.orbax_io import draining, quiet_orbax
from md4jax.typing import PyTree

SHOWN = 3  # Names of arrays in a message, at most.


def named_leaves(tree: PyTree, separator: str = ".") -> dict[str, Any]:
    """The leaves of a tree by their path, such as `params.network.kernel`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(p, simple=True, separator=separator): x for p, x in leaves}
    if len(named) != len(leaves):
        raise ValueError("two arrays of the state have the same path")
    return named


def _stored(named: dict[str, Any]) -> dict[str, Any]:
    """What Orbax is given: it refuses arrays without elements, which hold nothing anyway."""
    return {name: x for name, x in named.items() if x.size}


def _describe(x: Any) -> str:
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def _checksum(content: dict[str, Any]) -> int:
    text = json.dumps({k: content[k] for k in ("arrays", "meta")}, sort_keys=True)
    return zlib.crc32(text.encode())


def _with_shardings(abstract: PyTree) -> PyTree:
    """Leaves without a sharding get the mesh of the others, replicated; or the first device."""
    shardings = [x.sharding for x in jax.tree.leaves(abstract)]
    meshes = [s.mesh for s in shardings if isinstance(s, NamedSharding)]
    default = SingleDeviceSharding(jax.local_devices()[0])
    if meshes:
        default = NamedSharding(meshes[0], PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or default), abstract
    )


def first_few(words: list[str], separator: str) -> str:
    """The first words, and how many more there are."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return separator.join(words[:SHOWN]) + more


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored checkpoint.

    Attributes:
      step: of the checkpoint.
      state: as it was saved, on the devices asked for.
      meta: the JSON-able dict it was saved with.
      skipped: (step, reason) of newer steps that were damaged.
    """

    step: int
    state: PyTree
    meta: dict[str, Any]
    skipped: list[tuple[int, str]]


class Checkpoints:
    """The checkpoints of a run, one folder a step. Every process calls every method."""

    def __init__(
        self, directory: str | os.PathLike, *, max_to_keep: int, keep_period: int | None = None
    ):
        """Makes the folder if it is not there; starts nothing and deletes nothing.

        Args:
          max_to_keep: the newest so many steps are kept.
          keep_period: steps that it divides are kept as well, for ever.

        Raises:
          UserError: the folder cannot be made.
        """
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep = {max_to_keep} should be at least 1")
        self.directory = pathlib.Path(directory).absolute()
        self._max_to_keep, self._keep_period = max_to_keep, keep_period
        self._manager: Any = None
        self._saving: int | None = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.directory} cannot be written: {error.strerror}") from error

    def save(self, step: int, state: PyTree, meta: dict[str, Any]) -> None:
        """Copies the state and returns; it is written while the caller goes on.

        Args:
          step: larger than that of every checkpoint there is.
          state: a pytree of jax Arrays of any dtype, typed keys included.
          meta: anything JSON can hold.

        Raises:
          UserError: this save or the one before it failed, or there is a step as new already.
        """
        self.wait()
        latest = self.latest_step()
        if latest is not None and latest >= step:
            raise UserError(
                f"the checkpoint of step {step} was not saved: {self.directory} holds step {latest}"
            )
        named = named_leaves(state)
        for name, x in named.items():
            if not isinstance(x, jax.Array):
                raise TypeError(f"{name} of the state is {type(x).__name__}, not a jax Array")
        described = {name: _describe(x) for name, x in named.items()}
        # Through JSON and back: what it will be when it is read; later changes do not reach it.
        content = json.loads(json.dumps({"arrays": described, "meta": meta}))
        args = quiet_orbax().args
        parts = args.Composite(
            state=args.StandardSave(_stored(named)),
            fingerprints=args.StandardSave({"values": fingerprints(list(named.values()))}),
            meta=args.JsonSave({**content, "crc32": _checksum(content)}),
        )
        try:
            self._open_manager().save(step, args=parts, force=True)
        except Exception as error:
            raise self._not_saved(step, error) from error
        self._saving = step

    def restore(self, abstract_state: PyTree, *, move_aside: bool = True) -> Restored | None:
        """The newest whole checkpoint; None if there is no checkpoint at all.

        Damaged newer ones are named in a warning.

        Args:
          abstract_state: `jax.ShapeDtypeStruct`s with the shardings the arrays are to have, on
            any number of devices.
          move_aside: moves damaged steps to `<directory>/../damaged_checkpoints/`, so that they
            can be saved anew. If False nothing is written.

        Raises:
          UserError: there are checkpoints but none is whole; or one is of another model; or
            `move_aside` and the folder cannot be written. Nothing is moved then.
        """
        self.wait()
        if move_aside:
            self._check_writable()
        abstract, skipped = _with_shardings(abstract_state), []
        for step in of_first(sorted(self.all_steps(), reverse=True)):
            try:
                state, meta = self._read(step, abstract)
            except Failed as damage:
                skipped.append((step, str(damage)))
                continue
            for bad, reason in skipped:
                where = f"moved to {self._move_aside(bad)}" if move_aside else "left where it is"
                if jax.process_index() == 0:
                    absl_logging.warning(
                        "checkpoint %s/%d is damaged (%s): %s; going back to step %d",
                        *(self.directory, bad, reason, where, step),
                    )
            if skipped and move_aside and self._manager is not None:
                self._manager.reload()
            return Restored(step, state, meta, skipped)
        if not skipped:
            return None
        reasons = "; ".join(f"{step}: {reason}" for step, reason in skipped)
        raise UserError(
            f"{self.directory} holds no whole checkpoint ({reasons}). Nothing was changed; "
            "move the folder away to start anew"
        )

    def all_steps(self) -> list[int]:
        """The steps that are saved or being saved, rising; whether they are whole is not known."""
        if self._manager is not None:
            return sorted(self._manager.all_steps())
        folders = (p.name for p in self.directory.iterdir() if p.is_dir())
        # Temporary folders of a save that was killed have other names.
        return sorted(int(n) for n in folders if n.isdecimal() and n == str(int(n)))

    def latest_step(self) -> int | None:
        """The newest step that is saved or being saved."""
        return max(self.all_steps(), default=None)

    def wait(self) -> None:
        """Returns when the last save is on disk.

        Raises:
          UserError: it failed.
        """
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if jax.process_index() == 0 and not (self.directory / str(step)).is_dir():
                raise OSError("its folder is missing")
        except Exception as error:
            raise self._not_saved(step, error) from error

    def close(self) -> None:
        """Waits for the last save and ends the threads. Raises UserError if the save failed."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def _open_manager(self) -> Any:
        """Orbax's manager; made by the first save, as making it deletes unfinished saves."""
        if self._manager is None:
            ocp = quiet_orbax()
            policies = ocp.checkpoint_managers
            kept = [policies.LatestN(self._max_to_keep)]
            if self._keep_period:
                kept.append(policies.EveryNSteps(self._keep_period))
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=True,
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        return self._manager

    def _read(self, step: int, abstract: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """State and meta of one step. Raises Failed, or UserError if it is another model's."""
        content = everywhere(lambda: self._read_meta(step))
        self._check_model(step, content["arrays"], abstract)
        named = named_leaves(abstract)
        arrays, saved = everywhere(lambda: self._read_arrays(step, named))
        found = np.asarray(fingerprints(list(arrays.values())))

        def check():
            wrong = [name for name, ok in zip(arrays, found == saved) if not ok]
            if wrong:
                raise Failed(f"bits changed since it was saved: {first_few(wrong, ', ')}")

        everywhere(check)
        structure = jax.tree.structure(abstract)
        return jax.tree.unflatten(structure, arrays.values()), content["meta"]

    def _part(self, step: int, part: str) -> Any:
        from etils import epath

        return epath.Path(self.directory) / str(step) / part

    def _read_meta(self, step: int) -> dict[str, Any]:
        ocp = quiet_orbax()
        folder = self._part(step, "meta")
        content = ocp.JsonCheckpointHandler().restore(folder, args=ocp.args.JsonRestore())
        if content["crc32"] != _checksum(content):
            raise Failed("bits of its metadata changed since it was saved")
        return content

    def _read_arrays(
        self, step: int, abstract: dict[str, Any]
    ) -> tuple[dict[str, Array], np.ndarray]:
        """The arrays by name, and the fingerprints they were saved with.

        By Orbax's handlers, not its manager: they have no barriers, at which the other processes
        would wait for one that found damage.
        """
        ocp = quiet_orbax()

        def read(part: str, target: dict[str, Any]) -> dict[str, Any]:
            handler = ocp.StandardCheckpointHandler()
            return handler.restore(self._part(step, part), args=ocp.args.StandardRestore(target))

        with draining():
            target = {"values": np.zeros(len(abstract), np.uint32)}
            saved = read("fingerprints", target)["values"]
            arrays = read("state", _stored(abstract))
        empty = lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)
        return {n: arrays[n] if n in arrays else empty(x) for n, x in abstract.items()}, saved

    def _check_model(self, step: int, there: dict[str, str], abstract: PyTree) -> None:
        here = {name: _describe(x) for name, x in named_leaves(abstract).items()}
        differ = [
            f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
            for name in [*here, *(n for n in there if n not in here)]
            if there.get(name) != here.get(name)
        ]
        if differ:
            what = first_few(differ, "; ")
            raise UserError(f"{self.directory}/{step} is the checkpoint of another model: {what}")

    def _move_aside(self, step: int) -> pathlib.Path:
        """Moves a step to `damaged_checkpoints/`, under a name that is free; returns where."""
        folder = self.directory.parent / "damaged_checkpoints"
        target, n = folder / str(step), 0
        while target.exists():
            n += 1
            target = folder / f"{step}-{n}"

        def move():
            if jax.process_index() == 0:
                folder.mkdir(exist_ok=True)
                os.rename(self.directory / str(step), target)

        try:
            everywhere(move)
        except Failed as error:
            raise UserError(
                f"{self.directory}/{step} cannot be moved to {target}: {error}"
            ) from None
        return target

    def _check_writable(self) -> None:
        def write():
            with tempfile.TemporaryFile(dir=self.directory):
                pass

        try:
            everywhere(write)
        except Failed as error:
            raise UserError(f"{self.directory} cannot be written: {error}") from None

    def _not_saved(self, step: int, error: Exception) -> UserError:
        return UserError(
            f"the checkpoint of step {step} could not be saved in {self.directory}: "
            f"{one_line(error)}"
        )
