"""DDPM on CIFAR-10 (arXiv:2006.11239): Gaussian diffusion of 32 x 32 x 3 pixels in 1,000 steps.

Command:   python main.py --config=configs/ddpm/cifar10.py --workdir=/tmp/ddpm_cifar10
Data:      python prepare_data.py --dataset=cifar10
Network:   35,746,307 parameters
Batch:     128 over all devices
Hardware:  TPU v3-8, 10.6 hours for the 800,000 steps (the paper's figure)
Expected:  FID of 50,000 samples 3.17 (DDPM's paper) with the sampler dict(name="ancestral",
           num_steps=1000); with DDIM's quadratic steps, as below, 13.36, 6.84, 4.67 and 4.16 for
           10, 20, 50 and 100 of them (DDIM's paper, arXiv:2010.02502, table 1). Test bound about
           3.73 bits/dim: what Improved DDPM's paper has for its own network with this process and
           loss; by --mode=evaluate --config.eval.time_points=2000, each of the steps twice
Status:    not run here

Values are the published code's. Not as published: times are antithetic in all of a batch, where
there they are independent. DDIM's figures are with --config.process.clip=none, the ancestral one
with clipping.
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
            ch_mult=(1, 2, 2, 2),
            attention_levels=(2,),
            dropout_rate=0.1,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="cifar10"),
        sampler=dict(name="ddim", num_steps=100, grid="quadratic", num_samples=64),
        optimizer=dict(
            name="adamw", learning_rate=2e-4, schedule="constant", warmup_steps=5000, clip_norm=1.0
        ),
        train=dict(
            num_steps=800_000,
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
        eval=dict(splits=("test",), time_points=32),
    )
