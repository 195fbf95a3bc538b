"""MMD-DDM on the digits: the Gaussian model of `digits/gaussian.py`, finetuned to 5 network calls.

Command:   python main.py --config=configs/digits/gaussian.py --workdir=/tmp/md4jax/digits_gaussian
           python -m md4jax.evaluation.features.classifier --config=configs/classifier/digits.py \
               --workdir=/tmp/md4jax/digits_classifier
           python main.py --config=configs/mmd/digits_gaussian.py --mode=finetune \
               --workdir=/tmp/md4jax/mmd_gaussian
Network:   1,733,122 parameters, of the trained model
Batch:     64 images and as many samples
Hardware:  2 CPU cores
Expected:  KID of the classifier's features with 5 calls from 0.247 to 0.114, of
           2,000 samples against all 1,500 images; docs/results.md
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        finetune=dict(
            name="mmd",
            start="/tmp/md4jax/digits_gaussian",
            features="pixels",
            kernel="rbf",
            gamma=0.25,  # Two digits are 9 or so apart in |x - y|^2: only near ones count.
            rematerialise=False,  # For a CPU; True is for accelerators.
        ),
        process=dict(
            name="gaussian",
            num_timesteps=1000,
            schedule="cosine",
            target="v",
            variance="learned_range",
            loss="mse",
        ),
        network=dict(
            name="uvit",
            feature_dim=64,
            num_layers=2,
            dit_layers=4,
            dit_heads=4,
            dit_hidden=128,
            fourier_features=(2, 3),
        ),
        data=dict(name="digits"),
        sampler=dict(name="ddim", num_steps=5, grid="uniform", num_samples=1000, batch_size=250),
        optimizer=dict(name="adamw", learning_rate=1e-4, clip_norm=0.5),
        train=dict(num_steps=100, batch_size=64, ema_decay=0.0, log_every=10, checkpoint_every=50),
        eval=dict(
            splits=(),
            metrics=("kid", "precision_recall"),
            features="classifier",
            weights="/tmp/md4jax/digits_classifier/classifier.npz",
        ),
    )
