"""Set before jax starts: CPU, four fake devices where asked for, shapes checked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# jax 0.10 and 0.11 deadlock with fake CPU devices on few cores unless this is set.
os.environ.setdefault("NPROC", "32")

from jaxtyping import install_import_hook

install_import_hook(
    ["md4jax.data", "md4jax.networks", "md4jax.processes", "md4jax.objectives", "md4jax.samplers"],
    "beartype.beartype",
)
