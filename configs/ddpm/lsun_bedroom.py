"""DDPM on LSUN Bedroom (arXiv:2006.11239): diffusion of 256 x 256 x 3 pixels in 1,000 steps.

Command:   python main.py --config=configs/ddpm/lsun_bedroom.py --workdir=/tmp/ddpm_bedroom
Data:      python prepare_data.py --dataset=lsun_bedroom --source=FOLDER
Network:   113,673,219 parameters
Batch:     64 over all devices
Hardware:  TPU v3-8, 12.6 days for the 2,400,000 steps (2.2 a second: the paper's figures)
Expected:  FID of 50,000 samples 6.36 (the paper's figure); 4.90 with a network of about 256 M
Status:    not run here

Values are the published code's. Not as published: times are antithetic in all of a batch, where
there they are independent. The EMA's decay of 0.9999 is DDPM's; the configs of DDIM's code have
0.999, no warm-up and no clipping.
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
            variance="fixed_small",
            loss="mse",
        ),
        network=dict(
            name="ddpm_unet",
            feature_dim=128,
            num_layers=2,
            ch_mult=(1, 1, 2, 2, 4, 4),
            attention_levels=(16,),
            dropout_rate=0.0,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="lsun_bedroom"),
        sampler=dict(name="ancestral", num_steps=1000, num_samples=16, batch_size=16),
        optimizer=dict(
            name="adamw", learning_rate=2e-5, schedule="constant", warmup_steps=5000, clip_norm=1.0
        ),
        train=dict(
            num_steps=2_400_000,
            batch_size=64,
            seed=0,
            random_flip=True,
            ema_decay=0.9999,
            log_every=100,
            eval_every=50_000,
            sample_every=50_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=100_000,
        ),
        eval=dict(splits=("test",), time_points=16, batch_size=16),
    )
