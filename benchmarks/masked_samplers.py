"""What a masked model's samplers give for how many network calls, as a table.

    python benchmarks/masked_samplers.py --config=configs/digits/masked.py --workdir=/tmp/digits \
        [--steps=8,16,32,64,128] [--samples=500] [--only=ancestral,remask]

Images: improved precision and recall in pixel space, k = 3, against as many training images. Texts:
bits a token under a trigram model of the training text (`evaluation/trigram.py`), low where it is
like the text to three letters, and the unigram entropy of each sample, low where it repeats itself.
The first row is the test split's: what a perfect model would have. Seconds are those of all
samples, compiled before, on the devices there are.
"""

import dataclasses
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from md4jax import cli
from md4jax.console import say
from md4jax.evaluation import trigram
from md4jax.evaluation.metrics.of_texts import gram_entropy
from md4jax.evaluation.precision_recall import precision_recall
from md4jax.model import Model
from md4jax.modes import restore
from md4jax.samplers import STEPS
from md4jax.samplers.generate import Generator

CONFIG = config_flags.DEFINE_config_file("config", None, "Of a masked model.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where it was trained.")
NUM_STEPS = flags.DEFINE_list("steps", ["8", "16", "32", "64", "128"], "Steps of the grid.")
SAMPLES = flags.DEFINE_integer("samples", 500, "How many samples of each kind.", lower_bound=10)
ONLY = flags.DEFINE_list("only", None, "Names of `sampler.name`; all if not given.")

# What is tried of each step function; `grid` is the cosine one but where times have a meaning.
TRIED = {
    "ancestral": [{}],
    "mean": [{"temperature": 0.75}, {"top_p": 0.9}],
    "joint": [{"gumbel": "low"}],
    "confident": [{"choose": "token_first"}, {"choose": "position_first"}],
    "first_hitting": [{}],
    "remask": [
        {"how": "cap", "eta": 0.02}, {"how": "rescale", "eta": 0.1}, {"how": "forward_backward"},
        {"how": "star", "since": 0.5},
    ],
    "remask_unsure": [{}],
    "remask_loop": [{"grid": "uniform"}],
    "remask_errors": [{}],
}  # fmt: skip


def with_sampler(model: Model, name: str, **options) -> Model:
    """The model with another sampler."""
    sizes = {"num_samples": SAMPLES.value, "batch_size": min(250, SAMPLES.value)}
    options = {"grid": "cosine"} | sizes | options
    sampler = STEPS[name](**options)
    sampler.check(model.process)
    return dataclasses.replace(
        model, experiment=dataclasses.replace(model.experiment, sampler=sampler)
    )


class Images:
    """Precision and recall of pixels."""

    columns = ("precision", "recall")

    def __init__(self, model: Model):
        self._train = self._flat(model.split("train").gather(np.arange(SAMPLES.value))["x0"])

    @staticmethod
    def _flat(images: np.ndarray) -> np.ndarray:
        return np.asarray(images, np.float64).reshape(len(images), -1)

    def __call__(self, samples: np.ndarray) -> tuple[float, float]:
        return precision_recall(self._train, self._flat(samples))


class Texts:
    """Bits under a trigram model, and the entropy of the tokens there are."""

    columns = ("trigram bits/token", "unigram entropy, bits")

    def __init__(self, model: Model):
        split = model.split("train")
        windows = split.gather(np.arange(0, len(split), max(1, model.spec.shape[0])))["x0"]
        self._trigram = trigram.fit(windows.reshape(-1), model.spec.vocab_size)

    def __call__(self, samples: np.ndarray) -> tuple[float, float]:
        return self._trigram.bits(samples), gram_entropy(samples, 1)


def main(argv: list[str]) -> None:
    cli.keep_compilations()
    model, params, _ = restore(cli.require(CONFIG), cli.require(WORKDIR))
    measure = (Images if model.dataset.levels else Texts)(model)
    test = model.split("test")
    real = test.gather(np.arange(min(len(test), SAMPLES.value)))["x0"]
    rows = [f"| sampler | steps | network calls | seconds | {' | '.join(measure.columns)} |",
            "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    rows.append(
        "| test split ({}) | - | - | - | {:.3f} | {:.3f} |".format(len(real), *measure(real))
    )
    say("\n".join(rows))
    told = model.experiment.finetune.predicts_errors
    for name in ONLY.value or [n for n in TRIED if told or not STEPS[n].asks_for_errors]:
        for options in TRIED[name]:
            for steps in map(int, NUM_STEPS.value):
                generator = Generator(with_sampler(model, name, num_steps=steps, **options))
                generator.compile(params)
                started = time.perf_counter()
                samples, _ = generator(params)
                seconds = time.perf_counter() - started
                words = ", ".join(f"{k}={v}" for k, v in options.items() if k != "grid")
                figures = " | ".join(f"{x:.3f}" for x in measure(samples))
                row = f"| {name}{' ' if words else ''}{words} | {steps} "
                say(f"{row}| {generator.network_calls:g} | {seconds:.1f} | {figures} |")
    say(f"devices: {jax.devices()}")


if __name__ == "__main__":
    cli.run_main(main)
