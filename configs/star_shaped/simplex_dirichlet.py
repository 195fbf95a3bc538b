"""Star-shaped Dirichlets on a mixture of three Dirichlets (arXiv:2302.05259, section 5.1).

Command:   python main.py --config=configs/star_shaped/simplex_dirichlet.py --workdir=/tmp/simplex
Data:      made on the spot: 100,000 points of the simplex of three
Network:   807,939 parameters
Batch:     128
Hardware:  any
Expected:  k-nearest-neighbour KL of 0.011 nats after 350,000 steps (the paper's); what a shorter
           run reaches here is in docs/results.md

As published; the decay of the averaged parameters, which the paper does not give, is ours.
`simplex_ddpm.py` is the Gaussian diffusion the paper compares with.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="star_dirichlet", num_timesteps=64, loss="kl", tail="exact"),
        network=dict(name="mlp", feature_dim=512, num_layers=3),
        data=dict(name="simplex_mixture", mixture="m1"),
        sampler=dict(name="ancestral", num_steps=64, num_samples=10_000, batch_size=10_000),
        optimizer=dict(name="adamw", learning_rate=4e-4, schedule="constant"),
        train=dict(
            num_steps=350_000,
            batch_size=128,
            ema_decay=0.9999,
            ema_warmup=True,
            log_every=1000,
            checkpoint_every=10_000,
        ),
        eval=dict(batch_size=1000, time_points=64),
    )
