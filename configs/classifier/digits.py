"""A classifier of the 8 x 8 digits of scikit-learn, as features of their samples.

Command:   python -m md4jax.evaluation.features.classifier --config=configs/classifier/digits.py \
               --workdir=/tmp/md4jax/digits_classifier
Network:   69,994 parameters
Batch:     64
Hardware:  2 CPU cores, 16 s of CPU time with compiling
Expected:  98.99 % of the 297 test images classified rightly
"""

import ml_collections

from md4jax.evaluation.features.classifier.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        data=dict(name="digits", labels=True),
        classifier=dict(width=32, num_layers=2, features=64, num_steps=600, batch_size=64),
    )
