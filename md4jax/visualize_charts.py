"""Kinds of charts of points: what is drawn into one panel of `visualize_manifolds`.

Points beyond the axes are drawn at their end, so that none is hidden.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLES, DATA, INK, FAINT = "#0072b2", "#bdbdbd", "#333333", "#d9d9d9"
HEAT = ["white", "#fdd9a5", "#fb8861", "#c73d73", "#711f81", "#1d1147", "#000004"]  # Magma.
AROUND = ["#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#0072b2"]  # Cyclic.
FEW = 600  # Up to so many points of the simplex are dots; a density would be of noise.
DRAWN, SMALL_DRAWN = 100, 40  # Ellipses of a panel: in a picture, in a film.

Points = Float[np.ndarray, "n ..."]
Plane = Float[np.ndarray, "n 2"]


def triangle(x: Float[np.ndarray, "n 3"]) -> Plane:
    """Barycentric coordinates in the plane: x_1 lower left, x_2 lower right, x_3 on top."""
    return np.stack([x[:, 1] + x[:, 2] / 2, x[:, 2] * math.sqrt(3) / 2], axis=-1)


def triangle_density(
    x: Float[np.ndarray, "n 3"], parts: int
) -> tuple[Float[np.ndarray, "nodes 3"], Float[np.ndarray, "nodes"]]:
    """Density at the nodes of a triangular grid; 1 is that of points spread evenly.

    Each point is divided among the corners of its small triangle by its barycentric coordinates
    there, and what a node holds by the area that gives to it.

    Args:
      parts: small triangles along an edge.
    """
    scaled = x[:, :2] * parts
    cell = np.clip(np.floor(scaled), 0, parts - 1).astype(int)
    cell[:, 1] = np.minimum(cell[:, 1], parts - 1 - cell[:, 0])
    part = scaled - cell
    upper = part.sum(-1) > 1  # The small triangle that points the other way.
    flipped = np.where(upper[:, None], 1 - part[:, ::-1], part)
    first, second = flipped.T
    weights = np.stack([1 - first - second, first, second])
    steps = np.where(  # Of the three corners, from the cell's, along either coordinate.
        upper, [[[1], [1], [0]], [[1], [0], [1]]], [[[0], [1], [0]], [[0], [0], [1]]]
    )
    held = np.zeros((parts + 2, parts + 2))
    np.add.at(held, (cell[:, 0] + steps[0], cell[:, 1] + steps[1]), weights)
    i, j = np.indices(held.shape)
    inside = i + j <= parts
    i, j, held = i[inside], j[inside], held[inside]
    nodes = np.stack([i, j, parts - i - j], axis=-1)
    share = np.choose((nodes == 0).sum(-1), [6, 3, 1]) / (3 * parts**2)  # Within, edge, corner.
    return nodes / parts, held / share / max(len(x), 1)


def equal_earth(longitude: Points, latitude: Points) -> Points:
    """Radians to the plane `[.., 2]`: Šavrič, Patterson, Jenny 2018, equations 1 to 3."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    theta = np.arcsin(math.sqrt(3) / 2 * np.sin(latitude))
    slope = 9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1
    x = 2 * math.sqrt(3) * longitude * np.cos(theta) / (3 * slope)
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def ellipses(matrices: Float[np.ndarray, "n 2 2"]) -> Float[np.ndarray, "n 97 2"]:
    """Closed lines {v: vᵀ M⁻¹ v = 1}: semi-axes are square roots of the eigenvalues."""
    values, vectors = np.linalg.eigh(matrices)
    angle = np.linspace(0, 2 * np.pi, 97)
    lines = vectors * np.sqrt(np.maximum(values, 0))[:, None] @ [np.cos(angle), np.sin(angle)]
    return lines.swapaxes(1, 2)


def _limits(target: Points, clouds: Sequence[Points]) -> Float[np.ndarray, "2 c"]:
    """Ends of axes: those of `target`, and of the clouds what is not far from it."""
    if len(target) == 0:
        return np.array([[0.0], [1.0]]) + np.zeros(target.shape[1:])
    low, high = first, last = np.quantile(target, [0.001, 0.999], axis=0)
    width = np.where(last > first, last - first, np.maximum(abs(last), 1))
    for cloud in filter(len, clouds):
        least, most = np.quantile(cloud, [0.005, 0.995], axis=0)
        low, high = np.minimum(low, least), np.maximum(high, most)
    low, high = np.maximum(low, first - 1.5 * width), np.minimum(high, last + 1.5 * width)
    margin = np.where(high > low, 0.03 * (high - low), width)
    return np.stack([low - margin, high + margin])


