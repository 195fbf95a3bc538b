"""The UViT of MD4 for larger images: a U-Net whose middle is a DiT.

From "simple diffusion" (E. Hoogeboom, J. Heek, T. Salimans, arXiv:2301.11093, section 3.4) with the
DiT of arXiv:2212.09748 in the middle; used for ImageNet 64 x 64 by MD4 (arXiv:2406.04329,
appendix G).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.networks.base import (
    FOURIER_FEATURES,
    Network,
    check_fourier_features,
    check_head_dim,
    check_image,
    output_size,
)
from md4jax.networks.dit import DiT
from md4jax.networks.layers import Conditioning, ImageInput, Label, Modulation, modulate
from md4jax.options import UserError, option
from md4jax.typing import Data, Time

EPSILON = 1e-6
PATCH_SIZE = 2


class AdaptiveGroupNorm(nn.Module):
    """GroupNorm that the conditioning vector scales and shifts; with its own scale if none.

    Attributes:
      num_groups: of channels.
      dtype: of the result; the norm itself is float32.
    """

    num_groups: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cond: Float[Array, "b f"] | None
    ) -> Float[Array, "b h w c"]:
        norm = functools.partial(nn.GroupNorm, self.num_groups, epsilon=EPSILON, name="norm")
        if cond is None:
            return norm(dtype=self.dtype)(x)
        scale, shift = Modulation(2, x.shape[-1], self.dtype, name="modulation")(cond)
        x = norm(dtype=jnp.float32, use_bias=False, use_scale=False)(x)
        return modulate(x, shift, scale).astype(self.dtype)


def shrink(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Means of 2 x 2 pixels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def enlarge(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Each pixel as 2 x 2."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


class ResBlock(nn.Module):
    """Two convolutions between adaptive norms, added to the input.

    Attributes:
      features: channels of the output.
      norm_groups: of the group norms.
      dtype: to compute in.
      dropout_rate: before the second convolution.
      train: whether to drop.
      resample: "" for none, "shrink" or "enlarge": the sides, by two.
    """

    features: int
    norm_groups: int
    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False
    resample: str = ""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cond: Float[Array, "b f"] | None
    ) -> Float[Array, "b h2 w2 d"]:
        norm = functools.partial(AdaptiveGroupNorm, self.norm_groups, self.dtype)
        conv = functools.partial(nn.Conv, self.features, (3, 3), dtype=self.dtype)
        h = nn.swish(norm(name="norm_1")(x, cond))
        if self.resample:
            resample = {"shrink": shrink, "enlarge": enlarge}[self.resample]
            h, x = resample(h), resample(x)
        h = conv(name="conv_1")(h)
        h = nn.swish(norm(name="norm_2")(h, cond))
        h = nn.Dropout(self.dropout_rate, deterministic=not self.train)(h)
        h = conv(kernel_init=nn.initializers.zeros, name="conv_2")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class UViT(Network, kw_only=True):
    """Residual blocks at each of `ch_mult`'s levels, down and up, with a DiT in the middle.

    A level has `num_layers` blocks on the way down and one more, with skips, on the way up; height
    and width halve between levels. The middle has no residual around it: it is zero at the start.
    """

    gives_features = True

    feature_dim: int = option("Channels of the first level and width of the conditioning vector.",
                              256, at_least=4)  # fmt: skip
    num_layers: int = option("Residual blocks a level and side.", 8, at_least=1)
    ch_mult: tuple[int, ...] = option("Channels of each level, in feature_dim.", (1,), at_least=1)
    norm_groups: int = option("Groups of the group norms.", 32, at_least=1)
    fourier_features: tuple[int, ...] = option(FOURIER_FEATURES, (), at_least=0)
    dit_layers: int = option("Transformer blocks in the middle.", 20, at_least=1)
    dit_heads: int = option("Attention heads in the middle.", 12, at_least=1)
    dit_hidden: int = option("Width of the middle.", 768, at_least=4)

    @nn.nowrap
    def check(self) -> None:
        """See `Network.check`."""
        super().check()
        check_fourier_features(self)
        if not self.ch_mult:
            raise UserError("config.network.ch_mult = () should have a number for each level")
        check_image(self, self.norm_groups, PATCH_SIZE * 2 ** (len(self.ch_mult) - 1))
        for divisor, reason in (
            (4, "its positions are sines and cosines of row and column"),
            (self.dit_heads, f"of config.network.dit_heads = {self.dit_heads}"),
        ):
            if self.dit_hidden % divisor:
                raise UserError(
                    f"config.network.dit_hidden = {self.dit_hidden} should be a multiple of "
                    f"{divisor} because {reason}"
                )
        check_head_dim(self, self.dit_hidden // self.dit_heads,
                       "config.network.dit_hidden / dit_heads")  # fmt: skip

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
        dtype, width, levels = self.compute_dtype, self.feature_dim, len(self.ch_mult)
        cond = Conditioning(self.spec, width, name="conditioning_mlp")(t, label)

        def run_block(x, features, name, resample=""):
            block = ResBlock(features, self.norm_groups, dtype, self.dropout_rate, train, resample,
                             name=name)  # fmt: skip
            call = nn.remat(ResBlock.__call__) if self.remat else ResBlock.__call__
            return call(block, x, cond)

        x = ImageInput(self.spec.vocab_size, width, dtype, self.fourier_features, name="input")(z_t)
        x = nn.Conv(width, (3, 3), dtype=dtype, name="stem")(x)
        skips = [x]
        for level, multiple in enumerate(self.ch_mult):
            for i in range(self.num_layers):
                x = run_block(x, width * multiple, f"down_{level}_{i}")
                skips.append(x)
            if level < levels - 1:
                x = run_block(x, width * multiple, f"shrink_{level}", "shrink")
                skips.append(x)
        x = DiT(
            self.dit_layers, self.dit_heads, self.dit_hidden, PATCH_SIZE, dtype, self.dropout_rate,
            train, self.attention, self.scan_layers, self.remat, name="dit",
        )(x, cond)  # fmt: skip
        for level, multiple in reversed(list(enumerate(self.ch_mult))):
            for i in range(self.num_layers + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = run_block(x, width * multiple, f"up_{level}_{i}")
            if level > 0:
                x = run_block(x, width * multiple, f"enlarge_{level}", "enlarge")
        x = nn.swish(AdaptiveGroupNorm(self.norm_groups, dtype, name="norm")(x, cond))
        if features:
            return x
        head = nn.Conv(output_size(self.spec), (3, 3), dtype=dtype,
                       kernel_init=nn.initializers.zeros, name="head")  # fmt: skip
        return head(x).reshape(*z_t.shape, self.spec.out_features)
