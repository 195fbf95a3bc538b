"""Layers that finetuning adds to the last features of a network."""

from __future__ import annotations

import math

import flax.linen as nn


def token_head(tokens: tuple[int, ...], features: tuple[int, ...]) -> nn.Dense:
    """A linear layer that gives a number a token, one a channel of a pixel; 0 at the start.

    Args:
      tokens: the shape of the tokens, `(b, *s)`.
      features: of the features at their positions, `(b, *p, f)`.
    """
    return nn.Dense(
        math.prod(tokens) // math.prod(features[:-1]), kernel_init=nn.initializers.zeros
    )
