"""Are trained models' samples of the law of their data? Divergences on simplices and manifolds.

python benchmarks/manifold_quality.py --config=A.py --workdir=/tmp/a
python benchmarks/manifold_quality.py --config=A.py,B.py --workdir=/tmp/a,/tmp/b

The symmetric divergence of `nearest_neighbour_kl.py`, k = 10, with the two that it is the mean of,
against points that are drawn anew for each seed where the data set draws its own, and against the
test split elsewhere. Row to compare with, of the same run: two sets of true points. The last column
is a row's symmetric divergence over that of the first model.

Star-shaped diffusion (arXiv:2302.05259, table 1) reports 0.011, and 0.200 for DDPM, of "m1" on the
simplex; 0.037 and 0.096 of "m1" of matrices, which are 0.028 and 0.072 as measured here: see
`coordinates`. Its caption speaks of KL(data || model), its code measures the symmetric one.

A run that was trained with overrides is given by its own config: --config=/tmp/a/config.json.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from md4jax import cli
from md4jax.config import load_config, make_config
from md4jax.evaluation.nearest_neighbour_kl import K, coordinates, knn_kl
from md4jax.options import UserError

CONFIG = flags.DEFINE_string("config", None, "Configs of the runs, with commas between them.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where they were trained, in the same order.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds of sampler and true points.", lower_bound=1)
SAMPLES = flags.DEFINE_integer("num_samples", 20_000, "Samples a seed.", lower_bound=K + 1)

DRAWN = {"seed", "num_train", "num_test"}  # Options of a data set that draws its examples.
LEAST_BATCH = 1000
COLUMNS = ("symmetric", "    sd", "KL(data || model)", "KL(model || data)", " ratio")


def read_config(path: str) -> Mapping[str, Any]:
    """The config of a file, or of a run's `config.json`."""
    from md4jax.training import workdir

    if pathlib.Path(path).name != "config.json":
        return load_config(path)
    if (saved := workdir.read_config(pathlib.Path(path).parent)) is None:
        raise UserError(f"--config: there is no {path}")
    return make_config(**saved["config"])


def law(model: Any) -> tuple[Any, bool]:
    """What two models' data have in common if they are of one law, and whether it can be drawn."""
    data = model.experiment.data
    if {field.name for field in dataclasses.fields(data)} >= DRAWN:
        return dataclasses.replace(data, seed=0, num_train=1, num_test=1), True
    return model.dataset.fingerprint, False


def true_points(models: Sequence[Any], seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two independent sets of at most `count` points `[n, d]`; no model was trained on the first.

    Args:
      models: of data of one law.
      seed: which points, if they can be drawn.
      count: points of each set.
    """
    splits, domain = models[0].dataset.splits, models[0].spec.domain
    if law(models[0])[1]:
        data = [model.experiment.data for model in models]
        fresh = max(d.seed for d in data) + 1 + seed
        drawn = dataclasses.replace(data[0], seed=fresh, num_train=count, num_test=count)
        splits = drawn.load().splits
    elif "test" not in splits:
        raise UserError("the data have no test split to compare samples with")
    first, second = (
        coordinates(domain, split.gather(np.arange(min(len(split), count)))["x0"])
        for split in (splits["test"], splits["train"])
    )
    return first, second


def samples(model: Any, params: Any, seed: int, count: int) -> np.ndarray:
    """Points `[n, d]` of a model, of the config's seed + `seed`."""
    from md4jax.samplers.generate import Generator

    sampler = model.experiment.sampler
    sampler = dataclasses.replace(
        sampler,
        num_samples=count,
        seed=sampler.seed + seed,
        # Changes no sample; points are small. A multiple still fits the devices.
        batch_size=sampler.batch_size * -(-LEAST_BATCH // sampler.batch_size),
    )
    experiment = dataclasses.replace(model.experiment, sampler=sampler)
    points, _ = Generator(dataclasses.replace(model, experiment=experiment))(params)
    return coordinates(model.spec.domain, points)


def row(data: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> list[float]:
    """The numbers of `COLUMNS` but the ratio: of pairs of sets, their means and the spread."""
    both = np.array([[knn_kl(x, y), knn_kl(y, x)] for x, y in zip(data, other)])
    symmetric = both.mean(axis=1)
    spread = symmetric.std(ddof=1) if len(both) > 1 else np.nan
    return [symmetric.mean(), spread, *both.mean(axis=0)]


def restore_all(paths: Sequence[str], workdirs: Sequence[str]) -> list[tuple[Any, Any, int]]:
    """Model, weights and step of each run, whose data are of one law."""
    configs = [read_config(path) for path in paths]
    from md4jax.modes import restore

    runs = [restore(config, workdir) for config, workdir in zip(configs, workdirs)]
    for path, (model, _, _) in zip(paths, runs):
        if model.spec.domain is None:
            raise UserError(f"{path}: its data are integers, not points with distances")
        if law(model) != law(runs[0][0]):
            raise UserError(f"{path}: its data are of another law than those of {paths[0]}")
    return runs


def main(argv: list[str]) -> None:
    paths, workdirs = (cli.require(flag).split(",") for flag in (CONFIG, WORKDIR))
    if len(paths) != len(workdirs):
        raise UserError(
            f"--config has {len(paths)} files and --workdir {len(workdirs)} folders: "
            "give one of each for each run"
        )
    cli.keep_compilations()
    runs, seeds, count = restore_all(paths, workdirs), range(SEEDS.value), SAMPLES.value
    models = [model for model, _, _ in runs]
    data, more = zip(*(true_points(models, seed, count) for seed in seeds))
    # Splits are the same for all seeds.
    pairs = slice(None) if law(models[0])[1] else slice(1)
    table = [(f"data: {len(data[0])} and {len(more[0])} points", row(data[pairs], more[pairs]))]
    for path, (model, params, step) in zip(paths, runs):
        drawn = [samples(model, params, seed, count) for seed in seeds]
        try:
            values = row(data, drawn)
        except UserError as error:  # A model that has collapsed, beside others that have not.
            values = str(error)
        table.append((f"{path}, step {step}", values))
    print(f"nats; k = {K}; {count} samples; sd is the spread over {len(seeds)} seeds")
    width = max(len(name) for name, _ in table)
    print("  ".join([" " * width, *COLUMNS]))
    for name, values in table:
        if not isinstance(values, str):
            first = table[1][1]
            ratio = np.nan if isinstance(first, str) else values[0] / first[0]
            cells = [f"{v:.4f}" for v in values] + [f"{ratio:.2f}"]
            values = "  ".join(c.rjust(len(h)) for c, h in zip(cells, COLUMNS))
        print(f"{name:<{width}}  {values}")


if __name__ == "__main__":
    cli.run_main(main)
