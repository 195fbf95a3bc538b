"""Star-shaped Gaussians on CIFAR-10, which are DDPM (arXiv:2302.05259, theorem 2).

Command:   python main.py --config=configs/star_shaped/cifar10_gaussian.py --workdir=/tmp/star_gauss
Data:      python prepare_data.py --dataset=cifar10
Network:   61,804,419 parameters
Batch:     128 over all devices
Hardware:  as `cifar10_beta.py`
Expected:  no published figure
Status:    not run here

`cifar10_beta.py` with another family. The loss is the KL, unweighted: L_vlb.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="star_gaussian", num_timesteps=1000, schedule="star_cosine"),
        network=dict(
            name="ncsnpp",
            feature_dim=128,
            ch_mult=(1, 2, 2, 2),
            num_layers=4,
            attention_levels=(2,),
            dropout_rate=0.1,
        ),
        data=dict(name="images", dataset="cifar10"),
        sampler=dict(name="ancestral", num_steps=1000, grid="endpoints", num_samples=64),
        optimizer=dict(
            name="adamw", learning_rate=2e-4, schedule="constant", warmup_steps=5000, clip_norm=1.0
        ),
        train=dict(
            num_steps=470_000,
            batch_size=128,
            random_flip=True,
            ema_decay=0.9999,
            ema_warmup=True,
            log_every=500,
            eval_every=10_000,
            sample_every=10_000,
            checkpoint_every=5000,
            checkpoint_keep_period=50_000,
        ),
        eval=dict(splits=("test",), time_points=32),
    )
