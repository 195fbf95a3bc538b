"""Attention, rotary positions, gated feed-forward layers and the transformer block.

Numbered equations (`h` a row of activations, `c` the conditioning vector):

  (1)  RoPE: (q_2j, q_2j+1) turned by the angle  l * 10000^(-2j / d)   (arXiv:2104.09864, eq. 15)
  (2)  GLU: W_down (act(W_gate h) * W_up h),  act = sigmoid, swish or gelu    (arXiv:2002.05202)
  (3)  block: h <- x + g_1 Attention(modulate(norm(x); s_1, a_1))
              x <- h + g_2 FeedForward(modulate(norm(h); s_2, a_2))
       (s_1, a_1, g_1, s_2, a_2, g_2) = W act(c) + b           (DiT, arXiv:2212.09748, figure 3)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from md4jax.networks.layers import AdaptiveNorm, Modulation, channel_dropout

# The gate of each kind of gated linear unit.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "glu": nn.sigmoid,
    "swiglu": nn.swish,
    "geglu": nn.gelu,  # By its tanh approximation.
}


@functools.lru_cache(maxsize=8)
def rotary_angles(length: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of equation (1), each `[length, head_dim / 2]`, float32.

    Computed in float64 by NumPy, and kept, so that all layers share one constant.
    """
    frequencies = 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(length)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def positions_in_segments(segment: Int[Array, "b l"]) -> Int[Array, "b l"]:
    """Places in a row that start from 0 in each document."""
    place = jnp.arange(segment.shape[1])
    begins = jnp.diff(segment, axis=1, prepend=-1) != 0
    return place - jax.lax.cummax(jnp.where(begins, place, 0), axis=1)


def apply_rotary(
    x: Float[Array, "b l h d"], positions: Int[Array, "b l"] | None = None
) -> Float[Array, "b l h d"]:
    """Turns neighbouring pairs of features by their position's angles, equation (1).

    Args:
      positions: in `[0, l)`; None is the place in the row.
    """
    angles = rotary_angles(x.shape[1], x.shape[3])
    if positions is not None:
        angles = (jnp.asarray(a)[positions] for a in angles)
    cos, sin = (a[..., None, :] for a in angles)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:3], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def attend(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k h d"],
    value: Float[Array, "b k h d"],
    implementation: str = "xla",
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    mask: Bool[Array, "b 1 q k"] | None = None,
) -> Float[Array, "b q h d"]:
    """softmax(query key^T / sqrt(d)) value over the positions that a mask has, or all; in float32.

    Dropout of the probabilities needs them as an array, so with a `dropout_key` and a rate above
    0 they are computed here, whatever the `implementation`.
    """
    if dropout_key is None or dropout_rate == 0:
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, implementation=implementation
        )
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)  # A token attends at least to itself.
    weights = jax.nn.softmax(scores / np.sqrt(query.shape[-1]), axis=-1)
    keep = jax.random.bernoulli(dropout_key, 1 - dropout_rate, weights.shape)
    weights = jnp.where(keep, weights / (1 - dropout_rate), 0).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


class Attention(nn.Module):
    """Self-attention over all positions, in both directions.

    Attributes:
      num_heads: the width is split evenly over them.
      dtype: to compute in.
      rotary: turn queries and keys by their positions.
      input_bias: of query, key and value.
      output_bias: of the output.
      dropout_rate: of the attention probabilities.
      train: whether to drop.
      implementation: "xla" or "cudnn".
      segment: the number of each token's document, if attention is to stay within them; rotary
        positions then start from 0 in each.
    """

    num_heads: int
    dtype: Any
    rotary: bool = False
    input_bias: bool = False
    output_bias: bool = False
    dropout_rate: float = 0.0
    train: bool = False
    implementation: str = "xla"
    segment: Int[Array, "b l"] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b l f"]) -> Float[Array, "b l f"]:
        width, mask, positions = x.shape[-1], None, None
        if self.segment is not None:
            mask = (self.segment[:, :, None] == self.segment[:, None, :])[:, None]
            positions = positions_in_segments(self.segment)

        def heads(name):
            dense = nn.Dense(width, use_bias=self.input_bias, dtype=self.dtype, name=name)
            return dense(x).reshape(*x.shape[:2], self.num_heads, width // self.num_heads)

        query, key, value = heads("query"), heads("key"), heads("value")
        if self.rotary:
            query, key = apply_rotary(query, positions), apply_rotary(key, positions)
        drop = self.train and self.dropout_rate > 0
        dropout_key = self.make_rng("dropout") if drop else None
        h = attend(query, key, value, self.implementation, self.dropout_rate, dropout_key, mask)
        out = nn.Dense(width, use_bias=self.output_bias, dtype=self.dtype, name="out")
        return out(h.reshape(x.shape))


class GatedFeedForward(nn.Module):
    """Equation (2), without biases.

    Attributes:
      activation: of the gate.
      dtype: to compute in.
      init_scale: variance of the initial weights, times the fan-in.
    """

    activation: Callable[[Array], Array]
    dtype: Any
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b l f"]) -> Float[Array, "b l f"]:
        width = x.shape[-1]
        hidden = 32 * -(-(8 * width // 3) // 32)  # As many weights as 4 x width without a gate.
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "truncated_normal")
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype, kernel_init=init)
        gate = self.activation(dense(hidden, name="gate")(x))
        return dense(width, name="down")(gate * dense(hidden, name="up")(x))


class TransformerBlock(nn.Module):
    """Equation (3); without a conditioning vector RMSNorms and no gates.

    Attributes:
      make_attention: gives the attention module, called with its `name`.
      make_feed_forward: gives the feed-forward module.
      activation: of the conditioning vector.
      epsilon: of the norms.
      dtype: to compute in.
      zero_init: shifts, scales and gates are zero at the start.
      dropout_rate: of attention's channels (and the feed-forward's, if `drop_feed_forward`).
      train: whether to drop.
      drop_feed_forward: the feed-forward module has no dropout of its own.
    """

    make_attention: Callable[..., nn.Module]
    make_feed_forward: Callable[..., nn.Module]
    activation: Callable[[Array], Array]
    epsilon: float
    dtype: Any
    zero_init: bool = True
    dropout_rate: float = 0.0
    train: bool = False
    drop_feed_forward: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l f"], cond: Float[Array, "b c"] | None
    ) -> Float[Array, "b l f"]:
        shift_1 = scale_1 = shift_2 = scale_2 = None
        gate_1 = gate_2 = 1
        if cond is not None:
            modulation = Modulation(6, x.shape[-1], self.dtype, self.zero_init, name="modulation")
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation(self.activation(cond))
            gate_1, gate_2 = gate_1[:, None], gate_2[:, None]
        drop = channel_dropout(self.dropout_rate, self.train)
        drop_2 = drop if self.drop_feed_forward else (lambda h: h)
        h = AdaptiveNorm(self.epsilon, self.dtype, name="norm_1")(x, shift_1, scale_1)
        x = x + gate_1 * drop(self.make_attention(name="attention")(h))
        h = AdaptiveNorm(self.epsilon, self.dtype, name="norm_2")(x, shift_2, scale_2)
        return x + gate_2 * drop_2(self.make_feed_forward(name="feed_forward")(h))
