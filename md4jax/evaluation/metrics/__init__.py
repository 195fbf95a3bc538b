"""The table of metrics of samples: `config.eval.metrics` names some.

A metric is a class of `base.Metric`: one file, or part of one, and one line here.
"""

from md4jax.options import Table

METRICS = Table(
    "eval",
    {
        "fid": "md4jax.evaluation.metrics.of_images:FID",
        "kid": "md4jax.evaluation.metrics.of_images:KID",
        "inception_score": "md4jax.evaluation.metrics.of_images:InceptionScore",
        "precision_recall": "md4jax.evaluation.metrics.of_images:PrecisionRecall",
        "density_coverage": "md4jax.evaluation.metrics.of_images:DensityCoverage",
        "mmd_linear": "md4jax.evaluation.metrics.of_images:LinearMMD",
        "mmd_cubic": "md4jax.evaluation.metrics.of_images:CubicMMD",
        "mmd_rbf": "md4jax.evaluation.metrics.of_images:GaussianMMD",
        "token_entropy": "md4jax.evaluation.metrics.of_texts:TokenEntropy",
        "distinct_n": "md4jax.evaluation.metrics.of_texts:DistinctN",
        "trigram": "md4jax.evaluation.metrics.of_texts:TrigramBits",
        "generative_perplexity": "md4jax.evaluation.metrics.scored_texts:GenerativePerplexity",
        "mauve": "md4jax.evaluation.metrics.scored_texts:Mauve",
        "knn_kl": "md4jax.evaluation.metrics.of_points:NearestNeighbourKL",
    },
    named_by="config.eval.metrics",
)
