"""Grids, pictures and texts."""

import numpy as np
import pytest
from PIL import Image

from md4jax.visualize import GAP, image_grid, save_png, save_texts


def tiles_of(grid, rows, columns, gap):
    """Cuts a grid apart; checks that the rest is gap."""
    height, width = (grid.shape[0] - gap) // rows, (grid.shape[1] - gap) // columns
    tiles, rest = [], np.array(grid)
    for r in range(rows):
        for c in range(columns):
            place = np.s_[gap + r * height : (r + 1) * height, gap + c * width : (c + 1) * width]
            tiles.append(grid[place])
            rest[place] = GAP
    assert (rest == GAP).all()
    return np.stack(tiles)


def test_small_grey_images_are_enlarged_and_scaled():
    images = np.random.default_rng(0).integers(0, 17, (16, 8, 8, 1))
    grid = image_grid(images, 17)
    assert grid.dtype == np.uint8 and grid.shape == (4 * 66 + 2, 4 * 66 + 2, 3)
    tiles = tiles_of(grid, 4, 4, 2)
    assert tiles.shape == (16, 64, 64, 3)
    expected = np.rint(images * 255 / 16).repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_array_equal(tiles, np.broadcast_to(expected, tiles.shape))
    assert tiles.min() == 0 and tiles.max() == 255


@pytest.mark.parametrize(("side", "tile"), [(8, 64), (28, 84), (32, 64), (64, 64), (100, 100)])
def test_tile_sizes(side, tile):
    grid = image_grid(np.zeros((1, side, side, 3), np.uint8), 256)
    assert grid.shape == (tile + 4, tile + 4, 3)


def test_colour_images_keep_their_values():
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 70, 3), np.uint8)
    tiles = tiles_of(image_grid(images, 256, columns=2, gap=3), 3, 2, 3)
    np.testing.assert_array_equal(tiles, images)


@pytest.mark.parametrize(
    ("n", "columns"),
    [(1, 1), (2, 2), (3, 2), (4, 2), (7, 3), (8, 4), (10, 4), (12, 4), (16, 4), (64, 8), (100, 10)],
)
def test_number_of_columns(n, columns):
    grid = image_grid(np.zeros((n, 1, 1, 1), int), 2, gap=1, min_tile=1)
    assert grid.shape == (-(-n // columns) * 2 + 1, columns * 2 + 1, 3)


def test_empty_places_are_gap():
    grid = image_grid(np.zeros((3, 1, 1, 1), int), 2, gap=1, min_tile=1)
    assert (grid[3, 3] == GAP).all() and (grid[3, 1] == 0).all()


@pytest.mark.parametrize(
    ("images", "levels", "words"),
    [
        (np.full((1, 2, 2, 1), 16), 16, "values from 16 to 16; levels = 16 allows 0 to 15"),
        (np.full((1, 2, 2, 1), -1), 16, "values from -1"),
        (np.zeros((0, 2, 2, 1), int), 2, "n at least 1"),
        (np.zeros((1, 2, 2, 2), int), 2, "1 or 3"),
        (np.zeros((2, 2, 1), int), 2, "1 or 3"),
    ],
)
def test_images_that_do_not_fit(images, levels, words):
    with pytest.raises(ValueError, match=words):
        image_grid(images, levels)


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1), (5, 7)])
def test_png_reads_back(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "new" / "image.png"
    for _ in range(2):
        save_png(path, image)
    found = np.asarray(Image.open(path))
    np.testing.assert_array_equal(found, image[..., 0] if shape[2:] == (1,) else image)
    assert [p.name for p in path.parent.iterdir()] == ["image.png"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    save_png(path, np.zeros((2, 2), np.uint8))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="float64"):
        save_png(path, np.zeros((2, 2)))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_png(path, np.ones((2, 2), np.uint8))
    assert path.read_bytes() == before


def test_texts_are_numbered_between_rules(tmp_path):
    path = tmp_path / "new" / "texts.txt"
    save_texts(path, ["first\nof two lines\n\n", "größer", *["x"] * 8])
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines[0].startswith("──  1 ───") and lines[1:4] == ["first", "of two lines", ""]
    assert lines[4].startswith("──  2 ───") and lines[5] == "größer"
    assert sum(line.startswith("── ") for line in lines) == 10
    assert any(line.startswith("── 10 ─") for line in lines)
