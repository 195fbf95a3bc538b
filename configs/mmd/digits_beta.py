"""Few steps on the digits: the Betas of `digits/beta.py`, finetuned to 5 network calls by MMD.

Command:   python main.py --config=configs/digits/beta.py --workdir=/tmp/md4jax/digits_beta
           python -m md4jax.evaluation.features.classifier --config=configs/classifier/digits.py \
               --workdir=/tmp/md4jax/digits_classifier
           python main.py --config=configs/mmd/digits_beta.py --mode=finetune \
               --workdir=/tmp/md4jax/mmd_beta
Network:   1,739,473 parameters, of the trained model
Batch:     64 images and as many samples
Hardware:  2 CPU cores, about 5 minutes
Expected:  KID of the classifier's features with 5 calls from 0.893 to 0.308, of
           2,000 samples against all 1,500 images; docs/results.md
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        finetune=dict(
            name="mmd",
            start="/tmp/md4jax/digits_beta",
            features="pixels",
            kernel="rbf",
            gamma=0.25,  # Two digits are 9 or so apart in |x - y|^2: only near ones count.
            rematerialise=False,  # For a CPU; True is for accelerators.
        ),
        process=dict(
            name="star_beta",
            num_timesteps=1000,
            loss="kl",
            tail="table",
            prediction="posterior",
            exact_terms=16,  # Of the 200 steps between two calls; the others are one normal.
        ),
        network=dict(
            name="uvit",
            feature_dim=64,
            num_layers=2,
            dit_layers=4,
            dit_heads=4,
            dit_hidden=128,
        ),
        data=dict(name="digits"),
        sampler=dict(
            name="ancestral", num_steps=5, grid="endpoints", num_samples=1000, batch_size=250
        ),
        optimizer=dict(name="adamw", learning_rate=1e-4, clip_norm=0.5),
        train=dict(num_steps=100, batch_size=64, ema_decay=0.0, log_every=10, checkpoint_every=50),
        eval=dict(
            splits=(),
            metrics=("kid", "precision_recall"),
            features="classifier",
            weights="/tmp/md4jax/digits_classifier/classifier.npz",
        ),
    )
