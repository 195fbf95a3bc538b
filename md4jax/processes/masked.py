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
from md4jax.processes.base import step_time
from md4jax.processes.masked_schedules import SCHEDULES, Linear
from md4jax.processes.masking import (
    Masking,
    bernoulli,
    over_positions,
    sum_positions,
    token_log_prob,
)
from md4jax.typing import Keys, Logits, Nats, Time, Tokens


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Masking):
    """MD4's process: see the module docstring, whose equation numbers the methods cite."""

    schedule: str = option("How the masked share m(t) grows.", "linear", one_of=tuple(SCHEDULES))
    power: float | None = option("P of the polynomial schedule.", None, above=0)
    eps: float = option("Share masked at t = 0 and kept at t = 1.", 1e-4, above=0, below=0.5)
    num_timesteps: int | None = option(
        "T of the discrete-time bound (4); None for the continuous-time bound (3).",
        None,
        at_least=1,
    )

    def __post_init__(self):
        if SCHEDULES[self.schedule].needs_power != (self.power is not None):
            raise UserError(
                f"config.process.power = {self.power!r} with config.process.schedule = "
                f"{self.schedule!r}: the polynomial schedule needs a power, the others take None"
            )

    # The schedule.

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

    def time_of(self, mask_probability: Array) -> Array:
        """The t in [0, 1] at which 1 - alpha(t) is so large."""
        m = (mask_probability - self.eps) / (1 - 2 * self.eps)
        return self._m().time_of(jnp.clip(m, 0.0, 1.0))

    # The five functions.

    def time(self, uniform: Float[Array, "b"]) -> Time:
        if self.num_timesteps is None:
            return uniform
        return step_time(uniform, self.num_timesteps)

    def forward_sample(self, keys: Keys, x0: Tokens, t: Time) -> Tokens:
        masked = bernoulli(keys, self.mask_probability(t), x0.shape[1:])
        return jnp.where(masked, self.mask_id, x0)

    def unmask(self, prediction: Logits, t: Time, s: Time) -> tuple[Time, Logits]:
        """u(t, s) `[b]`, the same at all positions, and mu (7)."""
        return self.unmask_probability(t, t - s), prediction

    def reverse_log_prob(
        self, z_t: Tokens, z_s: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Nats:
        """log p(z_s | z_t), nats `[b]`, for a z_s that may follow z_t.

        Each MASK is replaced with probability u(t, s) (5), by a token of the law mu (7).
        """
        u = over_positions(self.unmask_probability(t, t - s), z_t)
        drawn = z_s != self.mask_id
        log_mu = token_log_prob(prediction, jnp.where(drawn, z_s, 0))
        # Of u that are 0 or 1 the outcome that cannot be is kept from the logarithm.
        drawn_too = jnp.log(jnp.where(drawn, u, 1.0)) + log_mu
        log_p = jnp.where(drawn, drawn_too, jnp.log1p(-jnp.where(drawn, 0.0, u)))
        return sum_positions(jnp.where(z_t == self.mask_id, log_p, 0.0))

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
            "diffusion": weight * sum_positions(log_prob),
            "reconstruction": left_over,
            "prior": left_over,
        }

    loss_terms = bound_terms
