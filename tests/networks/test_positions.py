"""Logits of chosen positions alone are those of all positions, there."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.networks.base import Network
from md4jax.networks.t5_encoder import T5Encoder
from md4jax.networks.transformer import Transformer
from md4jax.processes.base import DataSpec, pick
from md4jax.processes.genmd4 import GenMD4
from md4jax.processes.masked import Masked
from md4jax.samplers.base import Guided, predict_at
from md4jax.training.state import init_params, make_denoiser


def make_parts(network_class, process, data, **options):
    """A process, and how to make a denoiser of it and a network with noise for parameters."""
    process = process.bind(data)
    network = network_class(spec=process.network_spec(data), feature_dim=8, **options)

    def make():
        params = init_params(process, network, data, seed=0)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
        label = jnp.arange(3) if data.num_classes else None
        return make_denoiser(process, network, jax.tree.unflatten(structure, leaves), label)

    return process, make


class Convolution(Network, kw_only=True):
    """A network whose output at a position is of its neighbours too."""

    feature_dim: int

    @nn.compact
    def __call__(self, z_t, t, label=None, train=False):
        x = nn.Embed(self.spec.vocab_size, self.feature_dim)(z_t[..., 0]) + t[:, None, None, None]
        return nn.Conv(self.spec.out_features, (3, 3))(x)[..., None, :]


SMALL = dict(num_layers=1, num_heads=2)
CASES = {
    "transformer, GenMD4": (Transformer, GenMD4(time_features="none"), DataSpec((5,), 7), SMALL),
    "T5 encoder, classes": (T5Encoder, Masked(), DataSpec((5,), 7, num_classes=3), SMALL),
    "one that cannot": (Convolution, Masked(), DataSpec((2, 2, 1), 7), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_some_positions_are_as_in_all(case):
    """Also with guidance; and no others are computed, where the network can leave them out."""
    network_class, process, data, options = CASES[case]
    process, make = make_parts(network_class, process, data, **options)
    z = jax.random.randint(jax.random.key(5), (3, *data.shape), 0, 8)
    t, positions = jnp.array([0.1, 0.5, 0.9]), jnp.array([[2, 0], [1, 1], [3, 2]])

    def answers(z):
        denoise = make()
        everywhere = denoise(z, t)
        guided = Guided(process, denoise, lambda z, t: 2 * everywhere, 3.0)
        both = (predict_at(one, z, t, positions) for one in (denoise, guided))
        return *both, pick(everywhere, positions)

    ours, beyond, theirs = jax.jit(answers)(z)
    assert ours.shape == (3, 2, 7) and np.std(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    # u + 3 (c - u) with u = 2 c.
    np.testing.assert_allclose(beyond, -theirs, rtol=1e-4, atol=1e-4)
    jaxpr = str(jax.make_jaxpr(lambda z: predict_at(make(), z, t, positions))(z))
    everything = f"f32[3,{','.join(map(str, data.shape))},7]"
    assert (everything in jaxpr) == (network_class is Convolution)
