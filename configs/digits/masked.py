"""MD4 on the 8 x 8 digits of scikit-learn: the quickstart.

Command:   python main.py --config=configs/digits/masked.py --workdir=/tmp/digits
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear"),
        network=dict(
            name="uvit",
            feature_dim=64,
            num_layers=1,
            dit_layers=5,
            dit_heads=4,
            dit_hidden=128,
            dropout_rate=0.1,
        ),
        data=dict(name="digits"),
        sampler=dict(name="ancestral", num_steps=64, grid="cosine", num_samples=64),
        optimizer=dict(name="adamw", learning_rate=1e-3, warmup_steps=100),
        train=dict(num_steps=1000, batch_size=64),
    )
