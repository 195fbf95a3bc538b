"""What the tests of prepare_data.py share: prepare a small source, and read all of it again."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from md4jax.data.images import Images
from md4jax.data.prepare.recipe import About, PointRecipe
from md4jax.data.prepare.run import prepare
from md4jax.data.tokenizers import Gpt2
from md4jax.data.tokens import Tokens
from md4jax.options import UserError, option

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(256, size=shape, dtype=np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


def pack_tar(path, folder, mode="w"):
    with tarfile.open(path, mode) as archive:
        archive.add(folder, folder.name)
    return path


def pack_zip(path, folder):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder.parent))
    return path


def counting(monkeypatch, recipe, **counts):
    """The recipe with other published counts, none if none are given, and without sums."""
    about = dataclasses.replace(type(recipe).about, counts=counts or None, digests={})
    monkeypatch.setattr(type(recipe), "about", about)
    return recipe


def make(recipe, source, folder, name="made", workers=1) -> pathlib.Path:
    """Prepares `<folder>/<name>`."""
    return prepare(recipe, name, folder, None if source is None else str(source), name, workers)


def refused(recipe, source, folder, **options) -> str:
    """The one line that there is instead of data."""
    with pytest.raises(UserError) as error:
        make(recipe, source, folder, **options)
    assert "\n" not in str(error.value)
    assert not list(folder.glob("*/1.0.0"))
    return str(error.value)


def everything(split) -> dict[str, np.ndarray]:
    return split.gather(np.arange(len(split)))


def images(recipe, source, folder, name="made") -> dict[str, dict[str, np.ndarray]]:
    """Prepares images and reads all of each split, with labels where there are any."""
    make(recipe, source, folder, name)
    data = Images(dataset=name, data_dir=str(folder), labels=recipe.has_labels).load()
    assert data.spec.shape == recipe.shape
    return {split: everything(rows) for split, rows in data.splits.items()}


def tokens(recipe, source, folder, name="made"):
    """Prepares text and reads it: the data set, and the tokens of each split."""
    make(recipe, source, folder, name)
    data = Tokens(dataset=name, data_dir=str(folder), tokenizer=recipe.tokenizer, length=1).load()
    return data, {split: rows.tokens for split, rows in data.splits.items()}


def documents(data, ids) -> list[str]:
    """The documents that were joined into a split."""
    end = data.spec.vocab_size - 1
    assert ids[-1] == end
    return [data.to_text(part[part != end]) for part in np.split(ids, np.flatnonzero(ids == end))][
        :-1
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(PointRecipe):
    """Made-up data in several pieces; each leaves a line in `log` when it is read."""

    domain = "simplex"
    shape = (2,)
    about = About(what="numbers", licence="-", home="-", source="any file", gigabytes="-")
    log: str = option("The file that tells what was read.")
    count: int = option("Pieces.", 4)

    def pieces(self, source):
        return [functools.partial(_read_numbers, self.log, i) for i in range(self.count)]


def _read_numbers(log, piece):
    with pathlib.Path(log).open("a") as file:
        file.write(f"{piece}\n")
    time.sleep(float(os.environ.get("SECONDS_A_PIECE", 0)))
    for part in range(2):
        x = np.arange(200, dtype=np.float32).reshape(100, 2) + 1000 * piece + 500 * part
        yield {"train": {"x": x[:90]}, "test": {"x": x[90:]}}


def tiny_gpt2(folder, monkeypatch) -> pathlib.Path:
    """A vocabulary of 256 bytes and three merges, in the published form, taken for GPT-2's."""
    own = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    shown = [chr(b) for b in own] + [chr(256 + i) for i in range(256 - len(own))]
    symbols = [*shown, "\u0120t", "he", "\u0120the", "<|endoftext|>"]  # U+0120 is a space.
    raw = json.dumps({symbol: i for i, symbol in enumerate(symbols)}).encode()
    (folder / "encoder.json").write_bytes(raw)
    sha256 = hashlib.sha256(raw).hexdigest()
    monkeypatch.setattr("md4jax.data.tokenizers.GPT2_SHA256", sha256)
    monkeypatch.setattr("md4jax.data.prepare.run.GPT2_SHA256", sha256)
    monkeypatch.setattr(Gpt2, "vocab_size", 260)
    monkeypatch.setattr(Gpt2, "end_of_text", 259)
    return folder / "encoder.json"
