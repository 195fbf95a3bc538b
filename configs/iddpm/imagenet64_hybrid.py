"""Improved DDPM on ImageNet 64 x 64, L_hybrid (arXiv:2102.09672): diffusion in 4,000 steps.

Command:   python main.py --config=configs/iddpm/imagenet64_hybrid.py --workdir=/tmp/iddpm
Data:      python prepare_data.py --dataset=downsampled_imagenet64 --source=FOLDER
           (van den Oord et al. 2016; other kinds of ImageNet 64 do not compare), 16 GB on disk
Network:   121,063,942 parameters
Batch:     128 over all devices
Hardware:  not given
Expected:  test bound of 3.57 bits/dim and FID of 10,000 samples 19.2 after the 1,500,000 steps (the
           paper's figures); the bound by --mode=evaluate --config.eval.time_points=8000, which
           visits each of the steps twice
Status:    not run here

Values are the flags of the published README. Not as published: times are antithetic in all of a
batch, where there they are independent.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(
            name="gaussian",
            num_timesteps=4000,
            schedule="cosine",
            target="noise",
            variance="learned_range",
            loss="mse",  # With a learned variance L_simple + 0.001 L_vlb.
        ),
        network=dict(
            name="improved_unet",
            feature_dim=128,
            num_layers=3,
            ch_mult=(1, 2, 3, 4),
            attention_levels=(4, 8),
            num_heads=4,
            dropout_rate=0.0,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="downsampled_imagenet64"),
        sampler=dict(name="ancestral", respacing="250", num_samples=64),
        optimizer=dict(name="adamw", learning_rate=1e-4, schedule="constant"),
        train=dict(
            num_steps=1_500_000,
            batch_size=128,
            seed=0,
            ema_decay=0.9999,
            log_every=500,
            eval_every=50_000,
            sample_every=50_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=100_000,
        ),
        eval=dict(splits=("test",), time_points=8, batch_size=64),
    )
