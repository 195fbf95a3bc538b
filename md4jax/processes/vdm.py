r"""Gaussian diffusion in continuous time: variational diffusion models (VDM).

D. Kingma, T. Salimans, B. Poole, J. Ho, "Variational Diffusion Models", arXiv:2107.00630. Equations
(1) to (4) are in `gaussian_math.py`; gamma(t) = -log SNR(t) rises from gamma_min to gamma_max:

  (5)  A = sigmoid(-gamma),   S = sigmoid(gamma)                                    [section 3.1]
  (6)  L_inf = E_t [ gamma'(t) / 2 |e - e_hat|^2 ],   t ~ U(0, 1)                   [eq. 17]
  (7)  L_T = T/2 E_i [ (e^(gamma_t - gamma_s) - 1) |e - e_hat|^2 ],   t = i/T, s = t - 1/T [eq. 14]
  (8)  p(x | z_0) proportional to N(z_0; sqrt(A_0) x, S_0) over the levels, entry by entry [eq. 11]

and the prior's KL. (6) is the same for every gamma with the same ends, so a learned one cannot
lower it; it is learned to make the estimate's variance small [appendix I.2]. With p = 1/gamma' the
density of gamma, that variance changes with E[L^2] = E_gamma~p [w(gamma)^2 / p^2], whose gradient
is that of  (9)  E[ L^2 log gamma'(t(gamma)) ]  with L and gamma held fixed.

The ends do change the bound. The schedule `learned_linear`, of the published code, learns them (and
no course between them): its loss is the whole bound, reconstruction and prior with it, and moves
gamma wherever that stands in it. The network is told of gamma by its place between the first ends.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, NetworkSpec, step_time
from md4jax.processes.gaussian_math import (
    TARGETS,
    TO_X0,
    DomainScale,
    Estimate,
    GaussianBase,
    Image,
    Levels,
    LevelScale,
    over_positions,
    standard_normal,
    sum_positions,
)
from md4jax.processes.gaussian_schedules import (
    GAMMAS,
    init_learned_gamma,
    init_learned_linear_gamma,
)
from md4jax.typing import Keys, Nats, PyTree, Time


class CentredScale(LevelScale):
    """Levels at the middles of V equal parts of [-1, 1]: x0 = (2 x + 1) / V - 1.

    For VDM, which has (8) and no need of `log_prob`, that of the other scale.
    """

    def to_x0(self, x: Levels) -> Image:
        # Of a whole number: exact where V is a power of two, as VDM's finest waves want it.
        return (2 * x + 1).astype(jnp.float32) * (1 / self.levels) - 1

    def to_values(self, x0: Image) -> Levels:
        return jnp.round(self.to_unit(x0) * (self.levels - 1)).astype(jnp.int32)

    def to_unit(self, x0: Image) -> Image:
        return jnp.clip(((x0 + 1) * self.levels - 1) / (2 * (self.levels - 1)), 0, 1)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class VDM(GaussianBase):
    """VDM's process: see the module docstring, whose equation numbers the methods cite."""

    schedule: str = option(
        "gamma(t); learned is a monotone network between fixed ends, learned_linear a line whose "
        "ends are learned, from gamma_min and gamma_max on.", "linear",
        one_of=tuple(GAMMAS))  # fmt: skip
    gamma_min: float = option("-log SNR at t = 0.", -13.3)
    gamma_max: float = option("-log SNR at t = 1.", 5.0)
    num_timesteps: int | None = option("T of the bound (7); None for (6).", None, at_least=1)
    target: str = option("What the network predicts.", "noise", one_of=tuple(TO_X0))
    loss: str = option("The bound (6) or (7), or a simple loss as of DDPM.", "vlb",
                       one_of=("vlb", "mse", "l1", "huber"))  # fmt: skip
    centre_levels: bool = option(
        "Level x of V is (2 x + 1) / V - 1, as in VDM's code; else 2 x / (V - 1) - 1.", False
    )

    # Of the learned schedule; None in one that is not.
    schedule_params: PyTree = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if self.gamma_min >= self.gamma_max:
            raise UserError(
                f"config.process.gamma_min = {self.gamma_min} should be below "
                f"config.process.gamma_max = {self.gamma_max}"
            )
        if self.learns_ends and self.loss != "vlb":
            raise UserError(
                f"config.process.loss = {self.loss!r} with config.process.schedule = "
                "'learned_linear': where its ends should be only the bound tells; use 'vlb'"
            )

    def bind(self, data: DataSpec) -> VDM:
        if data.vocab_size is None:
            raise UserError(
                "config.process.name = 'vdm': it needs integer levels, and these data are real "
                f"(domain {data.domain or 'real'!r}); use 'gaussian'"
            )
        return super().bind(data)

    def network_spec(self, data: DataSpec) -> NetworkSpec:
        return NetworkSpec(
            shape=data.shape, vocab_size=None, out_features=1, num_classes=data.num_classes
        )

    @property
    def is_learned(self) -> bool:
        return self.schedule == "learned" or self.learns_ends

    @property
    def learns_ends(self) -> bool:
        """Whether the bound itself moves the schedule."""
        return self.schedule == "learned_linear"

    @property
    def scale(self) -> LevelScale | DomainScale:
        return CentredScale(self.levels) if self.centre_levels else super().scale

    def init_params(self, key: Key[Array, ""]) -> PyTree:
        if self.learns_ends:
            return init_learned_linear_gamma(self.gamma_min, self.gamma_max)
        return init_learned_gamma(key) if self.is_learned else {}

    def with_params(self, params: PyTree) -> VDM:
        return dataclasses.replace(self, schedule_params=params)

    # The schedule.

    def _gamma(self, t: Array) -> Array:
        return GAMMAS[self.schedule](self.schedule_params, t, self.gamma_min, self.gamma_max)

    def _held(self, x: Array) -> Array:
        """Fixed, but where the ends are learned."""
        return x if self.learns_ends else jax.lax.stop_gradient(x)

    def gamma(self, t: Array) -> Array:
        """-log SNR; unless it learns its ends, the loss reaches the schedule by (9) alone."""
        return self._held(self._gamma(t))

    def gamma_rate(self, t: Array) -> Array:
        """gamma'(t)."""
        return jax.jvp(self._gamma, (t,), (jnp.ones_like(t),))[1]

    def alpha_bar(self, t: Time) -> Time:
        return jax.nn.sigmoid(-self.gamma(t))

    def noise_variance(self, t: Time) -> Time:
        return jax.nn.sigmoid(self.gamma(t))

    def step_variance(self, t: Time, s: Time) -> Time:
        # log A = -softplus(gamma).
        return -jnp.expm1(jax.nn.softplus(self.gamma(s)) - jax.nn.softplus(self.gamma(t)))

    def network_time(self, t: Time) -> Time:
        """gamma, scaled to [0, 1]."""
        return (self.gamma(t) - self.gamma_min) / (self.gamma_max - self.gamma_min)

    def time(self, uniform: Float[Array, "b"]) -> Time:
        if self.num_timesteps is None:
            return uniform
        return step_time(uniform, self.num_timesteps)

    # The reverse step.

    def predict(self, output: Array, z_t: Image, t: Time) -> Estimate:
        """The network's `[b, *s, 1]` as an estimate of x0.

        Raises:
          ValueError: it has another number of features.
        """
        if output.shape != (*z_t.shape, 1):
            raise ValueError(
                f"VDM takes one number a channel, an output {(*z_t.shape, 1)}; the network's is "
                f"{output.shape}"
            )
        output = output[..., 0].astype(jnp.float32)
        x0 = TO_X0[self.target](output, z_t, *self.signal_and_noise(t, z_t))
        return Estimate(x0, output, None)

    def reverse_sample(
        self, keys: Keys, z_t: Image, prediction: Estimate, t: Time, s: Time
    ) -> Image:
        """Draws from (2) with the predicted x0, also at s = 0, where some noise is left."""
        mean = self.posterior_mean(self.clipped(prediction), z_t, t, s)
        deviation = over_positions(jnp.sqrt(self.posterior_variance(t, s)), z_t)
        return mean + deviation * standard_normal(keys, z_t.shape[1:])

    # The bound and the losses.

    def _diffusion(self, x0: Levels, x0_hat: Image, z_t: Image, t: Time) -> Nats:
        """(6) or (7), nats `[b]`."""
        noise = self.noise_of(z_t, self.scale.to_x0(x0), t)
        error = sum_positions((noise - self.noise_of(z_t, x0_hat, t)) ** 2)
        if self.num_timesteps is None:
            return 0.5 * self._held(self.gamma_rate(t)) * error
        s = t - 1 / self.num_timesteps
        return 0.5 * self.num_timesteps * jnp.expm1(self.gamma(t) - self.gamma(s)) * error

    def _reconstruction(self, keys: Keys, x0: Levels) -> Nats:
        """-log p(x | z_0) of (8), z_0 drawn; nats `[b]`."""
        zero = jnp.zeros(x0.shape[0])
        z_0 = self.forward_sample(keys, x0, zero)
        signal, sigma = self.signal_and_noise(zero, z_0)
        values = self.scale.to_x0(jnp.arange(self.levels))
        logits = -0.5 * jnp.square((z_0[..., None] - signal[..., None] * values) / sigma[..., None])
        log_p = jnp.take_along_axis(logits, x0[..., None], axis=-1)[..., 0]
        return sum_positions(jax.nn.logsumexp(logits, axis=-1) - log_p)

    def bound_terms(
        self, keys: Keys, prediction: Estimate, x0: Levels, z_t: Image, t: Time
    ) -> dict[str, Nats]:
        """(6) or (7), (8) and the prior: `diffusion`, `reconstruction`, `prior`, nats `[b]`."""
        return {
            "diffusion": self._diffusion(x0, self.clipped(prediction), z_t, t),
            "reconstruction": self._reconstruction(keys, x0),
            "prior": self.prior_kl(x0),
        }

    def loss_terms(
        self, keys: Keys, prediction: Estimate, x0: Levels, z_t: Image, t: Time
    ) -> dict[str, Nats]:
        """The bound with x0 not clipped, or a simple loss; and `schedule`, of value 0, for (9).

        With fixed ends reconstruction and prior are the same whatever is learned: they are in the
        bound alone.
        """
        if self.learns_ends:
            return dataclasses.replace(self, clip="none").bound_terms(keys, prediction, x0, z_t, t)
        diffusion = self._diffusion(x0, prediction.x0, z_t, t)
        if self.loss == "vlb":
            terms = {"diffusion": diffusion}
        else:
            scaled = self.scale.to_x0(x0)
            noise = self.noise_of(z_t, scaled, t)
            target = TARGETS[self.target](scaled, noise, *self.signal_and_noise(t, z_t))
            terms = {"simple": self.simple_loss(prediction, target, self.target, t, self.loss)}
        if self.schedule_params:
            terms["schedule"] = self._schedule_term(diffusion / math.prod(x0.shape[1:]), t)
        return terms

    def _schedule_term(self, loss: Nats, t: Time) -> Nats:
        """(9) less its own value: 0, with the gradient that lowers the variance of (6)."""
        # With gamma held fixed, t moves as the schedule does: dt = -d gamma(t) / gamma'(t).
        rate = jax.lax.stop_gradient(self.gamma_rate(t))
        moved = t - (self._gamma(t) - self.gamma(t)) / rate
        surrogate = jax.lax.stop_gradient(loss**2) * jnp.log(self.gamma_rate(moved))
        return surrogate - jax.lax.stop_gradient(surrogate)
