"""MD4-S on FineWeb-Edu (arXiv:2406.04329): masked diffusion of 1,024 GPT-2 tokens.

Command:   python main.py --config=configs/md4/fineweb_edu.py --workdir=/tmp/fineweb_edu
Data:      python prepare_data.py --dataset=fineweb_edu --source=FOLDER
           (every 50th document is for testing; 20 GB on disk for sample/10BT)
Network:   165,857,344 parameters; 162,149,376 with --config.process.time_features=none
Batch:     512 over all devices. In float32 with 1,024 tokens the published code's largest batch is
           128 on 8 A100 of 40 GB and 32 on 8 TPU v5e: use --config.train.microbatches=4 or 16
           there, and a smaller --config.eval.batch_size
Hours:     1,000,000 steps; the paper gives none
Expected:  no published likelihood: the paper shows HellaSwag, 30 % after 200,000 steps
Status:    not run here

Dropout and weight decay are those of the tuning sweep in the published code. Not as published:
there each document is cut off after 1,023 tokens, documents in a row attend to each other, and rows
are filled up with a token that is trained on. Here nothing is cut off, and each document attends to
itself alone; --config.data.documents=False has them attend to each other.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="linear", time_features="t"),
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
            dataset="fineweb_edu",
            tokenizer="gpt2",
            length=1024,
            documents=True,
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
