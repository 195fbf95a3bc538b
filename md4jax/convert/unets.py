"""What the sources of U-Nets share: names of a block's parts, layouts of heads, hints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from md4jax.convert.weights import Layout, Origin, Weight
from md4jax.model import Model


def parts(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, Origin]:
    """Of each part of a module, from its name here to its name there."""
    return {f"{ours}/{a}": Origin(f"{theirs}.{b}") for a, b in names.items()}


def channels_first(channels: int) -> Layout:
    """Outputs counted (feature, channel), first all means, to ours: (channel, feature).

    Args:
      channels: of the image; the array's last axis is a multiple of it.
    """

    def change(x: Weight) -> Weight:
        return x.reshape(*x.shape[:-1], -1, channels).swapaxes(-1, -2).reshape(x.shape)

    return change


def of_heads(part: int, heads: int) -> Layout:
    """Query (part 0), key (1) or value (2) of one layer for all three, by heads.

    Its outputs, the last axis, count (head, query or key or value, feature).
    """

    def change(x: Weight) -> Weight:
        split = x.reshape(*x.shape[:-1], heads, 3, -1)
        return split[..., part, :].reshape(*x.shape[:-1], -1)

    return change


def seen_levels(width: int, outputs: list[int], attends: list[bool]) -> dict[str, Any]:
    """Options of a `LevelUNet`.

    Args:
      width: channels after the first layer.
      outputs: those of each level.
      attends: whether there is attention at it.
    """
    return {
        "network.feature_dim": width,
        "network.ch_mult": tuple(features // width for features in outputs),
        "network.attention_levels": tuple(2**i for i, a in enumerate(attends) if a),
    }


def seen_variance(outputs: int, model: Model) -> dict[str, Any]:
    """Whether the weights learned a variance, if the config says otherwise.

    Args:
      outputs: channels that the network puts out.
    """
    spec = model.network.spec
    learned = outputs == 2 * spec.shape[-1]
    if learned == (spec.out_features == 2):
        return {}
    return {"process.variance": "learned_range" if learned else "fixed_large"}
