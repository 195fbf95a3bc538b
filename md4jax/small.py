"""MD4JAX_SMALL=1: whether a notebook runs, in seconds; nothing that it shows is of any use then.

What `md4jax.build` makes is a few numbers wide, and training, sampling and evaluation are a few
steps long, whatever they are asked for. Nearly all the time then goes into compiling, so that an
MLP stands in for the U-Nets: it compiles in a tenth of theirs. `main.py` does not read it.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from md4jax.networks import NETWORKS
from md4jax.options import check_options, options_of

SIZES: dict[str, dict[str, Any]] = {
    "process": {"num_timesteps": 4, "exact_terms": 2},
    "network": {
        "feature_dim": 8, "num_layers": 1, "num_heads": 2, "norm_groups": 4,
    },
    "train": {"batch_size": 8},
    "sampler": {"num_steps": 3},
    "eval": {"batch_size": 8, "time_points": 2, "num_examples": 8},
}  # fmt: skip
STEPS = 3  # Of training.
U_NETS = {"ddpm_unet", "improved_unet", "ncsnpp", "unet", "uvit"}


def is_asked_for() -> bool:
    """Whether the environment has MD4JAX_SMALL=1."""
    return os.environ.get("MD4JAX_SMALL") == "1"


def steps(count: int) -> int:
    """Of training: as many, or a few."""
    return min(count, STEPS) if is_asked_for() else count


def component(section: str, of: Any) -> Any:
    """A component as it is, or a small one; what a process is without stays so."""
    if not is_asked_for():
        return of
    sizes = {k: v for k, v in SIZES[section].items() if k in options_of(type(of))}
    without = [name for name in SIZES["process"] if getattr(of, name, 0) is None]
    return dataclasses.replace(of, **{k: v for k, v in sizes.items() if k not in without})


def network(cls: type, options: dict[str, Any]) -> tuple[type, dict[str, Any]]:
    """A network's class and options as they are, or those of a small one.

    Raises:
      UserError: an option is wrong.
    """
    if not is_asked_for():
        return cls, options
    check_options(cls, options, "network.")
    if NETWORKS.name_of(cls) in U_NETS:
        cls, options = NETWORKS["mlp"], {}
    return cls, options | {k: v for k, v in SIZES["network"].items() if k in options_of(cls)}
