"""Weights of VDM: https://github.com/google-research/vdm (Apache-2.0).

D. Kingma, T. Salimans, B. Poole, J. Ho, arXiv:2107.00630. Its README has the links. A checkpoint is
a file `ckpt-<n>.flax`: the train state in MessagePack, with the parameters, their averages and the
step. `configs/vdm/cifar10.py` is the model without augmentation; those with `gamma_type =
learnable_scalar` and without `with_attention` fit with other sizes.

The published network is also told whether an image was augmented. That number is 0 for images that
were not, so its weights are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from md4jax.convert.files import state_dict
from md4jax.convert.weights import Layout, Origin, Source, Suffixes, Weight, Weights, as_is
from md4jax.model import Model
from md4jax.networks.unet import UNet

FLAX: Suffixes = {
    **{("kernel", axes): ("kernel", as_is) for axes in (2, 4)},
    ("bias", 1): ("bias", as_is),
    ("scale", 1): ("scale", as_is),
}
RES_BLOCK = {
    "norm_1": "GroupNorm_0",
    "conv_1": "conv1",
    "cond": "cond_proj",
    "norm_2": "GroupNorm_1",
    "conv_2": "conv2",
    "shortcut": "nin_shortcut",
}
ATTENTION = {
    "norm": "GroupNorm_0",
    "attention/query": "q",
    "attention/key": "k",
    "attention/value": "v",
    "attention/out": "proj_out",
}


class VDM(Source):
    """The U-Net of VDM, and its schedule with learned ends, if the config has it."""

    networks = ("unet",)
    signs = ("score_model/conv_in/kernel",)
    separator = "/"
    required: ClassVar[Mapping[str, Any]] = {
        "process.name": "vdm",
        "process.target": "noise",
        "process.centre_levels": True,
        "network.add_input": True,
    }

    def states(self, content: Any, file: str) -> Weights:
        arrays = _flat(content)
        params, ema = (
            {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}
            for prefix in ("params/", "ema_params/")
        )
        if not params:  # No train state, but parameters alone.
            return Weights(state_dict(ema or arrays, file))
        step = int(arrays["step"]) if "step" in arrays else None
        return Weights(state_dict(params, file), state_dict(ema, file) if ema else None, step)

    def origins(self, model: Model) -> dict[str, Origin]:
        found = {f"network/{ours}": origin for ours, origin in origins(model.network).items()}
        for name in ("w", "b"):
            found[f"process/{name}"] = Origin(f"gamma/{name}", np.squeeze, suffixes=None)
        return found

    def seen(self, shapes: Mapping[str, tuple[int, ...]], model: Model) -> dict[str, Any]:
        blocks = (re.match(r"score_model/down\.block_(\d+)/", name) for name in shapes)
        frequencies = shapes["score_model/conv_in/kernel"][2] > model.spec.shape[-1]
        found = {
            "network.feature_dim": shapes["score_model/conv_in/kernel"][-1],
            "network.num_layers": 1 + max(int(match[1]) for match in blocks if match),
            "network.fourier_features": (6, 7) if frequencies else (),
            "network.wide_conditioning": True,
        }
        schedule = {name for name in shapes if name.startswith("gamma/")}
        if schedule in ({"gamma/w", "gamma/b"}, set()):
            found["process.schedule"] = "learned_linear" if schedule else "linear"
        return found


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by path."""
    if not isinstance(tree, Mapping):
        return {prefix.removesuffix("/"): tree}
    found = {}
    for name, branch in tree.items():
        found |= _flat(branch, f"{prefix}{name}/")
    return found


def origins(net: UNet) -> dict[str, Origin]:
    """Of each module of the network."""
    found = {
        "conditioning_mlp/up": _origin("dense0", _without_flag),
        "conditioning_mlp/down": _origin("dense1"),
        "stem": _origin("conv_in", waves_first(net.spec.shape[-1], len(net.fourier_features))),
        "norm": _origin("GroupNorm_0"),
        "head": _origin("conv_out"),
        **_parts("middle_1", "mid.block_1", RES_BLOCK),
        **_parts("middle_attention", "mid.attn_1", ATTENTION),
        **_parts("middle_2", "mid.block_2", RES_BLOCK),
    }
    for way, blocks in (("down", net.num_layers), ("up", net.num_layers + 1)):
        for i in range(blocks):
            found |= _parts(f"{way}_{i}", f"{way}.block_{i}", RES_BLOCK)
    return found


def _origin(name: str, change: Layout = as_is) -> Origin:
    return Origin(f"score_model/{name}", change, FLAX)


def _parts(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, Origin]:
    return {f"{ours}/{a}": _origin(f"{theirs}/{b}") for a, b in names.items()}


def _without_flag(x: Weight) -> Weight:
    """A kernel without its last row, which multiplies 0; the bias is left as it is."""
    return x[:-1] if x.ndim == 2 else x


def waves_first(channels: int, waves: int) -> Layout:
    """Inputs of the first kernel, `[3, 3, in, out]`, in our order.

    After the channels come all sines and then all cosines, there counted (channel, wave) and here
    (wave, channel).
    """
    rest = channels + np.arange(2 * channels * waves).reshape(2, channels, waves).swapaxes(1, 2)
    order = np.concatenate([np.arange(channels), rest.ravel()])

    def change(x: Weight) -> Weight:
        if x.ndim == 4 and x.shape[2] == len(order):
            return x[:, :, order]
        return x  # The bias; or a kernel that does not fit, which is said elsewhere.

    return change
