"""MD4 on MNIST: masked diffusion of 28 x 28 pixels of 256 levels.

Command:   python main.py --config=configs/mnist/masked.py --workdir=/tmp/md4jax/mnist
Data:      python prepare_data.py --dataset=mnist
Network:   1,864,192 parameters
Batch:     64
Hardware:  any
Expected:  no published figure
Status:    300 steps of 16 give 1.1655 ± 0.0395 bits/dim (64 test images)
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear"),
        network=dict(
            name="uvit",
            feature_dim=32,
            num_layers=2,
            ch_mult=(1, 2),
            dit_layers=4,
            dit_heads=4,
            dit_hidden=128,
        ),
        data=dict(name="images", dataset="mnist"),
        sampler=dict(name="ancestral", num_steps=128, grid="cosine", num_samples=64),
        optimizer=dict(
            name="adamw", learning_rate=1e-3, warmup_steps=100, b2=0.99, weight_decay=0.01
        ),
        train=dict(
            num_steps=20_000,
            batch_size=64,
            ema_decay=0.999,
            ema_warmup=True,
            log_every=50,
            eval_every=2000,
            sample_every=2000,
            checkpoint_every=500,
        ),
        eval=dict(time_points=8, batch_size=64, num_examples=512),
    )
