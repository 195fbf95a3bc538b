"""Pictures and texts as a notebook shows them: matplotlib figures, and lists that print well."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Integer, Shaped, UInt8
from matplotlib.figure import Figure

from md4jax.options import UserError
from md4jax.samplers.generate import Film, draw_film
from md4jax.visualize_charts import SAMPLES

if TYPE_CHECKING:
    from md4jax.data.base import Dataset
    from md4jax.model import Model

DPI = 100
WIDEST = 1100  # Pixels: what does not fit beside each other goes below.
TITLE, GAP, CHARACTER = 26, 14, 7  # Pixels.
COLOURS = (SAMPLES, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

Picture = UInt8[np.ndarray, "height width 3"]


class Drawing(Figure):
    """A figure that notebooks show by themselves, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


class Texts(list):
    """Texts, printed one below the other, each under its title."""

    def __init__(self, texts: Sequence[str], titles: Sequence[str] | None = None):
        super().__init__(texts)
        self.titles = titles or [str(i) for i in range(1, len(texts) + 1)]

    def __repr__(self) -> str:
        heads = (f"── {title} {'─' * (76 - len(title))}" for title in self.titles)
        return "\n".join(f"{head}\n{text.rstrip()}" for head, text in zip(heads, self))


def drawable(data: Dataset, title: str, samples: Any) -> Shaped[np.ndarray, "n *s"]:
    """Samples as an array. Raises UserError if they are none of these data."""
    x, spec, what = np.asarray(samples), data.spec, f"draw: {title or 'samples'}"
    if x.shape[1:] != spec.shape or not len(x):
        wanted = ", ".join(["n", *map(str, spec.shape)])
        raise UserError(f"{what} should be [{wanted}], and is {list(x.shape)}")
    if spec.vocab_size is not None and x.dtype.kind not in "iu":
        raise UserError(f"{what} should be integers in [0, {spec.vocab_size}), and is {x.dtype}")
    if data.levels is not None and not 0 <= x.min() <= x.max() < spec.vocab_size:
        raise UserError(
            f"{what} should be in [0, {spec.vocab_size}), and is from {x.min()} to {x.max()}"
        )
    return x


def pictures(shown: Mapping[str, Picture]) -> Drawing:
    """Pictures pixel for pixel, beside each other as long as they fit, under their titles."""
    rows: list[list[str]] = [[]]
    for title, picture in shown.items():
        width = sum(shown[t].shape[1] + GAP for t in rows[-1]) + picture.shape[1]
        if rows[-1] and width > WIDEST:
            rows.append([])
        rows[-1].append(title)
    heights = [max(shown[t].shape[0] + _above(t) for t in row) for row in rows]
    width = max(sum(shown[t].shape[1] + GAP for t in row) - GAP for row in rows)
    page = _Page(width, sum(heights) + GAP * (len(rows) - 1))
    top = 0
    for row, height in zip(rows, heights):
        left = 0
        for title in row:
            page.picture(left, top + _above(title), shown[title]).set_title(title, fontsize=11)
            left += shown[title].shape[1] + GAP
        top += height + GAP
    return page.figure


def strips(shown: Mapping[str, tuple[Picture, Sequence[str], Sequence[str]]]) -> Drawing:
    """Film strips below each other: of each the picture, and the names of its columns and rows."""
    names = [name for *_, rows in shown.values() for name in rows]
    left = 14 + max(CHARACTER * len(name.replace("\\hat", "").strip("${}")) for name in names)
    heads = {title: TITLE + _above(title) for title in shown}
    heights = [picture.shape[0] + heads[title] for title, (picture, *_) in shown.items()]
    width = left + max(picture.shape[1] for picture, *_ in shown.values())
    page = _Page(width, sum(heights) + GAP * (len(shown) - 1))
    top = 0
    for title, (picture, columns, rows) in shown.items():
        height, wide, _ = picture.shape
        axes = page.picture(left, top + heads[title], picture)
        axes.set_title(title, fontsize=11, loc="left", pad=TITLE - 4)
        axes.set_axis_on()
        axes.xaxis.tick_top()
        middles = lambda total, n: (np.arange(n) + 0.5) * total / n - 0.5
        axes.set_xticks(middles(wide, len(columns)), columns)
        axes.set_yticks(middles(height, len(rows)), rows)
        axes.tick_params(length=0, labelsize=9, pad=3)
        axes.spines[:].set_visible(False)
        top += height + heads[title] + GAP
    return page.figure


