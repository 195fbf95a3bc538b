"""VDM on CIFAR-10 (arXiv:2107.00630): Gaussian diffusion of 32 x 32 x 3 pixels in continuous time.

Command:   python main.py --config=configs/vdm/cifar10.py --workdir=/tmp/vdm_cifar10
Data:      python prepare_data.py --dataset=cifar10
Network:   27,087,491 parameters (published: about 30.58 M, see below)
Batch:     128 over all devices
Hardware:  TPU v3-8 (the published code's)
Expected:  test bound of 2.65 bits/dim (the paper's figure, without augmentation; 2.637 with the
           published weights), by --mode=evaluate --config.eval.time_points=256; FID 4.0 (paper)
Status:    not run here

Values are the published code's. Not as published:
- The schedule's ends are fixed, where there they are learned too, from the same first values. A
  learned course between them is --config.process.schedule=learned.
- The network's output is the noise, where there z is added to it; the output of its attention does
  not start at zero; its conditioning vector has 128 entries, where there it has 512 and one of the
  inputs to it says that an image is not augmented. That is what makes the parameters fewer.
- Level x is 2 x / 255 - 1, where there it is (2 x + 1) / 256 - 1.
- Neither biases nor the scales of norms decay; there only biases do not.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(
            name="vdm",
            schedule="linear",
            gamma_min=-13.3,
            gamma_max=5.0,
            target="noise",
            loss="vlb",
            clip="none",
        ),
        network=dict(
            name="unet",
            feature_dim=128,
            num_layers=32,
            num_heads=1,
            norm_groups=32,
            fourier_features=(6, 7),
            dropout_rate=0.1,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="cifar10"),
        sampler=dict(name="ancestral", num_steps=1000, grid="uniform", num_samples=64),
        optimizer=dict(
            name="adamw",
            learning_rate=2e-4,
            schedule="constant",
            warmup_steps=100,
            b2=0.99,
            weight_decay=0.01,
            decay_mask="kernels",
        ),
        train=dict(
            num_steps=10_000_000,
            batch_size=128,
            seed=0,
            ema_decay=0.9999,
            log_every=500,
            eval_every=10_000,
            sample_every=10_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=100_000,
        ),
        eval=dict(splits=("test",), time_points=8),
    )
