"""Improved DDPM on the 8 x 8 digits of scikit-learn: network and budget of `masked.py`.

Command:   python main.py --config=configs/digits/gaussian.py --workdir=/tmp/md4jax/digits_gaussian
Network:   1,733,122 parameters
Batch:     64
Hardware:  2 CPU cores, 4 min 45 s of training
Expected:  test bound of 1.94 bits/dim; more in docs/results.md
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
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
            # Waves as long as one and two levels: which level a pixel is near can be read off.
            fourier_features=(2, 3),
        ),
        data=dict(name="digits"),
        sampler=dict(name="ancestral", num_steps=128, grid="uniform", num_samples=64),
        optimizer=dict(
            name="adamw", learning_rate=2e-3, warmup_steps=100, b2=0.99, weight_decay=0.01
        ),
        train=dict(
            num_steps=1050,
            batch_size=64,
            ema_decay=0.998,
            ema_warmup=True,
            log_every=50,
            checkpoint_every=250,
        ),
        eval=dict(batch_size=160, time_points=128),
    )
