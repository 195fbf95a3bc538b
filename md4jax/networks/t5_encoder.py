"""The encoder of T5, for text given as ids or as a distribution over tokens at each position.

C. Raffel, N. Shazeer, A. Roberts, K. Lee, S. Narang, M. Matena, Y. Zhou, W. Li, P. J. Liu,
"Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
arXiv:1910.10683, section 2.1; around it the input and output layers of star-shaped diffusion
(arXiv:2302.05259). Base size is the defaults (with dropout 0.1): 84,995,739 parameters for text8,
given as 256 distributions over 27 tokens.

Numbered equations (`h` a row of activations; `emb` is equation (1) of `layers.py`):

  (1)  x_l = z_l E + emb(l / 1000) for l = 0, ..., L - 1;      x_L = emb(t) + class
  (2)  attention: softmax_k(q_l . k_k + B[bucket(k - l)]) v_k,  one B for all blocks
  (3)  block:     h <- h + Attention(norm(h));  h <- h + W_down relu(W_up norm(h))
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md4jax.networks.base import Network
from md4jax.networks.layers import (
    TIME_SCALE,
    Label,
    apply_blocks,
    at_positions,
    time_embedding,
)
from md4jax.options import UserError, option
from md4jax.typing import Data, Time

EPSILON = 1e-6
BUCKETS = 32
MAX_DISTANCE = 128


def relative_buckets(length: int, buckets: int, max_distance: int) -> Int[np.ndarray, "l l"]:
    """Bucket of key k as seen from query l, at `[l, k]` (arXiv:1910.10683, section 2.1).

    The first half of the buckets is for keys up to the query, the second half for keys after it. Of
    a half, the first half are the distances 0, 1, 2, ... one by one, and the others grow by a
    constant factor up to `max_distance`; the last one is for all distances from there on.

    Args:
      length: of queries and keys.
      buckets: how many, a multiple of 4.
      max_distance: above `buckets / 4`.
    """
    exact = buckets // 4
    growth = (max_distance / exact) ** (np.arange(exact) / exact)
    # Rounded down a little, since exact * growth is a whole number at some steps.
    starts = np.concatenate([np.arange(1, exact), np.ceil(exact * growth - 1e-6)])
    offset = np.arange(length) - np.arange(length)[:, None]
    distance = np.searchsorted(starts, np.abs(offset), side="right")
    return distance + (offset > 0) * (buckets // 2)


class BiasedAttention(nn.Module):
    """Equation (2).

    T5 does not divide scores by sqrt(head width): queries start smaller by that factor instead.

    Attributes:
      num_heads: the width is split evenly over them.
      dtype: to compute in; scores and their softmax are float32.
      dropout_rate: of the attention probabilities.
      train: whether to drop.
    """

    num_heads: int
    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l f"], bias: Float[Array, "h l l"]
    ) -> Float[Array, "b l f"]:
        width = x.shape[-1]
        head_dim = width // self.num_heads

        def heads(name, std):
            dense = nn.Dense(width, use_bias=False, dtype=self.dtype,
                             kernel_init=nn.initializers.normal(std), name=name)  # fmt: skip
            return dense(x).reshape(*x.shape[:2], self.num_heads, head_dim)

        query, key = heads("query", (width * head_dim) ** -0.5), heads("key", width**-0.5)
        value = heads("value", width**-0.5)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.dropout_rate, deterministic=not self.train)(weights)
        h = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        return nn.Dense(width, use_bias=False, dtype=self.dtype,
                        kernel_init=nn.initializers.normal(width**-0.5), name="out")(h)  # fmt: skip


class FeedForward(nn.Module):
    """Two layers with a ReLU between, four times as wide inside, without biases.

    Attributes:
      dtype: to compute in.
      dropout_rate: after the ReLU.
      train: whether to drop.
    """

    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b l f"]) -> Float[Array, "b l f"]:
        def dense(x, features, name):
            init = nn.initializers.normal(x.shape[-1] ** -0.5)
            return nn.Dense(features, use_bias=False, dtype=self.dtype, kernel_init=init,
                            name=name)(x)  # fmt: skip

        hidden = nn.relu(dense(x, 4 * x.shape[-1], "up"))
        hidden = nn.Dropout(self.dropout_rate, deterministic=not self.train)(hidden)
        return dense(hidden, x.shape[-1], "down")


class EncoderBlock(nn.Module):
    """Equation (3).

    Attributes:
      num_heads: of the attention.
      dtype: to compute in.
      dropout_rate: of the two layers, in them and of what they add.
      train: whether to drop.
    """

    num_heads: int
    dtype: Any
    dropout_rate: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l f"], bias: Float[Array, "h l l"]
    ) -> Float[Array, "b l f"]:
        options = (self.dtype, self.dropout_rate, self.train)
        norm = functools.partial(nn.RMSNorm, epsilon=EPSILON, dtype=self.dtype)
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        attention = BiasedAttention(self.num_heads, *options, name="attention")
        x = x + drop(attention(norm(name="norm_1")(x), bias))
        return x + drop(FeedForward(*options, name="feed_forward")(norm(name="norm_2")(x)))


class T5Encoder(Network, kw_only=True):
    """Blocks of biased attention and feed-forward layers, of width `feature_dim * num_heads`.

    Time and class are a token after the last one, which has no output; without either there is
    none. Real values may have shape `(length,)`, where E has one row, or `(length, vectors)`.
    """

    gives_positions = True

    feature_dim: int = option("Width of a head.", 64, at_least=4)
    num_layers: int = option("Blocks.", 12, at_least=1)
    num_heads: int = option("Attention heads.", 12, at_least=1)

    @nn.nowrap
    def check(self) -> None:
        """See `Network.check`."""
        super().check()
        shape, ids = self.spec.shape, self.spec.vocab_size is not None
        if len(shape) != 1 and (ids or len(shape) != 2):
            wanted = "(length,)" if ids else "(length,) or (length, entries)"
            kind = "ids" if ids else "real values"
            raise UserError(
                f"config.network: T5Encoder needs {kind} of shape {wanted}, got {shape}"
            )
        if self.attention != "xla":
            raise UserError(
                f"config.network.attention = {self.attention!r} should be 'xla': T5Encoder adds a "
                "learned bias to the scores of attention, which other kernels do not take here"
            )

    @nn.compact
    def __call__(
        self,
        z_t: Data,
        t: Time | None,
        label: Label | None = None,
        train: bool = False,
        positions: Int[Array, "b k"] | None = None,
    ) -> Float[Array, "b *s v"]:
        """`z_t` `[b, length(, V)]` to `[b, length(, V), spec.out_features]`; see `Network`."""
        self.check_inputs(t, label)
        dtype, length = self.compute_dtype, z_t.shape[1]
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        x = drop(self._embed(z_t, t, label))
        # Not an nn.Embed: 32 rows are not worth spreading over devices.
        table = self.param("relative_bias", nn.initializers.normal(x.shape[-1] ** -0.5),
                           (BUCKETS, self.num_heads))  # fmt: skip
        buckets = relative_buckets(x.shape[1], BUCKETS, MAX_DISTANCE)
        bias = jnp.take(table, buckets, axis=0).transpose(2, 0, 1)
        make_block = functools.partial(
            EncoderBlock, self.num_heads, dtype, self.dropout_rate, train
        )
        x, _ = apply_blocks(make_block, self.num_layers, x, bias,
                            name="blocks", scan=self.scan_layers, remat=self.remat)  # fmt: skip
        x = at_positions(x[:, :length], positions)
        x = drop(nn.RMSNorm(epsilon=EPSILON, dtype=dtype, name="norm")(x))
        features = z_t[0, 0].size * self.spec.out_features
        head = nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.zeros, name="head")
        return head(x).reshape(*x.shape[:2], *z_t.shape[2:], self.spec.out_features)

    def _embed(self, z_t: Data, t: Time | None, label: Label | None) -> Float[Array, "b n f"]:
        """Equation (1)."""
        width, dtype, spec = self.feature_dim * self.num_heads, self.compute_dtype, self.spec
        batch, length = z_t.shape[:2]
        rows = z_t[0, 0].size if spec.vocab_size is None else spec.vocab_size
        embed = nn.Embed(rows, width, dtype=dtype, name="embedding",
                         embedding_init=nn.initializers.normal(1.0))  # fmt: skip
        if spec.vocab_size is None:
            x = z_t.reshape(batch, length, rows).astype(dtype) @ embed.embedding.astype(dtype)
        else:
            x = embed(z_t)
        x = x + time_embedding(jnp.arange(length) / TIME_SCALE, width).astype(dtype)
        token = []
        if spec.has_time:
            token.append(time_embedding(t, width))
        if spec.num_classes is not None:
            classes = nn.Embed(spec.num_classes, width, name="class_embedding",
                               embedding_init=nn.initializers.normal(1.0))  # fmt: skip
            token.append(classes(label))
        if token:
            x = jnp.concatenate([x, sum(token)[:, None].astype(dtype)], axis=1)
        return x
