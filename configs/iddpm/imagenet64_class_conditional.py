"""Improved DDPM on the classes of ImageNet 64 x 64 (arXiv:2102.09672): 4,000 steps, L_hybrid.

Command:   python main.py --config=configs/iddpm/imagenet64_class_conditional.py --workdir=/tmp/run
Data:      python prepare_data.py --dataset=imagenet2012_64 --resize=bicubic --source=FOLDER
           (16 GB on disk)
Network:   273,049,350 parameters with 1,000 classes
Batch:     2048 over all devices
Hardware:  not given
Expected:  FID 2.92, precision 0.82 and recall 0.71 of 50,000 samples in 250 steps, as below, after
           the 250,000 steps (the paper's figures)
Status:    not run here

Values are the flags of the published README. Without the rescaling of the learned variance's loss
one term of the bound, not their sum, is added to L_simple: the weight is 1 / 4000 of L_vlb. Without
that of times the network is told the step, up to 4,000. Not as published: times are antithetic in
all of a batch, where there they are independent. Here the network learns no unconditional model, as
published; --config.train.label_dropout=0.1 teaches it one, for --config.sampler.guidance.
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
            loss="mse",
            vlb_weight=1 / 4000,
            rescale_timesteps=False,
        ),
        network=dict(
            name="improved_unet",
            feature_dim=192,
            num_layers=3,
            ch_mult=(1, 2, 3, 4),
            attention_levels=(4, 8),
            num_heads=4,
            dropout_rate=0.0,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="imagenet2012_64", labels=True),
        sampler=dict(name="ancestral", respacing="250", num_samples=64),
        optimizer=dict(name="adamw", learning_rate=3e-4, schedule="constant"),
        train=dict(
            num_steps=250_000,
            batch_size=2048,
            seed=0,
            ema_decay=0.9999,
            log_every=100,
            eval_every=10_000,
            sample_every=10_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=100_000,
        ),
        eval=dict(splits=("test",), time_points=8, batch_size=64),
    )
