"""md4jax: Gaussian, star-shaped and masked diffusion in one JAX codebase.

    import md4jax
    config = md4jax.load_config("configs/digits/masked.py")
    md4jax.train(config, "/tmp/digits")
    md4jax.evaluate(config, "/tmp/digits")
    md4jax.sample(config, "/tmp/digits")

Importing this imports nothing heavy; each name is looked up when it is first used.
"""

import pkgutil

_PUBLIC = {
    "train": "md4jax.training.loop:train",
    "evaluate": "md4jax.modes:evaluate",
    "sample": "md4jax.modes:sample",
    "finetune": "md4jax.finetuning.run:finetune",
    "make_config": "md4jax.config:make_config",
    "load_config": "md4jax.config:load_config",
    "describe": "md4jax.config:describe",
    "assemble": "md4jax.model:assemble",
    # To build with, without a config.
    "DataSpec": "md4jax.processes.base:DataSpec",
    "Gaussian": "md4jax.processes.gaussian:Gaussian",
    "VDM": "md4jax.processes.vdm:VDM",
    "Masked": "md4jax.processes.masked:Masked",
    "StarBeta": "md4jax.processes.star.beta:StarBeta",
    "StarCategorical": "md4jax.processes.star.categorical:StarCategorical",
    "StarDirichlet": "md4jax.processes.star.dirichlet:StarDirichlet",
    "StarGamma": "md4jax.processes.star.gamma:StarGamma",
    "StarGaussian": "md4jax.processes.star.gaussian:StarGaussian",
    "StarVonMises": "md4jax.processes.star.von_mises:StarVonMises",
    "StarVonMisesFisher": "md4jax.processes.star.von_mises_fisher:StarVonMisesFisher",
    "StarWishart": "md4jax.processes.star.wishart:StarWishart",
    "MLP": "md4jax.networks.mlp:MLP",
    "NCSNpp": "md4jax.networks.ncsnpp:NCSNpp",
    "T5Encoder": "md4jax.networks.t5_encoder:T5Encoder",
    "ImprovedUNet": "md4jax.networks.improved_unet:ImprovedUNet",
    "DDPMUNet": "md4jax.networks.ddpm_unet:DDPMUNet",
    "Transformer": "md4jax.networks.transformer:Transformer",
    "UNet": "md4jax.networks.unet:UNet",
    "UViT": "md4jax.networks.uvit:UViT",
    "Ancestral": "md4jax.samplers.base:Ancestral",
    "DDIM": "md4jax.samplers.gaussian:DDIM",
    "Heun": "md4jax.samplers.gaussian:Heun",
    "DPMSolver": "md4jax.samplers.gaussian:DPMSolver",
    "init_params": "md4jax.training.state:init_params",
    "make_denoiser": "md4jax.training.state:make_denoiser",
    "training_loss": "md4jax.objectives:training_loss",
    "bound": "md4jax.objectives:bound",
    "draw": "md4jax.samplers.base:sample",
    "UserError": "md4jax.options:UserError",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'md4jax' has no attribute {name!r}")
    return pkgutil.resolve_name(_PUBLIC[name])
