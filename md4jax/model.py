"""From a config to everything a mode works with: data, process, network, mesh, all checked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from md4jax import config as config_lib
from md4jax.data.other_texts import with_texts
from md4jax.options import UserError
from md4jax.processes.base import DataSpec, NetworkSpec, Process
from md4jax.samplers.base import check_label
from md4jax.time_sampling import TIME_SAMPLING
from md4jax.training import optimizers, partitioning, state
from md4jax.typing import PyTree

if TYPE_CHECKING:
    import optax

# So many say enough of histograms and moments.
STATISTICS_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Model:
    """The parts of one experiment, bound to each other.

    Attributes:
      config: the config as plain Python.
      experiment: its components.
      dataset: the loaded data.
      process: bound to the data.
      network: bound to the data and the process; parameters are elsewhere.
      mesh: the devices.
    """

    config: dict[str, Any]
    experiment: config_lib.Experiment
    dataset: Any
    process: Process
    network: Any
    mesh: jax.sharding.Mesh

    @property
    def spec(self) -> DataSpec:
        """Of the data."""
        return self.dataset.spec

    def split(self, name: str, key: str = "config.eval.splits") -> Any:
        """A split of the data. Raises UserError, naming the key, if there is none of that name."""
        if name not in self.dataset.splits:
            raise UserError(f"{key} has {name!r}: the data have {', '.join(self.dataset.splits)}")
        return self.dataset.splits[name]

    @property
    def eval_splits(self) -> tuple[str, ...]:
        """Splits whose bound is estimated; texts of `config.eval.texts` are splits as well."""
        return (*self.experiment.eval.splits, *self.experiment.eval.texts)

    def gradient(self) -> Callable:
        """See `state.make_gradient`; of the training loss, or a finetune's."""
        return self.experiment.finetune.gradient(self)

    def optimizer(self) -> optax.GradientTransformation:
        """The optax transformation, which leaves as it is what a finetune freezes."""
        optimizer = self.experiment.optimizer.build(self.experiment.train.num_steps)
        return optimizers.freeze(optimizer, self.experiment.finetune.frozen)

    def compile_step(self, first: state.TrainState) -> Callable:
        """`(state, batch) -> (state, metrics)` for states like the first, which it uses up.

        It is compiled here: it cannot compile again in a loop. See `state.make_train_step`.
        """
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
        everywhere = partitioning.replicated(self.mesh)
        step = state.make_train_step(self.experiment.train, self.gradient(), self.optimizer())
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, everywhere))
        constants = jax.device_put(self.experiment.finetune.constants(self), everywhere)
        compiled = jitted.lower(first, self.abstract_batch(), *constants).compile()
        return lambda state, batch: compiled(state, batch, *constants)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a training batch."""
        sharding = partitioning.batch_sharding(self.mesh)
        size = self.experiment.train.batch_size
        kind = "float32" if self.spec.vocab_size is None else "int32"
        batch = {"x0": jax.ShapeDtypeStruct((size, *self.spec.shape), kind, sharding=sharding)}
        if self.spec.num_classes:
            batch["label"] = jax.ShapeDtypeStruct((size,), "int32", sharding=sharding)
        if self.spec.has_segments:
            batch["segment"] = batch["x0"]
        return batch

    def _fresh_params(self) -> PyTree:
        return state.init_params(self.process, self.network, self.spec, self.experiment.train.seed)

    @functools.cached_property
    def _abstract_params(self) -> PyTree:
        return jax.eval_shape(self._fresh_params)

    @functools.cached_property
    def _metric_names(self) -> list[str]:
        params = jax.eval_shape(self._init_params, self._abstract_params)
        times = TIME_SAMPLING[self.experiment.train.time_sampling]
        fixed = (
            self.process.abstract_statistics(),
            jax.eval_shape(lambda: times.init(self.process)),
        )
        return [*self.experiment.finetune.metric_names(self, params, fixed), *state.NORMS]

    def _init_params(self, params: PyTree | None = None) -> PyTree:
        params = self._fresh_params() if params is None else params
        return self.experiment.finetune.init_params(self, params)

    def _init(self, statistics: PyTree, params: PyTree | None = None) -> state.TrainState:
        return state.init_state(
            self.experiment.train, self.optimizer(), self.process, self._init_params(params),
            statistics, self._metric_names,
        )  # fmt: skip

    def _statistics(self) -> PyTree:
        """What the process makes of training examples, evenly spaced if there are many."""
        split = self.split("train")
        count = min(len(split), STATISTICS_EXAMPLES)
        examples = split.gather(np.arange(count, dtype=np.int64) * len(split) // count)["x0"]
        return self.process.estimate_statistics(examples)

    @functools.cached_property
    def _abstract_state(self) -> PyTree:
        shapes = jax.eval_shape(
            self._init, self.process.abstract_statistics(), self._abstract_params
        )
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            partitioning.state_shardings(shapes, self.mesh),
        )

    def abstract_state(self) -> PyTree:
        """Shapes and shardings of the train state, without making it."""
        return self._abstract_state

    def init_state(
        self, params: PyTree | None = None, statistics: PyTree | None = None
    ) -> state.TrainState:
        """The state before the first step, made where its arrays are to live.

        Args:
          params: what to begin with, as `state.init_params` gives it; None for fresh ones.
          statistics: of the process; None if they are to be made of the training data.
        """
        statistics = self._statistics() if statistics is None else statistics
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
        return jax.jit(self._init, out_shardings=shardings)(statistics, params)


def _network_spec(process: Process, data: DataSpec, label_dropout: float) -> NetworkSpec:
    """The process's; with label dropout there is one more class, "none given"."""
    spec = process.network_spec(data)
    if not label_dropout:
        return spec
    if not spec.num_classes:
        raise UserError(
            f"config.train.label_dropout = {label_dropout}: the data have no classes to drop; use 0"
        )
    return dataclasses.replace(spec, num_classes=spec.num_classes + 1)


