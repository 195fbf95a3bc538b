r"""Uniform-state discrete diffusion: a token is replaced by any other, and never hidden.

D3PM's uniform kind (J. Austin et al., arXiv:2107.03006) and its limit in continuous time (Y. Schiff
et al., arXiv:2412.10193; S. S. Sahoo et al., "The Diffusion Duality", arXiv:2506.10892). With V
tokens, alpha(t) falling from 1 - eps to eps and a = alpha(t) / alpha(s),

  (1)  q_t(j | x) = alpha(t) [j = x] + (1 - alpha(t)) / V
  (2)  q(z_s = j | z_t = z, x) = (a [j = z] + (1 - a) / V) q_s(j | x) / q_t(z | x)

The network predicts mu(z_t, t), a law over tokens. The model's marginals are m_t(j), (1) with mu_j
for [j = x], and its reverse step is (2) with m for q. In continuous time it jumps from z to j at
the rate beta / V m_t(j) / m_t(z), beta = -alpha' / alpha, where the true rate given x has q for m.
The divergence of the two chains, summed over j, is

  (3)  L_inf = E_t beta / V sum over positions of
               1 / m_z - 1 / q_z + (KL(q_t || m_t) + log(m_z / q_z)) / q_z
  (4)  L_T = sum over t = 1/T, ..., 1 of KL(q(z_s | z_t, x) || p(z_s | z_t)),   s = t - 1/T

(the Rao-Blackwellised form: no jump is drawn). Both are least where mu is the law of x given z_t at
the other positions: what z_t is at its own is in (2) already. z_0 is decoded by (1) as it stands,
whose columns are laws too, and the prior is uniform:

  (5)  L_rec = D H(q_0),   L_prior = D (ln V - H(q_1)),   H the entropy of (1) in nats

(D3PM's absorbing kind is MD4's process in T steps: `masked.py`, equation (4).)
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, Defaults, Denoiser, NetworkSpec, step_time
from md4jax.processes.masked_schedules import SCHEDULES
from md4jax.processes.masking import categorical, over_positions, sum_positions
from md4jax.typing import Keys, Logits, Nats, Time, Tokens


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformState(Defaults):
    """Tokens replaced by random ones; the module docstring has the equations."""

    schedule: str = option("How the share that was replaced grows.", "linear",
                           one_of=("linear", "cosine"))  # fmt: skip
    eps: float = option("Share replaced at t = 0 and kept at t = 1.", 1e-4, above=0, below=0.5)
    num_timesteps: int | None = option(
        "T of the discrete-time bound (4); None for the continuous-time bound (3).", None,
        at_least=1,
    )  # fmt: skip

    vocab_size: int = 0  # V, from the data

    def bind(self, data: DataSpec) -> UniformState:
        if data.vocab_size is None:
            raise UserError(
                "config.process.name = 'uniform_state': it needs tokens or levels, and these data "
                f"are real (domain {data.domain!r}); use a star-shaped or Gaussian process"
            )
        return dataclasses.replace(self, vocab_size=data.vocab_size)

    def network_spec(self, data: DataSpec) -> NetworkSpec:
        return NetworkSpec(
            shape=data.shape, vocab_size=data.vocab_size, out_features=data.vocab_size,
            num_classes=data.num_classes,
        )  # fmt: skip

    # The schedule.

    def alpha(self, t: Time) -> Time:
        """The share that was not replaced."""
        return (1 - 2 * self.eps) * SCHEDULES[self.schedule]().kept(t) + self.eps

    def replaced(self, t: Time) -> Time:
        """1 - alpha(t), without cancellation near t = 0."""
        return (1 - 2 * self.eps) * SCHEDULES[self.schedule]().masked(t) + self.eps

    def beta(self, t: Time) -> Time:
        """-alpha'(t) / alpha(t)."""
        return (1 - 2 * self.eps) * SCHEDULES[self.schedule]().rate(t) / self.alpha(t)

    def replaced_between(self, t: Time, s: Time) -> Time:
        """1 - a = 1 - alpha(t) / alpha(s)."""
        increment = SCHEDULES[self.schedule]().increment(t, t - s)
        return (1 - 2 * self.eps) * increment / self.alpha(s)

    def time(self, uniform: Float[Array, "b"]) -> Time:
        if self.num_timesteps is None:
            return uniform
        return step_time(uniform, self.num_timesteps)

    # Marginals.

    def marginal(self, mu: Float[Array, "b *s v"], t: Time) -> Float[Array, "b *s v"]:
        """m_t of (1): alpha mu + (1 - alpha) / V; q_t for a one-hot mu."""
        replaced = over_positions(self.replaced(t), mu)
        return (1 - replaced) * mu + replaced / self.vocab_size

    def _laws(self, prediction: Logits, x0: Tokens, t: Time) -> tuple[Array, Array]:
        """q_t and m_t, `[b, *s, v]`."""
        one_hot = jax.nn.one_hot(x0, self.vocab_size)
        mu = jax.nn.softmax(prediction.astype(jnp.float32), axis=-1)
        return self.marginal(one_hot, t), self.marginal(mu, t)

    def _entropy(self, replaced: float) -> float:
        """H of (1) with so large a share replaced, nats."""
        other = replaced / self.vocab_size
        same = 1 - replaced + other
        return -same * math.log(same) - (self.vocab_size - 1) * other * math.log(other)

    # The five functions.

    def prior_sample(self, keys: Keys, shape: tuple[int, ...]) -> Tokens:
        """Uniform tokens."""
        draw = lambda key: jax.random.randint(key, shape, 0, self.vocab_size)
        return jax.vmap(draw)(keys)

    def forward_sample(self, keys: Keys, x0: Tokens, t: Time) -> Tokens:
        token_keys, replace_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        draw = lambda key, p: jax.random.bernoulli(key, p, x0.shape[1:])
        replace = jax.vmap(draw)(replace_keys, self.replaced(t))
        return jnp.where(replace, self.prior_sample(token_keys, x0.shape[1:]), x0)

    def predict(self, output: Logits, z_t: Tokens, t: Time) -> Logits:
        """The network's logits over tokens."""
        return output

    def bound_terms(
        self, keys: Keys, prediction: Logits, x0: Tokens, z_t: Tokens, t: Time
    ) -> dict[str, Nats]:
        """(3) or (4), and (5): `diffusion`, `reconstruction` and `prior`, nats `[b]`."""
        make = self._jumps if self.num_timesteps is None else self._steps
        positions = math.prod(x0.shape[1:])
        constant = lambda nats: jnp.full(x0.shape[0], positions * nats, jnp.float32)
        return {
            "diffusion": make(prediction, x0, z_t, t),
            "reconstruction": constant(self._entropy(self.eps)),
            "prior": constant(math.log(self.vocab_size) - self._entropy(1 - self.eps)),
        }

    loss_terms = bound_terms

    def _jumps(self, prediction: Logits, x0: Tokens, z_t: Tokens, t: Time) -> Nats:
        """(3), nats `[b]`."""
        q, m = self._laws(prediction, x0, t)
        q_z, m_z = _at(q, z_t), _at(m, z_t)
        divergence = jnp.sum(q * (jnp.log(q) - jnp.log(m)), axis=-1)
        each = 1 / m_z - 1 / q_z + (divergence + jnp.log(m_z / q_z)) / q_z
        return self.beta(t) / self.vocab_size * sum_positions(each)

    def _steps(self, prediction: Logits, x0: Tokens, z_t: Tokens, t: Time) -> Nats:
        """(4), T times the term of one step, nats `[b]`."""
        s = t - 1 / self.num_timesteps
        (q_t, m_t), (q_s, m_s) = self._laws(prediction, x0, t), self._laws(prediction, x0, s)
        q_z, m_z = _at(q_t, z_t), _at(m_t, z_t)
        posterior = self._kernel(z_t, t, s) * q_s / q_z[..., None]
        log_ratio = jnp.sum(posterior * (jnp.log(q_s) - jnp.log(m_s)), axis=-1)
        return self.num_timesteps * sum_positions(log_ratio + jnp.log(m_z / q_z))

    def _kernel(self, z_t: Tokens, t: Time, s: Time) -> Float[Array, "b *s v"]:
        """q(z_t | z_s = j), the first factor of (2), at each j."""
        replaced = over_positions(self.replaced_between(t, s), z_t)[..., None]
        one_hot = jax.nn.one_hot(z_t, self.vocab_size)
        return (1 - replaced) * one_hot + replaced / self.vocab_size

    def reverse_sample(
        self, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        """(2) with the model's marginals."""
        mu = jax.nn.softmax(prediction.astype(jnp.float32), axis=-1)
        law = self._kernel(z_t, t, s) * self.marginal(mu, s)
        return categorical(keys, jnp.log(law), "high")

    def view(self, z_t: Tokens, t: Time) -> Tokens:
        return z_t

    def view_prediction(self, z_t: Tokens, prediction: Logits) -> Tokens:
        """The likeliest tokens."""
        return jnp.argmax(prediction, axis=-1)

    def decode(self, denoise: Denoiser, z_0: Tokens) -> Tokens:
        """As it stands: eps of the tokens are still noise."""
        return z_0


def _at(law: Float[Array, "b *s v"], tokens: Tokens) -> Float[Array, "b *s"]:
    return jnp.take_along_axis(law, tokens[..., None], axis=-1)[..., 0]
