"""The U-Net of Improved DDPM.

A. Nichol, P. Dhariwal, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672,
appendix A: the U-Net of DDPM with several attention heads, attention at two levels, the
conditioning vector as scale and shift, and every block the identity at the start.

Published, with a learned variance (`spec.out_features` 2): CIFAR-10 is the defaults, 52,546,438
parameters; ImageNet 64 x 64 `ch_mult = (1, 2, 3, 4)` and `attention_levels = (4, 8)`, 121,063,942;
LSUN 256 x 256 `ch_mult = (1, 1, 2, 2, 4, 4)`, `attention_levels = (16,)`, `num_layers = 2`,
`num_heads = 1` and `scale_shift = False`, 113,676,678.

Numbered equation:

  (1)  emb(t) = [cos(1000 t w_j), sin(1000 t w_j)],   w_j = 10000^(-j / (f/2)),  j < f/2
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.networks.layers import MAX_PERIOD, TIME_SCALE
from md4jax.networks.level_unet import LevelUNet, Style
from md4jax.options import option
from md4jax.typing import Time


def cosine_embedding(t: Time, width: int) -> Float[Array, "b f"]:
    """Equation (1): cosines before sines, and a last frequency just above 1/10000.

    Args:
      t: in [0, 1].
      width: f, at least 2; if odd, the last entry is 0.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(MAX_PERIOD) / half * jnp.arange(half, dtype=jnp.float32))
    angles = TIME_SCALE * t.astype(jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


class ImprovedUNet(LevelUNet, kw_only=True):
    """The network of `LevelUNet` with the conditioning vector as scale and shift in the blocks."""

    num_layers: int = option("Residual blocks a level down; there is one more up.", 3, at_least=1)
    attention_levels: tuple[int, ...] = option(
        "Levels with attention, by the factor they shrink images: 1, 2, 4, ... (2, 4 are 16 x 16 "
        "and 8 x 8 for 32 x 32 images). The middle has it always.", (2, 4), at_least=1)  # fmt: skip
    num_heads: int = option("Attention heads on the way down and in the middle.", 4, at_least=1)
    num_heads_up: int | None = option("Attention heads on the way up; None: as many as down.", None,
                                      at_least=1)  # fmt: skip
    scale_shift: bool = option("The conditioning vector scales and shifts; else it is added.", True)

    @property
    def style(self) -> Style:
        """See `LevelUNet`."""
        return Style(
            embed_time=cosine_embedding,
            epsilon=1e-5,
            shrink_padding=(1, 1),
            scale_shift=self.scale_shift,
            zero_blocks=True,
        )

    @property
    def heads_up(self) -> int:
        """See `LevelUNet`."""
        return self.num_heads if self.num_heads_up is None else self.num_heads_up
