"""Weights of Improved DDPM: https://github.com/openai/improved-diffusion (MIT).

A. Nichol, P. Dhariwal, arXiv:2102.09672. Its README has the links, and the flags that each model
was trained with; `configs/iddpm/` are these. A file is the dict of one network's arrays, either
those that training moved (`model500000.pt`) or averages of them (`ema_0.9999_500000.pt`).

Labels of class-conditional models are ImageNet's 1,000 synsets in alphabetical order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from md4jax.convert.files import state_dict
from md4jax.convert.unets import channels_first, of_heads, parts, seen_levels, seen_variance
from md4jax.convert.weights import Origin, Source, Weights
from md4jax.model import Model
from md4jax.networks.improved_unet import ImprovedUNet

# Steps in names: model500000.pt, ema_0.9999_500000.pt, cifar10_uncond_50M_500K.pt.
STEP = re.compile(r"(?:model|ema_[\d.]+_)(?P<ones>\d+)\.pt|.*_(?P<thousands>\d+)K\.pt")
RES_BLOCK = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "cond": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "shortcut": "skip_connection",
}


class ImprovedDiffusion(Source):
    """The U-Net of Improved DDPM, of any size, with or without classes."""

    networks = ("improved_unet",)
    signs = ("input_blocks.0.0.weight",)
    required: ClassVar[Mapping[str, Any]] = {"process.name": "gaussian"}

    def states(self, content: Any, file: str) -> Weights:
        match = STEP.fullmatch(file)
        step = match and (int(match["ones"] or 0) or 1000 * int(match["thousands"] or 0))
        return Weights(state_dict(content, file), step=step)

    def origins(self, model: Model) -> dict[str, Origin]:
        return {f"network/{ours}": origin for ours, origin in origins(model.network).items()}

    def seen(self, shapes: Mapping[str, tuple[int, ...]], model: Model) -> dict[str, Any]:
        levels: list[list[str]] = [[]]
        numbers = {int(n.split(".")[1]) for n in shapes if n.startswith("input_blocks.")}
        for block in (f"input_blocks.{n}" for n in sorted(numbers - {0})):
            if f"{block}.0.op.weight" in shapes:
                levels.append([])
            else:
                levels[-1].append(block)
        outputs = [shapes[f"{blocks[-1]}.0.out_layers.3.weight"][0] for blocks in levels]
        attends = [f"{blocks[-1]}.1.qkv.weight" in shapes for blocks in levels]
        found = seen_levels(shapes["input_blocks.0.0.weight"][0], outputs, attends)
        cond = shapes[f"{levels[0][0]}.0.emb_layers.1.weight"][0]
        found |= {"network.num_layers": len(levels[0]), "network.scale_shift": cond > outputs[0]}
        return found | seen_variance(shapes["out.2.weight"][0], model)


def origins(net: ImprovedUNet) -> dict[str, Origin]:
    """Of each module of the network, and of attention where there may be some.

    Blocks are numbered through on each way. What shrinks an image is a block of its own; what
    enlarges it is the last part of the block before.
    """
    found = {
        "conditioning_mlp/up": Origin("time_embed.0"),
        "conditioning_mlp/down": Origin("time_embed.2"),
        "conditioning_mlp/class_embedding": Origin("label_emb"),
        "stem": Origin("input_blocks.0.0"),
        "norm": Origin("out.0"),
        "head": Origin("out.2", channels_first(net.spec.shape[-1])),
        **parts("middle_1", "middle_block.0", RES_BLOCK),
        **_attention("middle_attention", "middle_block.1", net.num_heads),
        **parts("middle_2", "middle_block.2", RES_BLOCK),
    }
    down, up = 0, -1
    for level in range(len(net.ch_mult)):
        if level > 0:
            down += 1
            found[f"shrink_{level - 1}"] = Origin(f"input_blocks.{down}.0.op")
        for i in range(net.num_layers):
            down += 1
            found |= _block(f"down_{level}_{i}", f"input_blocks.{down}", net.num_heads)
    for level in reversed(range(len(net.ch_mult))):
        for i in range(net.num_layers + 1):
            up += 1
            found |= _block(f"up_{level}_{i}", f"output_blocks.{up}", net.heads_up)
        last = 2 if 2**level in net.attention_levels else 1
        found[f"enlarge_{level}"] = Origin(f"output_blocks.{up}.{last}.conv")
    return found


def _block(ours: str, theirs: str, heads: int) -> dict[str, Origin]:
    attention = _attention(f"{ours}_attention", f"{theirs}.1", heads)
    return parts(ours, f"{theirs}.0", RES_BLOCK) | attention


def _attention(ours: str, theirs: str, heads: int) -> dict[str, Origin]:
    queries = {
        f"{ours}/{name}": Origin(f"{theirs}.qkv", of_heads(i, heads))
        for i, name in enumerate(("query", "key", "value"))
    }
    return parts(ours, theirs, {"norm": "norm", "out": "proj_out"}) | queries
