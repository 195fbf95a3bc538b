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
    "make_config": "md4jax.config:make_config",
    "load_config": "md4jax.config:load_config",
    "describe": "md4jax.config:describe",
    "assemble": "md4jax.model:assemble",
    "UserError": "md4jax.options:UserError",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'md4jax' has no attribute {name!r}")
    return pkgutil.resolve_name(_PUBLIC[name])
