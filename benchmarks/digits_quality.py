"""Are a trained digits model's samples digits? Measures of samples in pixel space.

python benchmarks/digits_quality.py --config=configs/digits/masked.py --workdir=/tmp/digits

Improved precision and recall (k = 3), density and coverage (k = 5), the Frechet distance and KID's
MMD (times 1,000), all of pixels in [0, 1], against the first 1,000 training images. Rows to compare
with are made in the same run: the real test images (what a perfect model would score), and test
images with their pixels shuffled.
"""

import dataclasses

import numpy as np
from absl import flags
from ml_collections import config_flags

from md4jax import cli
from md4jax.evaluation.distances import (
    Polynomial,
    density_coverage,
    frechet_distance,
    squared_mmd,
)
from md4jax.evaluation.precision_recall import precision_recall
from md4jax.modes import restore
from md4jax.samplers.generate import Generator

CONFIG = config_flags.DEFINE_config_file("config", None, "A digits config.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where it was trained.")
SAMPLES = flags.DEFINE_integer("samples", 1000, "How many samples.")


def main(argv: list[str]) -> None:
    cli.keep_compilations()
    model, params, step = restore(cli.require(CONFIG), cli.require(WORKDIR))
    sampler = dataclasses.replace(model.experiment.sampler, num_samples=SAMPLES.value)
    model = dataclasses.replace(
        model, experiment=dataclasses.replace(model.experiment, sampler=sampler)
    )
    scale = model.dataset.levels - 1
    flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1) / scale
    train = flat(model.split("train").gather(np.arange(1000))["x0"])
    test = flat(model.split("test").gather(np.arange(len(model.split("test"))))["x0"])
    samples, _ = Generator(model)(params)
    rows = {
        f"test images ({len(test)})": test,
        f"test images, pixels shuffled ({len(test)})": np.random.default_rng(0).permuted(
            test, axis=1
        ),
        f"samples of step {step}, {sampler.num_steps} steps ({len(samples)})": flat(samples),
    }
    names = ("precision", "recall", "density", "coverage", "Frechet", "1,000 MMD^2")
    print(f"{'':<48}" + "".join(f"{name:>12}" for name in names))
    for name, images in rows.items():
        values = [
            *precision_recall(train, images), *density_coverage(train, images),
            frechet_distance(train, images), 1000 * float(squared_mmd(train, images, Polynomial())),
        ]  # fmt: skip
        print(f"{name:<48}" + "".join(f"{value:12.3f}" for value in values))


if __name__ == "__main__":
    cli.run_main(main)
