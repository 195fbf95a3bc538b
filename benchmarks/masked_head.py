"""What a network call costs that asks for the logits of a few positions alone.

    python benchmarks/masked_head.py [--length=256] [--vocab=50257] [--width=128] [--layers=4]

A transformer of that width, GPT-2's vocabulary, batches of 4; each figure is the median of 9 calls,
compiled before, and taken in turn with that of all positions, so that both see the same machine.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from md4jax import cli
from md4jax.console import say
from md4jax.networks.transformer import Transformer
from md4jax.processes.base import DataSpec
from md4jax.processes.masked import Masked
from md4jax.samplers.base import predict_at
from md4jax.training.state import init_params, make_denoiser

LENGTH = flags.DEFINE_integer("length", 256, "D, tokens of a text.")
VOCAB = flags.DEFINE_integer("vocab", 50257, "V.")
WIDTH = flags.DEFINE_integer("width", 128, "Of the network, a multiple of 32.")
LAYERS = flags.DEFINE_integer("layers", 4, "Of the network.")
BATCH, REPEATS, POSITIONS = 4, 9, (1, 4, 16, 64)


def main(argv: list[str]) -> None:
    data = DataSpec((LENGTH.value,), VOCAB.value)
    process = Masked(time_features="none").bind(data)
    spec = process.network_spec(data)
    network = Transformer(
        spec=spec, feature_dim=32, num_heads=WIDTH.value // 32, num_layers=LAYERS.value
    )
    params = jax.jit(lambda: init_params(process, network, data, seed=0))()
    z = jax.random.randint(jax.random.key(0), (BATCH, LENGTH.value), 0, VOCAB.value + 1)
    t = jnp.full(BATCH, 0.5)
    chosen = {k: jnp.tile(jnp.arange(k) * (LENGTH.value // k), (BATCH, 1)) for k in POSITIONS}
    ask = {k: lambda p, k=k: predict_at(make_denoiser(process, network, p), z, t, chosen[k])
           for k in POSITIONS}  # fmt: skip
    ask["all"] = lambda p: make_denoiser(process, network, p)(z, t)
    calls = {k: jax.jit(call).lower(params).compile() for k, call in ask.items()}
    seconds = {k: [] for k in calls}
    for _ in range(REPEATS):
        for k, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call(params))
            seconds[k].append(time.perf_counter() - started)
    medians = {k: float(np.median(s)) for k, s in seconds.items()}
    say("| positions | milliseconds a call | times as fast as all |\n| --- | --- | --- |")
    for k, median in medians.items():
        say(f"| {k} of {LENGTH.value} | {1000 * median:.1f} | {medians['all'] / median:.1f} |")
    say(f"devices: {jax.devices()}")


if __name__ == "__main__":
    cli.run_main(main)
