"""A run that is killed, disturbed or repeated: nothing half done is ever taken for data."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from array_record.python import array_record_module
from prepare_tools import Numbers, make, refused
from tiny import environment

from md4jax.data.prepare import builder, run
from md4jax.data.prepared import open_prepared
from md4jax.options import UserError

SCRIPT = """
import functools, pathlib, sys, time
from md4jax.data.prepare import builder, run
from prepare_tools import Numbers
folder, log, source, workers, slow = sys.argv[1:]
if slow == "writing":
    told = builder._told
    def slowly(*args):
        for example in told(*args):
            time.sleep(0.05)
            yield example
    builder._told = slowly
run.prepare(Numbers(log=log), "made", pathlib.Path(folder), source, "made", int(workers))
"""


class Run:
    """Data made of one source, whose readings are counted."""

    def __init__(self, folder):
        self.data, self.log, self.source = folder / "data", folder / "log", folder / "source"
        self.source.write_text("anything")
        self.recipe = Numbers(log=str(self.log))

    def make(self, **options):
        return make(self.recipe, self.source, self.data, **options)

    def refused(self, **options):
        return refused(self.recipe, self.source, self.data, **options)

    def read(self) -> list[int]:
        """The pieces that were read, in the order of their numbers."""
        return sorted(map(int, self.log.read_text().split())) if self.log.exists() else []

    def parts(self):
        return sorted(self.data.glob(".preparing/made-*/*-of-*[0-9]"))

    def start(self, seconds, slow="reading", workers=1):
        values = (self.data, self.log, self.source, workers, slow)
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *map(str, values)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment() | {"SECONDS_A_PIECE": str(seconds)},
        )  # fmt: skip

    def nothing_is_there(self):
        with pytest.raises(UserError, match="nothing is prepared"):
            open_prepared("made", str(self.data), "points")


@pytest.fixture
def one(tmp_path):
    return Run(tmp_path)


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """Of an undisturbed run."""
    one = Run(tmp_path_factory.mktemp("undisturbed"))
    assert json.loads((one.make() / "metadata.json").read_text())["digest"]
    assert one.read() == [0, 1, 2, 3]
    return digest_of(one)


def digest_of(one):
    return open_prepared("made", str(one.data), "points").metadata["digest"]


def wait_for(condition, process):
    """Until something is seen on disk; the process must not have ended by then."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def kill(process):
    process.kill()
    process.communicate(timeout=60)  # Its own processes, which hold the pipes, end as well.


def test_a_killed_run_goes_on(one, digest):
    process = one.start(seconds=0.3)
    wait_for(lambda: len(one.parts()) >= 2, process)
    kill(process)
    one.nothing_is_there()
    first = {path: path.stat().st_mtime_ns for path in one.parts()}
    process = one.start(seconds=0, slow="writing")
    wait_for(lambda: list(one.data.glob("made/incomplete*/train.0")), process)
    kill(process)
    one.nothing_is_there()
    assert first.items() <= {path: path.stat().st_mtime_ns for path in one.parts()}.items()
    seen = one.read()
    one.make()
    assert one.read() == seen  # All pieces were read before.
    assert digest_of(one) == digest
    assert [path.name for path in one.data.glob("made/*")] == ["1.0.0"]
    assert not list(one.data.glob(".preparing/made-*"))


def test_workers_end_with_the_run(one, digest):
    process = one.start(seconds=60, workers=2)
    wait_for(lambda: len(one.read()) == 2, process)
    kill(process)
    assert one.parts() == []
    one.make(workers=2)
    assert digest_of(one) == digest and len(one.read()) == 6


