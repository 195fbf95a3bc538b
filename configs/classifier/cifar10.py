"""A classifier of CIFAR-10, as features of its samples.

Command:   python -m md4jax.evaluation.features.classifier --config=configs/classifier/cifar10.py \
               --workdir=/tmp/md4jax/cifar10_classifier
Data:      python prepare_data.py --dataset=cifar10
Network:   81,914 parameters
Batch:     64
Hardware:  2 CPU cores, 96 s of CPU time with compiling
Expected:  not known: trained on the first 4,000 training images alone, 49.2 % of the first 1,000
           test images are classified rightly

It is small, to be trained in a minute: for figures to rely on take more of
`--config.classifier.num_steps` and `--config.classifier.width`, and the same file ever after.
"""

import ml_collections

from md4jax.evaluation.features.classifier.config import make_config


def get_config() -> ml_collections.ConfigDict:
    return make_config(
        data=dict(name="images", dataset="cifar10", labels=True),
        classifier=dict(width=16, num_layers=3, features=128, num_steps=500, batch_size=64),
    )
