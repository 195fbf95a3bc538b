"""Networks: Flax Linen modules, arrays in, arrays out. See `base.py` for what each one promises."""

from md4jax.options import Table

NETWORKS = Table(
    "network",
    {
        "ddpm_unet": "md4jax.networks.ddpm_unet:DDPMUNet",
        "improved_unet": "md4jax.networks.improved_unet:ImprovedUNet",
        "mlp": "md4jax.networks.mlp:MLP",
        "ncsnpp": "md4jax.networks.ncsnpp:NCSNpp",
        "t5_encoder": "md4jax.networks.t5_encoder:T5Encoder",
        "transformer": "md4jax.networks.transformer:Transformer",
        "unet": "md4jax.networks.unet:UNet",
        "uvit": "md4jax.networks.uvit:UViT",
    },
)
