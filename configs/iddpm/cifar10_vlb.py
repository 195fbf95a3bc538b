"""Improved DDPM on CIFAR-10, L_vlb (arXiv:2102.09672): diffusion in 4,000 steps.

Command:   python main.py --config=configs/iddpm/cifar10_vlb.py --workdir=/tmp/iddpm
Data:      python prepare_data.py --dataset=cifar10
Network:   52,546,438 parameters
Batch:     128 over all devices
Hardware:  not given
Expected:  test bound of 2.94 bits/dim and FID 11.47 after the 500,000 steps (the paper's figures);
           the bound by --mode=evaluate --config.eval.time_points=8000, which visits each of the
           steps twice
Status:    not run here

Values are the flags of the published README. The losses that times are drawn by are saved in
checkpoints, where there a resumed run begins without. Not as published: they are drawn from evenly
spread numbers, where there from independent ones.
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
            loss="vlb",
        ),
        network=dict(
            name="improved_unet",
            feature_dim=128,
            num_layers=3,
            ch_mult=(1, 2, 2, 2),
            attention_levels=(2, 4),
            num_heads=4,
            dropout_rate=0.3,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="cifar10"),
        sampler=dict(name="ancestral", respacing="250", num_samples=64),
        optimizer=dict(name="adamw", learning_rate=1e-4, schedule="constant"),
        train=dict(
            num_steps=500_000,
            batch_size=128,
            seed=0,
            time_sampling="loss_second_moment",
            ema_decay=0.9999,
            log_every=500,
            eval_every=10_000,
            sample_every=10_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=100_000,
        ),
        eval=dict(splits=("test",), time_points=32),
    )
