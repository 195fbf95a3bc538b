"""Prepares a data set for training, or shows what is in one.

Command:   python prepare_data.py --list
           python prepare_data.py --dataset=cifar10 --data_dir=data
           python prepare_data.py --dataset=mnist --data_dir=data --source=/cluster/mnist
           python prepare_data.py --dataset=text8 --describe
           python prepare_data.py --config=configs/digits/masked.py
"""

import functools
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from md4jax import cli
from md4jax.data.describe import describe, load_dataset
from md4jax.data.prepare import RECIPES
from md4jax.options import UserError, describe_options

LIST = flags.DEFINE_bool("list", False, "Show all data sets: their sizes, licences and sources.")
DATASET = flags.DEFINE_string("dataset", None, "The data set to prepare; --list shows them.")
DESCRIBE = flags.DEFINE_bool("describe", False, "Show the options of --dataset, do nothing.")
DATA_DIR = flags.DEFINE_string("data_dir", "data", "The folder of all prepared data sets.")
SOURCE = flags.DEFINE_string("source", None, "A local copy or a URL; else what is published.")
NAME = flags.DEFINE_string("name", None, "What to call it in data_dir; else as --dataset.")
# Those that this process may use, where the system tells.
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
WORKERS = flags.DEFINE_integer("workers", CPUS, "Processes that read the source.", lower_bound=1)
CONFIG = config_flags.DEFINE_config_file("config", None, "Show what is in this config's data.")


def main(argv: list[str]) -> None:
    """Does what the flags ask for."""
    import jax

    from md4jax.data.prepare import run

    jax.config.update("jax_platforms", "cpu")  # An accelerator would be held for nothing.
    if LIST.value:
        print(run.listing(RECIPES))
    elif DATASET.value is None:
        if CONFIG.value is None:
            raise UserError("--dataset is missing; --list shows the data sets, --help the flags")
        values = cli.require(CONFIG).data.to_dict()
        print(describe(load_dataset(values), values["name"]))
    elif DESCRIBE.value:
        title = f"--dataset={DATASET.value}"
        print("\n".join(describe_options(title, RECIPES[DATASET.value])))
    else:
        recipe = RECIPES[DATASET.value]
        values = cli.given_options(recipe)
        name = NAME.value or DATASET.value
        if not name.isidentifier():
            raise UserError(f"--name={name} should be of letters, digits and _")
        run.prepare(
            recipe(**values), DATASET.value, pathlib.Path(DATA_DIR.value).expanduser(),
            SOURCE.value, name, WORKERS.value,
        )  # fmt: skip


if __name__ == "__main__":
    cli.run_main(main, functools.partial(cli.define_flags, RECIPES, "dataset"))
