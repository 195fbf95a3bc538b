"""MD4 on the Python language reference: characters, on a CPU, with nothing to download.

Command:   python main.py --config=configs/python_docs/masked.py --workdir=/tmp/python_docs
Network:   940,608 parameters
Batch:     16
Hardware:  2 CPU cores, 9 minutes on a busy machine
Expected:  test bound of 2.865 bits/char (Python 3.11's documentation; other versions differ)
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear"),
        network=dict(
            name="transformer",
            feature_dim=32,
            num_heads=4,
            num_layers=4,
            narrow_embedding=True,
        ),
        data=dict(name="python_docs", length=128),
        sampler=dict(name="ancestral", num_steps=128, grid="cosine", num_samples=16, batch_size=16),
        optimizer=dict(name="adamw", learning_rate=1e-3, warmup_steps=100, b2=0.99),
        train=dict(
            num_steps=2000,
            batch_size=16,
            ema_decay=0.999,
            ema_warmup=True,
            log_every=100,
            eval_every=1000,
            sample_every=500,
            checkpoint_every=500,
        ),
        eval=dict(splits=("test",), batch_size=64, time_points=8),
    )
