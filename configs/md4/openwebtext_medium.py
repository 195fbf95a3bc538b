"""MD4-M on OpenWebText (arXiv:2406.04329): masked diffusion of 1,024 GPT-2 tokens.

Command:   python main.py --config=configs/md4/openwebtext_medium.py --workdir=/tmp/owt_medium
Data:      python prepare_data.py --dataset=openwebtext --source=FOLDER
           (every 50th document is for testing; 18 GB on disk)
Network:   416,240,960 parameters
Batch:     512 over all devices; --config.train.microbatches=N where that does not fit
Hours:     1,000,000 steps; the paper gives none
Expected:  test perplexity of at most 16.64 on the paper's own 2 % split, which is 4.057 bits/token,
           by --mode=evaluate --config.eval.time_points=256
Status:    not run here

Schedule, grid, dropout and weight decay are those of the tuning sweep in the published code.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        process=dict(name="masked", schedule="cosine", time_features="t"),
        network=dict(
            name="transformer",
            feature_dim=64,
            num_heads=16,
            num_layers=24,
            feed_forward="glu",
            conditioning="adaln_zero",
            depth_scaled_init=True,
            dropout_rate=0.0,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(
            name="tokens",
            dataset="openwebtext",
            tokenizer="gpt2",
            length=1024,
        ),
        sampler=dict(
            name="ancestral", num_steps=1000, grid="uniform", num_samples=16, batch_size=16
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
