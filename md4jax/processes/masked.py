r"""Masked (absorbing-state) discrete diffusion: MD4.

J. Shi, K. Han, Z. Wang, A. Doucet, M. K. Titsias, "Simplified and Generalized Masked Diffusion for
Discrete Data", NeurIPS 2024, arXiv:2406.04329. Tokens x are integers in [0, V); the id V is MASK.

Each token is kept with probability alpha(t) and masked otherwise, independently:

  (1)  q(z_t = x) = alpha(t),  q(z_t = MASK) = 1 - alpha(t)                      [section 2]
  (2)  1 - alpha(t) = (1 - 2 eps) m(t) + eps,   m(0) = 0, m(1) = 1
       linear m = t;  cosine m = sin(pi t / 2);  polynomial m = t^P              [table 4]

The network predicts mu(z_t, t), a distribution over the V tokens at each position. With
S = sum over masked positions of log mu[x] (nats, <= 0), the bound on -log p(x) is

  (3)  L_inf = E_t [ alpha'(t) / (1 - alpha(t)) S ]            t ~ U(0, 1)       [eq. 5]
  (4)  L_T   = sum over t = 1/T, ..., 1 of -u(t, t - 1/T) S                      [eq. 4]
  (5)  u(t, s) = (alpha(s) - alpha(t)) / (1 - alpha(t))

plus the reconstruction of the (1 - alpha(0)) D tokens still masked at t = 0, decoded uniformly, and
the prior term of the alpha(1) D tokens not yet masked at t = 1, which the prior also holds to be
uniform:

  (6)  L_rec = D (1 - alpha(0)) ln V,   L_prior = D alpha(1) ln V       (both are eps D ln V)

(The published code leaves L_prior out.) (4) is D3PM's absorbing-state bound (arXiv:2107.03006).
One reverse step unmasks each masked position with probability u(t, s), to a token drawn from mu:

  (7)  p(z_s | z_t = MASK) = u(t, s) mu + (1 - u(t, s)) [MASK]                   [eq. 7]
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, Defaults, Denoiser, NetworkSpec, step_time
from md4jax.typing import Keys, Logits, Nats, Time, TokenMask, Tokens


@dataclasses.dataclass(frozen=True)
class Linear:
    """m(t) = t. The other schedules are subclasses."""

    power: float | None = None
    needs_power = False

    def masked(self, t: Array) -> Array:
        """m(t)."""
        return t

    def kept(self, t: Array) -> Array:
        """1 - m(t), without cancellation near t = 1."""
        return 1 - t

    def rate(self, t: Array) -> Array:
        """m'(t)."""
        return jnp.ones_like(t)

    def increment(self, t: Array, h: Array | float) -> Array:
        """m(t) - m(t - h), without cancellation for small h."""
        return h * jnp.ones_like(t)


class Cosine(Linear):
    """m(t) = sin(pi t / 2)."""

    def masked(self, t: Array) -> Array:
        return jnp.sin(0.5 * jnp.pi * t)

    def kept(self, t: Array) -> Array:
        return 2 * jnp.sin(0.25 * jnp.pi * (1 - t)) ** 2

    def rate(self, t: Array) -> Array:
        return 0.5 * jnp.pi * jnp.sin(0.5 * jnp.pi * (1 - t))

    def increment(self, t: Array, h: Array | float) -> Array:
        return 2 * jnp.sin(0.5 * jnp.pi * (1 - t + 0.5 * h)) * jnp.sin(0.25 * jnp.pi * h)


class Polynomial(Linear):
    """m(t) = t^power."""

    needs_power = True

    def masked(self, t: Array) -> Array:
        return t**self.power

    def kept(self, t: Array) -> Array:
        return -jnp.expm1(self.power * jnp.log(t))

    def rate(self, t: Array) -> Array:
        return self.power * t ** (self.power - 1)

    def increment(self, t: Array, h: Array | float) -> Array:
        return -(t**self.power) * jnp.expm1(self.power * jnp.log1p(-h / t))


SCHEDULES = {"linear": Linear, "cosine": Cosine, "polynomial": Polynomial}


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


def _over_positions(per_example: Time, like: Array) -> Array:
    """[b] to [b, 1, ...] so that it broadcasts against `like`."""
    return per_example.reshape(per_example.shape + (1,) * (like.ndim - 1))