def assemble(config: Mapping[str, Any]) -> Model:
    """Builds and checks all parts of an experiment; nothing compiles.

    Raises:
      UserError: the config is wrong, data are missing, or parts do not fit each other.
    """
    return put_together(config_lib.build(config), config_lib.to_dict(config))


def put_together(experiment: config_lib.Experiment, config: dict[str, Any]) -> Model:
    """See `assemble`, of components there are; `config` is what the model says it is of."""
    mesh = partitioning.make_mesh(experiment.mesh)
    train, evaluation, sampler = experiment.train, experiment.eval, experiment.sampler
    partitioning.check_batch(mesh, train.batch_size, train.microbatches, "config.train.batch_size")
    partitioning.check_batch(mesh, evaluation.batch_size, 1, "config.eval.batch_size")
    partitioning.check_batch(mesh, sampler.batch_size, 1, "config.sampler.batch_size")
    dataset = with_texts(experiment.data.load(), evaluation.texts)
    is_image = len(dataset.spec.shape) == 3 and dataset.spec.vocab_size is not None
    for key in ("random_flip", "random_crop"):
        if getattr(train, key) and not is_image:
            kind = "real values" if dataset.spec.vocab_size is None else "integers"
            raise UserError(
                f"config.train.{key} = {getattr(train, key)}: only images can be mirrored or "
                f"moved; the data are {kind} of shape {dataset.spec.shape}"
            )
    if dataset.spec.has_segments and not experiment.network_class.takes_segments:
        raise UserError(
            f"config.data.documents = True: {experiment.network_class.__name__} attends to whole "
            "rows; choose config.network.name = 'transformer', or False"
        )
    process = experiment.process.bind(dataset.spec)
    check_label(sampler, dataset.spec.num_classes, train.label_dropout)
    network = experiment.network_class(
        spec=_network_spec(process, dataset.spec, train.label_dropout), **experiment.network_options
    )
    network.check()
    model = Model(config, experiment, dataset, process, network, mesh)
    for name in model.eval_splits:
        model.split(name)
    experiment.finetune.check(model)
    return model
