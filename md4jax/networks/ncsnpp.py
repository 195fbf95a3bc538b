"""The U-Net of score-based diffusion: DDPM++, which is NCSN++ without its pyramids of images.

Y. Song, J. Sohl-Dickstein, D. P. Kingma, A. Kumar, S. Ermon, B. Poole, "Score-Based Generative
Modeling through Stochastic Differential Equations", arXiv:2011.13456, appendix H: the U-Net of DDPM
with the residual blocks of BigGAN (arXiv:1809.11096), which also shrink and enlarge, and with every
sum divided by sqrt 2. For CIFAR-10 it is the defaults (with dropout 0.1), 61,804,419 parameters:
the network of star-shaped diffusion's images (arXiv:2302.05259).

Numbered equations (`x` the input of a block, `c` the conditioning vector, `r` shrinks, enlarges or
does nothing):

  (1)  c = W_2 swish(W_1 emb(t) + b_1) + b_2 + class          (`emb`: equation (1) of `layers.py`)
  (2)  h = conv(r(swish(norm(x)))) + W swish(c) + b
  (3)  block:      x <- (r(x) + conv(dropout(swish(norm(h))))) / sqrt 2
  (4)  attention:  x <- (x + W attend(norm(x)) + b) / sqrt 2
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.networks.attention import attend
from md4jax.networks.base import output_size
from md4jax.networks.layers import ImageInput, Label, time_embedding
from md4jax.networks.level_unet import LevelUNet
from md4jax.networks.uvit import enlarge, shrink
from md4jax.options import UserError, option
from md4jax.processes.base import NetworkSpec
from md4jax.typing import Data, Time

EPSILON = 1e-6
GROUP_SIZE = 4  # Channels of a norm's group, at least.
RESAMPLE = {"": lambda x: x, "shrink": shrink, "enlarge": enlarge}


def fan_avg(scale: float) -> nn.initializers.Initializer:
    """Uniform, with variance `scale` over the mean of fan-in and fan-out."""
    return nn.initializers.variance_scaling(scale, "fan_avg", "uniform")


# The published layers that are zero here are drawn with a scale of 1e-10.
ZEROS = nn.initializers.zeros
Dense = functools.partial(nn.Dense, kernel_init=fan_avg(1.0))
Conv = functools.partial(nn.Conv, kernel_size=(3, 3), kernel_init=fan_avg(1.0))


def group_norm(
    x: Float[Array, "b h w c"], max_groups: int, name: str, dtype: Any
) -> Float[Array, "b h w c"]:
    """A group norm, of the module that calls this, with at least 4 channels a group."""
    groups = min(x.shape[-1] // GROUP_SIZE, max_groups)
    return nn.GroupNorm(groups, epsilon=EPSILON, dtype=dtype, name=name)(x)


class TimeAndClass(nn.Module):
    """Equation (1) with what there is of time and class; float32. None if there is neither.

    Attributes:
      spec: says which of them there are.
      width: f, of the sines and cosines; the result is four times as wide.
    """

    spec: NetworkSpec
    width: int

    @nn.compact
    def __call__(self, t: Time | None, label: Label | None) -> Float[Array, "b f4"] | None:
        parts = []
        if self.spec.has_time:
            hidden = Dense(4 * self.width, name="up")(time_embedding(t, self.width))
            parts.append(Dense(4 * self.width, name="down")(nn.swish(hidden)))
        if self.spec.num_classes is not None:
            embed = nn.Embed(self.spec.num_classes, 4 * self.width, name="class_embedding",
                             embedding_init=nn.initializers.normal(1.0))  # fmt: skip
            parts.append(embed(label))
        return sum(parts) if parts else None


class ResBlock(nn.Module):
    """Equations (2) and (3); the input passes a linear layer where its shape changes.

    Attributes:
      features: channels of the output.
      norm_groups: of the group norms, at most.
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
        resample = RESAMPLE[self.resample]
        h = nn.swish(group_norm(x, self.norm_groups, "norm_1", self.dtype))
        h = Conv(self.features, dtype=self.dtype, name="conv_1")(resample(h))
        if cond is not None:
            cond = Dense(self.features, dtype=self.dtype, name="cond")(nn.swish(cond))
            h = h + cond[:, None, None]
        h = nn.swish(group_norm(h, self.norm_groups, "norm_2", self.dtype))
        h = nn.Dropout(self.dropout_rate, deterministic=not self.train)(h)
        h = Conv(self.features, dtype=self.dtype, kernel_init=ZEROS, name="conv_2")(h)
        x = resample(x)
        if self.resample or x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return (x + h) / math.sqrt(2)


