"""The small network of star-shaped diffusion, for points on simplices, spheres and cones.

A. Okhotin, D. Molchanov, V. Arkhipkin, G. Bartosh, V. Ohanesian, A. Alanov, D. Vetrov,
"Star-Shaped Denoising Diffusion Probabilistic Models", arXiv:2302.05259. With the defaults, 807,939
parameters for points of 3 numbers, and 808,451 for 2 x 2 matrices given as 3 numbers.

Numbered equations (`emb` is equation (1) of `layers.py`):

  (1)  h = swish(W_0 [z, emb(t), class] + b_0)
  (2)  h <- h + swish(W_i h + b_i)                   for each of the layers
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.networks.base import Network
from md4jax.networks.layers import Label, apply_blocks, time_embedding
from md4jax.options import UserError, option
from md4jax.typing import Data, Time


class ResidualLayer(nn.Module):
    """Equation (2).

    Attributes:
      dtype: to compute in.
      dropout_rate: of what is added.
      train: whether to drop.
    """

    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, h: Float[Array, "b f"], cond: None = None) -> Float[Array, "b f"]:
        added = nn.swish(nn.Dense(h.shape[-1], dtype=self.dtype, name="dense")(h))
        return h + nn.Dropout(self.dropout_rate, deterministic=not self.train)(added)


class MLP(Network, kw_only=True):
    """Residual layers over all numbers of an example at once, whatever its shape.

    Ids enter as one-hot vectors, which for many ids and positions makes a large first layer: this
    is a network for small data.
    """

    takes_any_shape = True

    feature_dim: int = option("Width of the layers.", 512, at_least=1)
    num_layers: int = option("Residual layers.", 3, at_least=1)
    time_features: int = option("Sines and cosines of the time; entries of a class's vector.", 32,
                                at_least=4)  # fmt: skip

    @nn.nowrap
    def check(self) -> None:
        """See `Network.check`."""
        super().check()
        if self.attention != "xla":
            raise UserError(
                f"config.network.attention = {self.attention!r} should be 'xla', the default: "
                "MLP has no attention"
            )

    @nn.compact
    def __call__(
        self,
        z_t: Data,
        t: Time | None,
        label: Label | None = None,
        train: bool = False,
    ) -> Float[Array, "b *o"]:
        """`z_t` `[b, *spec.shape]` to `[b, *spec.output_shape]`; see `Network`."""
        self.check_inputs(t, label)
        dtype, batch = self.compute_dtype, z_t.shape[0]
        if self.spec.vocab_size is not None:
            z_t = jax.nn.one_hot(z_t, self.spec.vocab_size, dtype=dtype)
        inputs = [z_t.reshape(batch, -1)]
        if self.spec.has_time:
            inputs.append(time_embedding(t, self.time_features))
        if self.spec.num_classes is not None:
            embed = nn.Embed(self.spec.num_classes, self.time_features, name="class_embedding")
            inputs.append(embed(label))
        x = jnp.concatenate([x.astype(dtype) for x in inputs], axis=-1)
        x = nn.swish(nn.Dense(self.feature_dim, dtype=dtype, name="input")(x))
        make_layer = functools.partial(ResidualLayer, dtype, self.dropout_rate, train)
        x, _ = apply_blocks(make_layer, self.num_layers, x, None,
                            name="layers", scan=self.scan_layers, remat=self.remat)  # fmt: skip
        shape = self.spec.output_shape
        head = nn.Dense(math.prod(shape), dtype=dtype, kernel_init=nn.initializers.zeros,
                        name="head")  # fmt: skip
        return head(x).reshape(batch, *shape)
