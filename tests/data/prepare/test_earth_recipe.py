"""Events on earth: degrees become unit vectors, split once and for all."""

from pathlib import Path

import numpy as np
import pytest
from prepare_tools import counting, everything, make, refused

from md4jax.data.points import Points
from md4jax.data.prepare.earth import Earthquake, Events, Fire, Flood, Volcano
from md4jax.processes.base import DataSpec

EARTH = Path(__file__).parents[3] / "../shared/data/small/earth"


def write(folder, text):
    path = folder / "events.csv"
    path.write_text(text)
    return path


def loaded(folder, name="made"):
    return Points(dataset=name, data_dir=str(folder)).load()


def test_events_become_unit_vectors(tmp_path):
    rng = np.random.default_rng(0)
    degrees = np.stack([rng.uniform(-90, 90, 57), rng.uniform(-180, 180, 57)], axis=1).round(3)
    lines = "\n".join(f"{a},{b}" for a, b in degrees)
    path = write(tmp_path, f"\ufeff# from somewhere, some time\nlat,long\n{lines}\n\n")
    make(Events(), path, tmp_path / "data")
    data = loaded(tmp_path / "data")
    assert data.spec == DataSpec((3,), None, domain="sphere")
    splits = {name: everything(split)["x0"] for name, split in data.splits.items()}
    assert {name: len(x) for name, x in splits.items()} == {"train": 47, "valid": 5, "test": 5}
    order = np.arange(57)
    np.random.Generator(np.random.Philox(key=[0, 0])).shuffle(order)
    lat, lon = np.radians(degrees[order]).T
    wanted = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    found = np.concatenate([splits["test"], splits["valid"], splits["train"]])
    np.testing.assert_array_equal(found, np.stack(wanted, 1).astype(np.float32))


TEN = "1,2\n" * 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEN + "90.5,0\n", "line 11: latitude 90.5 is outside [-90, 90]"),
        ("lat,lon\n" + TEN + "nan,0\n", "line 12: latitude nan is outside"),
        (TEN + "9,361\n", "line 11: longitude 361 is outside [-360, 360]"),
        (TEN + "7\n", "line 11 is not latitude,longitude: '7'"),
        (TEN[4:], "has 9 lines of latitude,longitude; at least 10 can be split"),
        ("1,2,3\n" * 99, "has 0 lines of latitude,longitude"),
        ("", "has 0 lines"),
    ],
)
def test_events_that_are_refused(tmp_path, text, words):
    message = refused(Events(), write(tmp_path, text), tmp_path / "data")
    assert words in message and message.startswith(f"--source={tmp_path / 'events.csv'}: ")


def test_counts_are_checked(tmp_path, monkeypatch):
    message = refused(Volcano(), write(tmp_path, TEN), tmp_path / "data")
    assert "has 8 train, 1 valid, 1 test examples, and should have 663 train, 82 valid" in message
    for recipe in (Fire(), Flood(), Earthquake(), Volcano()):
        name = type(recipe).__name__
        counting(monkeypatch, recipe, train=8, valid=1, test=1)
        make(recipe, write(tmp_path, TEN), tmp_path / "data", name)
        assert len(loaded(tmp_path / "data", name).splits["train"]) == 8


@pytest.mark.skipif(not EARTH.is_dir(), reason="the published CSVs are not here")
@pytest.mark.parametrize(
    ("recipe", "file"),
    [
        (Fire(), "fire"),
        (Flood(), "flood"),
        (Earthquake(), "quakes_all"),
        (Volcano(), "volerup"),
    ],
)
def test_the_published_files(tmp_path, recipe, file):
    make(recipe, EARTH / f"{file}.csv", tmp_path)
    splits = loaded(tmp_path).splits
    assert {name: len(x) for name, x in splits.items()} == recipe.about.counts
