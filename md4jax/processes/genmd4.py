r"""GenMD4: masked diffusion in which each token has a schedule of its own, which is learned.

J. Shi, K. Han, Z. Wang, A. Doucet, M. K. Titsias, "Simplified and Generalized Masked Diffusion for
Discrete Data", NeurIPS 2024, arXiv:2406.04329, section 6 and appendices H and I. With a power
p_v = softplus(w_v) > 0 for each token v,

  (1)  q(z_t = MASK | x) = 1 - alpha_x(t) = (1 - eps) t^{p_x},   t in [t_1, 1]

so that common tokens may come last. With mu the network's law over tokens at a masked position,

  (2)  L = (1 - t_1) E_t sum over masked positions of (sum_v p_v mu_v - p_x (1 + log mu_x)) / t

(each sum is MD4's -p log mu_x if all p are equal), and at t_1 what is still masked is decoded by
d_v proportional to t_1^{p_v}; at t = 1 the prior holds what is not masked to be uniform:

  (3)  L_rec = -sum over positions of (1 - eps) t_1^{p_x} log d_x,     L_prior = D eps ln V

As masking depends on w, the gradient of the mean of (2) needs that of the law z_t is drawn from.
With two z_t of one t, whose values of (2) are l_1 and l_2, it is without bias the gradient of

  (4)  (l_1 + l_2) / 2 + stop(l_1 - l_2) / 2 (log q(z^1 | x) - log q(z^2 | x))

(REINFORCE, each the other's baseline). The second term's mean is 0: here its value is left out and
its gradient kept, so that the loss that is logged is the bound. Going back from t to s,

  (5)  p(z_s = v | z_t = MASK) = (1 - (s / t)^{p_v}) mu_v

(The published code has no factor 1 - t_1 in (2), no L_prior, and no sampler.)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from md4jax import rng
from md4jax.options import option
from md4jax.processes.base import Denoiser
from md4jax.processes.masking import Masking, bernoulli, over_positions, sum_positions
from md4jax.typing import Keys, Logits, Nats, PyTree, Time, Tokens


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class GenMD4(Masking):
    """GenMD4's process: see the module docstring, whose equation numbers the methods cite."""

    initial_power: float = option("p_v before training; 1 is MD4's linear schedule.", 1.0, above=0)
    eps: float = option("Share kept at t = 1.", 1e-4, above=0, below=0.5)
    first_time: float = option("t_1, where the reconstruction begins.", 1e-3, above=0, below=0.5)

    params: Any = dataclasses.field(default=None, hash=False, compare=False)

    def init_params(self, key: Key[Array, ""]) -> PyTree:
        """w, for each token what makes its power the initial one."""
        w = math.log(math.expm1(self.initial_power))
        return {"w": jnp.full(self.vocab_size, w, jnp.float32)}

    def with_params(self, params: PyTree) -> GenMD4:
        return dataclasses.replace(self, params=params)

    @property
    def power(self) -> Float[Array, "v"]:
        """p_v of each token."""
        return jax.nn.softplus(self.params["w"])

    def time(self, uniform: Float[Array, "b"]) -> Time:
        """In [t_1, 1)."""
        return self.first_time + (1 - self.first_time) * uniform

    def log_mask_probability(self, x0: Tokens, t: Time) -> Float[Array, "b *s"]:
        """log (1 - alpha_x(t)) of (1)."""
        return math.log1p(-self.eps) + self.power[x0] * over_positions(jnp.log(t), x0)

    def forward_sample(self, keys: Keys, x0: Tokens, t: Time) -> Tokens:
        probability = jax.lax.stop_gradient(jnp.exp(self.log_mask_probability(x0, t)))
        return jnp.where(bernoulli(keys, probability, x0.shape[1:]), self.mask_id, x0)

    def log_forward(self, x0: Tokens, z_t: Tokens, t: Time) -> Nats:
        """log q(z_t | x0), nats `[b]`."""
        log_masked = self.log_mask_probability(x0, t)
        log_kept = jnp.log(-jnp.expm1(log_masked))
        return sum_positions(jnp.where(z_t == self.mask_id, log_masked, log_kept))

    def diffusion(self, prediction: Logits, x0: Tokens, z_t: Tokens, t: Time) -> Nats:
        """(2) of one z_t, nats `[b]`."""
        log_mu = jax.nn.log_softmax(prediction.astype(jnp.float32), axis=-1)
        log_mu_x = jnp.take_along_axis(log_mu, x0[..., None], axis=-1)[..., 0]
        each = jnp.exp(log_mu) @ self.power - self.power[x0] * (1 + log_mu_x)
        masked = jnp.where(z_t == self.mask_id, each, 0.0)
        return (1 - self.first_time) * sum_positions(masked) / t

    def edge_terms(self, x0: Tokens) -> dict[str, Nats]:
        """(3)."""
        log_first = math.log(self.first_time)
        log_decoded = jax.nn.log_softmax(self.power * log_first)
        masked = jnp.exp(math.log1p(-self.eps) + self.power * log_first)
        prior = math.prod(x0.shape[1:]) * self.eps * math.log(self.vocab_size)
        return {
            "reconstruction": sum_positions(-(masked * log_decoded)[x0]),
            "prior": jnp.full(x0.shape[0], prior, jnp.float32),
        }

    def bound_terms(
        self, keys: Keys, prediction: Logits, x0: Tokens, z_t: Tokens, t: Time
    ) -> dict[str, Nats]:
        """(2) and (3): `diffusion`, `reconstruction` and `prior`, nats `[b]`."""
        return {"diffusion": self.diffusion(prediction, x0, z_t, t), **self.edge_terms(x0)}

    loss_terms = bound_terms  # Without the gradient of w that `training_terms` has.

    def training_terms(self, denoise: Denoiser, keys: Keys, x0: Tokens, t: Time) -> dict[str, Nats]:
        """(4) and (3): the values are those of `bound_terms`, averaged over two z_t."""
        z = [self.forward_sample(rng.fold(keys, i), x0, t) for i in range(2)]
        values = [self.diffusion(denoise(z_t, t), x0, z_t, t) for z_t in z]
        first, second = (self.log_forward(x0, z_t, t) for z_t in z)
        surrogate = 0.5 * jax.lax.stop_gradient(values[0] - values[1]) * (first - second)
        surrogate = surrogate - jax.lax.stop_gradient(surrogate)
        return {"diffusion": 0.5 * (values[0] + values[1]) + surrogate, **self.edge_terms(x0)}

    def unmask(self, prediction: Logits, t: Time, s: Time) -> tuple[Float[Array, "b *s"], Logits]:
        """The sum of (5) over tokens, and its logits."""
        log_mu = jax.nn.log_softmax(prediction.astype(jnp.float32), axis=-1)
        log_ratio = over_positions(jnp.log(s) - jnp.log(t), log_mu)
        log_rate = jnp.log(-jnp.expm1(self.power * log_ratio))
        return jnp.exp(jax.nn.logsumexp(log_mu + log_rate, axis=-1)), log_mu + log_rate