def test_an_interrupted_run_says_so(one, monkeypatch):
    monkeypatch.setattr(run, "write", lambda *args: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        one.make()
    assert len(one.parts()) == 4


def test_it_is_there_already(one, capsys):
    target = one.make()
    seen = target.stat().st_mtime_ns
    (one.data / f".preparing/made-{json_of(target)['key'][:16]}").mkdir()  # Killed at the end.
    assert one.make() == target
    assert "is there already; nothing was done" in capsys.readouterr().out
    assert target.stat().st_mtime_ns == seen and len(one.read()) == 4
    assert not list(one.data.glob(".preparing/made-*"))
    one.source.unlink()  # Fetched data need not be fetched again.
    assert make(one.recipe, None, one.data) == target


def json_of(target):
    return json.loads((target / "metadata.json").read_text())


def test_it_is_there_but_another(one):
    target = one.make()
    for recipe in (Numbers(log=str(one.log), count=2), Numbers(log="elsewhere")):
        with pytest.raises(UserError, match="--name=made: .* with other options; give another"):
            make(recipe, one.source, one.data)
    one.source.write_text("something else")
    with pytest.raises(UserError, match="was made from another source"):
        one.make()
    (target / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="was not written by prepare_data.py or is damaged"):
        one.make()
    assert len(one.read()) == 4


def test_two_at_once(one):
    with run._alone(one.data, "made"):
        assert "another prepare_data.py is at work on it" in one.refused()
        one.make(name="other")
    one.make()


def test_made_by_another_run_in_between(one, monkeypatch, capsys):
    alone = run._alone

    def late(*args):
        monkeypatch.setattr(run, "_alone", alone)
        one.make()
        return alone(*args)

    monkeypatch.setattr(run, "_alone", late)
    one.make()
    assert len(one.read()) == 4
    assert "nothing was done" in capsys.readouterr().out


def test_parts_of_other_options_are_left_alone_until_the_end(one, monkeypatch):
    """Ended in the middle with one option, finished with another: nothing is mixed or left."""
    broken_savez(monkeypatch, after=3)
    one.refused()
    monkeypatch.undo()
    parts = one.parts()
    other = Numbers(log=str(one.log), count=3)
    make(other, one.source, one.data)
    assert one.read() == [0, 0, 1, 1, 2] and parts
    assert sum(open_prepared("made", str(one.data), "points").counts.values()) == 600
    assert one.parts() == []


# Disks.


def broken_savez(monkeypatch, after, error=errno.ENOSPC):
    savez, calls = np.savez, []

    def broken(file, **arrays):
        calls.append(file)
        if len(calls) > after:
            raise OSError(error, os.strerror(error))
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", broken)


def test_full_disk_while_reading(one, monkeypatch, digest):
    broken_savez(monkeypatch, after=3)  # Two a piece.
    message = one.refused()
    assert message.startswith(f"--data_dir={one.data}: ")
    assert "there is no space left on its disk; after that is mended the same command" in message
    assert len(one.parts()) == 1 and not list(one.data.glob(".preparing/made-*/*.part"))
    monkeypatch.undo()
    one.make()
    assert one.read() == [0, 1, 1, 2, 3] and digest_of(one) == digest


def test_full_disk_while_writing(one, monkeypatch, digest):
    class Full(array_record_module.ArrayRecordWriter):
        def close(self):
            super().close()
            raise RuntimeError("write() failed: No space left on device; writing /x")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Full)
    assert "/train.0 cannot be written: there is no space left on its disk" in one.refused()
    one.nothing_is_there()
    assert list(one.data.glob("made/*")) == []
    monkeypatch.undo()
    one.make()
    assert len(one.read()) == 4 and digest_of(one) == digest


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "it is on a read-only disk"),
        (errno.EACCES, "it may not be written"),
        (errno.EDQUOT, "there is no quota left"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_folders_that_cannot_be_written(one, monkeypatch, number, words):
    def refuse(path, *args):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        message = one.refused()
    assert f"/data cannot be written: {words}" in message.replace("/.preparing", "")


def test_a_file_instead_of_the_folder(one):
    one.data.write_text("a file")
    assert "cannot be written: a file is in its place" in one.refused()


def test_source_that_cannot_be_read(one, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied", str(one.source))

    monkeypatch.setattr(Numbers, "pieces", refuse)
    assert one.refused() == f"{one.source}: cannot be read: Permission denied"


def test_a_damaged_part_is_named(one, monkeypatch):
    broken_savez(monkeypatch, after=3)
    one.refused()
    monkeypatch.undo()
    (part,) = one.parts()
    next(part.iterdir()).write_bytes(b"")
    assert f"delete {part}, and the same command reads that piece again" in one.refused()


# Sources.


def test_sources_that_are_wrong(one, tmp_path):
    one.source.unlink()
    assert "no such file or folder; made takes any file" in one.refused()
    message = refused(one.recipe, None, one.data)
    assert "--source is missing: made is not offered for download; give any file" in message
    message = refused(one.recipe, tmp_path, one.data)
    assert f"--data_dir={one.data} is in it; choose another" in message
    assert not one.data.exists()


def test_a_worker_that_is_killed(one, monkeypatch):
    killer = lambda self, source: [run.functools.partial(os._exit, 1) for _ in range(self.count)]
    monkeypatch.setattr(Numbers, "pieces", killer)
    message = one.refused(workers=2)
    assert "a process that read a piece was killed, perhaps as memory was short" in message


def test_several_shards(one, monkeypatch, digest):
    monkeypatch.setattr(builder, "BYTES_A_SHARD", 1000)
    target = one.make()
    names = sorted(path.name for path in target.glob("made-train*"))
    assert len(names) > 3 and names[0].endswith(f"-00000-of-{len(names):05d}")
    found = open_prepared("made", str(one.data), "points")
    assert digest_of(one) == digest and found.counts == {"train": 720, "test": 80}
    x = [np.frombuffer(e["x"], "<f4") for _, block in found.source("test").blocks() for e in block]
    wanted = [np.arange(180, 200) + 1000 * i + 500 * j for i in range(4) for j in range(2)]
    np.testing.assert_array_equal(np.concatenate(x), np.concatenate(wanted))