class Chart:
    """How points are drawn: `scale` is what all panels share, `paint` draws one of them.

    Attributes:
      beside: the data have a panel of their own; else they are drawn behind the samples.
      parts: axes of one panel.
      size, small_size: inches an axes is wide and high in a picture and in a film.
      room: inches left of and below an axes of a picture, for its labels.
      drawn: points that a panel of a picture shows at most, the first ones.
    """

    beside = False
    parts = 1
    size: ClassVar = (5.0, 5.0)
    small_size: ClassVar = (1.4, 1.4)
    room: ClassVar = (0.4, 0.4)
    drawn: float = math.inf

    def place(self, x: Points) -> Points:
        """Points of the domain to what is drawn of them."""
        return x

    def scale(self, target: Points, clouds: Sequence[Points]) -> Any:
        """Ends of axes and colours, for all clouds, made to show `target` well."""

    def paint(
        self, axes: list[Axes], y: Points, behind: Points | None, scale: Any, small: bool
    ) -> tuple[Any, dict[str, Any]] | None:
        """Draws one panel; returns what a colour bar is for, and the options of that."""


class Triangle(Chart):
    """Density on the simplex of three."""

    beside = True
    size = (4.5, 4.2)
    small_size = (1.4, 1.31)

    def place(self, x):
        x = np.maximum(x, 0)
        return x / x.sum(-1, keepdims=True)

    @staticmethod
    def _grid(y):
        return triangle_density(y, int(np.clip(4 * max(len(y), 1) ** 0.25, 12, 48)))

    def scale(self, target, clouds):
        return max(self._grid(target)[1].max(), 1)

    def paint(self, axes, y, behind, scale, small):
        from matplotlib.colors import LinearSegmentedColormap

        (ax,) = axes
        corners = triangle(np.eye(3))
        ax.fill(*corners.T, facecolor="none", edgecolor=INK, linewidth=0.8, zorder=3)
        ax.set(aspect="equal", xlim=(-0.08, 1.08), ylim=(-0.08, 0.94))
        ax.axis("off")
        places = [(-0.02, -0.02, "right", "top"), (1.02, -0.02, "left", "top")]
        places += [(0.5, math.sqrt(3) / 2 + 0.02, "center", "bottom")]
        for i, (h, v, ha, va) in enumerate(places if not small else ()):
            ax.text(h, v, f"$x_{i + 1}$", ha=ha, va=va, fontsize=12)
        if len(y) <= FEW:
            dot = (60 if small else 250) / math.sqrt(max(len(y), 20))
            ax.scatter(*triangle(y).T, s=dot, color=SAMPLES, alpha=0.7, linewidths=0, zorder=4)
            return None
        nodes, density = self._grid(y)
        heat = ax.tripcolor(
            *triangle(nodes).T,
            density,
            shading="gouraud",
            cmap=LinearSegmentedColormap.from_list("heat", HEAT),
            vmin=0,
            vmax=scale,
        )
        return heat, {"label": "density (1: spread evenly)", "extend": "max"}


class Ellipses(Chart):
    """Matrices of two rows, coloured by the direction of the longer axis."""

    beside = True
    size = (4.4, 4.4)
    room = (0.5, 0.45)
    drawn = DRAWN

    def place(self, x):
        return 0.5 * x + 0.5 * x.swapaxes(-1, -2)

    def scale(self, target, clouds):
        def extent(y):
            half = np.sqrt(np.maximum(np.diagonal(y, axis1=1, axis2=2), 0))
            return np.quantile(half.max(-1), 0.995) if len(y) else 0.0

        least = extent(target) or 1.0
        return 1.08 * min(max(least, *map(extent, clouds)), 1.5 * least)

    def paint(self, axes, y, behind, scale, small):
        from matplotlib.collections import LineCollection
        from matplotlib.colors import LinearSegmentedColormap

        (ax,) = axes
        y = y[: SMALL_DRAWN if small else DRAWN]
        across, along = np.linalg.eigh(y)[1][:, :, 1].T
        lines = LineCollection(
            list(ellipses(y)),
            array=np.degrees(np.arctan(along / np.where(across == 0, 1e-30, across))),
            cmap=LinearSegmentedColormap.from_list("around", AROUND),
            clim=(-90, 90),
            linewidths=0.6 if small else 1.0,
            alpha=0.45 if len(y) > 5 else 0.9,
        )
        ax.add_collection(lines)
        ax.set(aspect="equal", xlim=(-scale, scale), ylim=(-scale, scale))
        for line in (ax.axhline, ax.axvline):
            line(0, color=FAINT, linewidth=0.6, zorder=0)
        _small_frame(ax, small)
        return lines, {"label": "direction of the longer axis", "ticks": [-90, -45, 0, 45, 90],
                       "format": "{x:.0f}°"}  # fmt: skip


