"""Data sets and the pipeline that brings their examples to the devices.

A data set is a frozen dataclass of options whose `load()` gives a [`Dataset`][md4jax.data.base]:
integer or real examples in memory or on disk, split into named parts. `pipeline.py` turns a split
into batches of global arrays. `images`, `tokens` and `points` read what `prepare_data.py` has made
of published data (`prepare/`); the others make or read theirs by themselves.
"""

from md4jax.options import Table

DATASETS = Table(
    "data",
    {
        "digits": "md4jax.data.digits:Digits",
        "python_docs": "md4jax.data.python_docs:PythonDocs",
        "images": "md4jax.data.images:Images",
        "tokens": "md4jax.data.tokens:Tokens",
        "points": "md4jax.data.points:Points",
        "image_npz": "md4jax.data.image_npz:ImageNpz",
        "text_file": "md4jax.data.text_file:TextFile",
        "token_file": "md4jax.data.token_file:TokenFile",
        "simplex_mixture": "md4jax.data.simplex_mixture:SimplexMixture",
        "spd_mixture": "md4jax.data.spd_mixture:SpdMixture",
        "manifold_npz": "md4jax.data.manifold_npz:ManifoldNpz",
    },
)
