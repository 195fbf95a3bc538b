"""Recipes of images, each on small files in its published form: exact pixels, or one line."""

import dataclasses
import gzip
import json
import pickle

import numpy as np
import pytest
from PIL import Image
from prepare_tools import counting, images, make, pack_tar, pack_zip, pixels, refused, save

from md4jax.data.prepare.celeba import Celeba64
from md4jax.data.prepare.cifar10 import BATCHES, Cifar10
from md4jax.data.prepare.imagenet import (
    DownsampledImagenet64,
    Imagenet2012At64,
    ImagenetResized64,
    halved_then_bicubic,
)
from md4jax.data.prepare.mnist import FILES, Mnist

# MNIST.


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    counting(monkeypatch, Mnist())
    folder, arrays = tmp_path / "mnist", {}
    folder.mkdir()
    for (split, (a, b)), n in zip(FILES.items(), (7, 5)):
        arrays[split] = pixels(n, 28, 28), np.arange(n, dtype=np.uint8)
        (folder / f"{a}.gz").write_bytes(gzip.compress(idx(arrays[split][0])))
        (folder / b.replace("-idx", ".idx")).write_bytes(idx(arrays[split][1]))
    return folder, arrays


def test_mnist_packed_or_not(mnist, tmp_path):
    folder, arrays = mnist
    (folder / "emnist-letters-train-images-idx3-ubyte").write_bytes(b"something else")
    found = images(Mnist(), folder, tmp_path / "data")
    for split, (x, y) in arrays.items():
        np.testing.assert_array_equal(found[split]["x0"][..., 0], x)
        np.testing.assert_array_equal(found[split]["label"], y)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte", None, "there is no train-images-idx3-ubyte, packed or not"),
        ("t10k-images-idx3-ubyte", idx(pixels(4, 28, 28)), "has 4 images, "),
        ("t10k-images-idx3-ubyte", idx(pixels(5, 27, 28)), "(27, 28) pixels, not 28 x 28"),
        ("t10k-images-idx3-ubyte", idx(pixels(5, 28, 28))[:-1], "holds 3919 bytes, its header"),
        ("t10k-images-idx3-ubyte", b"<html>", "is no idx file of unsigned bytes with 3 sizes"),
        ("t10k-images-idx3-ubyte", gzip.compress(idx(pixels(5, 28, 28)))[:99], "cut short"),
        ("t10k-labels-idx1-ubyte", idx(np.full(5, 10, np.uint8)), "labels from 10 to 10, not 0"),
    ],
    ids=["missing", "fewer", "size", "short", "html", "packed", "label"],
)
def test_mnist_that_is_wrong(mnist, tmp_path, name, content, words):
    folder, _ = mnist
    for file in folder.glob(name.replace("-idx", "?idx") + "*"):
        file.unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert words in refused(Mnist(), folder, tmp_path / "data")


def test_counts_are_checked(mnist, tmp_path, monkeypatch):
    counting(monkeypatch, Mnist(), train=7, test=6)
    message = refused(Mnist(), mnist[0], tmp_path / "data")
    assert "has 7 train, 5 test examples, and should have 7 train, 6 test" in message
    assert not list((tmp_path / "data/.preparing").glob("made-*"))


def test_the_content_is_compared(mnist, tmp_path, monkeypatch, capsys):
    target = make(Mnist(), mnist[0], tmp_path / "data")
    digests = json.loads((target / "metadata.json").read_text())["digests"]
    monkeypatch.setattr(Mnist, "about", dataclasses.replace(Mnist.about, digests=digests))
    make(Mnist(), mnist[0], tmp_path / "data", name="again")
    assert "test: 5 examples; content as published" in capsys.readouterr().out
    other = dataclasses.replace(Mnist.about, digests=digests | {"test": "0" * 64})
    monkeypatch.setattr(Mnist, "about", other)
    message = refused(Mnist(), mnist[0], tmp_path / "other_data")
    assert "has as many test examples as are published, but others" in message


