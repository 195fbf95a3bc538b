"""MD4 on CIFAR-10 (arXiv:2406.04329): masked diffusion of 32 x 32 x 3 pixels.

Command:   python main.py --config=configs/md4/cifar10.py --workdir=/tmp/cifar10
Data:      python prepare_data.py --dataset=cifar10
Network:   28,427,520 parameters
Batch:     256 over all devices
Hardware:  32 TPU v5e, 24 hours for the 2,000,000 steps (the paper's figure)
Expected:  test bound of 2.75 bits/dim (the paper's figure), by --mode=evaluate
           --config.eval.time_points=256
Status:    not run here

Values are the published code's; the paper's text has a learning rate of 4e-4. For the look of
samples the published code's sweep has --config.process.schedule=cosine with
--config.sampler.grid=uniform instead.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear", time_features="t"),
        network=dict(
            name="unet",
            feature_dim=128,
            num_layers=32,
            num_heads=1,
            norm_groups=32,
            dropout_rate=0.1,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="cifar10"),
        sampler=dict(name="ancestral", num_steps=256, grid="cosine", num_samples=64),
        optimizer=dict(
            name="adamw",
            learning_rate=2e-4,
            schedule="cosine",
            warmup_steps=100,
            b2=0.99,
            weight_decay=0.01,
            decay_mask="all",
        ),
        train=dict(
            num_steps=2_000_000,
            batch_size=256,
            seed=0,
            ema_decay=0.9999,
            log_every=500,
            eval_every=10_000,
            sample_every=10_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=200_000,
        ),
        eval=dict(splits=("test",), time_points=8),
    )
