"""The protocol of a process: five pure functions, and what it asks of data and network.

A process owns the mathematics and nothing else: it has no weights, imports no Flax and reads no
config. It is a frozen dataclass whose `option` fields are its config keys. Everything that draws
takes `keys`, one a example, so that example i sees the same noise for every batch size and number
of devices. Time runs from 0 (data) to 1 (prior).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from md4jax import rng
from md4jax.typing import Data, Keys, Nats, PyTree, Time

# What `process.predict` returns: a pytree that the process itself understands (logits for
# categorical data, an estimate of x0 for real data).
Prediction = Any
# Network and process bound together: (z_t, t) -> Prediction.
Denoiser = Callable[[Data, Time], Prediction]


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a process and a network must know of the data.

    Attributes:
      shape: of one example: `(length,)` for text, `(height, width, channels)` for images.
      vocab_size: the data are integers in `[0, vocab_size)`: token ids, pixel levels; None if they
        are real.
      num_classes: labels are integers in `[0, num_classes)`; None if there are none.
      unit: what likelihoods are counted in: "dim", "char", "byte" or "token".
      domain: where real data live, a key of `domains.DOMAINS`; None for integers.
      has_segments: batches say of each token which document it is of, and networks attend within
        documents alone.
    """

    shape: tuple[int, ...]
    vocab_size: int | None
    num_classes: int | None = None
    unit: str = "dim"
    # Not in repr, which fingerprints of data hash: runs on integers keep theirs.
    domain: str | None = dataclasses.field(default=None, repr=False)
    has_segments: bool = dataclasses.field(default=False, repr=False)


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """What a process asks of its network: `apply(z_t, t, label) -> output`.

    Attributes:
      shape: of one z_t without the batch.
      vocab_size: number of ids z_t may hold if it is integer; None if z_t is real.
      out_features: entries of the output at each position: output is `[b, *shape, out_features]`.
      has_time: whether `t` `[b]` is given; if not it is None and the network has no time input.
      num_classes: labels `[b]` are given, in `[0, num_classes)`; None if they are not.
      out_shape: of the output without the batch, where it is not `(*shape, out_features)`: e.g. the
        3 numbers of a 2 x 2 symmetric matrix; only networks without positions take it.
    """

    shape: tuple[int, ...]
    vocab_size: int | None
    out_features: int
    has_time: bool = True
    num_classes: int | None = None
    out_shape: tuple[int, ...] | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the network's output, without the batch."""
        return (*self.shape, self.out_features) if self.out_shape is None else self.out_shape


def pick(values: Array, positions: Int[Array, "b k"]) -> Array:
    """`[b, *s, v]` at positions of the flattened `*s`, `[b, k, v]`."""
    flat = values.reshape(values.shape[0], -1, values.shape[-1])
    return jnp.take_along_axis(flat, positions[..., None], axis=1)


def process_class(cls: type) -> type:
    """Makes a process of a class: a frozen dataclass, a pytree whose arrays are its statistics."""
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = [f.name for f in dataclasses.fields(cls) if f.name != "statistics"]
    return jax.tree_util.register_dataclass(cls, ["statistics"], fields)


def step_time(uniform: Float[Array, "b"], num_steps: int) -> Time:
    """The end i / T of the one of T steps that u in [0, 1) falls into."""
    # A u close to 1 may have been rounded up to it.
    return jnp.minimum(jnp.floor(uniform * num_steps) + 1, num_steps) / num_steps


