"""Published weights in: a checkpoint of another code becomes the folder of a run.

python -m md4jax.convert --from=ddpm --config=configs/ddpm/cifar10.py --to=/tmp/ddpm_cifar10 \\
    --checkpoint=model-790000.ckpt,ema-model-790000.ckpt

`workdir.py` is what the command does; `files.py` reads checkpoints; `weights.py` lays their arrays
out as our networks have them. Each published code is one file, which says where each array of a
network is in its checkpoints. That follows from the network's options, so any size will do.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Container
from typing import Any

from md4jax.options import UserError

# The names of --from, and the classes (see `weights.Source`).
SOURCES = {
    "improved_diffusion": "md4jax.convert.improved_diffusion:ImprovedDiffusion",
    "ddpm": "md4jax.convert.ddpm:DDPM",
    "ddim": "md4jax.convert.ddpm:DDPM",
    "star_shaped": "md4jax.convert.star_shaped:StarShaped",
    "vdm": "md4jax.convert.vdm:VDM",
}


def make_source(name: str) -> Any:
    """The `Source` of a name.

    Raises:
      UserError: there is none.
    """
    if name not in SOURCES:
        raise UserError(f"--from={name} should be one of {', '.join(SOURCES)}")
    return pkgutil.resolve_name(SOURCES[name])()


def source_of(names: Container[str]) -> str | None:
    """The name of the source whose checkpoints have arrays of such names; None if there is none."""
    signs = {name: make_source(name).signs for name in SOURCES}
    return next((n for n, found in signs.items() if any(sign in names for sign in found)), None)
