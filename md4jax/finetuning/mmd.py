r"""Few-step models by maximum mean discrepancy (MMD-DDM: E. Aiello et al., arXiv:2301.07969).

A trained model is finetuned so that its sampler, with the few steps it is to be used with, draws
what looks like data to some features: with features x of real examples `[n, d]` and y of samples,

  (1)  loss = MMD^2(x, y), without bias                       [(2) of `evaluation/distances.py`]

The features stay as they are. How the loss depends on the weights is found in one of two ways:

  (2)  samples are a smooth function of weights and noise (Gaussian processes, deterministic or not;
       star-shaped ones, whose draws have implicit gradients): through the whole chain of steps
  (3)  samples are tokens: by the score function,  sum_i w_i grad log p(path_i) / n,
       w_i = 2 (mean_{j != i} k(y_i, y_j) - mean_j k(x_j, y_i)) - b_i

path_i are all draws on the way to sample i; b_i is the mean of what w would be for the other
samples if there were no i, so it does not depend on path_i, and (3) has no bias, whatever b is.
[R. J. Williams, Mach. Learn. 8 (1992) 229; here for the U-statistic (1), whose every term has two
samples, hence the 2.] It is noisy: experimental.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax import rng
from md4jax.evaluation.distances import Gaussian, Polynomial, squared_mmd
from md4jax.evaluation.features import FEATURES
from md4jax.finetuning.base import Finetune
from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, Denoiser, Process
from md4jax.samplers import base
from md4jax.samplers.generate import bind_sampler
from md4jax.training import state
from md4jax.training.partitioning import batch_sharding
from md4jax.typing import Data, PyTree

if TYPE_CHECKING:
    from md4jax.model import Model

KERNELS = {"linear": Polynomial(degree=1), "cubic": Polynomial(), "rbf": Gaussian()}
Kernel = Polynomial | Gaussian
Rows = Float[Array, "n d"]
Parts = Float[Array, "m b d"]
# Of the features of examples and samples: the loss, and to each sample its share of it.
Blame = Callable[[Array, Array], tuple[Array, Array]]
# Of parameters and labels.
Bind = Callable[[PyTree, Any], tuple[Process, Denoiser]]
# Of parameters and keys with labels: features of samples, and from what each sample, or each
# feature of one, is blamed for to the gradient.
Forward = Callable[[PyTree, PyTree], tuple[Rows, Callable[[Array], tuple[PyTree]]]]


def advantages(x: Rows, y: Rows, kernel: Kernel) -> Float[Array, "n"]:
    """w_i of (3), with b_i taken off; at least three samples."""
    n = y.shape[0]
    gram = kernel(y, y)
    rows = jnp.sum(gram, axis=1) - jnp.diagonal(gram)
    cross = jnp.mean(kernel(x, y), axis=0)
    # Of the others' rows without their entry for i, which is in `rows` of i.
    others = (jnp.sum(rows) - 2 * rows) / (n - 2) - (jnp.sum(cross) - cross)
    return 2 * (rows / (n - 1) - cross - others / (n - 1))


def smooth(
    bind: Bind, step: base.Ancestral, data: DataSpec, features: Callable, rematerialise: bool
) -> Forward:
    """(2)."""

    def forward(params, part):
        def draw(params):
            process, denoise = bind(params, part["label"])
            z, _ = base.path(
                process, denoise, step, part["keys"], data.shape, rematerialise=rematerialise
            )
            return features(process.decode_smoothly(denoise, z))

        return jax.vjp(draw, params)

    return forward


def by_score(
    bind: Bind, step: base.Ancestral, data: DataSpec, features: Callable, rematerialise: bool
) -> Forward:
    """(3)."""

    def forward(params, part):
        process, denoise = bind(params, part["label"])
        z, before = base.path(
            process, denoise, step, part["keys"], data.shape, remember=lambda z: z
        )
        path = jnp.concatenate([before, z[None]])

        def log_prob(params):
            process, denoise = bind(params, part["label"])
            times = jnp.asarray(step.times(process), jnp.float32)

            def add(total, pair):
                z_t, z_s, *pair = pair
                t, s = (jnp.broadcast_to(x, z.shape[:1]) for x in pair)
                return total + process.reverse_log_prob(z_t, z_s, denoise(z_t, t), t, s), None

            pairs = (path[:-1], path[1:], times[:-1], times[1:])
            add = jax.checkpoint(add, prevent_cse=False) if rematerialise else add
            return jax.lax.scan(add, jnp.zeros(len(z)), pairs, unroll=not rematerialise)[0]

        return features(as_unit(data, process.decode(denoise, z))), jax.vjp(log_prob, params)[1]

    return forward


def as_unit(data: DataSpec, x: Data) -> Float[Array, "b *s"]:
    """Levels as 0 to 1; real data as they are."""
    return x if data.vocab_size is None else x / (data.vocab_size - 1)


def blame_smooth(x: Rows, y: Rows, kernel: Kernel) -> tuple[Float[Array, ""], Rows]:
    """The loss (1), and its gradient by the features of samples."""
    return jax.value_and_grad(squared_mmd, argnums=1)(x, y, kernel)


def blame_by_score(x: Rows, y: Rows, kernel: Kernel) -> tuple[Float[Array, ""], Float[Array, "n"]]:
    """The loss (1), and w_i / n of (3)."""
    return squared_mmd(x, y, kernel), advantages(x, y, kernel) / len(y)


def is_scored(process: Process) -> bool:
    """Whether samples are tokens, whose law a step can tell: (3)."""
    return hasattr(process, "reverse_log_prob")


def together(blame: Blame, x: Parts, y: Parts) -> tuple[Float[Array, ""], Array]:
    """`blame` of all parts as one batch."""
    loss, to_blame = blame(*(z.reshape(-1, z.shape[-1]) for z in (x, y)))
    return loss, to_blame.reshape(*y.shape[:2], *to_blame.shape[1:])


def apart(blame: Blame, x: Parts, y: Parts) -> tuple[Float[Array, ""], Array]:
    """The mean of `blame` of each part."""
    loss, to_blame = jax.vmap(blame)(x, y)
    return jnp.mean(loss), to_blame / len(y)


ACCUMULATE = {"together": together, "apart": apart}


def whole(
    forward: Forward, blame: Blame, params: PyTree, x: Rows, part: PyTree
) -> tuple[Float[Array, ""], PyTree]:
    """The loss of a batch and its gradient."""
    y, pull = forward(params, part)
    loss, to_blame = blame(x, y)
    return loss, pull(to_blame)[0]


def in_parts(
    forward: Forward, blame: Blame, params: PyTree, x: Parts, parts: PyTree
) -> tuple[Float[Array, ""], PyTree]:
    """The same with the memory for a part: what is to be blamed is known once all are drawn."""
    y = jax.lax.map(lambda part: forward(params, part)[0], parts)
    loss, to_blame = blame(x, y)

    def add(total, inputs):
        part, part_to_blame = inputs
        (grads,) = forward(params, part)[1](part_to_blame)
        return jax.tree.map(jnp.add, total, grads), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return loss, jax.lax.scan(add, zeros, (parts, to_blame))[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMD(Finetune):
    """Samples of `config.sampler`'s few steps that look like data to frozen features."""

    uses_sampler: ClassVar[bool] = True

    features: str = option(
        "What is trained on; the metrics should be of other features.",
        "pixels",
        one_of=tuple(FEATURES),
    )
    weights: str | None = option(
        "Path of the features' weights, where they have some.", None, changeable=True
    )
    kernel: str = option("k of the MMD.", "cubic", one_of=tuple(KERNELS))
    gamma: float | None = option(
        "Of the kernel: (gamma <x, y> + 1)^p or exp(-gamma |x - y|^2); None is 1 / features.",
        None,
        above=0,
    )
    rematerialise: bool = option(
        "Compute each step again for its gradient: the memory is that of one step, whatever their "
        "number. False keeps all, and compiles longer; better on CPUs, where gradients of "
        "convolutions in a loop take 30 times as long.",
        True,
        changeable=True,
    )
    accumulate: str = option(
        "With config.train.microbatches: together is the MMD of the whole batch, its samples drawn "
        "twice; apart is the mean of the parts' MMDs (published), which is noisier.",
        "together",
        one_of=tuple(ACCUMULATE),
    )

    def check(self, model: Model) -> None:
        train, sampler = model.experiment.train, model.experiment.sampler
        scored = is_scored(model.process)
        if not (scored or hasattr(model.process, "decode_smoothly")):
            raise UserError(
                f"config.finetune.name = 'mmd': samples of {type(model.process).__name__} have "
                "neither derivatives nor a law that is known step by step"
            )
        parts = train.microbatches if self.accumulate == "apart" else 1
        least = 3 if scored else 2
        if train.batch_size // parts < least:
            raise UserError(
                f"config.train.batch_size = {train.batch_size}, in {parts} parts: an MMD without "
                f"bias takes at least {least} examples, and as many samples"
            )
        if scored and type(sampler) is not base.Ancestral:
            raise UserError(
                f"config.sampler.name: {type(sampler).__name__} does not say with what probability "
                "it draws tokens; use 'ancestral'"
            )
        ignored = {"prompt": None, "windows": 1, "reuse": False, "label": None}
        for key, unset in ignored.items():
            if (value := getattr(sampler, key)) != unset:
                raise UserError(
                    f"config.sampler.{key} = {value!r}: finetuning draws whole samples of their "
                    f"own; use {unset!r}"
                )

    def _load(self, model: Model) -> Any:
        return FEATURES[self.features].load(self.weights, model.spec, "config.finetune.weights")

    def fingerprint(self, model: Model) -> str:
        return self._load(model).fingerprint

    def constants(self, model: Model) -> tuple[PyTree, ...]:
        return (self._load(model).params,)

    def metric_names(self, model: Model, params: PyTree, fixed: PyTree) -> list[str]:
        return ["loss"]

    def gradient(self, model: Model) -> Callable:
        """As `Finetune.gradient`, given the features' weights last."""
        train, features = model.experiment.train, self._load(model)
        kernel = dataclasses.replace(KERNELS[self.kernel], gamma=self.gamma)
        forward_of, blame = smooth, blame_smooth
        if is_scored(model.process):
            forward_of, blame = by_score, blame_by_score
        blame = functools.partial(blame, kernel=kernel)
        blame_parts = functools.partial(ACCUMULATE[self.accumulate], blame)

        def gradient(params, fixed, batch, step, weights):
            see = functools.partial(features, weights)
            bind = lambda params, label: bind_sampler(
                model, params | {"statistics": fixed[0]}, label
            )
            forward = forward_of(
                bind, model.experiment.sampler, model.spec, see, self.rematerialise
            )
            index = jnp.arange(train.batch_size, dtype=jnp.int32)
            index = jax.lax.with_sharding_constraint(index, batch_sharding(model.mesh))
            key = jax.random.fold_in(rng.stream(train.seed, "finetune"), step)
            # Samples are of the classes of the examples; none is drawn without its class.
            part = {"keys": rng.example_keys(key, index), "label": batch.get("label")}
            step_keys = state.step_keys(train.seed, step)
            x0, _ = state.augmented(train, model.network, batch, index, step_keys)
            x = see(as_unit(model.spec, x0))
            if train.microbatches == 1:
                loss, grads = whole(forward, blame, params, x, part)
            else:
                x, parts = state.split((x, part), train.microbatches, model.mesh)
                loss, grads = in_parts(forward, blame_parts, params, x, parts)
            unused = jnp.zeros(train.batch_size)
            return grads, ({"loss": loss}, unused, unused)

        return gradient
