"""Improved DDPM on LSUN bedrooms, 256 x 256 (arXiv:2102.09672): 1,000 steps, L_hybrid.

Command:   python main.py --config=configs/iddpm/lsun_bedroom.py --workdir=/tmp/bedroom
Data:      python prepare_data.py --dataset=lsun_bedroom --source=FOLDER, about 300 GB on disk
Network:   113,676,678 parameters
Batch:     64 over all devices (as the published checkpoint's name says)
Hardware:  not given
Expected:  no figure in the paper; checkpoints are of 1,200,000 and 2,400,000 steps
Status:    not run here

Values are the flags of the published README (a second run has a learning rate of 2e-5). Without the
rescaling of the learned variance's loss one term of the bound, not their sum, is added to L_simple.
Not as published: times are antithetic in all of a batch, where there they are independent.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(
            name="gaussian",
            num_timesteps=1000,
            schedule="linear",
            target="noise",
            variance="learned_range",
            loss="mse",
            vlb_weight=1 / 1000,
            rescale_timesteps=False,
        ),
        network=dict(
            name="improved_unet",
            feature_dim=128,
            num_layers=2,
            ch_mult=(1, 1, 2, 2, 4, 4),
            attention_levels=(16,),
            num_heads=1,
            scale_shift=False,
            dropout_rate=0.0,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="lsun_bedroom"),
        sampler=dict(name="ancestral", respacing="250", num_samples=16, batch_size=16),
        optimizer=dict(name="adamw", learning_rate=1e-4, schedule="constant"),
        train=dict(
            num_steps=1_200_000,
            batch_size=64,
            seed=0,
            ema_decay=0.9999,
            log_every=500,
            eval_every=50_000,
            sample_every=50_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=100_000,
        ),
        eval=dict(splits=("test",), time_points=8, batch_size=16),
    )
