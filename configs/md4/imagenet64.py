"""MD4 on ImageNet 64 x 64 (arXiv:2406.04329), for likelihood: masked diffusion of pixels.

Command:   python main.py --config=configs/md4/imagenet64.py --workdir=/tmp/imagenet64
Data:      python prepare_data.py --dataset=downsampled_imagenet64 --source=FOLDER
           (van den Oord et al. 2016; other kinds of ImageNet 64 do not compare), 16 GB on disk
Network:   198,279,680 parameters (24 residual blocks a side, 12 transformer blocks)
Batch:     512 over all devices
Hardware:  256 TPU v5e, 3.5 days for the 2,000,000 steps (the paper's figure)
Expected:  test bound of 3.40 bits/dim (the paper's figure), by --mode=evaluate
           --config.eval.time_points=256
Status:    not run here

Values are the published code's; the paper's text has a weight decay of 0.03. For samples see
`imagenet64_samples.py`.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear", time_features="t"),
        network=dict(
            name="uvit",
            feature_dim=256,
            num_layers=24,
            ch_mult=(1,),
            norm_groups=32,
            dit_layers=12,
            dit_heads=12,
            dit_hidden=768,
            dropout_rate=0.1,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="downsampled_imagenet64"),
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
