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
import itertools

import numpy as np
from jaxtyping import Float

from md4jax.data.base import Dataset, domain_dataset
from md4jax.data.text import local_file, read_bytes
from md4jax.options import UserError, option

_HOW = (
    "give a CSV of latitude and longitude, such as the fire, flood, earthquake and volcano files "
    "of the Riemannian continuous normalizing flows benchmarks (events: NASA FIRMS, Dartmouth "
    "Flood Observatory, NOAA)"
)
MIN_EVENTS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarthEvents:
    """Points on the sphere from a CSV of latitude and longitude, split 80/10/10."""

    path: str = option(
        "CSV: latitude,longitude in degrees; may be packed by xz, gz, bz2 or zip.",
        "data/fire.csv",
        changeable=True,
    )
    skip_lines: int | None = option(
        "Lines before the first event; None skips those that are not two numbers.", None, at_least=0
    )

    def load(self) -> Dataset:
        """Reads the file.

        Raises:
          UserError: no such file, fewer than ten events, or a line that is no latitude, longitude.
        """
        degrees = self._read()
        if len(degrees) < MIN_EVENTS:
            raise self._error(
                f"has {len(degrees)} events; at least {MIN_EVENTS} can be split 80/10/10"
            )
        order = np.arange(len(degrees))
        np.random.Generator(np.random.Philox(key=[0, 0])).shuffle(order)
        points, tenth = unit_vectors(degrees[order]), len(degrees) // 10
        arrays = {
            "train": points[2 * tenth :],
            "valid": points[tenth : 2 * tenth],
            "test": points[:tenth],
        }
        return domain_dataset("sphere", arrays, f"config.data.path = {self.path!r}")

    def _error(self, what: str) -> UserError:
        return UserError(f"config.data.path = {self.path!r}: {what}")

    def _read(self) -> Float[np.ndarray, "n 2"]:
        path = local_file("path", self.path, _HOW)
        text = read_bytes("path", path).decode("utf-8-sig", "replace")
        lines = list(enumerate(text.splitlines(), 1))
        if self.skip_lines is None:
            lines = list(itertools.dropwhile(lambda line: _numbers(line[1]) is None, lines))
        else:
            lines = lines[self.skip_lines :]
        events = []
        for number, line in lines:
            if not line.strip():
                continue
            event = _numbers(line)
            if event is None:
                raise self._error(f"line {number} is not latitude,longitude: {line[:40]!r}")
            latitude, longitude = event
            if not -90 <= latitude <= 90:
                raise self._error(f"line {number}: latitude {latitude:g} is outside [-90, 90]")
            if not -360 <= longitude <= 360:
                raise self._error(f"line {number}: longitude {longitude:g} is outside [-360, 360]")
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
