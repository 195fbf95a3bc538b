"""VDM on CIFAR-10 (arXiv:2107.00630): Gaussian diffusion of 32 x 32 x 3 pixels in continuous time.

Command:   python main.py --config=configs/vdm/cifar10.py --workdir=/tmp/vdm_cifar10
Data:      python prepare_data.py --dataset=cifar10
Network:   30,577,669 parameters, two of them the schedule's (published: 512 more, see below)
Batch:     128 over all devices
Hardware:  TPU v3-8 (the published code's)
Expected:  test bound of 2.65 bits/dim (the paper's figure, without augmentation; 2.637 with the
           published weights), by --mode=evaluate --config.eval.time_points=256; FID 4.0 (paper)
Status:    not run here

Values are the published code's, and its weights can be had: see `md4jax/convert/vdm.py`. A learned
course between fixed ends of the schedule is --config.process.schedule=learned. Not as published:
- One input of the conditioning vector less: a number that says whether an image is augmented, here
  always 0. Its 512 weights are the parameters that are missing.
- The output of the network's attention does not start at zero.
- Neither biases, nor the scales of norms, nor the schedule's ends decay; there only biases do not.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(
            name="vdm",
            schedule="learned_linear",
            gamma_min=-13.3,
            gamma_max=5.0,
            target="noise",
            loss="vlb",
            clip="none",
            centre_levels=True,
        ),
        network=dict(
            name="unet",
            feature_dim=128,
            num_layers=32,
            num_heads=1,
            norm_groups=32,
            fourier_features=(6, 7),
            wide_conditioning=True,
            add_input=True,
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
