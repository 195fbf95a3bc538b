"""Data sets and the pipeline that brings their examples to the devices.

A data set is a frozen dataclass of options whose `load()` gives a [`Dataset`][md4jax.data.base]:
integer or real arrays in memory or memory-mapped, split into named parts. `pipeline.py` turns a
split into batches of global arrays. Nothing is decoded, downloaded or shuffled on disk here.
"""

from md4jax.options import Table

DATASETS = Table(
    "data",
    {
        "digits": "md4jax.data.digits:Digits",
        "python_docs": "md4jax.data.python_docs:PythonDocs",
        "text8": "md4jax.data.text8:Text8",
        "image_npz": "md4jax.data.image_npz:ImageNpz",
        "text_file": "md4jax.data.text_file:TextFile",
        "token_file": "md4jax.data.token_file:TokenFile",
        "simplex_mixture": "md4jax.data.simplex_mixture:SimplexMixture",
        "spd_mixture": "md4jax.data.spd_mixture:SpdMixture",
        "earth_events": "md4jax.data.earth_events:EarthEvents",
        "manifold_npz": "md4jax.data.manifold_npz:ManifoldNpz",
    },
)
