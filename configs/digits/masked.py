"""MD4 on the 8 x 8 digits of scikit-learn: the quickstart.

Command:   python main.py --config=configs/digits/masked.py --workdir=/tmp/digits
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear"),
        network=dict(name="unet", feature_dim=32),
        data=dict(name="digits"),
        sampler=dict(name="ancestral", num_steps=64, grid="cosine", num_samples=64),
        optimizer=dict(name="adamw", learning_rate=1e-3, warmup_steps=100),
        train=dict(num_steps=1000, batch_size=64),
    )
