"""Layers the networks share: embeddings, conditioning, norms and residual blocks.

Parameters have names that say how they may be spread over devices, whatever module they are in:

    query, key, value, gate, up / kernel   open a width: spread the last axis
    out, down / kernel                     close it again: spread the axis before the last
    head / kernel                          to the output's features: spread the last axis
    embedding                              `[ids, features]`: spread the ids

With `scan_layers` a stack of layers has one array with the layers as a new first axis, so rules
that count axes from the end hold for both forms.

Numbered equations:

  (1)  emb(t) = [sin(1000 t w_j), cos(1000 t w_j)],   w_j = 10000^(-j / (f/2 - 1)),  j < f/2
  (2)  c = W_2 swish(W_1 [emb(t), class] + b_1) + b_2        (MD4, arXiv:2406.04329, code)
  (3)  modulate(h; shift, scale) = h (1 + scale) + shift     (DiT, arXiv:2212.09748, section 3.2)
  (4)  [z, sin(2^k 2 pi z) for all k, cos(2^k 2 pi z) for all k]    (VDM, arXiv:2107.00630, app. C)
  (5)  c = swish(W_2 swish(W_1 [emb(t), class] + b_1) + b_2), four times as wide       (VDM, code)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from md4jax.processes.base import NetworkSpec
from md4jax.typing import Data, Time

Label = Int[Array, "b"]  # in [0, num_classes)

MAX_PERIOD = 1e4
TIME_SCALE = 1000.0


def time_embedding(t: Time, width: int) -> Float[Array, "b f"]:
    """Sines and cosines of the time, equation (1).

    Args:
      t: in [0, 1].
      width: f, at least 4; if odd, the last entry is 0.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(MAX_PERIOD) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = TIME_SCALE * t.astype(jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


class Conditioning(nn.Module):
    """Time and class as one vector, equation (2) or (5); float32.

    Without time the class embedding itself is the vector; without either there is none.

    Attributes:
      spec: says which of them there are.
      width: f.
      wide: equation (5).
    """

    spec: NetworkSpec
    width: int
    wide: bool = False

    @nn.compact
    def __call__(self, t: Time | None, label: Label | None) -> Float[Array, "b c"] | None:
        inputs = []
        if self.spec.has_time:
            inputs.append(time_embedding(t, self.width))
        if self.spec.num_classes is not None:
            embed = nn.Embed(self.spec.num_classes, self.width, name="class_embedding")
            inputs.append(embed(label))
        if not self.spec.has_time:
            return inputs[0] if inputs else None
        hidden = nn.Dense(4 * self.width, name="up")(jnp.concatenate(inputs, axis=-1))
        cond = nn.Dense(self.width * (4 if self.wide else 1), name="down")(nn.swish(hidden))
        return nn.swish(cond) if self.wide else cond


class ImageInput(nn.Module):
    """Pixels as channels of real values.

    Ids are embedded one by one, and the vectors of a pixel's channels are laid side by side;
    real values are the channels as they are, and those of equation (4).

    Attributes:
      vocab_size: number of ids; None if pixels are real.
      features: entries of an id's vector.
      dtype: of the result.
      frequencies: the k of equation (4).
    """

    vocab_size: int | None
    features: int
    dtype: Any
    frequencies: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, z_t: Data) -> Float[Array, "b h w c"]:
        if self.vocab_size is None:
            # In float32: the finest wave of VDM is 128 periods long from 0 to 1.
            angles = [2**k * 2 * math.pi * z_t.astype(jnp.float32) for k in self.frequencies]
            waves = [*map(jnp.sin, angles), *map(jnp.cos, angles)]
            return jnp.concatenate([x.astype(self.dtype) for x in (z_t, *waves)], axis=-1)
        embed = nn.Embed(self.vocab_size, self.features, dtype=self.dtype, name="embedding")
        return embed(z_t).reshape(*z_t.shape[:3], -1)


