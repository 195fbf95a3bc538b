"""MD4 on the 8 x 8 digits of scikit-learn: the quickstart.

Command:   python main.py --config=configs/digits/masked.py --workdir=/tmp/md4jax/digits
Network:   1,776,913 parameters
Batch:     64
Hardware:  2 CPU cores, 4 min 34 s of training
Expected:  test bound of 1.782 bits/dim; more in docs/results.md
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear"),
        network=dict(
            name="uvit",
            feature_dim=64,
            num_layers=2,
            dit_layers=4,
            dit_heads=4,
            dit_hidden=128,
        ),
        data=dict(name="digits"),
        # A temperature below 1 trades variety for cleanness; 1 throughout draws the model's law.
        sampler=dict(
            name="mean",
            temperature=1.0,
            final_temperature=0.15,
            num_steps=128,
            grid="cosine",
            num_samples=64,
        ),
        optimizer=dict(
            name="adamw", learning_rate=2e-3, warmup_steps=100, b2=0.99, weight_decay=0.01
        ),
        train=dict(
            num_steps=1150,
            batch_size=64,
            ema_decay=0.998,
            ema_warmup=True,
            log_every=50,
            checkpoint_every=250,
        ),
        eval=dict(batch_size=160, time_points=32),
    )
