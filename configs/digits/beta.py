"""Star-shaped Betas on the 8 x 8 digits of scikit-learn: network and budget of `masked.py`.

Command:   python main.py --config=configs/digits/beta.py --workdir=/tmp/md4jax/digits_beta
Network:   1,739,473 parameters
Batch:     64
Hardware:  2 CPU cores, about 5 minutes of training
Expected:  see docs/results.md

The network gives a law over the 17 levels, which is multiplied by what the tail says of each pixel
(`prediction="posterior"`). Not the paper's single number: with that, the same budget leaves it to
the network to find the level that an early tail tells, and the bound is several times as large.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(
            name="star_beta", num_timesteps=1000, loss="kl", tail="table", prediction="posterior"
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
        sampler=dict(name="ancestral", num_steps=128, grid="endpoints", num_samples=64),
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
