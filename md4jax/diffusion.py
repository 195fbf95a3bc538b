"""A model with its weights, and what one does with it in a notebook; made by `md4jax.build`."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from md4jax import config as config_lib
from md4jax import parts as parts_lib
from md4jax import small
from md4jax.console import Bar, StopSignal
from md4jax.evaluation.bound import OPTIONS as BOUND_OPTIONS
from md4jax.evaluation.bound import Bound
from md4jax.model import Model, put_together
from md4jax.options import UserError
from md4jax.processes.base import Denoiser, Process
from md4jax.samplers.base import Ancestral, check_label
from md4jax.training import partitioning, state
from md4jax.training import workdir as workdir_lib
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.data.base import Dataset
    from md4jax.evaluation.likelihood import Evaluator
    from md4jax.figures import Drawing, Texts
    from md4jax.samplers.generate import Generator


class Diffusion:
    """A model, its weights and what can be done with them.

    Attributes:
      parts: the components, bound to each other.
      step: training steps taken.
      seconds: of training.
    """

    def __init__(self, parts: Model):
        """Makes no weights yet; see `build`."""
        self.parts = parts
        self.step, self.seconds = 0, 0.0
        self._state: state.TrainState | None = None
        self._train_step: Any = None
        self._generators: dict[Ancestral, Generator] = {}
        self._evaluators: dict[Any, Evaluator] = {}

    def __repr__(self) -> str:
        names = [type(x).__name__ for x in (self.parts.process, self.parts.network)]
        data = self.parts.dataset
        return (
            f"{' + '.join(names)}, {self.num_parameters:,} parameters; "
            f"{len(data.splits['train']):,} examples of shape {data.spec.shape}; "
            f"{self.step} steps trained"
        )

    # What there is.

    @property
    def config(self) -> dict[str, Any]:
        """All keys, as in a config file."""
        return self.parts.config

    @property
    def data(self) -> Dataset:
        """The data set."""
        return self.parts.dataset

    @property
    def state(self) -> state.TrainState:
        """Weights, their average, the optimizer's moments."""
        if self._state is None:
            self._state = self.parts.init_state()
        return self._state

    @state.setter
    def state(self, value: state.TrainState) -> None:
        self._state = value

    @property
    def params(self) -> PyTree:
        """The weights that are sampled and evaluated: averaged, if training averages them."""
        return self.state.eval_params

    @property
    def num_parameters(self) -> int:
        """Of the network and the process."""
        return sum(x.size for x in jax.tree.leaves(self.parts.abstract_state().params))

    @property
    def process(self) -> Process:
        """The process, with what of it is learned or estimated."""
        return state.bind_params(self.parts.process, self.params)

    def denoiser(self, label: Int[Array, "b"] | None = None) -> Denoiser:
        """Process and network as one function `(z_t, t) -> prediction`; `label` one an example."""
        make = self.parts.experiment.finetune.denoiser
        return make(self.process, self.parts.network, self.params, label)

    def examples(self, count: int = 16, split: str = "test") -> Shaped[np.ndarray, "n *s"]:
        """The first examples of a split, `[count, *shape]`. Raises UserError: no such split."""
        data = self.parts.split(split, "examples")
        return data.gather(np.arange(min(count, len(data))))["x0"]

    # Training.

    def fit(
        self, num_steps: int | None = None, name: str = "training"
    ) -> Float[np.ndarray, "steps"]:
        """Trains, going on where it was; an interrupt (Ctrl-C, ■) stops it after a step.

        Args:
          num_steps: so many more; None is what is left of `train.num_steps`, as `main.py` does.
          name: of the progress bar.

        Returns:
          The loss of each step.

        Raises:
          UserError: no step is left, the learning rate is 0 by then, or the loss is not finite.
        """
        from md4jax.data.pipeline import TrainBatches

        train, began = self.parts.experiment.train, time.monotonic()
        num_steps = small.steps(self._steps_to_take(num_steps))
        self._check_learning_rate(self.step + num_steps)
        # Steps take their state's memory, and the weights may have been handed out.
        self.state = jax.tree.map(jnp.copy, self.state)
        if self._train_step is None:
            self._train_step = self.parts.compile_step(self.state)
        first, before, means = self.step, float(self.state.metric_sums["loss"]), []
        bar, note = Bar(name, num_steps), lambda: f"loss {float(means[-1]):.4g}"
        with (
            StopSignal() as stop,
            TrainBatches(
                self.parts.split("train"),
                seed=train.seed,
                batch_size=train.batch_size,
                sharding=partitioning.batch_sharding(self.parts.mesh),
                start_step=first,
                workers=train.data_workers,
            ) as batches,
        ):
            while self.step < first + num_steps and not stop.requested:
                self.state, metrics = self._train_step(self.state, next(batches))
                self.step += 1
                means.append(metrics["loss"])
                bar.update(len(means), note)
        losses = _each(
            np.asarray(jax.device_get(means), np.float64), first, train.log_every, before
        )
        bar.end(len(losses), f"loss {np.mean(losses[-50:]):.4g}" if len(losses) else "")
        self.seconds += time.monotonic() - began
        self._check_finite()
        return losses

    def _steps_to_take(self, wanted: int | None) -> int:
        planned = self.parts.experiment.train.num_steps
        if wanted is None and self.step >= planned:
            raise UserError(
                f"all train.num_steps = {planned} steps are taken; fit(n) takes n more, and "
                "build(...) begins anew"
            )
        count = planned - self.step if wanted is None else wanted
        if not isinstance(count, int | np.integer) or count < 1:
            raise UserError(
                f"fit: num_steps = {wanted!r} should be an integer, at least 1, or None"
            )
        return int(count)

    def _check_learning_rate(self, last: int) -> None:
        planned = self.parts.experiment.train.num_steps
        rate = self.parts.experiment.optimizer.learning_rate_schedule(planned)
        if last > planned and rate(last - 1) == 0:
            raise UserError(
                f"train.num_steps = {planned}: the learning rate falls to 0 there, and steps up to "
                f"{last} would teach nothing; build it with train=dict(num_steps={last}), or with "
                "optimizer=dict(schedule='constant')"
            )

    def _check_finite(self) -> None:
        if (bad := int(self.state.first_bad_step)) >= 0:
            raise UserError(
                f"loss, gradient or parameters not finite at step {bad + 1}; build it again with a "
                "smaller optimizer.learning_rate or an optimizer.clip_norm"
            )

    def finetuning(self, finetune: Any, **sections: Any) -> Diffusion:
        """A new model that begins with this one's weights; `fit` then finetunes it.

        Args:
          finetune: `md4jax.MMD(...)` or `md4jax.Remasker()`.
          **sections: what else differs, as in `build`: the sampler it is for, `train`, `optimizer`.

        Raises:
          UserError: this model cannot be finetuned so.
        """
        if kept := {"process", "network", "data"} & sections.keys():
            raise UserError(f"finetuning keeps process, network and data; {min(kept)} was given")
        parts = parts_lib.of(self.parts.experiment)
        for section, given in {"finetune": finetune, **sections}.items():
            parts[section] = parts_lib.merged(section, parts.get(section), given)
        model = Diffusion(put_together(*parts_lib.experiment(parts)))
        before, now = (x.experiment.train.label_dropout for x in (self.parts, model.parts))
        if bool(before) != bool(now):  # One class more than the data have, if there is any.
            raise UserError(f"train.label_dropout = {now:g}: the model was trained with {before:g}")
        params = self.params
        model.state = model.parts.init_state(
            {name: params[name] for name in ("network", "process")}, params["statistics"]
        )
        return model

    # Samples.

    def sample(
        self, num_samples: int | None = None, sampler: Ancestral | None = None, **options: Any
    ) -> Shaped[np.ndarray, "n *s"]:
        """Draws samples `[num_samples, *shape]`; the same call draws the same.

        Args:
          num_samples: how many; None is the sampler's own number.
          sampler: `md4jax.DDIM(num_steps=20)`, or as in a config, `{"name": "ddim"}`; None is the
            model's.
          **options: of the sampler: `num_steps`, `seed`, `label`, `guidance`, `temperature`, ...
            Where there are classes and no `label`, sample i is of class i mod the number of these.

        Raises:
          UserError: an option is wrong, or the sampler is not for this process.
        """
        return self._generator(num_samples, sampler, options)(self.params)[0]

    def _generator(
        self, num_samples: int | None, sampler: Ancestral | None, options: dict[str, Any]
    ) -> Generator:
        """Compiled once for samplers that differ in which samples they draw alone."""
        from md4jax.samplers.generate import OF_ANY_SAMPLES, Generator

        parts, given = self.parts, {} if num_samples is None else {"num_samples": num_samples}
        step = parts.experiment.sampler
        if sampler is not None:
            step = parts_lib.component("sampler", step, sampler)
        step = small.component("sampler", parts_lib.component("sampler", step, options | given))
        if "batch_size" not in options:  # No more than are wanted.
            shares = parts.mesh.shape["data"] * parts.mesh.shape["fsdp"]
            size = min(step.batch_size, -(-step.num_samples // shares) * shares)
            step = dataclasses.replace(step, batch_size=size)
        experiment = dataclasses.replace(parts.experiment, sampler=step)
        config_lib.fitting(experiment)
        check_label(step, parts.spec.num_classes, experiment.train.label_dropout)
        default = {f.name: f.default for f in dataclasses.fields(step)}
        kind = dataclasses.replace(step, **{name: default[name] for name in OF_ANY_SAMPLES})
        if kind not in self._generators:
            partitioning.check_batch(parts.mesh, step.batch_size, 1, "sampler.batch_size")
            model = dataclasses.replace(parts, experiment=experiment)
            self._generators[kind] = Generator(model)
        return self._generators[kind].of(step)

    def draw(
        self,
        samples: Shaped[np.ndarray, "n *s"] | Mapping[str, np.ndarray],
        titles: Sequence[str] | None = None,
        *,
        columns: int | None = None,
        min_tile: int = 64,
    ) -> Drawing | Texts:
        """Samples, or examples, as people look at them: a figure, or texts that print well.

        Args:
          samples: `[n, *shape]`; or several of these by title, shown beside each other.
          titles: of the columns; then each of several batches of images is one row, with its title
            before it.
          columns: of images.
          min_tile: of images, the least pixels of a side.

        Raises:
          UserError: they are no samples of this model's data.
        """
        from md4jax import figures
        from md4jax.samplers.generate import draw_samples

        shown = samples if isinstance(samples, Mapping) else {"": samples}
        shown = {title: figures.drawable(self.data, title, x) for title, x in shown.items()}
        if not shown:
            raise UserError("draw: there is nothing to draw")
        if titles is not None:
            return figures.table(self.data, shown, titles, min_tile)
        grid = {"columns": columns, "min_tile": min_tile}
        drawn = {title: draw_samples(self.parts, x, **grid) for title, x in shown.items()}
        if any(isinstance(x, list) for x in drawn.values()):
            names = [f"{k} {i}".strip() for k, x in drawn.items() for i in range(1, len(x) + 1)]
            return figures.Texts([text for x in drawn.values() for text in x], names)
        return figures.pictures(drawn)

    def film(
        self,
        frames: int = 8,
        num_samples: int = 4,
        sampler: Ancestral | None = None,
        kinds: Sequence[str] = ("film", "forward"),
        **options: Any,
    ) -> Drawing | Texts:
        """Film strips: how noise becomes samples, and how data become noise.

        Args:
          frames: of a strip.
          num_samples: strips, at most 8; of points, how many there are in each frame.
          sampler, **options: as those of `sample`.
          kinds: `film` is from noise to samples, `forward` from data to noise.

        Raises:
          UserError: as `sample`.
        """
        from md4jax import figures

        if isinstance(kinds, str) or set(kinds) - {"film", "forward"} or not kinds:
            raise UserError(f"film: kinds = {kinds!r} should be of 'film', 'forward', in a list")
        shares = self.parts.mesh.shape["data"] * self.parts.mesh.shape["fsdp"]
        together = {"batch_size": -(-num_samples // shares) * shares}
        generator = self._generator(num_samples, sampler, {"frames": frames, **together, **options})
        return figures.films(self.parts, generator.films(self.params, kinds))

    # Likelihood.

    def bound(self, split: str = "test", **options: Any) -> Bound:
        """The bound on the negative log-likelihood of a split, bits/dim, with its errors.

        Args:
          **options: of `config.eval`: `time_points` (network calls an example), `num_examples`,
            `seed`, `batch_size`; of star-shaped models `path_samples` too.

        Raises:
          UserError: no such split, or a wrong option.
        """
        from md4jax.evaluation.likelihood import Evaluator

        parts = self.parts
        if wrong := [name for name in options if name not in BOUND_OPTIONS]:
            raise UserError(f"bound: {wrong[0]!r} should be one of {', '.join(BOUND_OPTIONS)}")
        evaluation = parts_lib.merged("eval", parts.experiment.eval, options)
        evaluation = small.component("eval", evaluation)
        if evaluation not in self._evaluators:
            experiment = dataclasses.replace(parts.experiment, eval=evaluation)
            config_lib.fitting(experiment)
            partitioning.check_batch(parts.mesh, evaluation.batch_size, 1, "eval.batch_size")
            self._evaluators[evaluation] = Evaluator(
                dataclasses.replace(parts, experiment=experiment)
            )
        parts.split(split, "bound")
        found = self._evaluators[evaluation](self.params, split)
        return Bound.of(found, parts.spec.unit)

    # Folders.

    def save(self, workdir: str | pathlib.Path) -> None:
        """Saves a checkpoint in a folder that `main.py` (and `md4jax.train`, ...) goes on from.

        Raises:
          UserError: a part of the model is in no table, so that no config names it; the weights are
            not finite; or the folder is of another model, or has this step or a later one already.
        """
        from md4jax.finetuning.run import check_same

        config_lib.checked(config_lib.SECTIONS, self.config)
        self._check_finite()
        path = pathlib.Path(workdir).absolute()
        check_same(self.parts, path)
        if (path / "checkpoints").is_dir():
            latest = workdir_lib.open_checkpoints(path, self.parts).latest_step()
            if latest is not None and latest >= self.step:
                raise UserError(
                    f"{path} has step {latest} already, and this model has taken {self.step}; give "
                    "another folder"
                )
        workdir_lib.prepare(path, self.parts)
        checkpoints = workdir_lib.open_checkpoints(path, self.parts)
        meta = workdir_lib.checkpoint_meta(self.parts, self.step, self.seconds)
        checkpoints.save(self.step, self.state, meta)
        checkpoints.close()


def _each(
    means: Float[np.ndarray, "steps"], first: int, every: int, before: float
) -> Float[np.ndarray, "steps"]:
    """The loss of each step, from its means since the last logged one.

    Args:
      first: number of the first step.
      every: steps a mean is over.
      before: the sum of the losses since the last logged step, before the first.
    """
    since = (first + np.arange(len(means))) % every
    totals = means * (since + 1)
    return totals - np.where(since == 0, 0.0, np.append(before, totals)[:-1])
