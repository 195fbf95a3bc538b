"""What is done with a trained folder: `evaluate` and `sample`; `train` is in `training/loop.py`."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from md4jax import hosts
from md4jax.console import Interrupted, StopSignal, say
from md4jax.model import Model, assemble
from md4jax.options import UserError
from md4jax.training import workdir as workdir_lib
from md4jax.training.checkpoints import Restored
from md4jax.typing import PyTree


def restore(config: Mapping[str, Any], workdir: str | pathlib.Path) -> tuple[Model, PyTree, int]:
    """A trained model, its weights (averaged, if training averaged them) and its step.

    Raises:
      UserError: the folder has no whole checkpoint, or one of another config.
    """
    from md4jax.finetuning.run import other_sampler

    model = assemble(config)
    path = pathlib.Path(workdir).absolute()
    restored = restored_state(model, path)
    if lines := other_sampler(workdir_lib.read_config(path)["config"], model):
        say(f"finetuned for another sampler: {'; '.join(lines)}")
    return model, restored.state.eval_params, restored.step


def restored_state(model: Model, path: pathlib.Path) -> Restored:
    """The newest whole checkpoint of a model's folder. Raises UserError: see `restore`."""
    workdir_lib.require_run(path, model)
    checkpoints = workdir_lib.open_checkpoints(path, model)
    restored = checkpoints.restore(model.abstract_state(), move_aside=False)
    checkpoints.close()
    if restored is None:
        raise workdir_lib.no_checkpoint(path)
    return restored