class Map(Chart):
    """The sphere of three dimensions, as the earth is drawn."""

    size = (10.2, 5.0)
    small_size = (1.9, 0.94)

    def place(self, x):
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        return equal_earth(np.arctan2(x[:, 1], x[:, 0]), np.arcsin(np.clip(x[:, 2], -1, 1)))

    def paint(self, axes, y, behind, scale, small):
        (ax,) = axes
        degrees = np.radians(np.linspace(-90, 90, 91))
        meridians = [equal_earth(np.radians(v), degrees) for v in range(-180, 181, 30)]
        parallels = [equal_earth(2 * degrees, np.radians(v)) for v in range(-90, 91, 30)]
        for line in meridians[1:-1] + parallels[1:-1]:
            ax.plot(*line.T, color=FAINT, linewidth=0.5, zorder=1)
        edge = np.concatenate([meridians[0], meridians[-1][::-1]])
        ax.fill(*edge.T, facecolor="none", edgecolor=INK, linewidth=0.8, zorder=4)
        options = {"ha": "right", "va": "center", "fontsize": 8, "color": "#777777"}
        for v, line in zip(range(-60, 61, 30), parallels[1:-1] if not small else ()):
            ax.text(line[0, 0] - 0.08, line[0, 1], f"{abs(v)}°{'S N'[np.sign(v) + 1]}", **options)
        ax.set(aspect="equal", xlim=np.array([-1, 1]) * 1.01 * edge[:, 0].max(),
               ylim=np.array([-1, 1]) * 1.02 * edge[:, 1].max())  # fmt: skip
        ax.axis("off")
        _dots(ax, y, behind, small)


class Cloud(Chart):
    """Two real numbers."""

    size = (6.4, 6.4)
    room = (0.6, 0.55)

    def scale(self, target, clouds):
        return _limits(target, clouds)

    def paint(self, axes, y, behind, scale, small):
        (ax,) = axes
        ax.set(xlim=scale[:, 0], ylim=scale[:, 1], box_aspect=1)
        if not small:
            ax.set(xlabel="$x_1$", ylabel="$x_2$")
        _small_frame(ax, small)
        _dots(ax, y, behind, small)


