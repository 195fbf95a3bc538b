"""Improved DDPM on images of your own (arXiv:2102.09672): L_hybrid in 1,000 steps.

Command:   python main.py --config=configs/own/images.py --workdir=/tmp/md4jax/images
Data:      python prepare_data.py --dataset=image_folder --name=my_images --source=FOLDER
           (--size=64); or arrays in an .npz: --config.data.name=image_npz --config.data.path=FILE
Network:   19,409,798 parameters
Batch:     64 over all devices
Hardware:  a GPU; on a CPU make images smaller (--size=32) and the network too
           (--config.network.feature_dim=32 --config.network.num_layers=1)
Expected:  samples that look like your images; how many steps that takes depends on them
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(
            name="gaussian",
            num_timesteps=1000,
            schedule="cosine",
            target="v",
            variance="learned_range",
            loss="mse",  # With a learned variance L_simple + 0.001 L_vlb.
        ),
        network=dict(
            name="improved_unet",
            feature_dim=64,
            num_layers=2,
            ch_mult=(1, 2, 2, 4),
            attention_levels=(4, 8),
            num_heads=4,
            dropout_rate=0.1,
        ),
        data=dict(name="images", dataset="my_images"),
        sampler=dict(name="ddim", num_steps=50, num_samples=64),
        optimizer=dict(name="adamw", learning_rate=2e-4, schedule="constant", warmup_steps=500),
        train=dict(
            num_steps=50_000,
            batch_size=64,
            random_flip=True,
            ema_decay=0.999,
            ema_warmup=True,
            log_every=100,
            eval_every=5000,
            sample_every=1000,
            checkpoint_every=1000,
        ),
        eval=dict(splits=("test",), time_points=8, num_examples=512, batch_size=64),
    )
