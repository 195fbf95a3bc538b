"""Star-shaped von Mises-Fisher laws: where the earth burnt (arXiv:2302.05259, section 5.2).

Command:   python main.py --config=configs/star_shaped/earth_vmf.py --workdir=/tmp/md4jax/fire
Data:      python prepare_data.py --dataset=earth_fire --source=fire.csv; or earth_flood,
           earth_earthquake, earth_volcano
Network:   807,939 parameters
Batch:     100
Hardware:  any
Expected:  a map that looks like the data; the paper's are after 2,000,000 steps. What a shorter
           run draws is in docs/results.md

As published.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="star_von_mises_fisher", num_timesteps=100, loss="kl", tail="table"),
        network=dict(name="mlp", feature_dim=512, num_layers=3),
        data=dict(name="points", dataset="earth_fire"),
        sampler=dict(name="ancestral", num_steps=100, num_samples=5000, batch_size=5000),
        optimizer=dict(
            name="adamw", learning_rate=2e-4, schedule="exponential", decay_rate=0.999997
        ),
        train=dict(
            num_steps=2_000_000,
            batch_size=100,
            ema_decay=0.9999,
            ema_warmup=True,
            log_every=1000,
            checkpoint_every=10_000,
        ),
        eval=dict(splits=("valid", "test"), batch_size=1000, time_points=100),
    )
