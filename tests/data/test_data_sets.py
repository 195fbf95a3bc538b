"""The shipped data sets and images: what they hold, and the one line they give for a mistake."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from md4jax.data import DATASETS
from md4jax.data import digits as digits_module
from md4jax.data.digits import Digits
from md4jax.data.image_npz import ImageNpz
from md4jax.data.python_docs import PythonDocs, normalise, reference_text
from md4jax.options import UserError, options_of

ROOT = Path(__file__).parents[2]


def everything(split):
    return split.gather(np.arange(len(split)))


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# The table.


def test_table_imports_nothing_heavy():
    code = (
        "import sys; from md4jax.data import DATASETS; "
        "heavy = {'jax', 'sklearn', 'tensorflow', 'torch', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "[DATASETS[name] for name in DATASETS]; DATASETS['digits']().load(); "
        "heavy = {'sklearn', 'tensorflow', 'torch', 'flax'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", DATASETS)
def test_paths_may_change_when_a_run_goes_on(name):
    cls = DATASETS[name]
    assert all("option" in field.metadata for field in dataclasses.fields(cls))
    for key, field in options_of(cls).items():
        assert field.metadata["option"].changeable == (key.endswith(("path", "_dir", "memory_gb")))


# Digits.


@pytest.fixture(scope="module")
def published():
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def test_digits_are_those_of_scikit_learn(published):
    images, digits = digits_module.read_digits()
    np.testing.assert_array_equal(images.reshape(-1, 64), published[0])
    np.testing.assert_array_equal(digits, published[1])


def test_digits_without_the_packaged_file(published, monkeypatch):
    monkeypatch.setattr(digits_module.Path, "exists", lambda self: False)
    images, digits = digits_module.read_digits()
    np.testing.assert_array_equal(images.reshape(-1, 64), published[0])
    np.testing.assert_array_equal(digits, published[1])


def test_digits_are_split_once_and_for_all(published):
    data = Digits(labels=True).load()
    assert (data.spec.shape, data.spec.vocab_size, data.spec.unit) == ((8, 8, 1), 17, "dim")
    assert data.spec.num_classes == data.levels - 7 == 10
    train, test = everything(data.splits["train"]), everything(data.splits["test"])
    assert train["x0"].shape == (1500, 8, 8, 1) and test["x0"].shape == (297, 8, 8, 1)
    assert train["x0"].dtype == train["label"].dtype == np.int32
    rows = np.arange(1797) * 297 % 1797 < 297
    np.testing.assert_array_equal(test["x0"].reshape(-1, 64), published[0][rows])
    np.testing.assert_array_equal(train["label"], published[1][~rows])
    for part in (train, test):  # Each class has 7 to 13 % of either split.
        share = np.bincount(part["label"], minlength=10) / len(part["label"])
        assert share.min() > 0.07 and share.max() < 0.13


def test_digits_without_labels():
    data = Digits().load()
    assert data.spec.num_classes is None
    assert set(everything(data.splits["test"])) == {"x0"}
    assert data.fingerprint != Digits(labels=True).load().fingerprint
    assert data.fingerprint == Digits().load().fingerprint


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-learn") as error:
        Digits().load()
    one_line(error)


# Python's own documentation.


def test_python_docs_round_trip():
    data = PythonDocs(length=100).load()
    text = reference_text()
    parts = [data.to_text(data.splits[name].tokens) for name in ("train", "valid", "test")]
    assert "".join(parts) == text
    assert [round(len(part) / len(text), 3) for part in parts] == [0.8, 0.1, 0.1]
    assert (data.spec.vocab_size, data.spec.unit, data.spec.shape) == (96, "char", (100,))
    assert "if_stmt" in text and len(text) > 400_000


def test_python_docs_windows():
    data = PythonDocs(length=100).load()
    train, test = data.splits["train"], data.splits["test"]
    assert len(train) == len(train.tokens) - 99
    assert len(test) == len(test.tokens) // 100
    assert 0 <= test.left_out < 100
    pieces = everything(test)["x0"]
    np.testing.assert_array_equal(pieces.ravel(), test.tokens[: 100 * len(test)])
    np.testing.assert_array_equal(train.gather(np.array([7]))["x0"][0], train.tokens[7:107])


def test_python_docs_characters():
    assert normalise("“a” – ‘b’… ß°\tc\n") == "\"a\" - 'b'... c\n"


def test_python_docs_too_short():
    with pytest.raises(UserError, match=r"config.data.length = 100000: the valid split") as error:
        PythonDocs(length=100_000).load()
    one_line(error)


# Images of one's own.


def write_npz(folder, **arrays):
    path = folder / "images.npz"
    np.savez(path, **arrays)
    return str(path)


def test_image_npz(tmp_path):
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 4, 5), np.uint8) for n in (7, 3))
    path = write_npz(
        tmp_path, train=train, test=test, train_labels=np.arange(7) % 4, test_labels=np.arange(3)
    )
    data = ImageNpz(path=path).load()
    assert (data.spec.shape, data.spec.vocab_size, data.levels) == ((4, 5, 1), 256, 256)
    assert data.spec.num_classes is None
    assert data.splits["train"].examples.dtype == np.uint8
    rows = data.splits["test"].gather(np.array([2, 0]))
    assert set(rows) == {"x0"} and rows["x0"].dtype == np.int32
    np.testing.assert_array_equal(rows["x0"][..., 0], test[[2, 0]])
    labelled = ImageNpz(path=path, labels=True).load()
    assert labelled.spec.num_classes == 4
    assert labelled.splits["train"].gather(np.array([5]))["label"].tolist() == [1]
    wide = ImageNpz(path=write_npz(tmp_path, train=train.astype(np.int64))).load()
    assert set(wide.splits) == {"train"}
    coloured = ImageNpz(path=write_npz(tmp_path, train=np.zeros((2, 3, 3, 3), bool)), levels=2)
    assert coloured.load().spec.shape == (3, 3, 3)


IMAGES = np.zeros((4, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"images": IMAGES}, {}, "has no array train, only images"),
        ({"train": IMAGES / 2}, {}, "train should be of integers and is float64"),
        ({"train": IMAGES[0]}, {}, r"\[N, height, width, channels\] and is \[3, 3\]"),
        ({"train": IMAGES[:0]}, {}, r"and is \[0, 3, 3\]"),
        ({"train": IMAGES + 16}, {"levels": 16}, "from 16 to 16; config.data.levels = 16 asks"),
        ({"train": IMAGES.astype(np.int8) - 1}, {}, "train has values from -1 to -1"),
        ({"train": IMAGES, "test": IMAGES[:, 1:]}, {}, "train and test differ in shape"),
        (
            {"train": IMAGES},
            {"labels": True},
            "has no array train_labels, which config.data.labels",
        ),
        (
            {"train": IMAGES, "train_labels": np.zeros(3, int)},
            {"labels": True},
            r"train_labels should be \[4\] integers from 0 and is int64 \[3\]",
        ),
        ({"train": np.array([None])}, {}, "cannot be read as .npz"),
    ],
)
def test_image_npz_errors(tmp_path, arrays, options, message):
    with pytest.raises(UserError, match=message) as error:
        ImageNpz(path=write_npz(tmp_path, **arrays), **options).load()
    assert one_line(error).startswith("config.data.path = ")


def test_image_npz_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(UserError, match=r"cannot be read as .npz"):
        ImageNpz(path=str(tmp_path / "a.npz")).load()
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(UserError, match="is one array"):
        ImageNpz(path=str(tmp_path / "a.npy")).load()
    with pytest.raises(UserError, match=r"no such file; make it with np.savez"):
        ImageNpz(path=str(tmp_path / "b.npz")).load()
