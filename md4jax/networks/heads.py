"""Layers that finetuning adds to the last features of a network."""

from __future__ import annotations

import math

import flax.linen as nn
from jaxtyping import Array, Float

from md4jax.typing import Tokens


def token_head(tokens: Tokens, features: Float[Array, "b *p f"]) -> nn.Dense:
    """A linear layer that gives a number a token, one a channel of a pixel; 0 at the start.

    Args:
      tokens: of which only the shape is used, `[b, *s]`.
      features: likewise; of the positions.
    """
    count = math.prod(tokens.shape) // math.prod(features.shape[:-1])
    return nn.Dense(count, kernel_init=nn.initializers.zeros)