def modulate(
    h: Float[Array, "b *s f"], shift: Float[Array, "b f"], scale: Float[Array, "b f"]
) -> Float[Array, "b *s f"]:
    """Equation (3): one shift and scale an example and feature; in the dtype of h."""
    between = tuple(range(1, h.ndim - 1))
    shift, scale = (jnp.expand_dims(a.astype(h.dtype), between) for a in (shift, scale))
    return h * (1 + scale) + shift


class Modulation(nn.Module):
    """What the conditioning vector adds to a block: `num` vectors, computed by one Dense.

    Attributes:
      num: how many.
      features: entries of each.
      dtype: to compute in.
      zero_init: all are zero at the start (adaLN-Zero, arXiv:2212.09748), else LeCun normal.
    """

    num: int
    features: int
    dtype: Any
    zero_init: bool = True

    @nn.compact
    def __call__(self, cond: Float[Array, "b c"]) -> list[Float[Array, "b f"]]:
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        dense = nn.Dense(self.num * self.features, dtype=self.dtype, kernel_init=init, name="dense")
        return jnp.split(dense(cond), self.num, axis=-1)


class AdaptiveNorm(nn.Module):
    """LayerNorm that the conditioning vector shifts and scales; RMSNorm if there is none.

    Takes shift and scale rather than the vector, since a block computes all of its own at once.

    Attributes:
      epsilon: added to the variance.
      dtype: of the result; the norm itself is float32.
    """

    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l f"],
        shift: Float[Array, "b f"] | None = None,
        scale: Float[Array, "b f"] | None = None,
    ) -> Float[Array, "b l f"]:
        if shift is None:
            return nn.RMSNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        norm = nn.LayerNorm(
            epsilon=self.epsilon, dtype=jnp.float32, use_bias=False, use_scale=False, name="norm"
        )
        return modulate(norm(x), shift, scale).astype(self.dtype)


def channel_dropout(rate: float, train: bool) -> nn.Dropout:
    """Dropout of whole channels: one draw an example and feature for all positions."""
    return nn.Dropout(rate, broadcast_dims=(1,), deterministic=not train)


def at_positions(
    x: Float[Array, "b l f"], positions: Int[Array, "b k"] | None
) -> Float[Array, "b k f"]:
    """The features of each example at its positions; all if that is None."""
    return x if positions is None else jnp.take_along_axis(x, positions[..., None], axis=1)


def apply_blocks(
    make: Callable[..., nn.Module],
    num_blocks: int,
    x: Array,
    cond: Array | None,
    *,
    name: str,
    scan: bool,
    remat: bool,
    skips: Sequence[Array] | None = None,
    collect: bool = False,
) -> tuple[Array, list[Array]]:
    """A stack of like blocks `(x, cond) -> x`.

    Args:
      make: `make(name=...)` gives a block. They are called `name_0`, `name_1`, ...; with `scan`
        there is one, called `name`, with the blocks' parameters stacked.
      scan: run as one `lax.scan` instead of block after block.
      remat: keep each block's input only, and recompute the rest in the backward pass.
      skips: laid beside the input of the blocks, the last one first; as many as blocks.
      collect: whether to return each block's output.

    Returns:
      the last output, and all outputs if `collect`.
    """

    def step(block, x, skip, cond):
        x = block(x if skip is None else jnp.concatenate([x, skip], axis=-1), cond)
        return x, x if collect else None

    if remat:
        # Inside a scan XLA cannot merge the recomputation with the forward pass.
        step = nn.remat(step, prevent_cse=not scan)
    if scan:
        loop = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=num_blocks,
        )
        stacked = None if skips is None else jnp.stack(skips[::-1])
        x, outputs = loop(make(name=name), x, stacked, cond)
        return x, list(outputs) if collect else []
    outputs = []
    for i in range(num_blocks):
        skip = None if skips is None else skips[-1 - i]
        x, output = step(make(name=f"{name}_{i}"), x, skip, cond)
        outputs.append(output)
    return x, outputs if collect else []
