"""Weights of star-shaped diffusion: https://github.com/andrey-okhotin/star-shaped (no licence).

A. Okhotin et al., arXiv:2302.05259. Its README has a link to the weights of two models: star-shaped
Betas on CIFAR-10 with NCSN++ (`configs/star_shaped/cifar10_beta.py`) and categorical laws on text8
with T5's encoder (`configs/star_shaped/text8_categorical.py`). A file is the dict of one network's
arrays, which are averages. NCSN++ is also the network of its Gaussian models.

The encoder is T5's of the library transformers. Characters are numbered there in the order in which
text8 first has them, which is read off the training split here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from md4jax.convert.files import state_dict
from md4jax.convert.unets import channels_first, seen_levels
from md4jax.convert.weights import Layout, Origin, Source, Weights, as_is
from md4jax.data.base import TokenWindows
from md4jax.model import Model
from md4jax.networks.ncsnpp import NCSNpp
from md4jax.networks.t5_encoder import T5Encoder
from md4jax.options import UserError

RES_BLOCK = {
    "norm_1": "GroupNorm_0",
    "conv_1": "Conv_0",
    "cond": "Dense_0",
    "norm_2": "GroupNorm_1",
    "conv_2": "Conv_1",
    "shortcut": "Conv_2",
}
# Its linear layers over pixels have kernels [in, out].
NIN = {("kernel", 2): ("W", as_is), ("bias", 1): ("b", as_is)}
ATTENTION = {"query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "out": "NIN_3"}
ENCODER_BLOCK = {
    "norm_1": "layer.0.layer_norm",
    "attention/query": "layer.0.SelfAttention.q",
    "attention/key": "layer.0.SelfAttention.k",
    "attention/value": "layer.0.SelfAttention.v",
    "attention/out": "layer.0.SelfAttention.o",
    "norm_2": "layer.1.layer_norm",
    "feed_forward/up": "layer.1.DenseReluDense.wi",
    "feed_forward/down": "layer.1.DenseReluDense.wo",
}


class StarShaped(Source):
    """NCSN++ without its pyramids, and T5's encoder around distributions, of any size."""

    networks = ("ncsnpp", "t5_encoder")
    signs = ("all_modules.0.weight", "linear_proj.weight")
    ignored = (r"t5_encoder\.embed_tokens\.weight",)  # The same array as `embed.weight`.
    notes = (
        "the schedules here are solved for anew, while the network was trained with the published "
        "tables: nu of the Betas differs by up to 13 %, the probability that a character is kept "
        "by a few per cent, and by more in the first and the last steps",
    )

    def states(self, content: Any, file: str) -> Weights:
        return Weights(state_dict(content, file))

    def origins(self, model: Model) -> dict[str, Origin]:
        if isinstance(model.network, NCSNpp):
            found = ncsnpp_origins(model.network)
        else:
            order = first_appearances(model)
            found = t5_origins(model.network, lambda x: x[order], lambda x: x[..., order])
        return {f"network/{ours}": origin for ours, origin in found.items()}

    def seen(self, shapes: Mapping[str, tuple[int, ...]], model: Model) -> dict[str, Any]:
        if "linear_proj.weight" in shapes:
            return _seen_encoder(shapes)
        return _seen_ncsnpp(shapes)


