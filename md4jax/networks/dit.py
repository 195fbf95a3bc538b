"""The transformer in the middle of the UViT: a DiT over patches of the feature map.

W. Peebles, S. Xie, "Scalable Diffusion Models with Transformers", arXiv:2212.09748; its
adaLN-Zero blocks.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from md4jax.networks.attention import Attention, TransformerBlock
from md4jax.networks.layers import AdaptiveNorm, Modulation, apply_blocks

EPSILON = 1e-6


def sincos_positions(height: int, width: int, features: int) -> Float[np.ndarray, "l d"]:
    """Sines and cosines of the column (first half of the features) and row (second half).

    With w_k = 10000^(-k / (d/4)), k < d/4, each half is [sin(p w_k), cos(p w_k)].

    Args:
      height: rows of patches.
      width: columns of patches; l = height * width, row by row.
      features: d, a multiple of 4.
    """
    frequencies = 10000.0 ** (-np.arange(features // 4) / (features // 4))
    rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1) * frequencies
    parts = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    return np.concatenate(parts, axis=-1).astype(np.float32)


class FeedForward(nn.Module):
    """Two layers with a GELU (tanh approximation) between, four times as wide inside.

    Attributes:
      dtype: to compute in.
      dropout_rate: after each layer.
      train: whether to drop.
    """

    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        hidden = drop(nn.gelu(nn.Dense(4 * x.shape[-1], dtype=self.dtype, name="up")(x)))
        return drop(nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(hidden))


class DiT(nn.Module):
    """Feature map to feature map of the same shape, by way of patches; zero at the start.

    Attributes:
      num_layers: blocks.
      num_heads: of the attention.
      hidden: width of the blocks, d.
      patch_size: sides of a patch, p.
      dtype: to compute in.
      dropout_rate: see `TransformerBlock` and `FeedForward`.
      train: whether to drop.
      implementation: of the attention, "xla" or "cudnn".
      scan: see `apply_blocks`.
      remat: see `apply_blocks`.
    """

    num_layers: int
    num_heads: int
    hidden: int
    patch_size: int
    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False
    implementation: str = "xla"
    scan: bool = False
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cond: Float[Array, "b f"] | None
    ) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape
        p, d, dtype = self.patch_size, self.hidden, self.dtype
        rows, columns = height // p, width // p
        x = nn.Conv(d, (p, p), strides=p, padding="VALID", dtype=dtype, name="patches")(x)
        positions = self.param(
            "positions", lambda _: jnp.asarray(sincos_positions(rows, columns, d))
        )
        x = x.reshape(batch, -1, d) + positions.astype(dtype)
        make_attention = functools.partial(
            Attention, self.num_heads, dtype, input_bias=True, dropout_rate=self.dropout_rate,
            train=self.train, implementation=self.implementation,
        )  # fmt: skip
        make_block = functools.partial(
            TransformerBlock, make_attention,
            functools.partial(FeedForward, dtype, self.dropout_rate, self.train),
            nn.swish, EPSILON, dtype, dropout_rate=self.dropout_rate, train=self.train,
            drop_feed_forward=False,
        )  # fmt: skip
        x, _ = apply_blocks(make_block, self.num_layers, x, cond,
                            name="blocks", scan=self.scan, remat=self.remat)  # fmt: skip
        norm = AdaptiveNorm(EPSILON, dtype, name="norm")
        if cond is None:
            x = norm(x)
        else:
            x = norm(x, *Modulation(2, d, dtype, name="modulation")(nn.swish(cond)))
        x = nn.Dense(p * p * channels, dtype=dtype, kernel_init=nn.initializers.zeros,
                     name="unpatch")(x)  # fmt: skip
        x = x.reshape(batch, rows, columns, p, p, channels)
        return x.swapaxes(2, 3).reshape(batch, height, width, channels)
