"""Samplers: a time grid, one scan, and a step function chosen by the config."""

from md4jax.options import Table

STEPS = Table(
    "sampler",
    {
        "ancestral": "md4jax.samplers.base:Ancestral",
        "mean": "md4jax.samplers.masked:Mean",
        # MD4's `ancestral`, with the float32 truncation of its published samples.
        "joint": "md4jax.samplers.masked:Joint",
        "confident": "md4jax.samplers.masked:Confident",
        "first_hitting": "md4jax.samplers.masked:FirstHitting",
        "remask": "md4jax.samplers.remasking:Remask",
        "remask_unsure": "md4jax.samplers.remasking:RemaskUnsure",
        "remask_loop": "md4jax.samplers.remasking:RemaskLoop",
        "remask_errors": "md4jax.samplers.remasking:RemaskErrors",
        "ddim": "md4jax.samplers.gaussian:DDIM",
        "heun": "md4jax.samplers.gaussian:Heun",
        "dpm_solver": "md4jax.samplers.gaussian:DPMSolver",
    },
)
