"""python -m md4jax.convert: published weights as the folder of a run; flags only."""

import shlex

from absl import flags
from ml_collections import config_flags

from md4jax import cli
from md4jax.console import say
from md4jax.convert import SOURCES
from md4jax.convert.workdir import convert
from md4jax.options import UserError

FROM = flags.DEFINE_enum("from", None, list(SOURCES), "The published code.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Its file; and, behind a comma, a second one of averaged weights."
)
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The file in configs/ that says which model it is.", lock_config=True
)
TO = flags.DEFINE_string("to", None, "The folder of the run to make.")
STEP = flags.DEFINE_integer(
    "step", None, "Steps the weights were trained for, if the file does not tell.", lower_bound=0
)


def main(argv: list[str]) -> None:
    """Converts, and says what can be done with the result."""
    source, workdir, config = cli.require(FROM), cli.require(TO), cli.require(CONFIG)
    files = cli.require(CHECKPOINT).split(",")
    if not all(files) or len(files) > 2:
        raise UserError(f"--checkpoint={CHECKPOINT.value} should be FILE or FILE,FILE_OF_AVERAGES")
    cli.keep_compilations()
    convert(source, config, files[0], workdir, *files[1:], step=STEP.value)
    flag = flags.FLAGS["config"]
    file = config_flags.get_config_filename(flag)
    overrides = config_flags.get_override_values(flag)
    command = ["python", "main.py", f"--config={file}", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    for mode in ("evaluate", "sample"):
        say(f"{mode}: {shlex.join([*command, f'--mode={mode}'])}")


if __name__ == "__main__":
    cli.run_main(main)
