"""What the U-Nets of DDPM and of Improved DDPM share: all of it but a few choices.

Residual blocks at levels of halving size, attention at some of them, and skips from every block of
the way down to the way up (J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models",
arXiv:2006.11239, appendix B). A network is a subclass of `LevelUNet` that says by a `Style` what it
does differently: `ddpm_unet.py` and `improved_unet.py`.

Numbered equations (`x` the input of a block, `c` the conditioning vector):

  (1)  c = W_2 swish(W_1 emb(t) + b_1) + b_2 + class
  (2)  additive:     h = norm(conv(swish(norm(x))) + W swish(c) + b)
  (3)  scale-shift:  h = modulate(norm(conv(swish(norm(x)))); shift, scale),
                     (scale, shift) = W swish(c) + b          (arXiv:2102.09672, appendix A)
  (4)  block:        x <- x + conv(dropout(swish(h)))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.networks.attention import attend
from md4jax.networks.base import Network, check_head_dim, check_image, output_size
from md4jax.networks.layers import ImageInput, Label, modulate
from md4jax.networks.uvit import enlarge
from md4jax.options import UserError, option
from md4jax.processes.base import NetworkSpec
from md4jax.typing import Data, Time


@dataclasses.dataclass(frozen=True)
class Style:
    """Where the published networks part.

    Attributes:
      embed_time: time `[b]` in [0, 1] and a width to sines and cosines `[b, width]`.
      epsilon: added to the variance by the norms.
      shrink_padding: rows (and columns) of zeros before and after the image, where a convolution
        of stride two shrinks it.
      scale_shift: equation (3) rather than (2).
      zero_blocks: blocks and attention start as the identity: their last layer is zero.
    """

    embed_time: Callable[[Time, int], Float[Array, "b f"]]
    epsilon: float
    shrink_padding: tuple[int, int]
    scale_shift: bool = False
    zero_blocks: bool = False


def initializers(fan_in: int, zero: bool) -> dict[str, Callable[..., Array]]:
    """Of kernel and bias: uniform on +-1/sqrt(fan_in), which is what PyTorch does; or zero."""

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    init = nn.initializers.zeros if zero else uniform
    return {"kernel_init": init, "bias_init": init}


def dense(
    x: Float[Array, "*s c"], features: int, name: str, dtype: Any, zero: bool = False
) -> Float[Array, "*s d"]:
    """A linear layer of the module that calls this."""
    inits = initializers(x.shape[-1], zero)
    return nn.Dense(features, dtype=dtype, name=name, **inits)(x)


def conv(
    x: Float[Array, "b h w c"], features: int, name: str, dtype: Any, zero: bool = False,
    stride: int = 1, padding: tuple[int, int] = (1, 1),
) -> Float[Array, "b h2 w2 d"]:  # fmt: skip
    """A 3 x 3 convolution of the module that calls this."""
    inits = initializers(9 * x.shape[-1], zero)
    return nn.Conv(features, (3, 3), stride, (padding, padding), dtype=dtype, name=name, **inits)(x)


class TimeAndClass(nn.Module):
    """Equation (1) with what there is of time and class; float32. None if there is neither.

    Attributes:
      spec: says which of them there are.
      width: f, of the sines and cosines; the result is four times as wide.
      embed_time: see `Style`.
    """

    spec: NetworkSpec
    width: int
    embed_time: Callable[[Time, int], Float[Array, "b f"]]

    @nn.compact
    def __call__(self, t: Time | None, label: Label | None) -> Float[Array, "b f4"] | None:
        cond = None
        if self.spec.has_time:
            hidden = dense(self.embed_time(t, self.width), 4 * self.width, "up", jnp.float32)
            cond = dense(nn.swish(hidden), 4 * self.width, "down", jnp.float32)
        if self.spec.num_classes is not None:
            embed = nn.Embed(self.spec.num_classes, 4 * self.width, name="class_embedding",
                             embedding_init=nn.initializers.normal(1.0))  # fmt: skip
            cond = embed(label) if cond is None else cond + embed(label)
        return cond


class ResBlock(nn.Module):
    """Equation (4); the input passes a linear layer where the number of channels changes.

    Attributes:
      features: channels of the output.
      norm_groups: of the group norms.
      style: see there.
      dtype: to compute in.
      dropout_rate: before the second convolution.
      train: whether to drop.
    """

    features: int
    norm_groups: int
    style: Style
    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], cond: Float[Array, "b f"] | None
    ) -> Float[Array, "b h w d"]:
        norm = functools.partial(nn.GroupNorm, self.norm_groups, epsilon=self.style.epsilon)
        h = nn.swish(norm(dtype=self.dtype, name="norm_1")(x))
        h = conv(h, self.features, "conv_1", self.dtype)
        norm_2 = norm(dtype=jnp.float32, name="norm_2")  # So that (3) is applied in float32 too.
        if cond is None:
            h = norm_2(h)
        elif self.style.scale_shift:
            cond = dense(nn.swish(cond), 2 * self.features, "cond", self.dtype)
            scale, shift = jnp.split(cond, 2, axis=-1)
            h = modulate(norm_2(h), shift, scale)
        else:
            cond = dense(nn.swish(cond), self.features, "cond", self.dtype)
            h = norm_2(h + cond[:, None, None])
        h = nn.swish(h.astype(self.dtype))
        h = nn.Dropout(self.dropout_rate, deterministic=not self.train)(h)
        h = conv(h, self.features, "conv_2", self.dtype, zero=self.style.zero_blocks)
        if x.shape[-1] != self.features:
            x = dense(x, self.features, "shortcut", self.dtype)
        return x + h


class PixelAttention(nn.Module):
    """Self-attention over all pixels, added to the input.

    Attributes:
      num_heads: the channels are split evenly over them.
      norm_groups: of the group norm.
      style: see there.
      dtype: to compute in.
      implementation: of the attention, "xla" or "cudnn".
    """

    num_heads: int
    norm_groups: int
    style: Style
    dtype: Any
    implementation: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        norm = nn.GroupNorm(self.norm_groups, epsilon=self.style.epsilon, dtype=self.dtype,
                            name="norm")  # fmt: skip
        pixels = norm(x).reshape(b, h * w, c)
        query, key, value = (
            dense(pixels, c, name, self.dtype).reshape(b, h * w, self.num_heads, -1)
            for name in ("query", "key", "value")
        )
        attended = attend(query, key, value, self.implementation).reshape(x.shape)
        return x + dense(attended, c, "out", self.dtype, zero=self.style.zero_blocks)


class LevelUNet(Network, kw_only=True):
    """`num_layers` residual blocks at each of `ch_mult`'s levels down, and one more up.

    Height and width halve between levels. Attention follows the blocks of the levels chosen, and
    stands between the two blocks in the middle. Any image size that the levels divide, and any
    number of channels, will do; `z_t` may have more channels than `spec.shape` where something to
    go by is laid beside it, as a small image to be enlarged is.

    The last axis of the output counts fastest: feature k of channel c is number
    `c * out_features + k` of the output convolution. The published networks, where a learned
    variance makes two features, have it as number `k * channels + c`: first all means.
    """

    feature_dim: int = option("Channels of the first level; the conditioning vector has 4 times as "
                              "many entries.", 128, at_least=4)  # fmt: skip
    num_layers: int = option("Residual blocks a level down; there is one more up.", 2, at_least=1)
    ch_mult: tuple[int, ...] = option("Channels of each level, in feature_dim.", (1, 2, 2, 2),
                                      at_least=1)  # fmt: skip
    attention_levels: tuple[int, ...] = option(
        "Levels with attention, by the factor they shrink images: 1, 2, 4, ... (2 is 16 x 16 for "
        "32 x 32 images). The middle has it always.", (2,), at_least=1)  # fmt: skip
    num_heads: int = option("Attention heads.", 1, at_least=1)
    norm_groups: int = option("Groups of the group norms.", 32, at_least=1)

    @property
    def style(self) -> Style:
        """What the subclass does differently."""
        raise NotImplementedError

    @property
    def heads_up(self) -> int:
        """Attention heads on the way up."""
        return self.num_heads

    @nn.nowrap
    def check(self) -> None:
        """See `Network.check`."""
        super().check()
        name = type(self).__name__
        if self.scan_layers:
            raise UserError(
                f"config.network.scan_layers = True should be False: {name}'s blocks have "
                f"different widths, so they are not one layer in a loop"
            )
        if not self.ch_mult:
            raise UserError("config.network.ch_mult = () should have a number for each level")
        factors = [2**level for level in range(len(self.ch_mult))]
        check_image(self, self.norm_groups, factors[-1])
        if not set(self.attention_levels) <= set(factors):
            raise UserError(
                f"config.network.attention_levels = {self.attention_levels} should be among "
                f"{', '.join(map(str, factors))}: the factors by which the levels of "
                f"config.network.ch_mult = {self.ch_mult} shrink images"
            )
        for field, heads, levels in (
            ("num_heads", self.num_heads, {*self.attention_levels, factors[-1]}),
            ("num_heads_up", self.heads_up, set(self.attention_levels)),
        ):
            for level in sorted(levels):
                multiple = self.ch_mult[factors.index(level)]
                if self.feature_dim * multiple % heads:
                    raise UserError(
                        f"config.network.feature_dim = {self.feature_dim}, {multiple}-fold by "
                        f"ch_mult, should be a multiple of {heads} because of "
                        f"config.network.{field} = {heads}"
                    )
                check_head_dim(self, self.feature_dim * multiple // heads,
                               f"config.network.feature_dim, {multiple}-fold by ch_mult, over "
                               f"{field}")  # fmt: skip

    @nn.compact
    def __call__(
        self,
        z_t: Data,
        t: Time | None,
        label: Label | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c v"]:
        """`z_t` `[b, h, w, c]` to `[b, h, w, c, spec.out_features]`; see `Network`."""
        self.check_inputs(t, label)
        dtype, width, style = self.compute_dtype, self.feature_dim, self.style
        embed = TimeAndClass(self.spec, width, style.embed_time, name="conditioning_mlp")
        cond = embed(t, label)

        def run(module, *args):
            call = type(module).__call__
            return (nn.remat(call) if self.remat else call)(module, *args)

        def run_block(x, features, name):
            block = ResBlock(features, self.norm_groups, style, dtype, self.dropout_rate, train,
                             name=name)  # fmt: skip
            return run(block, x, cond)

        def run_attention(x, heads, name):
            attention = PixelAttention(heads, self.norm_groups, style, dtype, self.attention,
                                       name=name)  # fmt: skip
            return run(attention, x)

        x = ImageInput(self.spec.vocab_size, width, dtype, name="input")(z_t)
        x = conv(x, width, "stem", dtype)
        skips = [x]
        levels = [(i, width * m, 2**i in self.attention_levels) for i, m in enumerate(self.ch_mult)]
        for level, features, attends in levels:
            if level > 0:
                x = conv(x, x.shape[-1], f"shrink_{level - 1}", dtype, stride=2,
                         padding=style.shrink_padding)  # fmt: skip
                skips.append(x)
            for i in range(self.num_layers):
                x = run_block(x, features, f"down_{level}_{i}")
                if attends:
                    x = run_attention(x, self.num_heads, f"down_{level}_{i}_attention")
                skips.append(x)
        x = run_block(x, x.shape[-1], "middle_1")
        x = run_attention(x, self.num_heads, "middle_attention")
        x = run_block(x, x.shape[-1], "middle_2")
        for level, features, attends in reversed(levels):
            for i in range(self.num_layers + 1):
                x = run_block(jnp.concatenate([x, skips.pop()], axis=-1), features,
                              f"up_{level}_{i}")  # fmt: skip
                if attends:
                    x = run_attention(x, self.heads_up, f"up_{level}_{i}_attention")
            if level > 0:
                x = conv(enlarge(x), features, f"enlarge_{level}", dtype)
        norm = nn.GroupNorm(self.norm_groups, epsilon=style.epsilon, dtype=dtype, name="norm")
        x = conv(nn.swish(norm(x)), output_size(self.spec), "head", dtype, zero=True)
        return x.reshape(*z_t.shape[:-1], self.spec.shape[-1], self.spec.out_features)
