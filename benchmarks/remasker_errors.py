"""How well a finetuned head tells the wrong tokens of a masked model's guesses.

    python benchmarks/remasker_errors.py --config=configs/digits/masked_remasker.py --workdir=...

Of test examples, masked at stratified times, with each MASK replaced by a draw from the model: the
area under the curve of hits against false alarms, 1/2 for what tells nothing, of the head; and of
the probability that the network gives each token when it is shown the whole guess, which needs no
finetuning. The first column is of tokens at all times: there the head also gains by knowing t.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from md4jax import cli, rng
from md4jax.console import say
from md4jax.modes import restore
from md4jax.processes.masking import categorical, token_log_prob
from md4jax.training.state import bind_params

CONFIG = config_flags.DEFINE_config_file("config", None, "Of the remasker.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where it was finetuned.")
EXAMPLES = flags.DEFINE_integer("examples", 1000, "Of the test split, repeated if need be.")
BATCH, BINS = 100, 5


def area(score: np.ndarray, wrong: np.ndarray) -> float:
    """The chance that a wrong token has a higher score than a right one."""
    from scipy.stats import mannwhitneyu

    pairs = int(wrong.sum()) * int((~wrong).sum())
    return float(mannwhitneyu(score[wrong], score[~wrong]).statistic) / pairs


def main(argv: list[str]) -> None:
    cli.keep_compilations()
    model, params, step = restore(cli.require(CONFIG), cli.require(WORKDIR))
    process = bind_params(model.process, params)
    test = model.split("test")

    @jax.jit
    def guesses(params, x0, label, index):
        denoise = model.experiment.finetune.denoiser(process, model.network, params, label)
        keys = rng.example_keys(rng.stream(0, "errors"), index)
        t = process.time((index + 0.5) / EXAMPLES.value)
        z_t = process.forward_sample(rng.fold(keys, 0), x0, t)
        tokens = categorical(rng.fold(keys, 1), denoise(z_t, t), "high")
        guess = jnp.where(z_t == process.mask_id, tokens, z_t)
        unsure = -token_log_prob(denoise(guess, t), guess)
        times = jnp.broadcast_to(t[:, None], (len(t), x0[0].size))
        return denoise.errors(guess, t), unsure, guess != x0, times

    parts = []
    for first in range(0, EXAMPLES.value, BATCH):
        index = np.arange(first, min(first + BATCH, EXAMPLES.value), dtype=np.int32)
        batch = test.gather(index % len(test))
        parts.append(guesses(params, batch["x0"], batch.get("label"), index))
    head, unsure, wrong, t = (np.concatenate([np.ravel(x) for x in part]) for part in zip(*parts))
    edges = np.linspace(0, 1, BINS + 1)
    inside = [np.ones(len(t), bool), *((t > a) & (t <= b) for a, b in itertools.pairwise(edges))]
    names = ["all", *(f"t to {b:.1f}" for b in edges[1:])]
    rows = {
        "share wrong": [wrong[x].mean() for x in inside],
        f"head, {step} steps": [area(head[x], wrong[x]) for x in inside],
        "the network's own probability": [area(unsure[x], wrong[x]) for x in inside],
    }
    say(f"{'':>32}" + "".join(f"{name:>10}" for name in names))
    for name, values in rows.items():
        say(f"{name:>32}" + "".join(f"{value:10.3f}" for value in values))


if __name__ == "__main__":
    cli.run_main(main)
