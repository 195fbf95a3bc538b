"""Features of images: what samples are measured by, and what few-step finetuning trains on.

`FEATURES[name].load(path, spec)` reads the weights and checks that they fit the data; `base.py` is
what the result promises. Nothing is downloaded: the files are those that the projects named in each
module publish, or what `python -m md4jax.evaluation.features.classifier` has trained.
"""

from md4jax.options import Table

FEATURES = Table(
    "eval",
    {
        "pixels": "md4jax.evaluation.features.pixels:Pixels",
        "classifier": "md4jax.evaluation.features.classifier.features:Classifier",
        "inception": "md4jax.evaluation.features.inception:Inception",
        "clip": "md4jax.evaluation.features.clip:Clip",
    },
    named_by="config.eval.features",
)
