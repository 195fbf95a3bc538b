"""A small classifier of a data set's own images, as features where no published network fits.

python -m md4jax.evaluation.features.classifier --config=configs/classifier/digits.py \\
    --workdir=/tmp/md4jax/digits_classifier

`config.py` has its config, `training.py` what the command does, `features.py` how the file that it
writes is read. Its figures mean something beside other figures of the same file alone.
"""
