"""What images are measured by: one number or many of each, from a network or from none."""

from md4jax.options import Table

FEATURES = Table(
    "eval",
    {"pixels": "md4jax.evaluation.features.pixels:Pixels"},
    named_by="config.eval.features",
)
