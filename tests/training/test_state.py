"""What a train step does to its batch before the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from md4jax.config import load_config
from md4jax.model import assemble
from md4jax.options import UserError


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
