"""The U-Net of MD4 for small images: residual blocks with skips, all at full resolution.

From variational diffusion models (D. Kingma, T. Salimans, B. Poole, J. Ho, arXiv:2107.00630,
appendix B): not resampling, so that every pixel keeps its place, with one attention layer in the
middle. Used for CIFAR-10 by MD4 (arXiv:2406.04329, appendix G). With `wide_conditioning`,
`add_input` and `fourier_features = (6, 7)` it is the network of VDM's code.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from md4jax.networks.attention import Attention
from md4jax.networks.base import (
    FOURIER_FEATURES,
    Network,
    check_fourier_features,
    check_head_dim,
    check_image,
    output_size,
)
from md4jax.networks.layers import Conditioning, ImageInput, Label, apply_blocks
from md4jax.options import UserError, option
from md4jax.typing import Data, Time

EPSILON = 1e-6


class ResBlock(nn.Module):
    """Two convolutions around the conditioning vector, added to the input.

    Attributes:
      features: channels of the output.
      norm_groups: of the group norms.
      dtype: to compute in.
      dropout_rate: before the second convolution.
      train: whether to drop.
    """

    features: int
    norm_groups: int
    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cond: Float[Array, "b f"] | None
    ) -> Float[Array, "b h w d"]:
        norm = functools.partial(nn.GroupNorm, self.norm_groups, epsilon=EPSILON, dtype=self.dtype)
        conv = functools.partial(nn.Conv, self.features, (3, 3), dtype=self.dtype)
        zeros = nn.initializers.zeros
        h = conv(name="conv_1")(nn.swish(norm(name="norm_1")(x)))
        if cond is not None:
            project = nn.Dense(self.features, use_bias=False, dtype=self.dtype, kernel_init=zeros,
                               name="cond")  # fmt: skip
            h = h + project(cond)[:, None, None]
        h = nn.swish(norm(name="norm_2")(h))
        h = nn.Dropout(self.dropout_rate, deterministic=not self.train)(h)
        h = conv(kernel_init=zeros, name="conv_2")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, added to the input.

    Attributes:
      num_heads: of the attention.
      norm_groups: of the group norm.
      dtype: to compute in.
      implementation: of the attention, "xla" or "cudnn".
    """

    num_heads: int
    norm_groups: int
    dtype: Any
    implementation: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        h = nn.GroupNorm(self.norm_groups, epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        attention = Attention(self.num_heads, self.dtype, input_bias=True, output_bias=True,
                              implementation=self.implementation, name="attention")  # fmt: skip
        return x + attention(h.reshape(x.shape[0], -1, x.shape[-1])).reshape(x.shape)


class UNet(Network, kw_only=True):
    """`num_layers` residual blocks down, two and attention in the middle, `num_layers + 1` up."""

    gives_features = True

    feature_dim: int = option("Channels, and width of the conditioning vector.", 128, at_least=4)
    num_layers: int = option("Residual blocks a side.", 4, at_least=1)
    num_heads: int = option("Attention heads in the middle.", 1, at_least=1)
    norm_groups: int = option("Groups of the group norms.", 32, at_least=1)
    fourier_features: tuple[int, ...] = option(FOURIER_FEATURES, (), at_least=0)
    wide_conditioning: bool = option(
        "The conditioning vector has 4 feature_dim entries and a swish at its end, as in VDM; else "
        "feature_dim, as in MD4.", False)  # fmt: skip
    add_input: bool = option("Add z_t to the output, so that a fresh network predicts z_t, as in "
                             "VDM.", False)  # fmt: skip

    @nn.nowrap
    def check(self) -> None:
        """See `Network.check`."""
        super().check()
        check_image(self, self.norm_groups)
        check_fourier_features(self)
        if self.add_input and (self.spec.vocab_size is not None or self.spec.out_features != 1):
            raise UserError(
                "config.network.add_input = True should be False: this process does not ask for "
                "one real number a channel, to which a z_t of real numbers could be added"
            )
        if self.feature_dim % self.num_heads:
            raise UserError(
                f"config.network.feature_dim = {self.feature_dim} should be a multiple of "
                f"{self.num_heads} because of config.network.num_heads = {self.num_heads}"
            )
        check_head_dim(self, self.feature_dim // self.num_heads,
                       "config.network.feature_dim / num_heads")  # fmt: skip

    @nn.compact
    def __call__(
        self,
        z_t: Data,
        t: Time | None,
        label: Label | None = None,
        train: bool = False,
        features: bool = False,
    ) -> Float[Array, "b h w *c v"]:
        """`z_t` `[b, h, w, c]` to `[b, h, w, c, spec.out_features]`; see `Network`."""
        self.check_inputs(t, label)
        dtype, width = self.compute_dtype, self.feature_dim
        conditioning = Conditioning(self.spec, width, self.wide_conditioning,
                                    name="conditioning_mlp")  # fmt: skip
        cond = conditioning(t, label)
        make_block = functools.partial(
            ResBlock, width, self.norm_groups, dtype, self.dropout_rate, train
        )
        stack = functools.partial(
            apply_blocks, make_block, cond=cond, scan=self.scan_layers, remat=self.remat
        )
        x = ImageInput(self.spec.vocab_size, width, dtype, self.fourier_features, name="input")(z_t)
        x = stem = nn.Conv(width, (3, 3), dtype=dtype, name="stem")(x)
        x, skips = stack(self.num_layers, x, name="down", collect=True)
        x = make_block(name="middle_1")(x, cond)
        x = AttentionBlock(self.num_heads, self.norm_groups, dtype, self.attention,
                           name="middle_attention")(x)  # fmt: skip
        x = make_block(name="middle_2")(x, cond)
        x, _ = stack(self.num_layers + 1, x, name="up", skips=[stem, *skips])
        x = nn.swish(nn.GroupNorm(self.norm_groups, epsilon=EPSILON, dtype=dtype, name="norm")(x))
        if features:
            return x
        head = nn.Conv(output_size(self.spec), (3, 3), dtype=dtype,
                       kernel_init=nn.initializers.zeros, name="head")  # fmt: skip
        output = head(x).reshape(*z_t.shape, self.spec.out_features)
        return output + z_t[..., None].astype(dtype) if self.add_input else output