class Defaults:
    """What most processes have in common; a base class for them.

    Attributes:
      chain_length: T if reverse steps exist only between the times 0, 1/T, ..., 1; None if any two
        times do.
    """

    chain_length: int | None = None

    def fit(self, examples: np.ndarray) -> Any:
        """This process with its statistics from training examples `[n, *s]`."""
        return self.with_statistics(self.estimate_statistics(examples))

    def init_params(self, key: Key[Array, ""]) -> PyTree:
        """Learnable parameters of the process itself; an empty dict if it has none."""
        return {}

    def with_params(self, params: PyTree) -> Any:
        """This process with what `init_params` gave and training changed."""
        return self

    def abstract_statistics(self) -> PyTree:
        """Shapes of what `estimate_statistics` gives."""
        return {}

    def estimate_statistics(self, examples: np.ndarray) -> PyTree:
        """What is known only from the data, or takes long to compute: arrays, made once.

        They are saved with the parameters and never made again for a trained model.

        Args:
          examples: x0 of the training split, or of enough of it, `[n, *s]`.
        """
        return {}

    def with_statistics(self, statistics: PyTree) -> Any:
        """This process with what `estimate_statistics` gave."""
        return self

    def training_terms(self, denoise: Denoiser, keys: Keys, x0: Data, t: Time) -> dict[str, Nats]:
        """`loss_terms` of one z_t an example; processes whose loss needs more override it."""
        z_t = self.forward_sample(rng.fold(keys, 0), x0, t)
        return self.loss_terms(rng.fold(keys, 1), denoise(z_t, t), x0, z_t, t)

    def network_time(self, t: Time) -> Time:
        """What the network is told of the time: it embeds 1000 times this."""
        return t

    def network_input(self, z_t: Data, t: Time) -> Data:
        """What the network is given of z_t, of the same shape."""
        return z_t

    def forward_views(self, keys: Keys, x0: Data, times: Float[Array, "frames"]) -> list[Data]:
        """Pictures of how x0 turns into noise: rows of frames, `[b, frames, *s]` each."""

        def frame(t):
            t = jnp.full(len(x0), t)
            return self.view(self.forward_sample(keys, x0, t), t)

        return [jnp.stack([frame(t) for t in times], axis=1)]

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float) -> Prediction:
        """unconditional + scale (conditional - unconditional): scale 1 is no guidance."""
        return jax.tree.map(lambda c, u: u + scale * (c - u), conditional, unconditional)


@runtime_checkable
class Process(Protocol):
    """See the module's docstring. Shapes: `b` examples of shape `*s`; likelihoods in nats."""

    chain_length: int | None
    init_params: Callable[[Any], PyTree]
    with_params: Callable[[PyTree], Any]
    abstract_statistics: Callable[[], PyTree]
    estimate_statistics: Callable[[np.ndarray], PyTree]
    with_statistics: Callable[[PyTree], Any]
    training_terms: Callable[[Denoiser, Keys, Data, Time], dict[str, Nats]]
    network_time: Callable[[Time], Time]
    network_input: Callable[[Data, Time], Data]
    forward_views: Callable[[Keys, Data, Any], list[Data]]
    guide: Callable[[Prediction, Prediction, float], Prediction]

    def network_spec(self, data: DataSpec) -> NetworkSpec:
        """What the network must take and give for this data."""

    def bind(self, data: DataSpec) -> Process:
        """This process for this data. Raises UserError if they do not fit."""

    def time(self, uniform: Float[Array, "b"]) -> Time:
        """Maps u in [0, 1) to the time at which a training example is noised."""

    def prior_sample(self, keys: Keys, shape: tuple[int, ...]) -> Data:
        """z_1 `[b, *shape]`."""

    def forward_sample(self, keys: Keys, x0: Data, t: Time) -> Data:
        """z_t given x0."""

    def predict(self, output: Array, z_t: Data, t: Time) -> Prediction:
        """Network output to a prediction of x0."""

    def loss_terms(
        self, keys: Keys, prediction: Prediction, x0: Data, z_t: Data, t: Time
    ) -> dict[str, Nats]:
        """Terms whose sum is minimised in training, per example."""

    def bound_terms(
        self, keys: Keys, prediction: Prediction, x0: Data, z_t: Data, t: Time
    ) -> dict[str, Nats]:
        """Terms whose sum, averaged over `t = time(u)`, u uniform, bounds -log p(x0)."""

    def reverse_sample(
        self, keys: Keys, z_t: Data, prediction: Prediction, t: Time, s: Time
    ) -> Data:
        """z_s given z_t and the predicted x0, for s < t."""

    def view(self, z_t: Data, t: Time) -> Data:
        """z_t in the data's own values, for pictures."""

    def view_prediction(self, z_t: Data, prediction: Prediction) -> Data:
        """The predicted x0 in the data's own values."""

    def decode(self, denoise: Denoiser, z_0: Data) -> Data:
        """The sample, in the data's own values, at the end of the reverse process."""
