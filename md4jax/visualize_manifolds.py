"""Pictures of points of the domains: a batch of samples beside the data, or a film of batches.

  simplex   k = 3: density over the triangle         else: a histogram of each coordinate
  spd       d = 2: ellipses {v: vᵀ M⁻¹ v = 1}        else: histograms of the log-eigenvalues
  sphere    k = 3: dots on a map of equal areas      else: a histogram of each coordinate
  circle    a rose of each angle, whose areas are counts
  positive  a histogram of each number on a logarithmic axis
  interval  a histogram of each number
  real      two numbers: dots in the plane           else: a histogram of each number

Of many numbers a few, evenly spaced, are drawn. What lies off its domain is drawn at a place near
by, and what lies beyond the axes at their end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from md4jax.processes.domains import DOMAINS
from md4jax.visualize_charts import (
    INK,
    SAMPLES,
    Chart,
    Cloud,
    Ellipses,
    Histograms,
    Map,
    Roses,
    Triangle,
)

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.usetex": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def _histograms(
    count: int, most: int, numbers, name: str = "$x_{{{}}}$", kind=Histograms, **options
) -> Histograms:
    """Of all of `count` numbers, or of `most` of them, evenly spaced."""
    columns = np.unique(np.rint(np.linspace(0, count - 1, min(count, most))).astype(int))
    return kind([name.format(i + 1) for i in columns], numbers, columns, **options)


def _log_eigenvalues(x: Float[np.ndarray, "n d d"]) -> Float[np.ndarray, "n d"]:
    """Natural logarithms, of the least eigenvalue first."""
    return np.log(np.maximum(np.linalg.eigvalsh(0.5 * x + 0.5 * x.swapaxes(1, 2)), 1e-12))


def _simplex(shape, most):
    return Triangle() if shape == (3,) else _histograms(shape[0], most, lambda x: x, ends=(0, 1))


def _spd(shape, most):
    if shape == (2, 2):
        return Ellipses()
    return _histograms(shape[0], most, _log_eigenvalues, "log of eigenvalue {}")


def _sphere(shape, most):
    return Map() if shape == (3,) else _histograms(shape[0], most, lambda x: x, ends=(-1, 1))


def _circle(shape, most):
    wrap = lambda x: np.mod(x + np.pi, 2 * np.pi) - np.pi
    ends = (-np.pi, np.pi)
    return _histograms(shape[0], most, wrap, "angle {}", Roses, ends=ends)


def _positive(shape, most):
    logarithms = lambda x: np.log10(np.maximum(x, 1e-12))
    return _histograms(shape[0], most, logarithms, log=True)


def _interval(shape, most):
    return _histograms(shape[0], most, lambda x: x, ends=(0, 1))


def _real(shape, most):
    return Cloud() if shape == (2,) else _histograms(shape[0], most, lambda x: x)


# The chart of points of this shape, with at most so many axes.
CHARTS: dict[str, Callable[[tuple[int, ...], int], Chart]] = {
    "simplex": _simplex,
    "spd": _spd,
    "sphere": _sphere,
    "circle": _circle,
    "positive": _positive,
    "interval": _interval,
    "real": _real,
}


def _place(
    chart: Chart, domain: str, x: Float[np.ndarray, "n *s"]
) -> tuple[Float[np.ndarray, "p *c"], int]:
    """Points as `chart` has them, and the number of those left out for not being finite."""
    points = _points(domain, x)
    finite = np.isfinite(points).all(axis=tuple(range(1, points.ndim)))
    with np.errstate(all="ignore"):
        y = chart.place(points[finite])
    y = y[np.isfinite(y).all(axis=tuple(range(1, y.ndim)))]
    return y, len(points) - len(y)


def _points(domain: str, x: Float[np.ndarray, "n *s"]) -> Float[np.ndarray, "p ..."]:
    """Points one by one, float64; where a point is a number, all numbers of an example are one."""
    x = np.asarray(x, np.float64)
    axes = DOMAINS[domain].event_ndim
    if axes == 0:
        return x.reshape(len(x), math.prod(x.shape[1:]))
    return x.reshape(math.prod(x.shape[:-axes]), *x.shape[-axes:])


class _Page:
    """A white picture whose parts are placed by inches from its upper left corner; 100 pixels each.

    matplotlib's own layouts take seconds for a film, and each panel another size.
    """

    def __init__(self, width: float, height: float):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.size = width, height
        self.figure = Figure(figsize=self.size, dpi=100)
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """New axes at this place."""
        w, h = self.size
        return self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))

    def text(self, left: float, top: float, text: str, **options) -> None:
        """Text below and right of this place."""
        w, h = self.size
        self.figure.text(left / w, 1 - top / h, text, **{"va": "top", **options})

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture."""
        self.canvas.draw()
        return np.array(self.canvas.buffer_rgba())[..., :3]


