"""GenMD4 on text8 (arXiv:2406.04329): masked diffusion of 256 characters, learned schedules.

Command:   python main.py --config=configs/genmd4/text8.py --workdir=/tmp/genmd4_text8
Data:      python prepare_data.py --dataset=text8
Network:   88,734,299 parameters, 27 of them the schedules'
Batch:     512 over all devices; each example is seen under two masks a step
Hardware:  16 TPU v5e for MD4, less than a day for the 1,000,000 steps (the paper's figure)
Expected:  test bound of 1.34 bits/char (the paper's figure), by --mode=evaluate
           --config.eval.time_points=256
Status:    not run here

Rate, dropout and weight decay are those of the tuning sweep in the published code.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="genmd4", initial_power=1.0, time_features="t"),
        network=dict(
            name="transformer",
            feature_dim=64,
            num_heads=12,
            num_layers=12,
            feed_forward="glu",
            conditioning="adaln_zero",
            depth_scaled_init=True,
            narrow_embedding=True,
            dropout_rate=0.05,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="tokens", dataset="text8", length=256, train_stride=1),
        sampler=dict(name="ancestral", num_steps=1000, grid="cosine", num_samples=64),
        optimizer=dict(
            name="adamw",
            learning_rate=3e-4,
            schedule="cosine",
            warmup_steps=2000,
            weight_decay=0.03,
            decay_mask="all",
        ),
        train=dict(
            num_steps=1_000_000,
            batch_size=512,
            seed=42,
            ema_decay=0.9999,
            log_every=500,
            eval_every=5000,
            sample_every=5000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=100_000,
        ),
        eval=dict(splits=("valid", "test"), time_points=8),
    )