def evaluate(config: Mapping[str, Any], workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The bound of each split and the metrics of samples, as tables and in `metrics/eval.jsonl`.

    Raises:
      UserError: see `restore`; or nothing is asked for, or what cannot be had.
    """
    from md4jax.evaluation import samples
    from md4jax.evaluation.likelihood import Evaluator
    from md4jax.training.writers import MetricWriter

    model, params, step = restore(config, workdir)
    options, path = model.experiment.eval, pathlib.Path(workdir).absolute()
    if not (model.eval_splits or options.metrics):
        raise UserError("config.eval.splits and config.eval.metrics are (): nothing to evaluate")
    evaluator = Evaluator(model)
    metrics = samples.SampleMetrics(model, path) if options.metrics else None
    writer = MetricWriter(path)
    results = []

    def add(result):
        results.append({"source": "evaluate", **result})
        writer.evaluation(step, results[-1])
        return result

    with StopSignal() as stop, contextlib.closing(writer):
        what, stopping = "anything", lambda: stop.requested
        try:
            for what in model.eval_splits:
                add(evaluator(params, what, stopping))
            if results:
                say(_table(model, step, results))
            if results and (baselines := _baselines(model)):
                say(baselines)
            if options.table and results:
                what = "the table"
                _bounds(
                    model, params, path / "metrics" / f"bound_by_time_{step:08d}", add, stopping
                )
            if metrics is not None:
                what = "samples"
                say(samples.table(add({"kind": "samples", **metrics(params, stopping)})))
        except Interrupted:
            say(f"stopped before {what} was evaluated")
            return results
    say(f"results: {path}/metrics/eval.jsonl")
    return results


def _bounds(
    model: Model,
    params: PyTree,
    file: pathlib.Path,
    add: Callable[[dict[str, Any]], dict[str, Any]],
    should_stop: Callable[[], bool],
) -> None:
    """A table of each split's bound by every estimator, and a drawing of it by time."""
    from md4jax.evaluation import likelihood_table

    by_each, curves = likelihood_table.LikelihoodTable(model), {}
    for split in model.eval_splits:
        line, curves[split] = by_each(params, split, should_stop)
        say(likelihood_table.table(model, add(line)))
    if hosts.is_first():
        unit = f"bits/{model.spec.unit}"
        say(f"by time: {likelihood_table.save_curves(file, unit, curves)}")


def _table(model: Model, step: int, results: list[dict[str, Any]]) -> str:
    """The evaluation as a person reads it."""
    unit = f"bits/{model.spec.unit}"
    lines = [f"checkpoint of step {step}; bound in {unit}, lower is better"]
    header = ("split", unit, "std. error", "Monte Carlo", "examples", "times")
    rows = [
        (
            r["split"],
            f"{r['bits_per_dim']:.4f}",
            f"{r['standard_error']:.4f}",
            f"{r['monte_carlo_error']:.4f}",
            f"{r['examples']}",
            f"{r['time_points']}",
        )
        for r in results
    ]
    if model.experiment.eval.path_samples:
        header += (f"{model.experiment.eval.path_samples} paths",)
        rows = [(*row, f"{r['bits_per_dim_of_paths']:.4f}") for row, r in zip(rows, results)]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in (header, *rows):
        lines.append("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    return "\n".join(lines)


def _baselines(model: Model) -> str:
    """What a model would cost that knows only how often values occur; empty for real data."""
    from md4jax.data.describe import entropies

    unit = f"bits/{model.spec.unit}"
    figures = ", ".join(f"{k} {v:.4f}" for k, v in entropies(model.dataset).items())
    if not figures:
        return ""
    return f"for comparison, from counts of the training split: {figures} {unit}"


def _not_over_others(file: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """The file, or one with a number behind its name if there are other samples in it.

    The name has not all that samples depend on.
    """

    def is_free(path):
        if not path.exists():
            return True
        with np.load(path) as old:
            return set(old) == set(arrays) and all(np.array_equal(old[k], arrays[k]) for k in old)

    numbered = (file.with_name(f"{file.stem}_{n}.npz") for n in itertools.count(2))
    return next(path for path in itertools.chain([file], numbered) if is_free(path))


def sample(config: Mapping[str, Any], workdir: str | pathlib.Path) -> pathlib.Path | None:
    """Draws `config.sampler.num_samples` samples into `samples/<what>.npz` and a picture or text.

    With `config.sampler.frames` two film strips of the first ones are drawn too: how noise becomes
    samples, above the x0 that the model takes it for, and how data become noise.

    Returns the path of the `.npz`, or None if the run was stopped.

    Raises:
      UserError: see `restore`.
    """
    from md4jax.samplers.generate import Generator, draw_film, draw_samples, save_drawing

    model, params, step = restore(config, workdir)
    options, name = model.experiment.sampler, model.config["sampler"]["name"]
    generator = Generator(model)
    what = [f"step_{step:08d}", name, str(generator.num_steps)]
    what += [options.respacing.replace(",", "-") or options.grid, f"seed{options.seed}"]
    what += [] if options.label is None else [f"label{options.label}"]
    what += [] if options.prompt is None else [f"prompt_{pathlib.Path(options.prompt).stem}"]
    what += [] if options.windows == 1 else [f"windows{options.windows}"]
    what += [] if options.guidance == 1 else [f"guidance{options.guidance:g}"]
    file = pathlib.Path(workdir).absolute() / "samples" / "_".join(what)
    with StopSignal() as stop:
        try:
            samples, labels = generator(params, lambda: stop.requested)
        except Interrupted:
            say("stopped; nothing was written")
            return None
    file = file.with_name(file.name + ".npz")
    if hosts.is_first():
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"samples": samples} | ({} if labels is None else {"labels": labels})
        file = _not_over_others(file, arrays)
        temporary = file.with_name(f".{file.name}")  # Never there by half.
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, file)
        drawing = save_drawing(file.with_suffix(""), draw_samples(model, samples))
        say(
            f"results: {len(samples)} samples in {file}, drawn in {drawing}; "
            f"{generator.network_calls:g} network calls each"
        )
    if options.frames:
        for name, film in generator.films(params).items():
            if hosts.is_first():
                strip = file.with_name(f"{file.stem}_{name}")
                say(f"{name}: {save_drawing(strip, draw_film(model, film))}")
    return file
