r"""The bound by every estimator that a process has, on the same examples, and by time.

With K = `config.eval.time_points` / 2 and T the steps of a chain, each of two independent estimates
of an example calls the network

  all T steps          T times: no noise of the time is left, only that of z_t
  K steps of T         K times, stratified: the first step and one of each part of the rest
  continuous time      K times, stratified: the limit of infinitely many steps
  whole paths          T times a path: importance-weighted if there is more than one

A process that may have steps or none has the first three, each from the same weights; where it was
trained without, T is K. Monte Carlo errors are the estimates' own noise; standard errors also hold
what other examples would change, which rows of one table share.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from md4jax.console import say
from md4jax.evaluation.likelihood import REPLICATES, Evaluator
from md4jax.objectives import strata
from md4jax.options import option_type, options_of
from md4jax.processes.base import Process
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.model import Model

LOG_FROM = 30  # The ratio of heights from which a curve is drawn on a logarithmic axis.
STEPS = "num_timesteps"  # The key of processes that have T steps; of some it may be None.


@dataclasses.dataclass(frozen=True)
class Estimator:
    """One row of the table.

    Attributes:
      name: what is summed.
      process: whose bound it is.
      time_points: network calls of one estimate of the sum over times.
      path_samples: whole paths of one estimate; None is none.
    """

    name: str
    process: Process
    time_points: int
    path_samples: int | None = None

    @property
    def network_calls(self) -> int:
        """Of an example, for both estimates; whole paths come beside the least sum over times."""
        paths = (self.path_samples or 0) * (self.process.chain_length or 0)
        return REPLICATES * (self.time_points + paths)


def estimators(process: Process, time_points: int, path_samples: int | None) -> list[Estimator]:
    """All that a process has.

    Args:
      process: bound to its data.
      time_points: K.
      path_samples: paths where there are whole ones; None is one.
    """
    found = []
    for steps, variant in _variants(process, time_points):
        if steps is None:
            found.append(Estimator(f"continuous time, {time_points} times", variant, time_points))
            continue
        found.append(Estimator(f"all {steps} steps", variant, steps))
        if time_points < steps:
            name = f"{time_points} of {steps} steps"
            found.append(Estimator(name, variant, time_points))
    if hasattr(process, "path_log_weight"):
        paths = path_samples or 1
        found.append(Estimator(f"{paths} whole path{'s' * (paths > 1)}", process, 1, paths))
    return found


def _variants(process: Process, time_points: int) -> list[tuple[int | None, Process]]:
    """The process with steps and without, as far as it may be either."""
    if STEPS in options_of(type(process)) and option_type(type(process), STEPS)[1]:
        steps = getattr(process, STEPS) or time_points
        return [(n, dataclasses.replace(process, **{STEPS: n})) for n in (None, steps)]
    return [(process.chain_length, process)]


class LikelihoodTable:
    """Estimates a split's bound by each; compiled once for all splits."""

    def __init__(self, model: Model):
        """Compiles nothing yet.

        Args:
          model: whose `config.eval` says K, the paths, and which examples: the first
            `num_examples`, or `batch_size` if it is None.
        """
        options = model.experiment.eval
        self._count = options.num_examples or options.batch_size
        points = options.time_points // REPLICATES
        self.estimators = estimators(model.process, points, options.path_samples)
        self._evaluators = [Evaluator(self._with(model, e), REPLICATES) for e in self.estimators]
        self._model = model

    def _with(self, model: Model, estimator: Estimator) -> Model:
        options = dataclasses.replace(
            model.experiment.eval, num_examples=self._count,
            time_points=REPLICATES * estimator.time_points, path_samples=estimator.path_samples,
        )  # fmt: skip
        experiment = dataclasses.replace(model.experiment, eval=options)
        return dataclasses.replace(model, process=estimator.process, experiment=experiment)

    def __call__(
        self, params: PyTree, split: str, should_stop: Callable[[], bool] = lambda: False
    ) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
        """A line for `metrics/eval.jsonl`, its `estimators` one row each; and curves by time.

        A curve has the middle `t`, the `width` in u and the `bits_per_dim` of each part of [0, 1];
        the last sum to the bound.

        Raises:
          Interrupted: `should_stop()` became true.
        """
        calls = sum(e.network_calls for e in self.estimators)
        n = min(self._count, len(self._model.split(split)))
        say(f"{split}, the first {n} examples, by each estimator: {calls} network calls an example")
        rows, curves = [], {}
        for estimator, evaluator in zip(self.estimators, self._evaluators):
            result = evaluator(params, split, should_stop)
            ending = "_of_paths" if estimator.path_samples else ""
            names = ("bits_per_dim", "standard_error", "monte_carlo_error")
            values = {name: result[name + ending] for name in names}
            calls = estimator.network_calls
            rows.append({"estimator": estimator.name, **values, "network_calls": calls})
            if not estimator.path_samples:
                curves[estimator.name] = self._curve(estimator, evaluator.by_time)
        return {"kind": "bounds", "split": split, "examples": n, "estimators": rows}, curves

    @staticmethod
    def _curve(estimator: Estimator, by_time: np.ndarray) -> dict[str, np.ndarray]:
        starts, widths = strata(estimator.process, estimator.time_points)
        times = np.asarray(estimator.process.time(jnp.asarray(starts + widths / 2)))
        return {"t": times, "width": widths, "bits_per_dim": by_time}


def table(model: Model, line: dict[str, Any]) -> str:
    """A split's rows as a person reads them."""
    unit = f"bits/{model.spec.unit}"
    header = (f"{line['split']} by", unit, "std. error", "Monte Carlo", "network calls")
    names = ("bits_per_dim", "standard_error", "monte_carlo_error")
    rows = [
        (row["estimator"], *(f"{row[name]:.4f}" for name in names), f"{row['network_calls']}")
        for row in line["estimators"]
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths)) for row in (header, *rows)]
    return "\n".join(lines)


def save_curves(
    path: pathlib.Path, unit: str, curves: dict[str, dict[str, dict[str, np.ndarray]]]
) -> pathlib.Path:
    """Writes curves of splits as `.npz`, `<split>/<estimator>/<array>`, and draws them as `.png`.

    Returns the path of the drawing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays, heights, figure = {}, [], Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for split, of_split in curves.items():
        for name, curve in of_split.items():
            arrays |= {f"{split}/{name}/{key}": array for key, array in curve.items()}
            heights.append(curve["bits_per_dim"] / curve["width"])
            axes.plot(curve["t"], heights[-1], marker=".", label=f"{split}, {name}")
    axes.set(xlabel="t (0: data, 1: noise)", ylabel=f"{unit} per unit of t")
    low, high = min(map(np.min, heights)), max(map(np.max, heights))
    if 0 < LOG_FROM * low < high:  # Terms of an estimate may be below 0.
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    np.savez(path.with_suffix(".npz"), **arrays)
    figure.savefig(path.with_suffix(".png"), dpi=100)
    return path.with_suffix(".png")
