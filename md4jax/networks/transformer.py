"""The text transformer of MD4: a bidirectional encoder with adaptive norms.

J. Shi, K. Han, Z. Wang, A. Doucet, M. K. Titsias, "Simplified and Generalized Masked Diffusion for
Discrete Data", arXiv:2406.04329, appendix G; the adaptive norms are DiT's (arXiv:2212.09748), the
positions rotary (arXiv:2104.09864).
"""

from __future__ import annotations

import functools

import flax.linen as nn
from jaxtyping import Array, Float, Int

from md4jax.networks.attention import ACTIVATIONS, Attention, GatedFeedForward, TransformerBlock
from md4jax.networks.base import Network, check_head_dim
from md4jax.networks.layers import (
    AdaptiveNorm,
    Conditioning,
    Label,
    Modulation,
    apply_blocks,
    at_positions,
)
from md4jax.options import UserError, option
from md4jax.typing import Data, Time

EPSILON = 1e-5


class Transformer(Network, kw_only=True):
    """Blocks of attention and gated feed-forward layers, of width `feature_dim * num_heads`."""

    takes_segments = True
    gives_positions = True
    gives_features = True

    feature_dim: int = option("Width of a head and of the conditioning vector.", 64, at_least=4)
    num_layers: int = option("Blocks.", 12, at_least=1)
    num_heads: int = option("Attention heads.", 12, at_least=1)
    feed_forward: str = option("Kind of gated feed-forward layer.", "glu",
                               one_of=tuple(ACTIVATIONS))  # fmt: skip
    conditioning: str = option("How time and class enter; adaln_zero starts at no effect.",
                               "adaln_zero", one_of=("adaln", "adaln_zero"))  # fmt: skip
    depth_scaled_init: bool = option("Feed-forward weights start smaller the more layers.", True)
    narrow_embedding: bool = option(
        "Embed ids in feature_dim entries and project them to the width; for small vocabularies.",
        False,
    )

    @nn.nowrap
    def check(self) -> None:
        """See `Network.check`."""
        super().check()
        if len(self.spec.shape) != 1:
            raise UserError(
                f"config.network: Transformer needs data of shape (length,), got {self.spec.shape}"
            )
        if self.feature_dim % 2:
            raise UserError(
                f"config.network.feature_dim = {self.feature_dim} should be even because rotary "
                "positions turn pairs of features"
            )
        check_head_dim(self, self.feature_dim, f"config.network.feature_dim = {self.feature_dim}")

    @nn.compact
    def __call__(
        self,
        z_t: Data,
        t: Time | None,
        label: Label | None = None,
        train: bool = False,
        segment: Int[Array, "b l"] | None = None,
        positions: Int[Array, "b k"] | None = None,
        features: bool = False,
    ) -> Float[Array, "b k v"]:
        """`z_t` `[b, length]` to `[b, length, spec.out_features]`; see `Network`."""
        self.check_inputs(t, label)
        dtype, activation = self.compute_dtype, ACTIVATIONS[self.feed_forward]
        zero_init = self.conditioning == "adaln_zero"
        cond = Conditioning(self.spec, self.feature_dim, name="conditioning_mlp")(t, label)
        x = self._embed(z_t, train)
        make_attention = functools.partial(
            Attention, self.num_heads, dtype, rotary=True, dropout_rate=self.dropout_rate,
            train=train, implementation=self.attention, segment=segment,
        )  # fmt: skip
        init_scale = 2 / self.num_layers if self.depth_scaled_init else 1.0
        make_block = functools.partial(
            TransformerBlock, make_attention,
            functools.partial(GatedFeedForward, activation, dtype, init_scale),
            activation, EPSILON, dtype, zero_init, self.dropout_rate, train,
        )  # fmt: skip
        x, _ = apply_blocks(make_block, self.num_layers, x, cond,
                            name="blocks", scan=self.scan_layers, remat=self.remat)  # fmt: skip
        x = at_positions(x, positions)
        norm = AdaptiveNorm(EPSILON, dtype, name="norm")
        if cond is None:
            x = norm(x)
        else:
            modulation = Modulation(2, x.shape[-1], dtype, zero_init, name="modulation")
            x = norm(x, *modulation(activation(cond)))
        if features:
            return x
        head = nn.Dense(self.spec.out_features, use_bias=False, dtype=dtype,
                        kernel_init=nn.initializers.zeros, name="head")  # fmt: skip
        return head(x)

    def _embed(self, z_t: Data, train: bool) -> Float[Array, "b l f"]:
        """Ids or real values as vectors of the blocks' width."""
        width, dtype = self.feature_dim * self.num_heads, self.compute_dtype
        project = nn.Dense(width, dtype=dtype, name="input")
        if self.spec.vocab_size is None:
            return project(z_t[..., None].astype(dtype))
        features = self.feature_dim if self.narrow_embedding else width
        x = nn.Embed(self.spec.vocab_size, features, dtype=dtype, name="embedding")(z_t)
        if self.narrow_embedding:
            return project(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)