def _sum_positions(x: Float[Array, "b *s"]) -> Nats:
    return x.reshape(x.shape[0], -1).sum(axis=1)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Defaults):
    """MD4's process: see the module docstring, whose equation numbers the methods cite."""

    schedule: str = option("How the masked share m(t) grows.", "linear", one_of=tuple(SCHEDULES))
    power: float | None = option("P of the polynomial schedule.", None, above=0)
    eps: float = option("Share masked at t = 0 and kept at t = 1.", 1e-4, above=0, below=0.5)
    num_timesteps: int | None = option(
        "T of the discrete-time bound (4); None for the continuous-time bound (3).",
        None,
        at_least=1,
    )
    time_features: str = option(
        "Whether the network sees t; the optimal one need not.", "t", one_of=("t", "none")
    )

    vocab_size: int = 0  # V, from the data

    def __post_init__(self):
        if SCHEDULES[self.schedule].needs_power != (self.power is not None):
            raise UserError(
                f"config.process.power = {self.power!r} with config.process.schedule = "
                f"{self.schedule!r}: the polynomial schedule needs a power, the others take None"
            )

    def bind(self, data: DataSpec) -> Masked:
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

    # The schedule.

    @property
    def mask_id(self) -> int:
        """The id of MASK, V."""
        return self.vocab_size

    def _m(self) -> Linear:
        return SCHEDULES[self.schedule](self.power)

    def alpha(self, t: Array) -> Array:
        """alpha(t), the probability that a token is kept (1)."""
        return (1 - 2 * self.eps) * self._m().kept(t) + self.eps

    def mask_probability(self, t: Array) -> Array:
        """1 - alpha(t), computed directly (2): near t = 0 a subtraction loses its digits."""
        return (1 - 2 * self.eps) * self._m().masked(t) + self.eps

    def loss_weight(self, t: Array) -> Array:
        """alpha'(t) / (1 - alpha(t)), the (negative) weight of (3)."""
        return -(1 - 2 * self.eps) * self._m().rate(t) / self.mask_probability(t)

    def unmask_probability(self, t: Array, h: Array | float) -> Array:
        """u(t, t - h) of (5)."""
        return (1 - 2 * self.eps) * self._m().increment(t, h) / self.mask_probability(t)

    # The five functions.

    def time(self, uniform: Float[Array, "b"]) -> Time:
        if self.num_timesteps is None:
            return uniform
        return step_time(uniform, self.num_timesteps)

    def prior_sample(self, keys: Keys, shape: tuple[int, ...]) -> Tokens:
        """All MASK."""
        return jnp.full((keys.shape[0], *shape), self.mask_id, jnp.int32)

    def forward_sample(self, keys: Keys, x0: Tokens, t: Time) -> Tokens:
        masked = _bernoulli(keys, self.mask_probability(t), x0.shape[1:])
        return jnp.where(masked, self.mask_id, x0)

    def predict(self, output: Logits, z_t: Tokens, t: Time) -> Logits:
        """The network's logits over the V tokens; unmasked positions are never read."""
        return output

    def bound_terms(
        self, keys: Keys, prediction: Logits, x0: Tokens, z_t: Tokens, t: Time
    ) -> dict[str, Nats]:
        """(3) or (4), and (6): `diffusion`, `reconstruction` and `prior`, nats `[b]`."""
        log_prob = jnp.where(z_t == self.mask_id, token_log_prob(prediction, x0), 0.0)
        if self.num_timesteps is None:
            weight = self.loss_weight(t)
        else:
            weight = -self.num_timesteps * self.unmask_probability(t, 1 / self.num_timesteps)
        left_over = math.prod(x0.shape[1:]) * self.eps * math.log(self.vocab_size)
        left_over = jnp.full(x0.shape[0], left_over, jnp.float32)
        return {
            "diffusion": weight * _sum_positions(log_prob),
            "reconstruction": left_over,
            "prior": left_over,
        }

    loss_terms = bound_terms

    def reverse_sample(
        self, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        """(7): whether to unmask is drawn first, which token second.

        As one draw from V + 1 outcomes (`joint_reverse_sample`) the tokens would share the small
        probability u(t, s), which float32 noise does not resolve; apart, nothing is scaled down.
        """
        token_keys, unmask_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        tokens = _categorical(token_keys, prediction.astype(jnp.float32), "high")
        unmask = _bernoulli(unmask_keys, self.unmask_probability(t, t - s), z_t.shape[1:])
        return jnp.where((z_t == self.mask_id) & unmask, tokens, z_t)

    def view(self, z_t: Tokens, t: Time) -> Tokens:
        """MASK is shown as the middle of the values."""
        return jnp.where(z_t == self.mask_id, self.vocab_size // 2, z_t)

    def view_prediction(self, z_t: Tokens, prediction: Logits) -> Tokens:
        """The likeliest tokens where MASK is."""
        return jnp.where(z_t == self.mask_id, jnp.argmax(prediction, axis=-1), z_t)

    def decode(self, denoise: Denoiser, z_0: Tokens) -> Tokens:
        """Puts the likeliest token where MASK is left: 1 - alpha(0) of all positions."""
        logits = denoise(z_0, jnp.zeros(z_0.shape[0]))
        return jnp.where(z_0 == self.mask_id, jnp.argmax(logits, axis=-1), z_0)


def joint_reverse_sample(
    process: Masked,
    keys: Keys,
    z_t: Tokens,
    prediction: Logits,
    t: Time,
    s: Time,
    gumbel: str = "high",
) -> Tokens:
    """(7) as one draw from V + 1 outcomes, the way MD4's published sampler does it.

    Args:
      gumbel: "low" is JAX's default noise and the published samples': it ends at 15.9, so that
        classes below 1e-7 are all but never drawn (with V = 50,257 and u = 1e-4 more than half of
        the unmaskings are lost, an unintended top-p). "high" reaches 1e-14 and draws the law.
    """
    u = _over_positions(process.unmask_probability(t, t - s), z_t)[..., None]
    log_mu = jax.nn.log_softmax(prediction.astype(jnp.float32), axis=-1)
    stay = jnp.broadcast_to(jnp.log1p(-u), (*z_t.shape, 1))
    log_p = jnp.concatenate([jnp.log(u) + log_mu, stay], axis=-1)
    return jnp.where(z_t == process.mask_id, _categorical(keys, log_p, gumbel), z_t)


def _bernoulli(keys: Keys, probability: Time, shape: tuple[int, ...]) -> TokenMask:
    """`[b, *shape]` events, exact down to probabilities of 1e-9 (a plain uniform has 23 bits)."""
    draw = lambda key, p: jax.random.bernoulli(key, p, shape, mode="high")
    return jax.vmap(draw)(keys, probability)


def _categorical(keys: Keys, logits: Logits, gumbel: str) -> Tokens:
    draw = lambda key, l: jax.random.categorical(key, l, mode=gumbel)
    return jax.vmap(draw)(keys, logits)
