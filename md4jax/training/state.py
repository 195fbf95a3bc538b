"""The train state and the train step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from md4jax import rng
from md4jax.objectives import training_loss
from md4jax.processes.base import DataSpec, Denoiser, Prediction, Process, pick
from md4jax.time_sampling import TIME_SAMPLING
from md4jax.training.partitioning import BATCH_AXES
from md4jax.typing import Data, Keys, PyTree, Time

if TYPE_CHECKING:
    import optax

    from md4jax.config import Experiment, Train


NORMS = ("grad_norm", "param_norm", "update_norm")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and writes on the devices; saved and restored as one.

    Attributes:
      step: optimizer steps taken.
      params: `{"network": ..., "process": ...}`, the latter `{}` if nothing of it is learned; a
        finetune may add to it.
      ema_params: averaged parameters, float32; None if `ema_decay` is 0.
      statistics: what the process has estimated from the data; training leaves it as it is.
      time_state: what the sampling of times remembers; None if nothing.
      metric_sums: sums over the steps since the last logged one, so that a resumed run logs the
        same means.
      first_bad_step: the first step whose loss, gradient or new parameters were not finite; -1 if
        none was.
    """

    step: Int[Array, ""]
    params: PyTree
    ema_params: PyTree
    statistics: PyTree
    opt_state: PyTree
    time_state: PyTree
    metric_sums: dict[str, Float[Array, ""]]
    first_bad_step: Int[Array, ""]

    @property
    def eval_params(self) -> PyTree:
        """What evaluation and sampling use: `params`, averaged or not, and `statistics`."""
        params = self.params if self.ema_params is None else self.ema_params
        return params | {"statistics": self.statistics}

    @property
    def fixed(self) -> tuple[PyTree, PyTree]:
        """What the loss needs beside the parameters: the process's statistics, the times' state."""
        return self.statistics, self.time_state


def make_denoiser(
    process: Process,
    network: Any,
    params: PyTree,
    label: Int[Array, "b"] | None = None,
    dropout: Array | None = None,
    segment: Int[Array, "b l"] | None = None,
) -> Denoiser:
    """Binds weights to a process and a network: `(z_t, t) -> prediction`.

    Args:
      process: with `params` (see `bind_params`).
      dropout: a key turns dropout on.
      segment: which document of its row each token is of; None is one document a row.
    """
    return NetworkDenoiser(process, network, params, label, dropout, segment)


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkDenoiser:
    """A denoiser, which can be asked for some positions alone; see `make_denoiser`."""

    process: Process
    network: Any
    params: PyTree
    label: Int[Array, "b"] | None = None
    dropout: Array | None = None
    segment: Int[Array, "b l"] | None = None

    def __call__(self, z_t: Data, t: Time) -> Prediction:
        """The prediction of x0."""
        return self.process.predict(self._apply(z_t, t), z_t, t)

    def at(self, z_t: Data, t: Time, positions: Int[Array, "b k"]) -> Prediction:
        """The prediction `[b, k, ...]` at positions of the flattened z_t.

        Where the network can it computes no other: with V = 50,257, a width of 128 and up to 16 of
        256 positions a call is 4 to 5 times as fast on two CPU cores (`benchmarks/masked_head.py`).
        """
        if not self.network.gives_positions:
            return pick(self(z_t, t), positions)
        output = self._apply(z_t, t, positions=positions)
        return self.process.predict(output, jnp.take_along_axis(z_t, positions, axis=1), t)

    def features(self, z_t: Data, t: Time) -> Float[Array, "b *p f"]:
        """What the network's output layer is given, if its class `gives_features`."""
        return self._apply(z_t, t, features=True)

    def _apply(self, z_t, t, **asked):
        process, network = self.process, self.network
        if self.segment is not None:
            asked["segment"] = self.segment
        return network.apply(
            {"params": self.params["network"]},
            process.network_input(z_t, t),
            process.network_time(t) if network.spec.has_time else None,
            self.label,
            train=self.dropout is not None,
            rngs=None if self.dropout is None else {"dropout": self.dropout},
            **asked,
        )


