"""Pictures and texts for people to look at."""

from __future__ import annotations

import math
import os
import pathlib

import numpy as np
from jaxtyping import Integer, UInt8

GAP = (52, 92, 140)  # Blue: no grey of a tile that reaches its edge looks like it.


def _default_columns(n: int) -> int:
    """The least divisor of n from sqrt(n) to 1.5 sqrt(n), so that no place is empty, or sqrt(n)."""
    root = math.isqrt(n - 1) + 1
    for columns in range(root, math.isqrt(9 * n // 4) + 1):
        if n % columns == 0:
            return columns
    return root


def image_grid(
    images: Integer[np.ndarray, "n height width c"],
    levels: int,
    *,
    columns: int | None = None,
    gap: int = 2,
    min_tile: int = 64,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Tiles on a blue ground, row by row.

    Args:
      images: grey (c = 1) or RGB (c = 3), integers in `[0, levels)`; 0 is black.
      levels: number of values a channel has.
      columns: tiles a row; about sqrt(n) if not given.
      gap: pixels between tiles and around them.
      min_tile: images are enlarged by a whole factor until their longer side has so many pixels.

    Raises:
      ValueError: there is no image, or it is of another shape or out of range.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images {images.shape} should be [n, height, width, 1 or 3], n at least 1"
        )
    if levels < 2 or images.min() < 0 or images.max() >= levels:
        raise ValueError(
            f"images have values from {images.min()} to {images.max()}; "
            f"levels = {levels} allows 0 to {levels - 1}"
        )
    tiles = np.rint(images * (255 / (levels - 1))).astype(np.uint8)
    factor = max(1, -(-min_tile // max(tiles.shape[1:3])))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    n, height, width, _ = tiles.shape
    columns = min(n, columns or _default_columns(n))
    rows = -(-n // columns)
    grid = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    grid[:] = GAP
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top : top + height, left : left + width] = tile
    return grid


def _replace(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file so that it is never there by half; makes its folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def save_png(path: str | os.PathLike, image: UInt8[np.ndarray, "height width *c"]) -> None:
    """Writes a picture: grey `[h, w]` or `[h, w, 1]`, or RGB `[h, w, 3]`. Raises OSError."""
    import io

    from PIL import Image

    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ValueError(f"image has dtype {image.dtype}, not uint8")
    if image.shape[2:] == (1,):
        image = image[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    _replace(path, buffer.getvalue())


def save_texts(path: str | os.PathLike, texts: list[str]) -> None:
    """Writes texts one below the other, each under a rule with its number. Raises OSError."""
    digits = len(str(len(texts)))
    parts = [f"── {i:>{digits}} {'─' * 72}\n{text.rstrip()}\n" for i, text in enumerate(texts, 1)]
    _replace(path, "\n".join(parts).encode())
