"""The one training loop: step, log, evaluate, sample, save; stop and resume at any step."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from md4jax import hosts
from md4jax.console import Interrupted, StopSignal, duration, say
from md4jax.evaluation.likelihood import Evaluator
from md4jax.evaluation.samples import SampleMetrics, figures
from md4jax.finetuning.base import Nothing
from md4jax.model import Model, assemble
from md4jax.options import UserError
from md4jax.samplers.generate import Generator, draw_film, draw_samples, save_drawing
from md4jax.training import partitioning
from md4jax.training import workdir as workdir_lib
from md4jax.training.state import TrainState
from md4jax.training.writers import MetricWriter


class NotFinite(UserError):
    """The loss, a gradient or a parameter became infinite or NaN."""


def train(config: Mapping[str, Any], workdir: str | pathlib.Path) -> dict[str, float]:
    """Trains a config in a folder, going on from the folder's newest whole checkpoint.

    Returns the last evaluation of the first split (empty if the run was asked to stop before it).

    Raises:
      UserError: the config, the data or the folder are not right, or the loss is not finite.
    """
    return Run.of(config, workdir)


class Run:
    """One call of `train`: the state between steps and what happens every so many of them."""

    @classmethod
    def of(cls, config: Mapping[str, Any], workdir: str | pathlib.Path) -> dict[str, float]:
        """The whole run of a config in a folder; see `train`."""
        started = time.monotonic()
        with StopSignal() as stop:
            model = assemble(config)
            path = pathlib.Path(workdir).absolute()
            cls.check(model, path)
            generator = Generator(model)
            measured = model.experiment.eval.metrics
            metrics = SampleMetrics(model, path, generator) if measured else None
            workdir_lib.prepare(path, model)
            run = cls(model, path, started, generator, metrics)
            try:
                return run.to_the_end(stop)
            finally:
                run.close()

    @classmethod
    def check(cls, model: Model, path: pathlib.Path) -> None:
        """Raises UserError if the model is not to be trained; before the folder is touched."""
        if not isinstance(model.experiment.finetune, Nothing):
            raise UserError(
                f"config.finetune.name = {model.config['finetune']['name']!r}: --mode=train trains "
                "from the beginning; use --mode=finetune, or 'none'"
            )

    def __init__(
        self,
        model: Model,
        path: pathlib.Path,
        started: float,
        generator: Generator,
        metrics: SampleMetrics | None = None,
    ):
        self.generator = generator
        self.model, self.path, self.started, self.metrics = model, path, started, metrics
        self.options = model.experiment.train
        self.optimizer = model.experiment.optimizer
        self.checkpoints = workdir_lib.open_checkpoints(path, model)
        restored = self.checkpoints.restore(model.abstract_state())
        self.seconds = 0.0  # Of training, over all restarts.
        self.last_saved = None
        if restored is None:
            self.state: TrainState = self.first_state()
        else:
            self.state = restored.state
            self.seconds = restored.meta["train_seconds"]
            self.last_saved = restored.step
            say(f"resuming at step {restored.step} of {self.options.num_steps}")
        self.step = 0 if restored is None else restored.step
        self.writer = MetricWriter(path)
        self.writer.truncate(self.step)
        self.evaluator = Evaluator(model)
        self.samples: np.ndarray | None = None  # Of this step, if they were drawn already.
        self.pending: tuple[int, dict] | None = None
        self.last_log = (self.step, time.monotonic())
        self.stopped = False

    def first_state(self) -> TrainState:
        """The state before the first step."""
        return self.model.init_state()

    def to_the_end(self, stop: StopSignal) -> dict[str, float]:
        """Steps until `num_steps`, or until asked to stop."""
        from md4jax.data.pipeline import TrainBatches

        options = self.options
        try:
            self.at_start(stop)
            if self.step < options.num_steps:
                with TrainBatches(
                    self.model.split("train"),
                    seed=options.seed,
                    batch_size=options.batch_size,
                    sharding=partitioning.batch_sharding(self.model.mesh),
                    start_step=self.step,
                    workers=options.data_workers,
                ) as batches:
                    self.loop(self.model.compile_step(self.state), batches, stop)
        except Interrupted:
            self.stopped = True
        if self.stopped:
            self.log()
            self.save()
            self.checkpoints.wait()
            say(f"stopped and saved at step {self.step}; the same command goes on from there")
            return {}
        self.checkpoints.wait()
        return self.finish()

    def at_start(self, stop: StopSignal) -> None:
        """What a stop had cut short."""
        if self.step:
            self.at_step(stop)

    def loop(self, train_step: Callable, batches: Any, stop: StopSignal) -> None:
        """Takes steps; the host never waits for the device but to log, evaluate, sample or save."""
        options, first = self.options, self.step
        self.last_log = (self.step, time.monotonic())
        while self.step < options.num_steps:
            self.stopped = stop.requested or hosts.preempted(self.step)
            if self.stopped:
                break
            self.state, metrics = train_step(self.state, next(batches))
            self.step += 1
            # Written one step late, when the device has the next step to work on.
            self.log()
            if self.step % options.log_every == 0 or self.step == options.num_steps:
                self.pending = (self.step, metrics)
            if self.step == first + 1:
                jax.block_until_ready(metrics)
                say(f"first step after {time.monotonic() - self.started:.1f} s")
                self.describe()
                self.last_log = (self.step, time.monotonic())
            self.at_step(stop)
            if self.due(options.checkpoint_every):
                self.save()
        self.log()

    def due(self, every: int) -> bool:
        """Whether something done every so many steps, and after the last, is to be done now."""
        return self.step == self.options.num_steps or (every and self.step % every == 0)

    def describe(self) -> None:
        """Says what is trained; the table of parameters goes to a file."""
        from clu import parameter_overview

        params = self.state.params
        count = sum(x.size for x in jax.tree.leaves(params))
        mesh = " x ".join(f"{n} {axis}" for axis, n in self.model.mesh.shape.items())
        say(f"{count:,} parameters on {mesh} ({jax.devices()[0].device_kind})")
        if hosts.is_first():
            table = parameter_overview.get_parameter_overview(params, include_stats=False)
            (self.path / "parameters.txt").write_text(table + "\n")

    def log(self) -> None:
        """Writes and prints the metrics of the last logged step, if that is still to be done."""
        if self.pending is None:
            return
        step, metrics = self.pending
        self.pending = None
        metrics = {k: v.item() for k, v in jax.device_get(metrics).items()}
        self.check_finite(metrics.pop("first_bad_step"))
        schedule = self.optimizer.learning_rate_schedule(self.options.num_steps)
        metrics["learning_rate"] = float(schedule(step - 1))
        line = f"step {step}/{self.options.num_steps}  loss {metrics['loss']:.4f}"
        (then, began), now = self.last_log, time.monotonic()
        self.last_log = (step, now)
        self.seconds += now - began
        if step > then:  # The first step, which compiles, is not timed.
            rate = (step - then) / max(now - began, 1e-9)
            metrics["examples_per_second"] = rate * self.options.batch_size
            left = duration((self.options.num_steps - step) / rate)
            line += f"  {metrics['examples_per_second']:,.0f} examples/s  {left} left"
        self.writer.scalars(step, metrics)
        say(line)

    def check_finite(self, first_bad_step: int) -> None:
        """Raises NotFinite if some step had no finite loss, gradient or parameters."""
        if first_bad_step < 0:
            return
        good = self.checkpoints.latest_step()
        where = f"{self.path}/checkpoints/{good}" if good is not None else "none was saved yet"
        raise NotFinite(
            f"loss, gradient or parameters not finite at step {first_bad_step + 1}; "
            f"last good checkpoint: {where}. "
            "In another --workdir, a smaller config.optimizer.learning_rate or a "
            "config.optimizer.clip_norm may help"
        )

    def save(self) -> None:
        """Saves asynchronously; never a state that is not finite."""
        if self.last_saved == self.step:
            return
        self.log()
        self.check_finite(int(self.state.first_bad_step))
        meta = workdir_lib.checkpoint_meta(self.model, self.step, self.seconds)
        self.checkpoints.save(self.step, self.state, meta)
        self.last_saved = self.step

    def at_step(self, stop: StopSignal) -> None:
        """Evaluates and samples if this step asks for it and it is not done yet.

        Raises:
          Interrupted: a stop was asked for meanwhile.
        """
        evaluate, sample = self.due(self.options.eval_every), self.due(self.options.sample_every)
        if not (evaluate or sample):
            return
        self.log()
        jax.block_until_ready(self.state.step)  # Steps still on the device are training's time.
        began = time.monotonic()
        if evaluate:
            self.evaluate(stop)
        if sample:
            self.sample(stop)
        self.samples = None
        # The time of training stands still meanwhile.
        self.last_log = (self.last_log[0], self.last_log[1] + time.monotonic() - began)

    def evaluate(self, stop: StopSignal) -> None:
        """Appends the bound of each split, and the samples' metrics, to `metrics/eval.jsonl`."""
        for split in self.model.eval_splits:
            if hosts.agree(self.evaluation(split=split) is not None):
                continue
            result = self.evaluator(self.state.eval_params, split, lambda: stop.requested)
            self.writer.evaluation(self.step, {"source": "train", **result})
            say(
                f"step {self.step}  {split} {result['bits_per_dim']:.4f} "
                f"± {result['standard_error']:.4f} bits/{self.model.spec.unit}"
            )
        if self.metrics is None or hosts.agree(self.evaluation(kind="samples") is not None):
            return
        stopping = lambda: stop.requested
        result = self.metrics.from_samples(self.draw(stop), stopping) | self.metrics.drawn_by()
        self.writer.evaluation(self.step, {"source": "train", "kind": "samples", **result})
        say(f"step {self.step}  samples: {figures(result)}")

    def evaluation(self, **about: str) -> dict[str, Any] | None:
        """This step's line of `metrics/eval.jsonl` that is so, `split="test"`, if there is one."""
        file = self.path / "metrics" / "eval.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        wanted = {"step": self.step, "source": "train", **about}
        for line in map(json.loads, reversed(lines)):
            if all(line.get(key) == value for key, value in wanted.items()):
                return line
        return None

    def draw(self, stop: StopSignal) -> np.ndarray:
        """The samples of this step, drawn once."""
        if self.samples is None:
            self.samples, _ = self.generator(self.state.eval_params, lambda: stop.requested)
        return self.samples

    def sample(self, stop: StopSignal) -> None:
        """Draws a grid, or texts, into `samples/`."""
        file = self.path / "samples" / f"step_{self.step:08d}"
        endings = (".png", ".txt")
        if hosts.agree(any(file.with_name(file.name + end).exists() for end in endings)):
            return
        samples = self.draw(stop)
        self.films()  # Before the samples' file, which says that all is drawn.
        if not hosts.is_first():
            return
        drawing = draw_samples(self.model, samples)
        if isinstance(drawing, np.ndarray):
            self.writer.image(self.step, "samples", drawing)
        else:
            self.writer.text(self.step, "samples", "\n\n".join(drawing[:8]))
        say(f"samples: {save_drawing(file, drawing)}")

    def films(self) -> None:
        """Draws film strips beside the samples, if they are asked for."""
        if not self.model.experiment.sampler.frames:
            return
        for name, film in self.generator.films(self.state.eval_params).items():
            if hosts.is_first():
                file = self.path / "samples" / f"step_{self.step:08d}_{name}"
                save_drawing(file, draw_film(self.model, film))

    def finish(self) -> dict[str, float]:
        """Says where everything is; returns the last evaluation of the first split.

        Without splits it is that of the samples. On other hosts than the first it may be empty.
        """
        results = [self.evaluation(split=split) for split in self.model.eval_splits]
        words = [
            f"{r['split']} {r['bits_per_dim']:.4f} ± {float(r['standard_error']):.4f} "
            f"bits/{self.model.spec.unit}"
            for r in filter(None, results)
        ]
        if self.metrics is not None:
            results.append(self.evaluation(kind="samples"))
            words += [f"samples: {figures(results[-1])}"] if results[-1] else []
        say(
            f"done: {self.step} steps in {duration(self.seconds)}"
            f"{'; ' if words else ''}{', '.join(words)}\n"
            f"results: {self.path}/ (checkpoints/ metrics/ samples/; tensorboard --logdir reads it)"
        )
        return (results or [None])[0] or {}

    def close(self) -> None:
        """Waits for what is still being written."""
        self.writer.close()
        self.checkpoints.close()
