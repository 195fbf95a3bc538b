"""The U-Net of DDPM and DDIM.

J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, appendix B;
with the initial weights and the padding of the PyTorch version that came with J. Song, C. Meng,
S. Ermon, "Denoising Diffusion Implicit Models", arXiv:2010.02502. Only the output layer is zero at
the start, which here it is for every network.

Published: CIFAR-10 is the defaults (with dropout 0.1), 35,746,307 parameters; CelebA 64 x 64
`ch_mult = (1, 2, 2, 2, 4)` and `attention_levels = (4,)`, 78,700,803; LSUN 256 x 256
`ch_mult = (1, 1, 2, 2, 4, 4)` and `attention_levels = (16,)`, 113,673,219.
"""

from __future__ import annotations

from md4jax.networks.layers import time_embedding
from md4jax.networks.level_unet import LevelUNet, Style


class DDPMUNet(LevelUNet, kw_only=True):
    """The network of `LevelUNet` with the conditioning vector added in the blocks."""

    @property
    def style(self) -> Style:
        """See `LevelUNet`."""
        # Shrinking pads below and to the right alone, as TensorFlow's SAME does.
        return Style(embed_time=time_embedding, epsilon=1e-6, shrink_padding=(0, 1))
