"""A head on the trained digits model that tells which of its pixels are wrong, to hide these again.

Command:   python main.py --config=configs/digits/masked_remasker.py --mode=finetune \
               --workdir=/tmp/md4jax/digits_remasker
Network:   1,776,913 parameters, trained by configs/digits/masked.py and left as they are; 65 more
Batch:     64
Hardware:  2 CPU cores, 1 min 24 s of training
Expected:  0.56 bits a token at the end of training; more in docs/results.md
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
        sampler=dict(name="remask_errors", num_steps=64, grid="cosine", num_samples=64),
        optimizer=dict(name="adamw", learning_rate=5e-3, warmup_steps=20),
        train=dict(
            num_steps=300,
            batch_size=64,
            ema_decay=0.99,
            ema_warmup=True,
            log_every=50,
            checkpoint_every=100,
        ),
        eval=dict(batch_size=160, time_points=32),
        finetune=dict(name="remasker", start="/tmp/md4jax/digits"),
    )
