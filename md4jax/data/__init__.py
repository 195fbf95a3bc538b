"""Data sets and the pipeline that brings their examples to the devices.

A data set is a frozen dataclass of options whose `load()` gives a [`Dataset`][md4jax.data.base]:
integer arrays in memory or memory-mapped, split into named parts. `pipeline.py` turns a split into
batches of global arrays. Nothing is decoded, downloaded or shuffled on disk here.
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
    },
)
