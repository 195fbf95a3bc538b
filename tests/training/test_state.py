"""What a train step does to its batch before the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from md4jax.config import load_config
from md4jax.model import assemble
from md4jax.options import UserError
from md4jax.training.state import random_crop


def losses(config, x0):
    """Of each example of a batch `[b, h, w, c]`."""
    model = assemble(config)
    state = tiny.shaken(model.init_state())
    _, (_, _, each) = jax.jit(model.gradient())(state.params, ({}, None), {"x0": x0}, 0)
    return np.asarray(each)


def test_random_flip_mirrors_some_images_and_leaves_the_others():
    config = tiny.tiny(load_config(tiny.ROOT / "configs/digits/masked.py"))
    config.train.batch_size = 16
    x0 = jax.random.randint(jax.random.key(0), (16, 8, 8, 1), 0, 17)
    plain, mirrored = losses(config, x0), losses(config, jnp.flip(x0, axis=2))
    config.train.random_flip = True
    flipped = losses(config, x0)
    is_plain, is_mirrored = np.isclose(flipped, plain), np.isclose(flipped, mirrored)
    assert (is_plain ^ is_mirrored).all()
    assert 2 <= is_mirrored.sum() <= 14  # Else a chance of 5e-4.


def test_only_images_are_mirrored(tmp_path):
    config = tiny.tiny(load_config(tiny.ROOT / "configs/python_docs/masked.py"))
    config.train.random_flip = True
    with pytest.raises(UserError, match="config.train.random_flip"):
        assemble(config)


def test_random_crop_moves_images_by_whole_pixels():
    """Each is a window of the padded image; all (2 margin + 1)^2 places come about as often."""
    image = np.arange(1, 26).reshape(5, 5, 1)
    n, margin = 900, 1
    keys = jax.random.split(jax.random.key(0), n)
    moved = jax.jit(random_crop, static_argnums=2)(keys, jnp.asarray([image] * n), margin)
    wide = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    places = [wide[i : i + 5, j : j + 5] for i in range(3) for j in range(3)]
    which = [[np.array_equal(x, place) for place in places].index(True) for x in np.asarray(moved)]
    # Each count is binomial, with mean 100 and deviation 9.4; 4.5 of these fail 1 seed in 16,000.
    counts = np.bincount(which, minlength=9)
    assert np.abs(counts - n / 9).max() < 4.5 * np.sqrt(n * (1 / 9) * (8 / 9))
    np.testing.assert_array_equal(random_crop(keys[:2], jnp.asarray([image] * 2), 0)[1], image)
