"""Small models as a notebook builds them."""

import functools

import md4jax

NETWORK = dict(feature_dim=8, num_layers=1, dit_layers=1, dit_heads=2, dit_hidden=8,
               norm_groups=4)  # fmt: skip
UVIT = functools.partial(md4jax.UViT, **NETWORK)


def built(**sections):
    given = dict(process=md4jax.Masked(), network=UVIT, data=md4jax.Digits())
    return md4jax.build(**given | sections)
