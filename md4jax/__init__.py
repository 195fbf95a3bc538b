"""md4jax: Gaussian, star-shaped and masked diffusion in one JAX codebase.

    import md4jax
    model = md4jax.build("configs/digits/masked.py")  # or process=, network=, data=
    losses = model.fit(300)
    model.draw(model.sample(64))

    config = md4jax.load_config("configs/digits/masked.py")  # as main.py, in a folder
    md4jax.train(config, "/tmp/digits")
    md4jax.evaluate(config, "/tmp/digits")
    md4jax.sample(config, "/tmp/digits")

Importing this imports nothing heavy; each name is looked up when it is first used.
"""

import pkgutil

_PUBLIC = {
    # Folders: what main.py does.
    "train": "md4jax.training.loop:train",
    "evaluate": "md4jax.modes:evaluate",
    "sample": "md4jax.modes:sample",
    "finetune": "md4jax.finetuning.run:finetune",
    "make_config": "md4jax.config:make_config",
    "load_config": "md4jax.config:load_config",
    "describe": "md4jax.config:describe",
    "assemble": "md4jax.model:assemble",
    # Notebooks.
    "build": "md4jax.interactive:build",
    "restore": "md4jax.interactive:restore",
    "Diffusion": "md4jax.interactive:Diffusion",
    "dataset": "md4jax.data.in_memory:dataset",
    "draw_losses": "md4jax.figures:draw_losses",
    # Functions to build with.
    "init_params": "md4jax.training.state:init_params",
    "make_denoiser": "md4jax.training.state:make_denoiser",
    "training_loss": "md4jax.objectives:training_loss",
    "bound": "md4jax.objectives:bound",
    "draw": "md4jax.samplers.base:sample",
    "DataSpec": "md4jax.processes.base:DataSpec",
    "NetworkSpec": "md4jax.processes.base:NetworkSpec",
    "UserError": "md4jax.options:UserError",
    # Processes.
    "Gaussian": "md4jax.processes.gaussian:Gaussian",
    "VDM": "md4jax.processes.vdm:VDM",
    "Masked": "md4jax.processes.masked:Masked",
    "GenMD4": "md4jax.processes.genmd4:GenMD4",
    "UniformState": "md4jax.processes.uniform_state:UniformState",
    "StarBeta": "md4jax.processes.star.beta:StarBeta",
    "StarCategorical": "md4jax.processes.star.categorical:StarCategorical",
    "StarDirichlet": "md4jax.processes.star.dirichlet:StarDirichlet",
    "StarGamma": "md4jax.processes.star.gamma:StarGamma",
    "StarGaussian": "md4jax.processes.star.gaussian:StarGaussian",
    "StarVonMises": "md4jax.processes.star.von_mises:StarVonMises",
    "StarVonMisesFisher": "md4jax.processes.star.von_mises_fisher:StarVonMisesFisher",
    "StarWishart": "md4jax.processes.star.wishart:StarWishart",
    # Networks.
    "Network": "md4jax.networks.base:Network",
    "MLP": "md4jax.networks.mlp:MLP",
    "NCSNpp": "md4jax.networks.ncsnpp:NCSNpp",
    "T5Encoder": "md4jax.networks.t5_encoder:T5Encoder",
    "ImprovedUNet": "md4jax.networks.improved_unet:ImprovedUNet",
    "DDPMUNet": "md4jax.networks.ddpm_unet:DDPMUNet",
    "Transformer": "md4jax.networks.transformer:Transformer",
    "UNet": "md4jax.networks.unet:UNet",
    "UViT": "md4jax.networks.uvit:UViT",
    # Data.
    "Digits": "md4jax.data.digits:Digits",
    "PythonDocs": "md4jax.data.python_docs:PythonDocs",
    "TextFile": "md4jax.data.text_file:TextFile",
    "TokenFile": "md4jax.data.token_file:TokenFile",
    "ImageNpz": "md4jax.data.image_npz:ImageNpz",
    "ManifoldNpz": "md4jax.data.manifold_npz:ManifoldNpz",
    "SimplexMixture": "md4jax.data.simplex_mixture:SimplexMixture",
    "SpdMixture": "md4jax.data.spd_mixture:SpdMixture",
    "Images": "md4jax.data.images:Images",
    "Tokens": "md4jax.data.tokens:Tokens",
    "Points": "md4jax.data.points:Points",
    # Samplers.
    "Ancestral": "md4jax.samplers.base:Ancestral",
    "DDIM": "md4jax.samplers.gaussian:DDIM",
    "Heun": "md4jax.samplers.gaussian:Heun",
    "DPMSolver": "md4jax.samplers.gaussian:DPMSolver",
    "Mean": "md4jax.samplers.masked:Mean",
    "Joint": "md4jax.samplers.masked:Joint",
    "Confident": "md4jax.samplers.masked:Confident",
    "FirstHitting": "md4jax.samplers.masked:FirstHitting",
    "Remask": "md4jax.samplers.remasking:Remask",
    "RemaskUnsure": "md4jax.samplers.remasking:RemaskUnsure",
    "RemaskLoop": "md4jax.samplers.remasking:RemaskLoop",
    "RemaskErrors": "md4jax.samplers.remasking:RemaskErrors",
    # Training, evaluation, finetuning.
    "AdamW": "md4jax.training.optimizers:AdamW",
    "SGD": "md4jax.training.optimizers:SGD",
    "Train": "md4jax.run_options:Train",
    "Eval": "md4jax.run_options:Eval",
    "Mesh": "md4jax.run_options:Mesh",
    "MMD": "md4jax.finetuning.mmd:MMD",
    "Remasker": "md4jax.finetuning.remasker:Remasker",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'md4jax' has no attribute {name!r}")
    return pkgutil.resolve_name(_PUBLIC[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