@dataclasses.dataclass(frozen=True)
class Histograms(Chart):
    """A histogram of each of some numbers.

    Attributes:
      names: of the numbers drawn.
      numbers: points to all numbers `[n, c]`.
      columns: which of them are drawn.
      ends: of the axes, or None for those of the data.
      log: numbers are base-10 logarithms, to be drawn on an axis of their powers.
    """

    names: list[str]
    numbers: Callable[[Points], Float[np.ndarray, "n c"]]
    columns: np.ndarray
    ends: tuple[float, float] | None = None
    log: bool = False
    size: ClassVar = (10.0, 4.4)
    small_size: ClassVar = (1.4, 0.8)
    room: ClassVar = (0.45, 0.6)

    @property
    def parts(self):
        return len(self.names)

    def place(self, x):
        return self.numbers(x)[:, self.columns]

    def scale(self, target, clouds):
        fixed = np.tile(np.array(self.ends or (0, 1))[:, None], len(self.names))
        limits = fixed if self.ends else _limits(target, clouds)
        count = min(len(target), max(map(len, clouds)))
        edges = np.linspace(*limits, int(np.clip(3 * count ** (1 / 3), 12, 60)) + 1)
        tops = [[self._density(y[:, i], edges[:, i]).max() for y in (target, *clouds)]
                for i in range(self.parts)]  # fmt: skip
        # A cloud far denser than the data would make these flat.
        return edges, [1.06 * (min(max(top), 2 * top[0]) or 1) for top in tops]

    def _density(self, y, edges):
        counts, _ = np.histogram(np.clip(y, edges[0], edges[-1]), edges)
        return counts / max(len(y), 1) / np.diff(edges)

    def paint(self, axes, y, behind, scale, small):
        all_edges, tops = scale
        for i, (ax, name) in enumerate(zip(axes, self.names)):
            edges = all_edges[:, i]
            drawn = 10**edges if self.log and not small else edges
            if behind is not None:
                ax.stairs(self._density(behind[:, i], edges), drawn, fill=True, color=DATA)
            density = self._density(y[:, i], edges)
            ax.stairs(density, drawn, fill=True, color=SAMPLES, alpha=0.18)
            ax.stairs(density, drawn, color=SAMPLES, linewidth=1.0 if small else 1.5)
            ax.spines["left"].set_visible(False)
            ax.yaxis.set_visible(False)
            ax.xaxis.set_visible(not small)
            if self.log and not small:
                ax.set_xscale("log")
            ax.set(xlim=drawn[[0, -1]], ylim=(0, tops[i]))
            if not small:
                ax.set_xlabel(name, fontsize=11)
            elif self.parts > 1:
                ax.text(0.02, 1, name, transform=ax.transAxes, fontsize=7, va="top")


class Roses(Histograms):
    """Histograms of angles; a sector's area is the share of the points in it."""

    size: ClassVar = (5.0, 5.0)
    small_size: ClassVar = (1.4, 1.4)
    room: ClassVar = (0.25, 0.45)

    def paint(self, axes, y, behind, scale, small):
        all_edges, tops = scale
        around = np.linspace(0, 2 * np.pi, 181)
        for i, (ax, name) in enumerate(zip(axes, self.names)):
            edges, top = all_edges[:, i], math.sqrt(tops[i])
            angle = np.linspace(edges[:-1], edges[1:], 6)

            def sectors(points, angle=angle, edges=edges, top=top, i=i):
                radius = np.minimum(np.sqrt(self._density(points[:, i], edges)), top)
                return [(radius * f(angle)).T.reshape(-1) for f in (np.cos, np.sin)]

            if behind is not None:
                ax.fill(*sectors(behind), color=DATA, linewidth=0)
            ax.fill(*sectors(y), color=SAMPLES, alpha=0.18, linewidth=0)
            ax.fill(*sectors(y), fill=False, edgecolor=SAMPLES, linewidth=1.0 if small else 1.5)
            ax.plot(top * np.cos(around), top * np.sin(around), color=DATA, linewidth=0.8)
            for line in (ax.axhline, ax.axvline):
                line(0, color=FAINT, linewidth=0.6, zorder=0)
            end = top * (1.02 if small else 1.22)
            ax.set(aspect="equal", xlim=(-end, end), ylim=(-end, end))
            ax.axis("off")
            words = [] if small else ["0", "π/2", "±π", "−π/2"]
            for place, word in zip([(1, 0), (0, 1), (-1, 0), (0, -1)], words):
                ax.text(*(1.1 * top * np.array(place)), word, ha="center", va="center")
            if self.parts > 1 and not small:
                ax.set_title(name, y=-0.06)


def _small_frame(ax: Axes, small: bool) -> None:
    """Of a panel of a film: a thin box without numbers."""
    ax.spines[["top", "right"]].set_visible(small)
    if small:
        ax.xaxis.set_visible(False)
        ax.yaxis.set_visible(False)
        ax.spines[:].set(color=DATA, linewidth=0.6)


def _dots(ax: Axes, y: Plane, behind: Plane | None, small: bool) -> None:
    """Points as dots, smaller the more there are, before grey ones of the data."""
    for points, colour, layer in ((behind, DATA, 2), (y, SAMPLES, 3)):
        if points is not None and len(points):
            points = np.clip(points, *zip(ax.get_xlim(), ax.get_ylim()))
            size = float(np.clip(60 / math.sqrt(len(points)), 1.2, 20)) * (0.3 if small else 2)
            ax.scatter(*points.T, s=size, color=colour, linewidths=0, zorder=layer, clip_on=False,
                       alpha=(0.5 if small else 0.55) if len(points) > 500 else 0.85)  # fmt: skip
