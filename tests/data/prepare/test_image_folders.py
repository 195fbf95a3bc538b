"""Folders, archives and arrays of images: which image is where, and of what class."""

import pickle
import tarfile

import numpy as np
import pytest
from prepare_tools import images, pack_tar, pixels, refused, save

from md4jax.data.prepare.image_arrays import ImageArrays
from md4jax.data.prepare.image_folder import ImageFolder, LsunBedroom, LsunChurch


@pytest.mark.parametrize("recipe", [LsunBedroom(size=16), LsunChurch(size=16)])
def test_lsun(tmp_path, recipe):
    train = [save(tmp_path / f"s/train/{i}.png", pixels(16, 16, 3)) for i in range(3)]
    test = save(tmp_path / "s/val/0.png", pixels(16, 16, 3))
    found = images(recipe, tmp_path / "s", tmp_path / "data")
    np.testing.assert_array_equal(found["train"]["x0"], train)
    np.testing.assert_array_equal(found["test"]["x0"], test[None])
    stored = b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("made-train*"))
    assert stored.count(b"\x89PNG") == 3


def test_image_folder_every_tenth(tmp_path, monkeypatch):
    monkeypatch.setattr("md4jax.data.prepare.image_folder.IMAGES_A_PIECE", 4)
    given = [save(tmp_path / f"s/{i:02d}.png", pixels(4, 4)) for i in range(21)]
    (tmp_path / "s/._00.png").write_bytes(b"of a file manager")
    found = images(ImageFolder(size=4, grey=True), tmp_path / "s", tmp_path / "data")
    chosen = [9, 19]
    np.testing.assert_array_equal(found["test"]["x0"][..., 0], [given[i] for i in chosen])
    np.testing.assert_array_equal(found["train"]["x0"][..., 0], np.delete(given, chosen, 0))
    packed = pack_tar(tmp_path / "s.tar.gz", tmp_path / "s", "w:gz")
    again = images(ImageFolder(size=4, grey=True, test_every=0), packed, tmp_path / "data", "all")
    np.testing.assert_array_equal(again["train"]["x0"][..., 0], given)
    assert set(again) == {"train"}


def test_image_folder_by_folders(tmp_path, capsys):
    """A class may be called as a split is; the outermost folder says which it is."""
    for i, name in enumerate(("train/cat", "train/test", "val/test", "test/cat", "more/cat")):
        save(tmp_path / f"s/{name}/{i}.png", np.full((6, 9, 3), i, np.uint8))
    recipe = ImageFolder(size=3, classes=True)
    message = refused(recipe, tmp_path / "s", tmp_path / "data")
    assert "is in no folder of its class" in message
    (tmp_path / "s/train/test").rename(tmp_path / "s/train/dog")
    (tmp_path / "s/val/test").rename(tmp_path / "s/val/dog")
    found = images(recipe, tmp_path / "s", tmp_path / "data")
    values = {split: rows["x0"][:, 0, 0, 0].tolist() for split, rows in found.items()}
    assert values == {"train": [0, 1], "valid": [2], "test": [3]}
    assert found["train"]["label"].tolist() == [0, 1] and found["valid"]["label"].tolist() == [1]
    assert "1 images are in no folder of a split and are left out" in capsys.readouterr().out
    without = images(ImageFolder(size=3), tmp_path / "s", tmp_path / "data", "unlabelled")
    assert len(without["train"]["x0"]) == 2


def test_images_that_cannot_be_used(tmp_path):
    folder, recipe = tmp_path / "s", ImageFolder(size=4)
    folder.mkdir()
    assert "there are no images in it" in refused(recipe, folder, tmp_path / "data")
    save(folder / "a.png", pixels(8, 8, 3))
    save(folder / "deep.png", np.full((8, 8), 1000, np.uint16))
    message = refused(recipe, folder, tmp_path / "data")
    assert "deep.png" in message and "more than 8 bits" in message
    (folder / "deep.png").write_bytes((folder / "a.png").read_bytes()[:99])
    assert f"{folder}/deep.png: is no image" in refused(recipe, folder, tmp_path / "data")


def test_image_arrays(tmp_path):
    train, test = pixels(5, 4, 4, 3), pixels(2, 4, 4, 3)
    np.savez(
        tmp_path / "a.npz", train=train, test=test, train_labels=np.arange(5), test_labels=[0, 1]
    )
    found = images(ImageArrays(size=4, classes=True), tmp_path / "a.npz", tmp_path / "data")
    np.testing.assert_array_equal(found["train"]["x0"], train)
    assert found["train"]["label"].tolist() == [*range(5)]
    for recipe, words in (
        (ImageArrays(size=5), "images of shape (4, 4, 3); --size and --grey say (5, 5, 3)"),
        (ImageArrays(size=4, grey=True), "--size and --grey say (4, 4, 1)"),
    ):
        assert words in refused(recipe, tmp_path / "a.npz", tmp_path / "other")
    (tmp_path / "b.npz").write_bytes(b"none")
    assert "cannot be read" in refused(ImageArrays(), tmp_path / "b.npz", tmp_path / "other")


def test_large_images_come_in_smaller_pieces(tmp_path):
    for i in range(3):
        save(tmp_path / f"s/{i}.png", pixels(2, 2, 3))
    assert len(ImageFolder(size=2).pieces(tmp_path / "s")) == 1
    assert len(ImageFolder(size=8192, test_every=0).pieces(tmp_path / "s")) == 3


def test_a_tar_is_listed_once(tmp_path, monkeypatch):
    """Reading a piece does not look through the archive again, as `extractfile(name)` does."""
    given = [save(tmp_path / f"s/{i}.png", pixels(4, 4, 3)) for i in range(6)]
    packed = pack_tar(tmp_path / "s.tar", tmp_path / "s")
    monkeypatch.setattr("md4jax.data.prepare.image_folder.IMAGES_A_PIECE", 2)
    pieces = ImageFolder(size=4, test_every=0).pieces(packed)
    assert len(pieces) == 3
    monkeypatch.setattr(tarfile.TarFile, "getmembers", None)
    monkeypatch.setattr(tarfile.TarFile, "_getmember", None)
    read = [next(pickle.loads(pickle.dumps(piece))())["train"]["image"] for piece in pieces]
    np.testing.assert_array_equal(np.concatenate(read), given)
