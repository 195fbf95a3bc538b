"""DDIM's CelebA model (arXiv:2010.02502): DDPM on faces of 64 x 64 x 3 pixels, in 1,000 steps.

Command:   python main.py --config=configs/ddpm/celeba.py --workdir=/tmp/ddpm_celeba
Data:      python prepare_data.py --dataset=celeba64 --source=FOLDER
Network:   78,700,803 parameters
Batch:     128 over all devices
Hardware:  not given
Expected:  FID of 50,000 samples 17.33, 13.73, 9.17, 6.53 and 3.51 with 10, 20, 50, 100 and 1,000
           DDIM steps, evenly spaced as below; 3.26 with the sampler dict(name="ancestral",
           num_steps=1000) (the paper's table 1)
Status:    not run here

Values are the published code's, but for the number of steps: it stops at 5,000,000 and does not say
when the published model was saved. Not as published: times are antithetic in all of a
batch, where there they are in pairs; the loss is a mean over pixels, where there it is a sum, whose
gradient a norm of 1 all but always clips.
DDIM's figures are with --config.process.clip=none, the ancestral one with clipping.
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
            variance="fixed_large",
            loss="mse",
        ),
        network=dict(
            name="ddpm_unet",
            feature_dim=128,
            num_layers=2,
            ch_mult=(1, 2, 2, 2, 4),
            attention_levels=(4,),
            dropout_rate=0.1,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="celeba64"),
        sampler=dict(name="ddim", num_steps=100, grid="leading", num_samples=64),
        optimizer=dict(name="adamw", learning_rate=2e-4, schedule="constant", clip_norm=1.0),
        train=dict(
            num_steps=500_000,
            batch_size=128,
            seed=0,
            random_flip=True,
            ema_decay=0.9999,
            log_every=500,
            eval_every=10_000,
            sample_every=10_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=100_000,
        ),
        eval=dict(splits=("test",), time_points=16, batch_size=64),
    )
