"""Set before jax starts: CPU, shapes checked, and compilers that are quick rather than good.

Nearly all of the tests' time goes into compiling programs that run for milliseconds. So nothing is
optimised, and what one process has compiled the others of the run read; all of it is in the
environment, for workers and for the processes that tests start. Tests whose programs run for
seconds ask for the fixture `optimized`.
"""

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

# XLA's newer emitters take half of the time to compile on CPUs. A flag XLA does not know ends the
# process, so it is tried first; in one process of a run, for the others find it set.
EMITTERS = "--xla_cpu_use_fusion_emitters"


def choose_emitters() -> None:
    given = os.environ.get("XLA_FLAGS", "")
    if EMITTERS in given:
        return
    flags = os.environ | {"XLA_FLAGS": f"{given} {EMITTERS}=false".strip()}
    parse = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()"]
    if subprocess.run(parse, env=flags, capture_output=True).returncode == 0:
        os.environ["XLA_FLAGS"] = flags["XLA_FLAGS"]


def share_compilations() -> None:
    """A folder of compiled programs, unless one is given; removed after the run."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="md4jax_test_")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["XDG_CACHE_HOME"] = folder  # Of tables, too.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


os.environ.setdefault("JAX_PLATFORMS", "cpu")
# jax 0.10 and 0.11 deadlock with fake CPU devices on few cores unless this is set.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
choose_emitters()
share_compilations()
# A shell has its background processes ignore Ctrl-C, and what they start does too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What jax keeps of compiled programs is millions of objects, which are garbage to no one: searched
# as often as Python does by itself, they take a twelfth of the time.
gc.set_threshold(100_000, 50, 50)

import jaxtyping  # noqa: E402

jaxtyping.install_import_hook(
    [
        "md4jax.data",
        "md4jax.evaluation.features",
        "md4jax.networks",
        "md4jax.processes",
        "md4jax.objectives",
        "md4jax.samplers",
    ],
    "beartype.beartype",
)


@pytest.fixture
def unchecked_shapes():
    """For tests of all at once: checks, which the tests of each part have, take a seventh of it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def optimized():
    """Compiles well: for programs that run longer than they compile, and for the last bits."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
