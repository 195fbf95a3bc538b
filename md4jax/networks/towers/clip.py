"""The image tower of CLIP: a vision transformer, by default ViT-B/32.

A. Radford, J. W. Kim, C. Hallacy, A. Ramesh, G. Goh, S. Agarwal, G. Sastry, A. Askell, P. Mishkin,
J. Clark, G. Krueger, I. Sutskever, "Learning Transferable Visual Models From Natural Language
Supervision", arXiv:2103.00020; transformer of A. Dosovitskiy et al., arXiv:2010.11929. The defaults
are ViT-B/32, 87,849,216 parameters.

Numbered equations (patches p_1, ..., p_n of the image, rows first; P_0, ..., P_n learned):

  (1)  h_0 = class + P_0,   h_i = W p_i + P_i,   then  h <- norm(h)
  (2)  block:  h <- h + Attention(norm(h));  h <- h + W_down q(W_up norm(h) + b) + b'
  (3)  q(x) = x sigmoid(1.702 x)
  (4)  the image's features: W_out norm(h_0)
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.networks.attention import Attention

EPSILON = 1e-5


def quick_gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Equation (3)."""
    return x * nn.sigmoid(1.702 * x)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)


class EncoderBlock(nn.Module):
    """Equation (2), four times as wide between.

    Attributes:
      num_heads: the width is split evenly over them.
    """

    num_heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "b l f"]) -> Float[Array, "b l f"]:
        width = x.shape[-1]
        attention = Attention(
            self.num_heads, jnp.float32, input_bias=True, output_bias=True, name="attention"
        )
        x = x + attention(_norm("norm_1")(x))
        h = nn.Dense(4 * width, name="up")(_norm("norm_2")(x))
        return x + nn.Dense(width, name="down")(quick_gelu(h))


class ImageTower(nn.Module):
    """Equations (1) to (4), of images whose sides are multiples of the patch's.

    Attributes:
      width: f, of the transformer.
      num_layers: blocks.
      num_heads: of attention.
      patch: pixels a side of a patch.
      features: put out.
    """

    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    patch: int = 32
    features: int = 512

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        size = (self.patch, self.patch)
        x = nn.Conv(
            self.width, size, size, padding="VALID", use_bias=False, name="patch_embedding"
        )(x)
        x = x.reshape(x.shape[0], -1, self.width)
        first = self.param("class_embedding", nn.initializers.normal(), (self.width,))
        first = jnp.broadcast_to(first, (x.shape[0], 1, self.width))
        x = jnp.concatenate([first, x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(), x.shape[1:])
        x = _norm("norm_before")(x)
        for i in range(self.num_layers):
            x = EncoderBlock(self.num_heads, name=f"block_{i}")(x)
        x = _norm("norm_after")(x[:, 0])
        return nn.Dense(self.features, use_bias=False, name="projection")(x)
