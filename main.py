"""Trains, finetunes, evaluates or samples one config in one folder; see README.md.

python main.py --config=configs/digits/masked.py --workdir=/tmp/digits
python main.py --config=configs/digits/masked.py --workdir=/tmp/digits --mode=sample \
    --config.sampler.num_steps=32
python main.py --describe=network
"""

from absl import flags
from ml_collections import config_flags

import md4jax
from md4jax import cli, hosts

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run; made if it is not there.")
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "finetune", "evaluate", "sample"], "What to do."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "One of several hosts: a TPU pod, Slurm, or as JAX_COORDINATOR_ADDRESS, "
    "JAX_NUM_PROCESSES and JAX_PROCESS_ID say.",
)
DESCRIBE = flags.DEFINE_string(
    "describe", None, "Prints config keys and ends: all, a section, or a component (network.unet)."
)


def main(argv: list[str]) -> None:
    if DESCRIBE.value is not None:
        print(md4jax.describe(DESCRIBE.value))
        return
    config, workdir = cli.require(CONFIG), cli.require(WORKDIR)
    cli.keep_compilations()
    if DISTRIBUTED.value:
        hosts.join()
    cli.require_devices()
    getattr(md4jax, MODE.value)(config, workdir)


if __name__ == "__main__":
    cli.run_main(main)
