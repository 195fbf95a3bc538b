"""A classifier of MNIST, as features of its samples.

Command:   python -m md4jax.evaluation.features.classifier --config=configs/classifier/mnist.py \
               --workdir=/tmp/md4jax/mnist_classifier
Data:      python prepare_data.py --dataset=mnist
Network:   76,826 parameters
Batch:     64
Hardware:  2 CPU cores, 63 s of CPU time with compiling
Expected:  98.37 % of the 10,000 test images classified rightly
"""

import ml_collections

from md4jax.evaluation.features.classifier.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        data=dict(name="images", dataset="mnist", labels=True),
        classifier=dict(width=16, num_layers=3, features=64, num_steps=400, batch_size=64),
    )
