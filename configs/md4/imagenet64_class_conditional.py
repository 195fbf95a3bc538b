"""MD4 on the classes of ImageNet 64 x 64 (arXiv:2406.04329): masked diffusion of pixels.

Command:   python main.py --config=configs/md4/imagenet64_class_conditional.py --workdir=/tmp/run
Data:      python prepare_data.py --dataset=imagenet2012_64 --source=FOLDER, 16 GB on disk
Network:   205,113,856 parameters with 1,000 classes
Batch:     512 over all devices
Hardware:  256 TPU v5e, 3.5 days for the 2,000,000 steps (the paper's figure)
Expected:  FID of 50,000 samples 30.75, 11.39, 7.13 and 7.8 with 64, 128, 256 and 512 sampling
           steps (the paper's figures)
Status:    not run here

Values are the published code's; the paper's text has a weight decay of 0.03.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="cosine", time_features="t"),
        network=dict(
            name="uvit",
            feature_dim=256,
            num_layers=8,
            ch_mult=(1,),
            norm_groups=32,
            dit_layers=20,
            dit_heads=12,
            dit_hidden=768,
            dropout_rate=0.1,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="imagenet2012_64", labels=True),
        sampler=dict(name="ancestral", num_steps=256, grid="uniform", num_samples=64),
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
            batch_size=512,
            seed=0,
            ema_decay=0.9999,
            log_every=500,
            eval_every=10_000,
            sample_every=10_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=200_000,
        ),
        eval=dict(splits=("test",), time_points=2),
    )
