"""What a finetune says of itself; `--mode=train` is the one that finetunes nothing.

A finetune is a dataclass of options, a section of the config. It may add parameters to those of the
trained model, say which subtrees of them stay as they are, and give a gradient of its own; steps,
evaluation, samples, checkpoints and resuming are those of the training loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import jax
from jaxtyping import Array, Int

from md4jax.options import option
from md4jax.processes.base import Denoiser, Process
from md4jax.training import state
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.model import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """A base class: the training loss again, of weights there are.

    Attributes:
      frozen: a class attribute: names of the subtrees of the parameters that stay as they are.
      predicts_errors: a class attribute: whether its denoiser can tell what of a guess is wrong.
      uses_sampler: a class attribute: whether it is for the sampler of the config, and no other.
    """

    frozen: ClassVar[tuple[str, ...]] = ()
    predicts_errors: ClassVar[bool] = False
    uses_sampler: ClassVar[bool] = False

    start: str = option(
        "The folder of the trained model to begin with, of the same process, network and data.",
        "",
        changeable=True,  # Read once, before the first step.
    )

    def check(self, model: Model) -> None:
        """Whether the model can be finetuned so. Raises UserError if not; nothing compiles."""

    def init_params(self, model: Model, params: PyTree) -> PyTree:
        """All parameters of a finetuned model before the first step; jit-able.

        Args:
          params: `{"network": ..., "process": ...}` of the model to begin with.
        """
        return params

    def fingerprint(self, model: Model) -> str:
        """Of the constants; a run goes on with the same ones only."""
        return ""

    def constants(self, model: Model) -> tuple[PyTree, ...]:
        """Arrays that the gradient is given after its other arguments, such as frozen weights."""
        return ()

    def denoiser(
        self, process: Process, network: Any, params: PyTree, label: Int[Array, "b"] | None = None
    ) -> Denoiser:
        """What samples are drawn with; see `state.make_denoiser`."""
        return state.make_denoiser(process, network, params, label)

    def loss(self, model: Model) -> Callable:
        """What is minimised; see `state.make_loss`."""
        return state.make_loss(model.experiment, model.process, model.network)

    def gradient(self, model: Model) -> Callable:
        """`(params, fixed, batch, step, *constants) -> (gradient, (metrics, u, losses))`.

        A finetune without a loss of each batch overrides this and `metric_names`.
        """
        return state.make_gradient(self.loss(model), model.experiment.train, model.mesh)

    def metric_names(self, model: Model, params: PyTree, fixed: PyTree) -> list[str]:
        """Of the gradient's metrics; of the loss's, for tracing that is three times as fast.

        Args:
          params: shapes of `init_params`'s.
          fixed: shapes of `TrainState.fixed`.
        """
        number = jax.ShapeDtypeStruct((), "int32")
        index = jax.ShapeDtypeStruct((model.experiment.train.batch_size,), "int32")
        _, (metrics, *_) = jax.eval_shape(
            self.loss(model), params, fixed, model.abstract_batch(), index, number, number
        )
        return list(metrics)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nothing(Finetune):
    """No finetuning: the model is trained from the beginning, with `--mode=train`."""

    # No option, so that the section is empty.
    start: str = dataclasses.field(default="", init=False)