def table(
    data: Dataset,
    shown: Mapping[str, Integer[np.ndarray, "columns *s"]],
    titles: Sequence[str],
    min_tile: int,
) -> Drawing:
    """Batches of images, a row each. Raises UserError if a row is not of one image a title."""
    from md4jax.visualize import image_grid

    if data.levels is None or any(len(x) != len(titles) for x in shown.values()):
        raise UserError(
            f"draw: titles are of columns of images; there are {len(titles)}, and "
            f"{', '.join(str(len(x)) for x in shown.values())} samples"
        )
    together = np.concatenate(list(shown.values()))
    picture = image_grid(together, data.levels, columns=len(titles), min_tile=min_tile)
    return strips({"": (picture, titles, list(shown))})


def films(model: Model, shown: Mapping[str, Film]) -> Drawing | Texts:
    """Films of `Generator.films`, one below the other."""
    drawn = {name: draw_film(model, film) for name, film in shown.items()}
    names = {"film": "noise to sample", "forward": "data to noise"}
    if model.spec.vocab_size is None:
        return pictures({names[k]: picture for k, picture in drawn.items()})
    if model.dataset.levels is None:
        titles = [
            f"{names[name]}, {i + 1}: {title}"
            for name, film in shown.items()
            for i in range(len(film.rows[0]))
            for row in film.titles
            for title in row
        ]
        return Texts([text for texts in drawn.values() for text in texts], titles)
    # Of a star one of its variables is shown above the tail, which is z_t.
    below = {"film": ["$z_t$", "$\\hat{x}_0$"], "forward": ["$x_t$", "tail"]}
    rows = {kind: below[kind] if len(film.rows) > 1 else ["$z_t$"] for kind, film in shown.items()}
    return strips({
        names[kind]: (drawn[kind], film.titles[0], rows[kind] * len(film.rows[0]))
        for kind, film in shown.items()
    })  # fmt: skip


class _Page:
    """A white figure whose parts are placed by pixels from its upper left corner."""

    def __init__(self, width: int, height: int):
        self.size = width, height
        self.figure = Drawing(figsize=(width / DPI, height / DPI), dpi=DPI)

    def picture(self, left: int, top: int, picture: Picture) -> Any:
        """Axes without lines that a picture fills."""
        (w, h), (height, width, _) = self.size, picture.shape
        place = left / w, 1 - (top + height) / h, width / w, height / h
        axes = self.figure.add_axes(place)
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        return axes


def _above(title: str) -> int:
    return TITLE * bool(title)


def draw_losses(
    losses: Float[np.ndarray, "steps"] | Mapping[str, Float[np.ndarray, "steps"]],
    window: int | None = None,
    panels: bool = False,
) -> Drawing:
    """The loss of each step, faint, and its running mean.

    Args:
      losses: what `fit` returned, or several of these by name.
      window: steps of the running mean; about a twentieth of them if not given.
      panels: each in a panel of its own, for losses that do not compare.
    """
    curves = losses if isinstance(losses, Mapping) else {"": losses}
    if not curves or not all(np.size(values) for values in curves.values()):
        raise UserError(
            "draw_losses: there are no losses; fit() returns those of the steps it took"
        )
    count = len(curves) if panels else 1
    width = 3.4 * count if panels else 7
    figure = Drawing(figsize=(width, 3.2), dpi=DPI, layout="constrained")
    every = figure.subplots(1, count, squeeze=False)[0]
    for i, ((name, values), colour) in enumerate(zip(curves.items(), COLOURS * len(curves))):
        axes = every[i * panels]
        values = np.asarray(values, np.float64)
        size = max(1, min(window or len(values) // 20, len(values)))
        mean = np.convolve(values, np.full(size, 1 / size), mode="valid")
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, alpha=0.25, lw=0.8)
        axes.plot(np.arange(len(mean)) + (size + 1) / 2, mean, color=colour, label=name)
    for axes in every:
        axes.set(xlabel="step", title=axes.lines[1].get_label() if panels else "")
        axes.set_ylim(*_later([line.get_ydata() for line in axes.lines[::2]]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    every[0].set_ylabel("training loss")
    if any(curves) and not panels:
        every[0].legend(frameon=False)
    return figure


def _later(curves: Sequence[Float[np.ndarray, "steps"]]) -> tuple[float, float]:
    """Ends of an axis without the first steps, whose loss may be many times as large."""
    low, high = np.quantile(np.concatenate([x[len(x) // 5 :] for x in curves]), (0.0, 0.998))
    room = 0.05 * (high - low) + 1e-9
    return low - room, high + room
