"""A small MD4 on text8, or on its beginning, for a CPU.

Command:   python main.py --config=configs/text8/small.py --workdir=/tmp/text8_small
Data:      python prepare_data.py --dataset=text8, or of its beginning alone with --source=FILE
           --train_size=11500000 --valid_size=500000 --test_size=500000: not the published split,
           so that bits/char do not compare with the paper's
Network:   929,568 parameters
Batch:     16
Hardware:  2 CPU cores, about 20 minutes
Expected:  4.0355 ± 0.0170 bits/char after 400 steps on the first 12.5 million characters; all
           4,000 steps were not run
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
        data=dict(name="tokens", dataset="text8", length=128, train_stride=1),
        sampler=dict(name="ancestral", num_steps=128, grid="cosine", num_samples=16, batch_size=16),
        optimizer=dict(name="adamw", learning_rate=1e-3, warmup_steps=100, b2=0.99),
        train=dict(
            num_steps=4000,
            batch_size=16,
            ema_decay=0.999,
            ema_warmup=True,
            log_every=100,
            eval_every=1000,
            sample_every=1000,
            checkpoint_every=500,
        ),
        eval=dict(splits=("valid", "test"), batch_size=64, time_points=8, num_examples=512),
    )
