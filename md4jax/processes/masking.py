r"""What processes have in common that hide tokens: MASK is an id of its own, and stays or goes.

Tokens x are integers in [0, V); the id V is MASK. Going back from t to s, each masked position is

  (1)  unmasked with probability u, to a token drawn from pi;  it stays MASK otherwise

and the others stay as they are. `unmask` says u and pi, given what the network predicts; whoever
draws needs no more.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, Defaults, Denoiser, NetworkSpec
from md4jax.typing import Keys, Logits, Nats, Time, TokenMask, Tokens


@jax.custom_vjp
def token_log_prob(logits: Logits, tokens: Tokens) -> Float[Array, "b *s"]:
    """log softmax(logits)[tokens] in float32, `[b, *s]`.

    With a vocabulary of 50,257 the logits are by far the largest array of a training step, so
    neither the value nor its gradient makes another one: the value reads the logits once in their
    own precision, and the gradient, softmax - one-hot, is written once, in that precision.
    """
    return _token_log_prob(logits, tokens)[0]


def _token_log_prob(logits, tokens):
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shifted = (logits - top).astype(jnp.float32)
    log_total = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) + top[..., 0].astype(jnp.float32)
    picked = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0].astype(jnp.float32)
    return picked - log_total, (logits, tokens, log_total)


def _token_log_prob_vjp(residuals, g):
    logits, tokens, log_total = residuals
    probs = jnp.exp(logits.astype(jnp.float32) - log_total[..., None])
    # A comparison with an iota is fused into the same loop; a scatter would not be.
    is_token = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    is_token = is_token == tokens[..., None]
    return ((is_token - probs) * g[..., None]).astype(logits.dtype), None


token_log_prob.defvjp(_token_log_prob, _token_log_prob_vjp)


def over_positions(per_example: Time, like: Array) -> Array:
    """[b] to [b, 1, ...] so that it broadcasts against `like`."""
    return per_example.reshape(per_example.shape + (1,) * (like.ndim - 1))


def sum_positions(x: Float[Array, "b *s"]) -> Nats:
    return x.reshape(x.shape[0], -1).sum(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking(Defaults):
    """A base class for masked processes; they give `forward_sample`, `unmask` and their bounds."""

    time_features: str = option(
        "Whether the network sees t; the optimal one need not.", "t", one_of=("t", "none")
    )

    vocab_size: int = 0  # V, from the data

    def bind(self, data: DataSpec) -> Any:
        if data.vocab_size is None:
            raise UserError(
                "config.process: masked diffusion needs tokens or levels, and these data are real "
                f"(domain {data.domain or 'real'!r}); use a star-shaped or Gaussian process"
            )
        return dataclasses.replace(self, vocab_size=data.vocab_size)

    def network_spec(self, data: DataSpec) -> NetworkSpec:
        return NetworkSpec(
            shape=data.shape,
            vocab_size=data.vocab_size + 1,
            out_features=data.vocab_size,
            has_time=self.time_features == "t",
            num_classes=data.num_classes,
        )

    @property
    def mask_id(self) -> int:
        """The id of MASK, V."""
        return self.vocab_size

    def prior_sample(self, keys: Keys, shape: tuple[int, ...]) -> Tokens:
        """All MASK."""
        return jnp.full((keys.shape[0], *shape), self.mask_id, jnp.int32)

    def predict(self, output: Logits, z_t: Tokens, t: Time) -> Logits:
        """The network's logits over the V tokens; unmasked positions are never read."""
        return output

    def unmask(self, prediction: Logits, t: Time, s: Time) -> tuple[Float[Array, "b *_"], Logits]:
        """u of (1), `[b]` if it is the same at all positions or `[b, *s]`, and the logits of pi."""
        raise NotImplementedError

    def reverse_sample(
        self, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        """(1): whether to unmask is drawn first, which token second.

        As one draw from V + 1 outcomes (`joint_reverse_sample`) the tokens would share the small
        probability u, which float32 noise does not resolve; apart, nothing is scaled down.
        """
        token_keys, unmask_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        u, logits = self.unmask(prediction, t, s)
        tokens = categorical(token_keys, logits.astype(jnp.float32), "high")
        unmask = bernoulli(unmask_keys, u, z_t.shape[1:])
        return jnp.where((z_t == self.mask_id) & unmask, tokens, z_t)

    def view(self, z_t: Tokens, t: Time) -> Tokens:
        """z_t itself: MASK is beyond the vocabulary, and drawn as such."""
        return z_t

    def view_prediction(self, z_t: Tokens, prediction: Logits) -> Tokens:
        """The likeliest tokens where MASK is."""
        return jnp.where(z_t == self.mask_id, jnp.argmax(prediction, axis=-1), z_t)

    def decode(self, denoise: Denoiser, z_0: Tokens) -> Tokens:
        """Puts the likeliest token where MASK is left."""
        logits = denoise(z_0, jnp.zeros(z_0.shape[0]))
        return jnp.where(z_0 == self.mask_id, jnp.argmax(logits, axis=-1), z_0)


def joint_reverse_sample(
    process: Masking,
    keys: Keys,
    z_t: Tokens,
    prediction: Logits,
    t: Time,
    s: Time,
    gumbel: str = "high",
) -> Tokens:
    """(1) as one draw from V + 1 outcomes, the way MD4's published sampler does it.

    Args:
      gumbel: "low" is JAX's default noise and the published samples': it ends at 15.9, so that
        classes below 1e-7 are all but never drawn (with V = 50,257 and u = 1e-4 more than half of
        the unmaskings are lost, an unintended top-p). "high" reaches 1e-14 and draws the law.
    """
    u, logits = process.unmask(prediction, t, s)
    u = u if u.ndim == z_t.ndim else over_positions(u, z_t)
    u = jnp.broadcast_to(u, z_t.shape)[..., None]
    log_pi = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    log_p = jnp.concatenate([jnp.log(u) + log_pi, jnp.log1p(-u)], axis=-1)
    return jnp.where(z_t == process.mask_id, categorical(keys, log_p, gumbel), z_t)


def bernoulli(keys: Keys, probability: Float[Array, "b *_"], shape: tuple[int, ...]) -> TokenMask:
    """`[b, *shape]` events, exact down to probabilities of 1e-9 (a plain uniform has 23 bits)."""
    draw = lambda key, p: jax.random.bernoulli(key, p, shape, mode="high")
    return jax.vmap(draw)(keys, probability)


def categorical(keys: Keys, logits: Logits, gumbel: str) -> Tokens:
    draw = lambda key, l: jax.random.categorical(key, l, mode=gumbel)
    return jax.vmap(draw)(keys, logits)
