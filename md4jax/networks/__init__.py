"""Networks: Flax Linen modules, arrays in, arrays out. See `base.py` for what each one promises."""

from md4jax.options import Table

NETWORKS = Table(
    "network",
    {
        "transformer": "md4jax.networks.transformer:Transformer",
        "unet": "md4jax.networks.unet:UNet",
        "uvit": "md4jax.networks.uvit:UViT",
    },
)