def _words(name: str, chart: Chart, y: Float[np.ndarray, "p *c"], left_out: int) -> str:
    """Whose points these are and how many."""
    notes = [f"{chart.drawn} drawn"] * (len(y) > chart.drawn)
    notes += [f"{left_out:,} not finite, left out"] * (left_out > 0)
    return f"{name}: {len(y):,}" + (f" ({'; '.join(notes)})" if notes else "")


def draw(
    domain: str,
    samples: Float[np.ndarray, "n *s"],
    reference: Float[np.ndarray, "m *s"] | None = None,
    title: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Samples with the data beside or behind them.

    Args:
      domain: a key of `DOMAINS`.
      reference: examples of the data.
    """
    import matplotlib

    chart = CHARTS[domain](_points(domain, samples).shape[1:], 6)
    y, left_out = _place(chart, domain, samples)
    clouds, words = [y], [_words("samples", chart, y, left_out)]
    if reference is not None:
        behind, left_out = _place(chart, domain, reference)
        clouds.append(behind)
        words.append(_words("data", chart, behind, left_out))
    scale = chart.scale(clouds[-1], [y])

    cells = len(clouds) if chart.beside else chart.parts
    columns = cells if cells <= 3 else -(-cells // 2)
    rows = -(-cells // columns)
    left, below = chart.room
    width = min(chart.size[0], 10.4 / columns - left)
    height = min(max(chart.size[1] * width / chart.size[0], 1.8), 8 / rows - below)
    heading = 0.15 + 0.35 * bool(title) + 0.4
    bar = 1.1 * chart.beside
    wide = columns * (width + left) + bar + 0.2
    start = max(9.0 - wide, 0) / 2
    with matplotlib.rc_context(STYLE):
        page = _Page(max(wide, 9.0), heading + rows * (height + below))
        page.text(0.2, 0.15, title, fontsize=12, weight="bold")
        places = [
            (start + left + k % columns * (width + left), heading + k // columns * (height + below))
            for k in range(cells)
        ]
        axes = [page.axes(*place, width, height) for place in places]
        if not chart.beside:
            chart.paint(axes, y, *clouds[1:] or [None], scale, False)
            place = 0.2
            for text, colour in zip(words, (SAMPLES, "#8c8c8c")):
                page.text(place, heading - 0.36, f"■ {text}", color=colour, fontsize=11)
                place += 0.7 + 0.09 * len(text)
            return page.pixels()
        for ax, place, cloud, text in zip(axes, places, clouds, words):
            page.text(place[0] + width / 2, heading - 0.36, text, ha="center", fontsize=11)
            key = chart.paint([ax], cloud, None, scale, False)
        if key is not None:
            cax = page.axes(wide + start - bar + 0.05, heading + 0.15 * height, 0.13, 0.7 * height)
            page.figure.colorbar(key[0], cax=cax, **key[1]).solids.set_alpha(1)
        return page.pixels()


def panels(
    domain: str,
    frames: Sequence[Float[np.ndarray, "n *s"]],
    titles: Sequence[str],
    rows: int = 1,
    reference: Float[np.ndarray, "m *s"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Small panels row by row, all with the same axes: a film from noise to sample.

    Args:
      domain: a key of `DOMAINS`.
      frames: the points of each panel.
      titles: one a panel.
      reference: examples of the data; axes and colours are made to show them well, else the last
        frame.

    Raises:
      ValueError: there is no frame, or not one title for each.
    """
    import matplotlib

    if not len(frames) == len(titles) > 0:
        raise ValueError(f"{len(frames)} frames and {len(titles)} titles: as many, and at least 1")
    chart = CHARTS[domain](_points(domain, frames[0]).shape[1:], 3)
    clouds, left_out = zip(*(_place(chart, domain, frame) for frame in frames))
    target = clouds[-1] if reference is None else _place(chart, domain, reference)[0]
    scale = chart.scale(target, clouds)
    behind = None if chart.beside or reference is None else target

    columns = -(-len(frames) // rows)
    # Few panels are larger ones.
    factor = float(np.clip(9 / columns / chart.small_size[0], 1, 1.8))
    width, height = (factor * inches for inches in chart.small_size)
    gap, line = 0.12, 0.3 + 0.16 * any(left_out)
    full = line + chart.parts * (height + gap)
    with matplotlib.rc_context(STYLE):
        page = _Page(columns * (width + gap) + gap, rows * full + gap / 2)
        for i, (cloud, missing, title) in enumerate(zip(clouds, left_out, titles)):
            left, top = gap + i % columns * (width + gap), i // columns * full + line
            axes = [
                page.axes(left, top + part * (height + gap), width, height)
                for part in range(chart.parts)
            ]
            chart.paint(axes, cloud, behind, scale, True)
            more = f"\n{missing:,} not finite" if missing else ""
            middle = {"ha": "center", "va": "bottom"}
            page.text(left + width / 2, top - 0.05, title + more, fontsize=9, **middle)
        return page.pixels()
