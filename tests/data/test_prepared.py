"""Prepared data read again: from memory, from disk, by tensorflow-datasets alone; or one line."""

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from prepare_tools import everything, make, pixels, save
from tiny import ROOT, environment

from md4jax.data import prepared
from md4jax.data.images import Images
from md4jax.data.points import Points
from md4jax.data.prepare.documents import Documents
from md4jax.data.prepare.earth import Events
from md4jax.data.prepare.image_arrays import ImageArrays
from md4jax.data.prepare.image_folder import LsunChurch
from md4jax.data.prepare.one_text import OneText
from md4jax.data.tokens import Tokens
from md4jax.options import UserError

DOCUMENTS = [f"document {i} " + "x" * (i * 7 % 23) for i in range(60)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Images raw and packed, documents, a text and points; the images."""
    folder = tmp_path_factory.mktemp("prepared")
    x = pixels(30, 4, 4, 3)
    np.savez(folder / "a.npz", train=x[:20], test=x[20:], train_labels=np.arange(20) % 3,
             test_labels=np.arange(10) % 3)  # fmt: skip
    make(ImageArrays(size=4, classes=True), folder / "a.npz", folder, "raw")
    for i, image in enumerate(x):
        save(folder / f"png/{'train' if i < 20 else 'val'}/{i:02d}.png", image)
    make(LsunChurch(size=4), folder / "png", folder, "packed")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in DOCUMENTS))
    recipe = Documents(tokenizer="bytes", row_length=16, test_every=6)
    make(recipe, folder / "a.jsonl", folder, "documents")
    (folder / "a.txt").write_text("a text, and no more than that. " * 9)
    make(OneText(row_length=16), folder / "a.txt", folder, "text")
    (folder / "a.csv").write_text("".join(f"{i},{2 * i}\n" for i in range(-40, 40)))
    make(Events(), folder / "a.csv", folder, "points")
    return folder, x


@pytest.fixture
def data(sources, tmp_path):
    """A copy that may be damaged."""
    for name in ("raw", "packed", "documents", "points"):
        shutil.copytree(sources[0] / name, tmp_path / name)
    yield tmp_path
    prepared._open.cache_clear()


def same(one, other):
    assert one.spec == other.spec and one.fingerprint == other.fingerprint
    assert set(one.splits) == set(other.splits)
    for name in one.splits:
        a, b = everything(one.splits[name]), everything(other.splits[name])
        assert set(a) == set(b)
        for key in a:
            assert a[key].dtype == b[key].dtype == np.int32
            np.testing.assert_array_equal(a[key], b[key])


def refused(component) -> str:
    with pytest.raises(UserError) as error:
        for split in component.load().splits.values():
            everything(split)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("name", "labels"), [("raw", True), ("raw", False), ("packed", False)])
def test_images_in_memory_and_on_disk(sources, name, labels):
    folder, x = sources
    options = dict(dataset=name, data_dir=str(folder), labels=labels)
    memory, disk = Images(**options).load(), Images(**options, memory_gb=0.0).load()
    same(memory, disk)
    assert type(memory.splits["train"]) is not type(disk.splits["train"])
    np.testing.assert_array_equal(everything(disk.splits["train"])["x0"], x[:20])
    again = pickle.loads(pickle.dumps(disk.splits["test"]))  # For other processes.
    found = again.gather(np.array([7, 0, 7]))
    np.testing.assert_array_equal(found["x0"], x[[27, 20, 27]])
    if labels:
        assert found["label"].tolist() == [1, 0, 1] and disk.spec.num_classes == 3


def test_tokens_in_memory_and_on_disk(sources):
    options = dict(dataset="documents", data_dir=str(sources[0]), tokenizer="bytes", length=16)
    for documents in (False, True):
        memory = Tokens(**options, documents=documents).load()
        disk = Tokens(**options, documents=documents, memory_gb=0.0).load()
        same(memory, disk)
        assert memory.spec.has_segments == documents
    rows = everything(disk.splits["train"])
    ends = rows["x0"] == 256
    np.testing.assert_array_equal(np.diff(rows["segment"], axis=1), ends[:, :-1])
    assert ends.any() and (rows["segment"][:, 0] == 0).all()
    text = "".join(map(disk.to_text, rows["x0"]))
    wanted = "<|endoftext|>".join(t for i, t in enumerate(DOCUMENTS, 1) if i % 6)
    assert len(text) > 600 and (wanted + "<|endoftext|>").startswith(text)


def test_windows_of_other_lengths(sources):
    options = dict(dataset="documents", data_dir=str(sources[0]), tokenizer="bytes")
    whole = everything(Tokens(**options, length=1).load().splits["train"])["x0"].ravel()
    windows = Tokens(**options, length=7, train_stride=3).load().splits["train"]
    np.testing.assert_array_equal(windows.gather(np.array([5]))["x0"][0], whole[15:22])
    message = refused(Tokens(**options, length=7, memory_gb=0.0))
    assert "config.data.length = 7: documents is larger than config.data.memory_gb = 0.0" in message
    assert "this should be 16; or prepare it with --row_length=7" in message
    message = refused(Tokens(**options, length=16, train_stride=1, memory_gb=0.0))
    assert message.startswith("config.data.train_stride = 1: ")
    message = refused(Tokens(**options, length=5000))
    assert "split of documents has only" in message


def test_points(sources):
    points = Points(dataset="points", data_dir=str(sources[0])).load()
    assert {k: len(v) for k, v in points.splits.items()} == {"train": 64, "valid": 8, "test": 8}
    norms = np.linalg.norm(everything(points.splits["train"])["x0"], axis=1)
    np.testing.assert_allclose(norms, 1, atol=3e-7)  # Of float32: three roundings of 6e-8.


# What is not as the config has it.


def test_wrong_kinds_and_names(sources):
    where = dict(data_dir=str(sources[0]))
    message = refused(Images(dataset="cifar10", **where))
    assert f"run: python prepare_data.py --dataset=cifar10 --data_dir={sources[0]}" in message
    assert "holds tokens, so config.data.name should be 'tokens'" in refused(
        Images(dataset="text", **where)
    )
    message = refused(Tokens(dataset="text", tokenizer="gpt2", **where))
    assert "was made with 'chars'; choose that" in message
    message = refused(Tokens(dataset="text", documents=True, length=4, **where))
    assert "config.data.documents = True: text is one text, not many; use False" in message
    message = refused(Images(dataset="packed", labels=True, **where))
    assert "config.data.labels = True: packed has no classes; use False" in message


KINDS = [
    Images(dataset="raw"),
    Images(dataset="raw", memory_gb=0.0),
    Images(dataset="packed"),
    Tokens(dataset="documents", tokenizer="bytes", length=16),
    Tokens(dataset="documents", tokenizer="bytes", length=16, memory_gb=0.0),
    Points(dataset="points"),
]


@pytest.mark.parametrize("how", ["cut", "flipped", "gone", "empty"])
@pytest.mark.parametrize("component", KINDS, ids=lambda c: type(c).__name__ + c.dataset)
def test_damaged_records(data, component, how):
    component = dataclasses.replace(component, data_dir=str(data))
    (path,) = (data / component.dataset / "1.0.0").glob("*train*")
    raw = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        raw[300] ^= 0x5A  # In the first records.
        path.write_bytes({"cut": raw[:1000], "flipped": raw, "empty": b""}[how])
    message = refused(component)
    assert "the train records cannot be read (" in message
    assert message.endswith("delete the folder and prepare the data again")


@pytest.mark.parametrize("component", KINDS[::3] + KINDS[5:], ids=lambda c: type(c).__name__)
def test_damaged_metadata(data, component):
    component = dataclasses.replace(component, data_dir=str(data))
    path = data / component.dataset / "1.0.0/metadata.json"
    whole = json.loads(path.read_text())
    words = "was not written by prepare_data.py or is damaged"
    for key in whole.keys() - {"source", "options", "key", "dataset", "digests", "unit"}:
        path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        assert words in refused(component), key
    for text in ("{", "[]", ""):
        path.write_text(text)
        assert words in refused(component)
    path.unlink()
    assert words in refused(component)
    path.write_text(json.dumps(whole))
    (path.parent / "dataset_info.json").write_text("{}")
    assert words in refused(component)
    (path.parent / "dataset_info.json").unlink()
    assert "nothing is prepared in" in refused(component)


def test_the_fingerprint_is_of_the_content(sources, tmp_path):
    folder, _ = sources
    for i, (text, options) in enumerate(
        [("a" * 30 + "b", {}), ("a" * 30 + "b", {"row_length": 3}), ("b" + "a" * 30, {})]
    ):
        (tmp_path / f"{i}.txt").write_text(text)
        make(OneText(**options), tmp_path / f"{i}.txt", tmp_path, f"d{i}")
    prints = [
        Tokens(dataset=f"d{i}", data_dir=str(tmp_path), length=2).load().fingerprint
        for i in range(3)
    ]
    assert prints[0] == prints[1] != prints[2]
    text = Tokens(dataset="text", data_dir=str(folder), length=2).load()
    other = Tokens(dataset="text", data_dir=str(folder), length=3).load()
    assert text.fingerprint != other.fingerprint


# Without TensorFlow, and by others.

SCRIPT = """
import sys, pathlib, numpy as np
folder, source = sys.argv[1:]
from md4jax.data.prepare.run import prepare
from md4jax.data.prepare.image_arrays import ImageArrays
from md4jax.data.images import Images
prepare(ImageArrays(size=4), "image_arrays", pathlib.Path(folder), source, "again", 1)
data = Images(dataset="again", data_dir=folder).load()
assert data.splits["train"].gather(np.arange(3))["x0"].shape == (3, 4, 4, 3)
assert not {"tensorflow", "torch", "sklearn", "flax"} & set(sys.modules)
"""


def test_without_tensorflow(sources, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(sources[0] / "a.npz")]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_tensorflow_datasets_reads_them(sources):
    import tensorflow_datasets as tfds

    folder, x = sources
    read = lambda name, split: list(
        tfds.builder_from_directory(folder / name / "1.0.0").as_data_source(split)
    )
    found = read("raw", "train")
    np.testing.assert_array_equal([e["image"] for e in found], x[:20])
    assert [int(e["label"]) for e in found] == [i % 3 for i in range(20)]
    assert [bytes(e["png"])[:4] for e in read("packed", "test")] == [b"\x89PNG"] * 10
    rows = np.concatenate([e["tokens"] for e in read("documents", "test")])
    ours = Tokens(dataset="documents", data_dir=str(folder), tokenizer="bytes", length=1).load()
    np.testing.assert_array_equal(rows, everything(ours.splits["test"])["x0"].ravel())
    assert rows.dtype == np.uint16
    points = Points(dataset="points", data_dir=str(folder)).load()
    theirs = np.stack([e["x"] for e in read("points", "valid")])
    np.testing.assert_array_equal(theirs, everything(points.splits["valid"])["x0"])
    builder = tfds.builder_from_directory(folder / "raw" / "1.0.0")
    assert builder.info.splits["train"].num_examples == 20
    assert builder.info.name == "raw" and builder.info.description == ImageArrays.about.what
