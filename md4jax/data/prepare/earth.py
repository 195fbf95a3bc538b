"""Where on earth something happened, as unit vectors: fires, floods, earthquakes, eruptions.

The file is a CSV of latitude and longitude in degrees, one event a line, as in the benchmarks of
flows on Riemannian manifolds (arXiv:2006.10605). An event is

  (1)  x = cos(lat) cos(lon),   y = cos(lat) sin(lon),   z = sin(lat)

The n events are put in the order of one fixed permutation (Philox, key (0, 0)); of that the first
n div 10 are "test", the next n div 10 "valid" and the rest "train". Lists of volcanoes and
earthquakes hold the same point several times, where a density can grow without bound.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from md4jax.data.prepare.archives import Files
from md4jax.data.prepare.recipe import About, Piece, PointRecipe, Read, missing

MIN_EVENTS = 10
_HOME = "https://arxiv.org/abs/2006.10605"


class _Earth(PointRecipe):
    """Points on the sphere from a CSV of latitude and longitude, split 80/10/10."""

    domain = "sphere"
    shape = (3,)

    def pieces(self, source: Path) -> list[Piece]:
        """All at once; see `Recipe`."""
        return [functools.partial(_read, source)]


def _about(what: str, licence: str, name: str, count: int) -> About:
    tenth = count // 10
    return About(
        what=f"{what}: {count:,} points on the sphere",
        licence=licence,
        home=_HOME,
        source=f"{name}, a CSV of latitude and longitude in degrees",
        gigabytes="0.001",
        counts={"train": count - 2 * tenth, "valid": tenth, "test": tenth},
        train="--config=configs/star_shaped/earth_vmf.py",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Events(_Earth):
    """Events of your own."""

    about = About(
        what="places on earth of your own, on the sphere",
        licence="yours",
        home="-",
        source="a CSV of latitude and longitude in degrees",
        gigabytes="-",
        train="--config=configs/star_shaped/earth_vmf.py",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fire(_Earth):
    """Fires."""

    about = _about("fires", "open, NASA FIRMS", "fire.csv", 12_809)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flood(_Earth):
    """Floods."""

    about = _about("floods", "attribution, Dartmouth Flood Observatory", "flood.csv", 4_875)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Earthquake(_Earth):
    """Earthquakes."""

    about = _about("earthquakes", "open, NOAA", "quakes_all.csv", 6_120)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Volcano(_Earth):
    """Volcanic eruptions."""

    about = _about("volcanic eruptions", "open, NOAA", "volerup.csv", 827)


def _read(source: Path) -> Iterator[Read]:
    degrees = read_events(source)
    if len(degrees) < MIN_EVENTS:
        raise missing(
            source,
            f"has {len(degrees)} lines of latitude,longitude; at least {MIN_EVENTS} can be split "
            "80/10/10",
        )
    order = np.arange(len(degrees))
    np.random.Generator(np.random.Philox(key=[0, 0])).shuffle(order)
    points, tenth = unit_vectors(degrees[order]).astype(np.float32), len(degrees) // 10
    splits = {
        "train": points[2 * tenth :],
        "valid": points[tenth : 2 * tenth],
        "test": points[:tenth],
    }
    yield {name: {"x": x} for name, x in splits.items()}


def read_events(source: Path) -> Float[np.ndarray, "n 2"]:
    """Latitudes and longitudes in degrees; lines before the first two numbers are skipped.

    Raises:
      UserError: a later line is no latitude, longitude.
    """
    entries = Files(source).entries
    if len(entries) != 1:
        raise missing(source, f"should be one CSV and holds {len(entries)} files")
    text = entries[0].read().decode("utf-8-sig", "replace")
    lines = enumerate(text.splitlines(), 1)
    events = []
    for number, line in itertools.dropwhile(lambda pair: _numbers(pair[1]) is None, lines):
        if not line.strip():
            continue
        event = _numbers(line)
        if event is None:
            raise missing(source, f"line {number} is not latitude,longitude: {line[:40]!r}")
        latitude, longitude = event
        if not -90 <= latitude <= 90:
            raise missing(source, f"line {number}: latitude {latitude:g} is outside [-90, 90]")
        if not -360 <= longitude <= 360:
            raise missing(source, f"line {number}: longitude {longitude:g} is outside [-360, 360]")
        events.append(event)
    return np.array(events, np.float64).reshape(-1, 2)


def _numbers(line: str) -> tuple[float, float] | None:
    """The two numbers of a line, if that is what it holds."""
    try:
        latitude, longitude = map(float, line.split(","))
    except ValueError:
        return None
    return latitude, longitude


def unit_vectors(degrees: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """(1) of latitudes and longitudes in degrees."""
    latitude, longitude = np.radians(degrees).T
    return np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ],
        axis=-1,
    )