def bind_params(process: Process, params: PyTree) -> Process:
    """The process with what of it is learned or estimated, as `TrainState.eval_params` holds it."""
    process = process.with_params(params["process"])
    return process.with_statistics(params["statistics"]) if "statistics" in params else process


def init_params(process: Process, network: Any, data: DataSpec, seed: int) -> PyTree:
    """Fresh parameters; jit-able, so that they are made where they are to live."""
    keys = rng.example_keys(rng.stream(seed, "init"), jnp.arange(1))
    learned = process.init_params(rng.stream(seed, "init_process"))
    process = process.with_params(learned)
    z_t = process.prior_sample(keys, data.shape)
    t = process.time(jnp.zeros(1))
    label = jnp.zeros(1, jnp.int32) if network.spec.num_classes else None
    variables = network.init(
        rng.stream(seed, "init"),
        z_t,
        process.network_time(t) if network.spec.has_time else None,
        label,
    )
    return {"network": variables["params"], "process": learned}


def _toss(keys: Keys, probability: float) -> Bool[Array, "b"]:
    return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)


def random_crop(keys: Keys, images: Int[Array, "b h w c"], margin: int) -> Int[Array, "b h w c"]:
    """Moves each image by up to `margin` pixels each way; what comes in repeats its edge."""
    height, width = images.shape[1:3]

    def crop(key, image):
        wide = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        top, left = jax.random.randint(key, (2,), 0, 2 * margin + 1)
        return jax.lax.dynamic_slice(wide, (top, left, 0), (height, width, image.shape[2]))

    return jax.vmap(crop)(keys, images)


def step_keys(seed: int, step: int | Int[Array, ""]) -> dict[str, Key[Array, ""]]:
    """The key of each use of randomness in a step."""
    names = ("time", "noise", "dropout", "label", "flip", "crop")
    return {name: jax.random.fold_in(rng.stream(seed, name), step) for name in names}


def augmented(
    train: Train,
    network: Any,
    batch: dict[str, Array],
    index: Int[Array, "b"],
    key: dict[str, Key[Array, ""]],
) -> tuple[Data, Int[Array, "b"] | None]:
    """x0 `[b, *s]` and its labels as a step is shown them: mirrored, moved, some classes dropped.

    Args:
      index: places of the examples in the global batch.
      key: `step_keys`.
    """
    toss = lambda name, p: _toss(rng.example_keys(key[name], index), p)
    x0, label = batch["x0"], batch.get("label")
    if train.label_dropout:
        label = jnp.where(toss("label", train.label_dropout), null_label(network), label)
    if train.random_flip:  # [b, height, width, channels]
        x0 = jnp.where(toss("flip", 0.5)[:, None, None, None], x0[:, :, ::-1], x0)
    if train.random_crop:
        x0 = random_crop(rng.example_keys(key["crop"], index), x0, train.random_crop)
    return x0, label


def split(batch: PyTree, parts: int, mesh: jax.sharding.Mesh) -> PyTree:
    """Arrays `[parts * b, ...]` as `[parts, b, ...]`."""

    def of(x):
        # Part m takes every m-th example, so that each device works on examples it holds.
        x = x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(
            x, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
        )

    return jax.tree.map(of, batch)


def make_loss(experiment: Experiment, process: Process, network: Any) -> Callable:
    """`(params, fixed, batch, index, step, part) -> (loss, (metrics, u, losses))`: of a part of it.

    `index` `[b]` are the places of the examples in the global batch: noise and times follow them,
    so that neither the number of devices nor of microbatches changes what an example sees.
    `fixed` is `TrainState.fixed`, whose times are updated with the `u` and `losses` `[b]`.
    """
    train = experiment.train
    time_sampling = TIME_SAMPLING[train.time_sampling]

    def loss(params, fixed, batch, index, step, part):
        statistics, times = fixed
        key = step_keys(train.seed, step)
        x0, label = augmented(train, network, batch, index, key)
        bound = bind_params(process, params | {"statistics": statistics})
        dropout = jax.random.fold_in(key["dropout"], part)
        denoise = make_denoiser(bound, network, params, label, dropout, batch.get("segment"))
        u, weight = time_sampling.draw(times, key["time"], index, train.batch_size)
        keys = rng.example_keys(key["noise"], index)
        value, metrics, losses = training_loss(bound, denoise, x0, u, keys, weight)
        return value, (metrics, u, losses)

    return loss


