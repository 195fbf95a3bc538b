"""Networks that look at images and are not trained by diffusion: see `md4jax.evaluation.features`.

They are not in the table of networks: what they take and give is images and vectors, not `z_t`.
"""
