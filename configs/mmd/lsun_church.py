"""MMD-DDM on LSUN Church (arXiv:2301.07969): DDPM, finetuned to 5 network calls.

Command:   python -m md4jax.convert --from=ddpm --config=configs/ddpm/lsun_church.py \
               --to=/tmp/md4jax/ddpm_lsun_church --checkpoint=...
           python main.py --config=configs/mmd/lsun_church.py --mode=finetune \
               --workdir=/tmp/md4jax/mmd_lsun_church --config.finetune.weights=pt_inception.pth \
               --config.eval.weights=clip.safetensors
Data:      python prepare_data.py --dataset=lsun_church --source=FOLDER
Network:   113,673,219 parameters
Batch:     128 images and as many samples over all devices
Hardware:  not given
Expected:  not known: the paper (its table of 5 steps) was not at hand; no figure of ours
Status:    not run here

Values are the published code's, for training on Inception's features with 5 steps. Not as
published: the 5 steps begin at the last of the 1,000, where theirs begin at 800 (which is
`sampler.grid="strided"`); there is no dropout; metrics are of CLIP's features, which are not
trained on, and of fewer samples than the paper's 50,000. The MMD is that of the whole
batch, where theirs is the mean of four.
"""

import ml_collections

from md4jax.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        finetune=dict(name="mmd", start="/tmp/md4jax/ddpm_lsun_church", features="inception"),
        process=dict(
            name="gaussian",
            num_timesteps=1000,
            schedule="linear",
            target="noise",
            variance="fixed_small",
            loss="mse",
            clip="none",
        ),
        network=dict(
            name="ddpm_unet",
            feature_dim=128,
            num_layers=2,
            ch_mult=(1, 1, 2, 2, 4, 4),
            attention_levels=(16,),
            dropout_rate=0.0,
            dtype="float32",  # As published; bfloat16 is faster where there are units for it.
        ),
        data=dict(name="images", dataset="lsun_church"),
        sampler=dict(name="ddim", num_steps=5, grid="uniform", num_samples=10_000, batch_size=16),
        optimizer=dict(name="adamw", learning_rate=1e-6, schedule="constant", clip_norm=1.0),
        train=dict(
            num_steps=500,
            batch_size=128,
            microbatches=4,
            random_flip=True,
            ema_decay=0.0,
            log_every=10,
            eval_every=100,
            sample_every=50,
            checkpoint_every=50,
        ),
        eval=dict(splits=(), metrics=("fid", "kid", "precision_recall"), features="clip"),
    )