# CIFAR-10.


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Both releases of the same images, as folders; the examples."""
    counting(monkeypatch, Cifar10())
    arrays = {}
    for split, names in BATCHES.items():
        found = []
        for name in names:
            data, labels = pixels(3, 3072), pixels(3) % 10
            for folder in ("python", "binary"):
                (tmp_path / folder).mkdir(exist_ok=True)
            batch = {b"data": data, b"labels": labels.tolist(), b"batch_label": b"some"}
            (tmp_path / "python" / name).write_bytes(pickle.dumps(batch, protocol=2))
            rows = np.concatenate([labels[:, None].astype(np.uint8), data], 1)
            (tmp_path / "binary" / f"{name}.bin").write_bytes(rows.tobytes())
            found.append((data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels))
        arrays[split] = [np.concatenate(x) for x in zip(*found)]
    return tmp_path, arrays


def test_cifar10_from_either_release(cifar, tmp_path):
    folder, arrays = cifar
    (folder / "python" / "data_batch_1.md5").write_text("a checksum")
    home = folder / "home"
    home.mkdir()
    pack_tar(home / "cifar-10-binary.tar.gz", folder / "binary", "w:gz")
    packed = pack_tar(folder / "cifar-10-python.tar.gz", folder / "python", "w:gz")
    for i, source in enumerate((folder / "python", folder / "binary", home, packed)):
        found = images(Cifar10(), source, tmp_path / "data", f"from{i}")
        for split, (x, y) in arrays.items():
            np.testing.assert_array_equal(found[split]["x0"], x)
            np.testing.assert_array_equal(found[split]["label"], y)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no data_batch_3 or data_batch_3.bin in it"),
        (pickle.dumps(Evil()), "it asks for builtins.print"),
        (pickle.dumps([1, 2]), "is no batch of CIFAR-10 for python"),
        (pickle.dumps({b"data": pixels(2, 3072)}), "is no batch of CIFAR-10 for python"),
        (
            pickle.dumps({b"data": pixels(2, 9), b"labels": [1, 2]}),
            "data should be uint8 [N, 3072]",
        ),
        (pickle.dumps({b"data": pixels(1, 3072), b"labels": [-1]}), "labels from -1 to -1, not 0"),
        (pickle.dumps({b"data": pixels(1, 3072)})[:-9], "data_batch_3: "),
    ],
    ids=["missing", "evil", "list", "no labels", "shape", "label", "short"],
)
def test_cifar10_batch_that_is_wrong(cifar, tmp_path, capsys, content, words):
    folder, _ = cifar
    (folder / "python/data_batch_3").unlink()
    if content is not None:
        (folder / "python/data_batch_3").write_bytes(content)
    assert words in refused(Cifar10(), folder / "python", tmp_path / "data")
    assert "run" not in capsys.readouterr().out.split()


def test_cifar10_archives_that_are_wrong(cifar, tmp_path):
    folder, _ = cifar
    (folder / "binary/test_batch.bin").write_bytes(bytes(3074))
    assert "3074 bytes are no whole" in refused(Cifar10(), folder / "binary", tmp_path / "data")
    packed = pack_tar(folder / "cifar-10-python.tar.gz", folder / "python", "w:gz")
    packed.write_bytes(packed.read_bytes()[:20_000])
    assert "cut short" in refused(Cifar10(), packed, tmp_path / "data")


# ImageNet at 64 x 64.


@pytest.fixture
def downsampled(tmp_path, monkeypatch):
    counting(monkeypatch, DownsampledImagenet64())
    source, arrays = tmp_path / "source", {"train": [], "test": []}
    for split, name, n in (("train", "train_64x64", 4), ("test", "valid_64x64", 2)):
        for i in range(n):
            arrays[split].append(save(source / name / f"{i:07d}.png", pixels(64, 64, 3)))
    return source, arrays


def test_downsampled_imagenet(downsampled, tmp_path):
    source, arrays = downsampled
    for form in ("folder", "tar"):
        if form == "tar":
            for name in ("train_64x64", "valid_64x64"):
                pack_tar(source / f"{name}.tar", source / name)
                (source / name).rename(tmp_path / name)
        found = images(DownsampledImagenet64(), source, tmp_path / "data", form)
        for split, expected in arrays.items():
            np.testing.assert_array_equal(found[split]["x0"], expected)
            assert "label" not in found[split]


def test_downsampled_imagenet_that_is_wrong(downsampled, tmp_path, monkeypatch):
    source, _ = downsampled
    counting(monkeypatch, DownsampledImagenet64(), train=4, test=3)
    message = refused(DownsampledImagenet64(), source, tmp_path / "data")
    assert "has 4 train, 2 test examples" in message
    save(source / "valid_64x64" / "0000001.png", pixels(64, 32, 3))
    message = refused(DownsampledImagenet64(), source, tmp_path / "data")
    assert "valid_64x64/0000001.png: is no" in message and "32 x 64 pixels, not 64 x 64" in message
    (source / "train_64x64").rename(source / "train_32x32")
    message = refused(DownsampledImagenet64(), source, tmp_path / "data")
    assert "there is no train_64x64 or train_64x64.tar in it" in message


def write_batch(path, data, labels):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, data=data, labels=labels)
    return data.reshape(-1, 3, 64, 64).transpose(0, 2, 3, 1), labels - 1


def test_imagenet_resized(tmp_path, monkeypatch):
    recipe = counting(monkeypatch, ImagenetResized64(), train=9, test=2)
    monkeypatch.setattr("md4jax.data.prepare.imagenet.IMAGES_A_PART", 2)
    source = tmp_path / "source"
    wanted = [
        write_batch(tmp_path / part / f"{name}.npz", pixels(n, 12288), labels)
        for part, name, n, labels in (
            ("part1", "train_data_batch_1", 3, np.array([1, 1000, 7])),
            ("part1", "train_data_batch_2", 4, np.array([2, 3, 4, 5])),
            ("part2", "train_data_batch_3", 2, np.array([6, 8])),
            ("val", "val_data", 2, np.array([1, 2])),
        )
    ]
    source.mkdir()
    for name in ("train_part1", "train_part2", "val"):
        folder = tmp_path / name.removeprefix("train_")
        pack_zip(source / f"Imagenet64_{name}_npz.zip", folder)
    found = images(recipe, source, tmp_path / "data")
    for split, parts in (("train", wanted[:3]), ("test", wanted[3:])):
        x, y = (np.concatenate(values) for values in zip(*parts))
        np.testing.assert_array_equal(found[split]["x0"], x)
        np.testing.assert_array_equal(found[split]["label"], y)


@pytest.mark.parametrize(
    ("name", "arrays", "words"),
    [
        ("train_data_batch_2", None, "there is no train_data_batch_2.npz, but a later one"),
        ("val_data", None, "there are no train_data_batch_1.npz ... and val_data.npz in it"),
        ("val_data", {"labels": np.zeros(1, int)}, "labels from 0 to 0, not 1 to 1000"),
        (
            "val_data",
            {"data": pixels(1, 99)},
            "data should be uint8 [1, 12288] and is uint8 [1, 99]",
        ),
        ("val_data", {"labels": np.array(["a"], object)}, "cannot be read"),
    ],
    ids=["train", "val", "labels", "shape", "objects"],
)
def test_imagenet_resized_that_is_wrong(tmp_path, monkeypatch, name, arrays, words):
    recipe, folder = counting(monkeypatch, ImagenetResized64()), tmp_path / "source"
    right = {"data": pixels(1, 12288), "labels": np.ones(1, int)}
    for which in ("train_data_batch_1", "train_data_batch_2", "train_data_batch_3", "val_data"):
        write_batch(folder / f"{which}.npz", **right)
    (folder / f"{name}.npz").unlink()
    if arrays is not None:
        np.savez(folder / f"{name}.npz", **(right | arrays))
    assert words in refused(recipe, folder, tmp_path / "data")


def test_imagenet_2012(tmp_path, monkeypatch):
    recipe, source = counting(monkeypatch, Imagenet2012At64()), tmp_path / "source"
    wide = save(source / "train/n02/a.png", pixels(128, 200, 3))
    same = save(source / "train/n01/b.png", pixels(64, 64, 3))
    save(source / "val/n02/c.png", pixels(64, 64, 3))
    save(source / "test/d.png", pixels(64, 64, 3))  # Whose class is not published.
    found = images(recipe, source, tmp_path / "data")
    assert found["train"]["label"].tolist() == [0, 1] and found["test"]["label"].tolist() == [1]
    np.testing.assert_array_equal(found["train"]["x0"][0], same)
    half = lambda a, b: (a + b + 1) // 2  # Pillow rounds after rows, and again after columns.
    rows = half(*np.moveaxis(wide[:, 36:164].astype(int).reshape(128, 64, 2, 3), 2, 0))
    np.testing.assert_array_equal(found["train"]["x0"][1], half(rows[::2], rows[1::2]))
    save(source / "val/e.png", pixels(64, 64, 3))
    message = refused(recipe, source, tmp_path / "other")
    assert "val/e.png is in no folder of its class" in message


def test_halved_then_bicubic():
    flat = Image.fromarray(np.full((257, 300, 3), 77, np.uint8))
    small = np.asarray(halved_then_bicubic(flat, size=64))
    assert small.shape == (64, 64, 3) and (small == 77).all()


# CelebA.


def test_celeba(tmp_path, monkeypatch):
    recipe, source = counting(monkeypatch, Celeba64(), train=2, valid=1, test=1), tmp_path / "s"
    which, faces = [0, 2, 0, 1], [pixels(218, 178, 3) for _ in range(4)]
    for i, face in enumerate(faces):
        save(source / "img_align_celeba" / f"{i:06d}.png", face)
    lines = "".join(f"{i:06d}.png {w}\n" for i, w in enumerate(which))
    (source / "list_eval_partition.txt").write_text(f"{lines}\n")
    first = images(recipe, source, tmp_path / "data")
    # The box and the mean of four, halves upwards.
    sums = [f[57:185, 25:153].astype(int).reshape(64, 2, 64, 2, 3).sum((1, 3)) for f in faces]
    small = [(s + 2) // 4 for s in sums]
    for split, chosen in (("train", [0, 2]), ("valid", [3]), ("test", [1])):
        np.testing.assert_array_equal(first[split]["x0"], [small[i] for i in chosen])
    pack_zip(source / "img_align_celeba.zip", source / "img_align_celeba")
    (source / "img_align_celeba").rename(tmp_path / "away")
    second = images(recipe, source, tmp_path / "data", "zipped")
    np.testing.assert_array_equal(second["train"]["x0"], first["train"]["x0"])
    for text, words in (
        (lines + "000009.png 0", "000009.png, which list_eval_partition.txt lists, is not there"),
        (lines + "000003.png 3", "line 5: '000003.png 3' is no image and 0-2"),
        (lines[:-3], "line 4: '000003.png' is no image and 0-2"),
    ):
        (source / "list_eval_partition.txt").write_text(text)
        assert words in refused(recipe, source, tmp_path / "other")
    (source / "list_eval_partition.txt").unlink()
    assert "should be a folder with" in refused(recipe, source, tmp_path / "other")
