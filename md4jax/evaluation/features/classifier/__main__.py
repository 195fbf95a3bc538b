"""python -m md4jax.evaluation.features.classifier: trains one; flags only."""

from absl import flags
from ml_collections import config_flags

from md4jax import cli
from md4jax.evaluation.features.classifier.training import train

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file in configs/classifier/.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder to write the classifier to.")


def main(argv: list[str]) -> None:
    """Trains a classifier, or says that it is there."""
    config, workdir = cli.require(CONFIG), cli.require(WORKDIR)
    cli.keep_compilations()
    train(config, workdir)


if __name__ == "__main__":
    cli.run_main(main)