class PixelAttention(nn.Module):
    """Equation (4), over all pixels.

    Attributes:
      num_heads: the channels are split evenly over them.
      norm_groups: of the group norm, at most.
      dtype: to compute in.
      implementation: of the attention, "xla" or "cudnn".
    """

    num_heads: int
    norm_groups: int
    dtype: Any
    implementation: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        pixels = group_norm(x, self.norm_groups, "norm", self.dtype).reshape(b, h * w, c)
        query, key, value = (
            Dense(c, dtype=self.dtype, kernel_init=fan_avg(0.1), name=name)(pixels).reshape(
                b, h * w, self.num_heads, -1
            )
            for name in ("query", "key", "value")
        )
        attended = attend(query, key, value, self.implementation).reshape(x.shape)
        out = Dense(c, dtype=self.dtype, kernel_init=ZEROS, name="out")
        return (x + out(attended)) / math.sqrt(2)


class NCSNpp(LevelUNet, kw_only=True):
    """A `LevelUNet` whose blocks halve and double the sides, and with less attention.

    On the way up attention follows the last block of a level alone.
    """

    num_layers: int = option("Residual blocks a level down; there is one more up.", 4, at_least=1)
    norm_groups: int = option("Groups of the group norms, of 4 channels or more.", 32, at_least=1)

    @nn.nowrap
    def check(self) -> None:
        """See `Network.check`."""
        super().check()
        if self.feature_dim % GROUP_SIZE:
            raise UserError(
                f"config.network.feature_dim = {self.feature_dim} should be a multiple of "
                f"{GROUP_SIZE}, so that channels split evenly into the groups of the norms"
            )

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
        dtype, width = self.compute_dtype, self.feature_dim
        cond = TimeAndClass(self.spec, width, name="conditioning_mlp")(t, label)

        def run(module, *args):
            call = type(module).__call__
            return (nn.remat(call) if self.remat else call)(module, *args)

        def run_block(x, features, name, resample=""):
            block = ResBlock(features, self.norm_groups, dtype, self.dropout_rate, train, resample,
                             name=name)  # fmt: skip
            return run(block, x, cond)

        def run_attention(x, name):
            attention = PixelAttention(self.num_heads, self.norm_groups, dtype, self.attention,
                                       name=name)  # fmt: skip
            return run(attention, x)

        x = ImageInput(self.spec.vocab_size, width, dtype, name="input")(z_t)
        x = Conv(width, dtype=dtype, name="stem")(x)
        skips = [x]
        levels = [(i, width * m, 2**i in self.attention_levels) for i, m in enumerate(self.ch_mult)]
        for level, features, attends in levels:
            if level > 0:
                x = run_block(x, x.shape[-1], f"shrink_{level - 1}", "shrink")
                skips.append(x)
            for i in range(self.num_layers):
                x = run_block(x, features, f"down_{level}_{i}")
                if attends:
                    x = run_attention(x, f"down_{level}_{i}_attention")
                skips.append(x)
        x = run_block(x, x.shape[-1], "middle_1")
        x = run_attention(x, "middle_attention")
        x = run_block(x, x.shape[-1], "middle_2")
        for level, features, attends in reversed(levels):
            for i in range(self.num_layers + 1):
                x = run_block(jnp.concatenate([x, skips.pop()], axis=-1), features,
                              f"up_{level}_{i}")  # fmt: skip
            if attends:
                x = run_attention(x, f"up_{level}_attention")
            if level > 0:
                x = run_block(x, features, f"enlarge_{level}", "enlarge")
        x = nn.swish(group_norm(x, self.norm_groups, "norm", dtype))
        x = Conv(output_size(self.spec), dtype=dtype, kernel_init=ZEROS, name="head")(x)
        return x.reshape(*z_t.shape[:-1], self.spec.shape[-1], self.spec.out_features)
