"""MD4 on a text of your own, as characters or bytes; small enough for a CPU.

Command:   python main.py --config=configs/own/text.py --workdir=/tmp/md4jax/text \
               --config.data.path=FILE
Data:      any UTF-8 text, packed or not; its last tenth is for testing. Data made by
           prepare_data.py: --config.data.name=tokens --config.data.dataset=NAME
Network:   940,608 parameters with 96 characters
Batch:     32
Hardware:  2 CPU cores, minutes; longer training and a wider network (--config.network.num_layers,
           feature_dim) pay on anything larger
Expected:  less than the unigram entropy that `python prepare_data.py --config=configs/own/text.py
           --config.data.path=FILE` shows
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear"),
        network=dict(
            name="transformer",
            feature_dim=32,
            num_heads=4,
            num_layers=4,
            narrow_embedding=True,
        ),
        data=dict(name="text_file", path="data/text.txt", length=128, tokens="chars"),
        sampler=dict(name="ancestral", num_steps=128, grid="cosine", num_samples=16, batch_size=16),
        optimizer=dict(name="adamw", learning_rate=1e-3, warmup_steps=100, b2=0.99),
        train=dict(
            num_steps=2000,
            batch_size=32,
            ema_decay=0.999,
            ema_warmup=True,
            log_every=50,
            eval_every=500,
            sample_every=500,
            checkpoint_every=500,
        ),
        eval=dict(batch_size=64, time_points=8, num_examples=512),
    )