def make_gradient(loss: Callable, train: Train, mesh: jax.sharding.Mesh) -> Callable:
    """`(params, fixed, batch, step) -> (gradient, (metrics, u, losses))` of a global batch.

    Gradient and metrics are means over microbatches; u and losses `[batch_size]`.
    """
    gradient = jax.grad(loss, has_aux=True)
    index = jnp.arange(train.batch_size, dtype=jnp.int32)
    if train.microbatches == 1:
        return lambda params, fixed, batch, step: gradient(params, fixed, batch, index, step, 0)

    def accumulate(params, fixed, batch, step):
        def add(total, inputs):
            part, part_batch, part_index = inputs
            grads, (metrics, *seen) = gradient(params, fixed, part_batch, part_index, step, part)
            mean = lambda a, b: a + b / train.microbatches
            return jax.tree.map(mean, total, (grads, metrics)), seen

        inputs = (jnp.arange(train.microbatches), *split((batch, index), train.microbatches, mesh))
        first = jax.tree.map(lambda x: x[0], inputs[1:])
        grads, (metrics, *_) = jax.eval_shape(gradient, params, fixed, *first, step, 0)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
        (grads, metrics), seen = jax.lax.scan(add, zeros, inputs)
        u, losses = (x.swapaxes(0, 1).reshape(-1) for x in seen)  # Back in the batch's order.
        return grads, (metrics, u, losses)

    return accumulate


def null_label(network: Any) -> int:
    """The id that says "no class given" to a network trained with label dropout: the last one."""
    return network.spec.num_classes - 1


def _ema(decay: float, warmup: bool, old: PyTree, new: PyTree, step: Array) -> PyTree:
    if warmup:
        decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p.astype(e.dtype) - e), old, new)


def init_state(
    train: Train,
    optimizer: optax.GradientTransformation,
    process: Process,
    params: PyTree,
    statistics: PyTree,
    metric_names: list[str],
) -> TrainState:
    """A state before the first step, around given parameters."""
    ema = None
    if train.ema_decay:
        ema = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=ema,
        statistics=statistics,
        opt_state=optimizer.init(params),
        time_state=TIME_SAMPLING[train.time_sampling].init(process),
        metric_sums={name: jnp.zeros(()) for name in metric_names},
        first_bad_step=jnp.full((), -1, jnp.int32),
    )


def make_train_step(
    train: Train, gradient: Callable, optimizer: optax.GradientTransformation
) -> Callable:
    """`(state, batch, *constants) -> (state, metrics)`, pure.

    Metrics are means since the last logged step; constants are for the gradient.
    """
    import optax

    update_times = TIME_SAMPLING[train.time_sampling].update

    def train_step(state: TrainState, batch: dict[str, Array], *constants: PyTree):
        grads, seen = gradient(state.params, state.fixed, batch, state.step, *constants)
        metrics, u, losses = seen
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= dict(zip(NORMS, map(optax.tree.norm, (grads, params, updates))))
        ema = state.ema_params
        if ema is not None:
            ema = _ema(train.ema_decay, train.ema_warmup, ema, params, state.step)
        # The parameters too: a gradient may be finite and what a step makes of it not.
        finite = [jnp.isfinite(metrics[name]) for name in ("loss", "grad_norm", "param_norm")]
        finite = jnp.all(jnp.stack(finite))
        bad = jnp.where((state.first_bad_step < 0) & ~finite, state.step, state.first_bad_step)
        since = state.step % train.log_every  # Steps in the sums already.
        sums = {k: jnp.where(since == 0, 0.0, state.metric_sums[k]) + v for k, v in metrics.items()}
        means = {name: total / (since + 1) for name, total in sums.items()}
        times = update_times(state.time_state, u, losses)
        state = TrainState(
            state.step + 1, params, ema, state.statistics, opt_state, times, sums, bad
        )
        return state, means | {"first_bad_step": bad}

    return train_step
