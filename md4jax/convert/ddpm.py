"""Weights of DDPM and DDIM in PyTorch: https://github.com/ermongroup/ddim (MIT).

J. Ho, A. Jain, P. Abbeel, arXiv:2006.11239; J. Song, C. Meng, S. Ermon, arXiv:2010.02502. The names
are also those of https://github.com/pesser/pytorch_diffusion, which turned DDPM's own TensorFlow
weights of CIFAR-10 and LSUN into such files (`model-790000.ckpt`): the dict of one network's
arrays, those that training moved or, in a second file, averages of them. DDIM's training writes a
list: the dict, the optimizer's, the epoch, the step, and a dict of averages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from md4jax.convert.files import state_dict
from md4jax.convert.unets import channels_first, parts, seen_levels, seen_variance
from md4jax.convert.weights import Origin, Source, Weights
from md4jax.model import Model
from md4jax.networks.ddpm_unet import DDPMUNet

STEP = re.compile(r".*model-(\d+)\.ckpt")
RES_BLOCK = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "cond": "temb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "shortcut": "nin_shortcut",
}
ATTENTION = {"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"}


class DDPM(Source):
    """The U-Net of DDPM, of any size: from dicts, and from the lists of DDIM."""

    networks = ("ddpm_unet",)
    signs = ("conv_in.weight",)
    ignored = ("logvar",)  # Of its option "bayesian", which nothing uses.
    required: ClassVar[Mapping[str, Any]] = {"process.name": "gaussian", "process.target": "noise"}

    def states(self, content: Any, file: str) -> Weights:
        if not isinstance(content, (list, tuple)):
            match = STEP.fullmatch(file)
            return Weights(state_dict(content, file), step=match and int(match[1]))
        params, _, _, step, *ema = content if len(content) > 3 else [None] * 4
        params = state_dict(params, file)
        return Weights(params, state_dict(ema[0], file) if ema else None, int(step))

    def origins(self, model: Model) -> dict[str, Origin]:
        return {f"network/{ours}": origin for ours, origin in origins(model.network).items()}

    def seen(self, shapes: Mapping[str, tuple[int, ...]], model: Model) -> dict[str, Any]:
        blocks = [re.fullmatch(r"down\.(\d+)\.block\.(\d+)\.conv1\.weight", n) for n in shapes]
        places = [(int(match[1]), int(match[2])) for match in blocks if match]
        levels = range(max(places)[0] + 1)
        outputs = [shapes[f"down.{level}.block.0.conv1.weight"][0] for level in levels]
        attends = [f"down.{level}.attn.0.q.weight" in shapes for level in levels]
        found = seen_levels(shapes["conv_in.weight"][0], outputs, attends)
        found["network.num_layers"] = max(i for _, i in places) + 1
        return found | seen_variance(shapes["conv_out.weight"][0], model)


def origins(net: DDPMUNet) -> dict[str, Origin]:
    """Of each module of the network, and of attention where there may be some."""
    found = {
        "conditioning_mlp/up": Origin("temb.dense.0"),
        "conditioning_mlp/down": Origin("temb.dense.1"),
        "stem": Origin("conv_in"),
        "norm": Origin("norm_out"),
        "head": Origin("conv_out", channels_first(net.spec.shape[-1])),
        **parts("middle_1", "mid.block_1", RES_BLOCK),
        **parts("middle_attention", "mid.attn_1", ATTENTION),
        **parts("middle_2", "mid.block_2", RES_BLOCK),
    }
    for level in range(len(net.ch_mult)):
        found[f"shrink_{level}"] = Origin(f"down.{level}.downsample.conv")
        found[f"enlarge_{level}"] = Origin(f"up.{level}.upsample.conv")
        for way, blocks in (("down", net.num_layers), ("up", net.num_layers + 1)):
            for i in range(blocks):
                ours = f"{way}_{level}_{i}"
                found |= parts(ours, f"{way}.{level}.block.{i}", RES_BLOCK)
                found |= parts(f"{ours}_attention", f"{way}.{level}.attn.{i}", ATTENTION)
    return found
