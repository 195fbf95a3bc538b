"""Reads the data set of a config and prints what is in it, before anything is trained.

Command:   python prepare_data.py --config=configs/digits/masked.py
           python prepare_data.py --config=configs/md4/text8.py --config.data.path=/data/text8.zip
"""

from ml_collections import config_flags

from md4jax import cli
from md4jax.data.describe import describe, load_dataset

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment whose data to read.")


def main(argv: list[str]) -> None:
    """Loads and describes `config.data`."""
    values = cli.require(CONFIG).data.to_dict()
    print(describe(load_dataset(values), values["name"]))


if __name__ == "__main__":
    cli.run_main(main)
