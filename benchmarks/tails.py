"""Seconds a draw of each star-shaped tail takes, against drawing all T variables, in the same run.

    python benchmarks/tails.py [--families=star_beta,star_wishart] [--repeats=5] [--train_steps=60]

Shapes are the published ones; the times of a batch are spread evenly over all steps. All ways of a
family are compiled, warm, and take turns; the figures are medians. What is timed is one call of a
jitted function of the process, keys, x0 and t to its end, for each way alike, so that it has the
calls' overhead in it. A line with K is of tails with K drawn steps and a normal for the others
(`exact_terms`). Then: a training step of the digits' network with star-shaped Betas, against one
with Gaussian diffusion on the same network.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from md4jax import cli, rng
from md4jax.config import load_config, make_config, to_dict
from md4jax.console import say
from md4jax.model import assemble
from md4jax.processes import PROCESSES
from md4jax.processes.base import DataSpec
from md4jax.training.state import make_train_step

FAMILIES = flags.DEFINE_list("families", None, "Of `process.name`; all if not given.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Draws of each kind.", lower_bound=1)
TRAIN_STEPS = flags.DEFINE_integer("train_steps", 60, "Steps timed; 0 for none.", lower_bound=0)

# The data's spec and the batch of the published measurements; Gaussian as Beta, the last two ours.
SHAPES = {
    "star_beta": (DataSpec((32, 32, 3), 256), 4),
    "star_gaussian": (DataSpec((32, 32, 3), 256), 4),
    "star_categorical": (DataSpec((256,), 27, unit="char"), 2),
    "star_dirichlet": (DataSpec((3,), None, domain="simplex"), 256),
    "star_wishart": (DataSpec((2, 2), None, domain="spd"), 256),
    "star_von_mises_fisher": (DataSpec((3,), None, domain="sphere"), 256),
    "star_von_mises": (DataSpec((3,), None, domain="circle"), 256),
    "star_gamma": (DataSpec((3,), None, domain="positive"), 256),
}


def examples(spec: DataSpec, count: int) -> np.ndarray:
    """Some data of this spec."""
    generator = np.random.default_rng(0)
    if spec.vocab_size is not None:
        return generator.integers(spec.vocab_size, size=(count, *spec.shape)).astype(np.int32)
    normal = generator.normal(size=(count, *spec.shape))
    of_domain = {
        "simplex": lambda: generator.dirichlet(np.ones(spec.shape[-1]), count),
        "spd": lambda: normal @ normal.swapaxes(-1, -2) + 0.1 * np.eye(spec.shape[-1]),
        "sphere": lambda: normal / np.linalg.norm(normal, axis=-1, keepdims=True),
        "circle": lambda: generator.uniform(-3, 3, normal.shape),
        "positive": lambda: np.exp(normal),
    }
    return of_domain[spec.domain]().astype(np.float32)


# Of `exact_terms`: what `star/remainder.py` recommends.
EXACT_TERMS = {"star_categorical": 256, "star_dirichlet": 8, "star_wishart": 12}


def seconds(call, at_least: float = 0.02) -> float:
    """Of one call, to its end: the mean of as many as take this long together."""
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < at_least:
        jax.block_until_ready(call())
        count += 1
    return (time.perf_counter() - began) / count


def compare_tails(name: str, repeats: int) -> dict[str, float]:
    """Seconds of a draw of the family's own tail, of approximate ones and of all T variables."""
    spec, batch = SHAPES[name]
    process = PROCESSES[name]().bind(spec)
    x0 = examples(spec, batch)
    process = process.fit(x0)
    keys = rng.example_keys(jax.random.key(0), jnp.arange(batch))
    t = process.time((jnp.arange(batch) + 0.5) / batch)
    ways = {process.tail: process}
    if name in EXACT_TERMS:
        count = EXACT_TERMS[name]
        ways[f"K = {count}"] = dataclasses.replace(process, exact_terms=count)
    ways["draws"] = dataclasses.replace(process, tail="draws")
    jitted = jax.jit(lambda p, keys, x0, t: p.forward_sample(keys, x0, t))
    draws = [lambda p=p: jitted(p, keys, x0, t) for p in ways.values()]
    for draw in draws:
        jax.block_until_ready(draw())
    times = [[seconds(draw) for draw in draws] for _ in range(repeats)]
    return dict(zip(ways, (statistics.median(x) for x in zip(*times))))


def train_step_seconds(process: dict, steps: int):
    """A function that trains the digits' network with this process for some steps, and times it."""
    values = to_dict(load_config("configs/digits/beta.py"))
    model = assemble(make_config(**(values | {"process": process})))
    train = model.experiment.train
    optimizer = model.experiment.optimizer.build(train.num_steps)
    step = jax.jit(make_train_step(train, model.gradient(), optimizer), donate_argnums=0)
    batch = model.split("train").gather(np.arange(train.batch_size))
    state = step(model.init_state(), batch)[0]
    holder = [jax.block_until_ready(state)]

    def run() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            holder[0], _ = step(holder[0], batch)
        jax.block_until_ready(holder[0])
        return (time.perf_counter() - began) / steps

    return run


def main(argv: list[str]) -> None:
    del argv
    say(f"{'family':<24}{'tail':<8}{'seconds':>12}{'all T':>12}{'ratio':>10}")
    for name in FAMILIES.value or SHAPES:
        *ways, (_, slow) = compare_tails(name, REPEATS.value).items()
        for tail, fast in ways:
            say(f"{name:<24}{tail:<8}{fast:>12.6f}{slow:>12.6f}{slow / fast:>10.1f}")
    if not TRAIN_STEPS.value:
        return
    gaussian = {"name": "gaussian", "target": "x0", "schedule": "cosine", "variance": "fixed_small"}
    beta = {"name": "star_beta"}
    runs = [train_step_seconds(p, max(1, TRAIN_STEPS.value // 6)) for p in (beta, gaussian)]
    times = [[run() for run in runs] for _ in range(6)]
    ours, theirs = (statistics.median(x) for x in zip(*times))
    say(f"a training step of the digits: {ours:.4f} s with Betas, {theirs:.4f} s with Gaussians, "
        f"ratio {ours / theirs:.3f}")  # fmt: skip


if __name__ == "__main__":
    cli.run_main(main)
