r"""A head that tells which tokens of a masked model's guess are wrong, for `remask_errors`.

Star-shaped masked diffusion (arXiv:2510.08369) draws z_s afresh from a guess x' of x0: so a mistake
can be mended, but as often a right token is hidden again. The head learns where the mistakes are.
With x0 of the data, z_t ~ q(z_t | x0) and x' equal to z_t with each MASK replaced by a draw from
the model's own law there, it gives e_i(x', t), one number a token, and is trained by

  (1)  - sum_i [x'_i != x0_i] log sigmoid(e_i) + [x'_i = x0_i] log sigmoid(-e_i),

so that at best sigmoid(e_i) = p(x'_i != x0_i | x', t). e is one layer on the last features of the
model's network, which is shown x' and told t, and stays bit for bit as it was: what the model's
bound is and what its other samplers draw does not change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from md4jax import rng
from md4jax.finetuning.base import Finetune
from md4jax.networks.heads import token_head
from md4jax.objectives import bits_per_dim
from md4jax.options import UserError
from md4jax.processes.base import Process
from md4jax.processes.masked import Masked
from md4jax.processes.masking import categorical, sum_positions
from md4jax.time_sampling import TIME_SAMPLING
from md4jax.training import state
from md4jax.typing import PyTree, Time, Tokens

if TYPE_CHECKING:
    from md4jax.model import Model


@dataclasses.dataclass(frozen=True, eq=False)
class ErrorDenoiser(state.NetworkDenoiser):
    """A denoiser that can also be asked what of a guess is wrong."""

    def errors(self, guess: Tokens, t: Time) -> Float[Array, "b *s"]:
        """e of (1), the logits of each token's being wrong.

        Args:
          guess: x', without MASK.
          t: the time of the z_t it was made from.
        """
        features = self.features(guess, t).astype(jnp.float32)
        errors = token_head(guess.shape, features.shape).apply(
            {"params": self.params["remasker"]}, features
        )
        return errors.reshape(guess.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remasker(Finetune):
    """A head on a masked model that tells wrong tokens, for the sampler remask_errors."""

    frozen: ClassVar[tuple[str, ...]] = ("network", "process")
    predicts_errors: ClassVar[bool] = True

    def check(self, model: Model) -> None:
        if not isinstance(model.process, Masked):
            raise UserError(
                "config.finetune.name = 'remasker': only masked models (config.process.name = "
                f"'masked') hide tokens again, and this is {type(model.process).__name__}"
            )
        if not model.network.gives_features:
            raise UserError(
                f"config.finetune.name = 'remasker': {type(model.network).__name__} does not show "
                "its last features; transformer, unet and uvit do"
            )

    def init_params(self, model: Model, params: PyTree) -> PyTree:
        """Those of the model, and `remasker`, the head's."""
        label = jnp.zeros(1, jnp.int32) if model.network.spec.num_classes else None
        denoise = self.denoiser(model.process, model.network, params, label)
        z, t = jnp.zeros((1, *model.spec.shape), jnp.int32), jnp.zeros(1)
        features = jax.eval_shape(denoise.features, z, t)
        key = rng.stream(model.experiment.train.seed, "init_remasker")
        head = token_head(z.shape, features.shape).init(key, jnp.zeros(features.shape))
        return params | {"remasker": head["params"]}

    def denoiser(
        self, process: Process, network: Any, params: PyTree, label: Int[Array, "b"] | None = None
    ) -> ErrorDenoiser:
        """The model's, with `errors`."""
        return ErrorDenoiser(process, network, params, label)

    def loss(self, model: Model) -> Callable:
        """(1), in bits a token; see `state.make_loss`."""
        train, network = model.experiment.train, model.network
        time_sampling = TIME_SAMPLING[train.time_sampling]

        def loss(params, fixed, batch, index, step, part):
            statistics, times = fixed
            key = state.step_keys(train.seed, step)
            x0, label = state.augmented(train, network, batch, index, key)
            still = jax.lax.stop_gradient({name: params[name] for name in self.frozen})
            process = state.bind_params(model.process, still | {"statistics": statistics})
            denoise = self.denoiser(process, network, params | still, label)
            denoise = dataclasses.replace(denoise, segment=batch.get("segment"))
            u, weight = time_sampling.draw(times, key["time"], index, train.batch_size)
            t, keys = process.time(u), rng.example_keys(key["noise"], index)
            z_t = process.forward_sample(rng.fold(keys, 0), x0, t)
            tokens = categorical(rng.fold(keys, 1), denoise(z_t, t).astype(jnp.float32), "high")
            guess = jnp.where(z_t == process.mask_id, tokens, z_t)
            wrong = guess != x0
            losses = error_bits(denoise.errors(guess, t), wrong)
            weight = 1.0 if weight is None else weight
            value = jnp.mean(weight * losses)
            return value, ({"loss": value, "wrong": jnp.mean(wrong)}, u, losses)

        return loss


def error_bits(errors: Float[Array, "b *s"], wrong: Array) -> Float[Array, "b"]:
    """(1) of each example, in bits a token.

    Args:
      errors: e.
      wrong: booleans of the same shape.
    """
    import optax

    nats = optax.sigmoid_binary_cross_entropy(errors, wrong.astype(jnp.float32))
    return bits_per_dim(sum_positions(nats), errors.shape[1:])
