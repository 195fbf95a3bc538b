"""Diffusion processes: the mathematics, one file a kind. See `base.py` for the protocol."""

from md4jax.options import Table

PROCESSES = Table(
    "process",
    {
        "masked": "md4jax.processes.masked:Masked",
        "gaussian": "md4jax.processes.gaussian:Gaussian",
        "vdm": "md4jax.processes.vdm:VDM",
    },
)