def _seen_encoder(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    bias = "t5_encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    heads = shapes[bias][1]
    blocks = (re.match(r"t5_encoder\.block\.(\d+)\.", name) for name in shapes)
    return {
        "network.name": "t5_encoder",
        "network.feature_dim": shapes["embed.weight"][1] // heads,
        "network.num_heads": heads,
        "network.num_layers": 1 + max(int(match[1]) for match in blocks if match),
    }


def _seen_ncsnpp(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """From the channels that go round the blocks, in a 1 x 1 convolution where they change.

    It is there too in blocks that shrink, with as many outputs; on the way up it has fewer.
    """
    levels, block = [[]], "all_modules.3"
    while (around := shapes.get(f"{block}.Conv_2.weight", (1, 0)))[0] >= around[1]:
        if around[0] == around[1]:
            levels.append([])
        elif f"{block}.NIN_0.W" in shapes:
            levels[-1].append("attention")
        else:
            levels[-1].append(shapes[f"{block}.Conv_1.weight"][0])
        block = f"all_modules.{sum(map(len, levels)) + len(levels) + 2}"
    layers = [x for x in levels[0] if x != "attention"]
    found = seen_levels(
        shapes["all_modules.0.weight"][1],
        [level[0] for level in levels],
        [level[1] == "attention" for level in levels],
    )
    # The two blocks in the middle stand after the last level.
    found["network.num_layers"] = len(layers) - 2 * (len(levels) == 1)
    return {"network.name": "ncsnpp"} | found


def ncsnpp_origins(net: NCSNpp) -> dict[str, Origin]:
    """Of each module of the network: all are numbered through, in the order they are called in."""
    names = ["conditioning_mlp/up", "conditioning_mlp/down", "stem"]
    attends = [2**level in net.attention_levels for level in range(len(net.ch_mult))]
    for level, attention in enumerate(attends):
        names += [f"shrink_{level - 1}"] if level else []
        for i in range(net.num_layers):
            names += [f"down_{level}_{i}"] + [f"down_{level}_{i}_attention"] * attention
    names += ["middle_1", "middle_attention", "middle_2"]
    for level, attention in reversed(list(enumerate(attends))):
        names += [f"up_{level}_{i}" for i in range(net.num_layers + 1)]
        names += [f"up_{level}_attention"] * attention
        names += [f"enlarge_{level}"] if level else []
    found: dict[str, Origin] = {}
    for number, ours in enumerate([*names, "norm", "head"]):
        theirs = f"all_modules.{number}"
        found[ours] = Origin(theirs)
        if ours.endswith("attention"):
            found[f"{ours}/norm"] = Origin(f"{theirs}.GroupNorm_0")
            found |= {
                f"{ours}/{a}": Origin(f"{theirs}.{b}", suffixes=NIN) for a, b in ATTENTION.items()
            }
        else:
            found |= {f"{ours}/{a}": Origin(f"{theirs}.{b}") for a, b in RES_BLOCK.items()}
    return found | {"head": Origin(found["head"].name, channels_first(net.spec.shape[-1]))}


def t5_origins(net: T5Encoder, rows: Layout, columns: Layout) -> dict[str, Origin]:
    """Of each module of the network.

    Args:
      rows: puts the rows of an array, one a token, in our order.
      columns: the same of its last axis.
    """
    found = {
        "embedding": Origin("embed", rows),
        "norm": Origin("t5_encoder.final_layer_norm"),
        "head": Origin("linear_proj", columns),
        "relative_bias": Origin(
            "t5_encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", suffixes=None
        ),
    }
    for i in range(net.num_layers):
        block = f"t5_encoder.block.{i}"
        found |= {f"blocks_{i}/{a}": Origin(f"{block}.{b}") for a, b in ENCODER_BLOCK.items()}
    return found


def first_appearances(model: Model) -> Int[np.ndarray, "v"]:
    """By our id, which place a token has in the order in which the training split first has them.

    Raises:
      UserError: the data are no text, or have tokens that are nowhere in it.
    """
    split, size = model.split("train"), model.spec.vocab_size
    if not isinstance(split, TokenWindows):
        raise UserError(
            f"config.data.name = {model.config['data']['name']!r}: published weights of "
            "config.network.name = 't5_encoder' are for text8"
        )
    ids: list[int] = []
    for start in range(0, len(split.tokens), 2**16):
        seen, first = np.unique(split.tokens[start : start + 2**16], return_index=True)
        ids += [int(i) for i in seen[np.argsort(first)] if i not in ids]
        if len(ids) == size:
            return np.argsort(ids)
    raise UserError(
        f"config.data: only {len(ids)} of {size} tokens are in the training split, so the order in "
        "which the published code numbers them is not known; give it more of text8"
    )
