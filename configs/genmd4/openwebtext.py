"""GenMD4-S on OpenWebText (arXiv:2406.04329): 1,024 GPT-2 tokens, learned schedules.

Command:   python main.py --config=configs/genmd4/openwebtext.py --workdir=/tmp/genmd4_openwebtext
Data:      python prepare_data.py --dataset=openwebtext --source=FOLDER
           (every 50th document is for testing; 18 GB on disk)
Network:   165,907,601 parameters, 50,257 of them the schedules'
Batch:     512 over all devices, each example under two masks; --config.train.microbatches=N where
           that does not fit
Hours:     1,000,000 steps; the paper gives none
Expected:  test perplexity of at most 21.80 on the paper's own 2 % split, which is 4.446 bits/token,
           by --mode=evaluate --config.eval.time_points=256
Status:    not run here

Dropout and weight decay are those of the tuning sweep in the published code, whose vocabulary has
two ids more, 50,259.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="genmd4", initial_power=1.0, time_features="t"),
        network=dict(
            name="transformer",
            feature_dim=64,
            num_heads=12,
            num_layers=12,
            feed_forward="glu",
            conditioning="adaln_zero",
            depth_scaled_init=True,
            dropout_rate=0.02,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(
            name="tokens",
            dataset="openwebtext",
            tokenizer="gpt2",
            length=1024,
        ),
        sampler=dict(
            name="ancestral", num_steps=1000, grid="cosine", num_samples=16, batch_size=16
        ),
        optimizer=dict(
            name="adamw",
            learning_rate=3e-4,
            schedule="cosine",
            warmup_steps=2000,
            weight_decay=0.03,
            decay_mask="all",
        ),
        train=dict(
            num_steps=1_000_000,
            batch_size=512,
            seed=42,
            ema_decay=0.9999,
            log_every=500,
            eval_every=10_000,
            sample_every=10_000,
            checkpoint_every=5000,
            checkpoints_to_keep=5,
            checkpoint_keep_period=200_000,
        ),
        eval=dict(splits=("test",), batch_size=64, time_points=2),
    )
