"""MD4JAX_SMALL=1: whether a notebook runs, in seconds; nothing that it shows is of any use then.

What `md4jax.build` makes is a few numbers wide, and training, sampling and evaluation are a few
steps long, whatever they are asked for. `main.py` does not read it.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from md4jax.options import options_of

SIZES: dict[str, dict[str, Any]] = {
    "process": {"num_timesteps": 4},
    "network": {
        "feature_dim": 8, "num_layers": 1, "num_heads": 2, "norm_groups": 4,
        "dit_layers": 1, "dit_heads": 2, "dit_hidden": 8, "ch_mult": (1, 2),
        "attention_levels": (2,),
    },
    "train": {"batch_size": 8},
    "sampler": {"num_steps": 3, "batch_size": 8},
    "eval": {"batch_size": 8, "time_points": 2, "num_examples": 8},
}  # fmt: skip
STEPS = 3  # Of training.


def is_asked_for() -> bool:
    """Whether the environment has MD4JAX_SMALL=1."""
    return os.environ.get("MD4JAX_SMALL") == "1"


def steps(count: int) -> int:
    """Of training: as many, or a few."""
    return min(count, STEPS) if is_asked_for() else count


def component(section: str, of: Any) -> Any:
    """A component as it is, or a small one; a process in continuous time stays in it."""
    if not is_asked_for():
        return of
    sizes = {k: v for k, v in SIZES[section].items() if k in options_of(type(of))}
    if getattr(of, "num_timesteps", 0) is None:
        del sizes["num_timesteps"]
    return dataclasses.replace(of, **sizes)


def network(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a network as they are, or of a small one."""
    if not is_asked_for():
        return options
    return options | {k: v for k, v in SIZES["network"].items() if k in options_of(cls)}
