r"""Gaussian diffusion in T steps: DDPM, Improved DDPM, DDIM's forward process.

J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239;
A. Nichol, P. Dhariwal, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672 (ID).
Equations (1) to (4) are in `gaussian_math.py`. Step i = 1, ..., T is at time t = i / T.

  (5)  L_simple = mean over entries of (target - output)^2                  [DDPM, eq. 14]
  (6)  L_vlb = L_0 + sum_i KL(q(z_{i-1} | z_i, x0) || p(z_{i-1} | z_i)) + L_T,  L_0 by (4)  [ID, 4]
  (7)  L_hybrid = L_simple + lambda L_vlb, whose second part does not move the mean   [ID, eq. 16]
  (8)  learned range: log variance = f log b + (1 - f) log V, f = (output + 1) / 2    [ID, eq. 15]

Of real data p(x0 | z_1) is a density (`gaussian_math.py`). In a domain other than "real" the
network gives x0 by the domain's head, and variances are fixed: the DDPM that star-shaped diffusion
is compared with (arXiv:2302.05259).

V is 0 at i = 1; its logarithm is replaced by that of i = 2, as published.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, NetworkSpec, process_class, step_time
from md4jax.processes.domains import head_of
from md4jax.processes.gaussian_math import (
    TARGETS,
    TO_X0,
    Estimate,
    GaussianBase,
    Image,
    Values,
    gaussian_kl,
    over_positions,
    standard_normal,
    sum_positions,
)
from md4jax.processes.gaussian_schedules import BETAS, space_timesteps
from md4jax.typing import Keys, Nats, Time

LEARNED = ("learned", "learned_range")


@process_class
class Gaussian(GaussianBase):
    """DDPM's process: see the module docstring, whose equation numbers the methods cite."""

    num_timesteps: int = option("T.", 1000, at_least=1)
    schedule: str = option("How much noise each step adds.", "linear", one_of=tuple(BETAS))
    respacing: str = option(
        "Keep only these steps of the T: 'ddim50', '50' or sections '10,15,20'; '' is all. "
        "(A sampler's own `respacing` leaves the model as it is.)",
        "",
    )
    target: str = option(
        "What the network predicts: noise, x0, v or the mean of the previous step.",
        "noise",
        one_of=(*TO_X0, "previous"),
    )
    variance: str = option(
        "Of a reverse step: the posterior's, the forward step's, the network's log-variance, or "
        "the network's place between the first two.",
        "fixed_large",
        one_of=("fixed_small", "fixed_large", *LEARNED),
    )
    loss: str = option(
        "(5), with other distances than the square, or (6). With a learned variance, mse is (7).",
        "mse",
        one_of=("mse", "l1", "huber", "vlb"),
    )
    vlb_weight: float | None = option(
        "lambda of (7), or a factor on (6); None is 0.001 in (7), 1 in (6).", None, above=0
    )
    rescale_timesteps: bool = option(
        "The network is told 1000 i / T; else i. The same for T = 1000.", True
    )

    def __post_init__(self):
        if self.respacing:
            try:
                space_timesteps(self.num_timesteps, self.respacing)
            except UserError as error:
                raise UserError(f"config.process.{error}") from None
        if self.schedule == "jsd" and self.target == "noise":
            raise UserError(
                "config.process.target = 'noise' with config.process.schedule = 'jsd': no signal "
                "is left at the last step, so noise does not tell x0; predict x0 or v"
            )
        if self.target == "previous" and self.weighting != "uniform":
            raise UserError(
                f"config.process.weighting = {self.weighting!r} with config.process.target = "
                "'previous': its loss is not weighted; use 'uniform'"
            )

    def bind(self, data: DataSpec) -> Gaussian:
        where = f"the data are of the domain {data.domain!r}, of which the network gives a point"
        if head_of(data.domain) and self.target != "x0":
            raise UserError(f"config.process.target = {self.target!r}: {where}; use 'x0'")
        if head_of(data.domain) and self.variance in LEARNED:
            raise UserError(
                f"config.process.variance = {self.variance!r}: {where} and no variance; use "
                "'fixed_small' or 'fixed_large'"
            )
        return super().bind(data)

    def network_spec(self, data: DataSpec) -> NetworkSpec:
        domain = head_of(data.domain)
        return NetworkSpec(
            shape=data.shape,
            vocab_size=None,
            out_features=2 if self.variance in LEARNED else 1,
            num_classes=data.num_classes,
            out_shape=domain and domain.head_shape(data.shape),
        )

    # The schedule, in float64 on the host.

    @functools.cached_property
    def kept(self) -> np.ndarray:
        """Which of the T steps the chain has, counted from 0, `[chain_length]`."""
        if not self.respacing:
            return np.arange(self.num_timesteps)
        return np.array(space_timesteps(self.num_timesteps, self.respacing))

    @property
    def chain_length(self) -> int:
        """Steps of the chain: T, or as many as `respacing` keeps."""
        return len(self.kept)

    @functools.cached_property
    def log_alpha_bar(self) -> Float64[np.ndarray, "times"]:
        """log A at the times 0, 1/n, ..., 1 of the chain's n steps; A(0) = 1."""
        with np.errstate(divide="ignore"):  # The jsd schedule ends with A = 0.
            log_a = np.cumsum(np.log1p(-BETAS[self.schedule](self.num_timesteps)))
        return np.concatenate([[0.0], log_a[self.kept]])

    def _look_up(self, table: np.ndarray, t: Time) -> Time:
        index = jnp.round(t * self.chain_length).astype(jnp.int32)
        return jnp.asarray(table, jnp.float32)[index]

    def alpha_bar(self, t: Time) -> Time:
        return self._look_up(np.exp(self.log_alpha_bar), t)

    def noise_variance(self, t: Time) -> Time:
        # 0 - x, since -x would be -0 at t = 0, and the SNR there -inf.
        return self._look_up(0.0 - np.expm1(self.log_alpha_bar), t)

    def step_variance(self, t: Time, s: Time) -> Time:
        # Each logarithm is a sum of two float32, so that the difference of two is float64's.
        log_a = self.log_alpha_bar
        high = log_a.astype(np.float32)
        low = np.subtract(log_a, high, out=np.zeros_like(log_a), where=np.isfinite(log_a))
        difference = self._look_up(high, t) - self._look_up(high, s)
        return -jnp.expm1(difference + (self._look_up(low, t) - self._look_up(low, s)))

    def network_time(self, t: Time) -> Time:
        """Step i of T, from 0, as i / T, or i / 1000 if times are not rescaled."""
        steps = self.num_timesteps if self.rescale_timesteps else 1000
        return self._look_up(np.concatenate([[0], self.kept]) / steps, t)

    def time(self, uniform: Float[Array, "b"]) -> Time:
        return step_time(uniform, self.chain_length)

    # The reverse step.

    def predict(self, output: Array, z_t: Image, t: Time) -> Estimate:
        """The network's `[b, *s, 1]`, or `[b, *s, 2]` with a learned variance, as an estimate.

        Or `[b, *head_shape]` of a domain other than "real".

        Raises:
          ValueError: it has another shape.
        """
        if domain := head_of(self.domain):
            shape = (len(z_t), *domain.head_shape(self.data_shape))
            if output.shape != shape:
                raise ValueError(
                    f"the domain {self.domain!r} takes an output {shape}; the network's is "
                    f"{output.shape}"
                )
            x0 = domain.head(output.astype(jnp.float32))
            return Estimate(x0, x0, None)
        wanted = 2 if self.variance in LEARNED else 1
        if output.shape != (*z_t.shape, wanted):
            raise ValueError(
                f"config.process.variance = {self.variance!r} takes {wanted} numbers a channel, "
                f"an output {(*z_t.shape, wanted)}; the network's is {output.shape}"
            )
        output = output.astype(jnp.float32)
        mean, variance = output[..., 0], output[..., 1] if wanted == 2 else None
        if self.target != "previous":
            x0 = TO_X0[self.target](mean, z_t, *self.signal_and_noise(t, z_t))
            return Estimate(x0, mean, variance)
        s, zero = t - 1 / self.chain_length, jnp.zeros_like(z_t)
        c1 = self.posterior_mean(jnp.ones_like(z_t), zero, t, s)
        return Estimate((mean - self.posterior_mean(zero, z_t, t, s)) / c1, mean, variance)

    def reverse_mean(self, prediction: Estimate, z_t: Image, t: Time, s: Time) -> Image:
        """The mean of p(z_s | z_t), from the clipped x0."""
        # A network that gives the mean has no x0 in it to be clipped.
        x0 = prediction.x0 if self.target == "previous" else self.clipped(prediction)
        return self.posterior_mean(x0, z_t, t, s)

    def reverse_log_variance(self, prediction: Estimate, t: Time, s: Time) -> Array:
        """log variance of p(z_s | z_t), `[b, 1, ...]` or `[b, *s]`."""
        forward = self.step_variance(t, s)
        last, small = self._log_posterior_variance(t, s)
        last, small, forward = (
            over_positions(x, prediction.x0) for x in (last, small, jnp.log(forward))
        )
        if self.variance == "learned":
            return prediction.variance
        if self.variance == "learned_range":
            share = 0.5 * (prediction.variance + 1)
            return share * forward + (1 - share) * small
        if self.variance == "fixed_small":
            return small
        return jnp.where(last, small, forward)

    def _log_posterior_variance(self, t: Time, s: Time) -> tuple[Array, Time]:
        """Whether s is 0, and log V, there that of the chain's second step."""
        step = 1 / self.chain_length
        last = s < 0.5 * step
        if self.chain_length == 1:  # No second step: the forward variance.
            return last, jnp.log(self.step_variance(t, s))
        second = self.posterior_variance(jnp.full_like(t, 2 * step), jnp.full_like(t, step))
        return last, jnp.log(jnp.where(last, second, self.posterior_variance(t, s)))

    def reverse_sample(
        self, keys: Keys, z_t: Image, prediction: Estimate, t: Time, s: Time
    ) -> Image:
        """Draws from N(`reverse_mean`, e^`reverse_log_variance`); its mean where s = 0."""
        mean = self.reverse_mean(prediction, z_t, t, s)
        deviation = jnp.exp(0.5 * self.reverse_log_variance(prediction, t, s))
        deviation = jnp.where(over_positions(self.noise_variance(s) > 0, z_t), deviation, 0)
        return mean + deviation * standard_normal(keys, z_t.shape[1:])

    # The bound and the losses.

    def step_bound(self, prediction: Estimate, x0: Values, z_t: Image, t: Time) -> Nats:
        """One term of (6): of the step that t is the end of; nats `[b]`."""
        s = jnp.maximum(t - 1 / self.chain_length, 0.0)
        mean = self.reverse_mean(prediction, z_t, t, s)
        log_variance = self.reverse_log_variance(prediction, t, s)
        last, small = self._log_posterior_variance(t, s)
        true_mean = self.posterior_mean(self.scale.to_x0(x0), z_t, t, s)
        kl = gaussian_kl(true_mean, over_positions(small, x0), mean, log_variance)
        decoder = -self.scale.log_prob(x0, mean, 0.5 * log_variance)
        return sum_positions(jnp.where(over_positions(last, x0), decoder, kl))

    def bound_terms(
        self, keys: Keys, prediction: Estimate, x0: Values, z_t: Image, t: Time
    ) -> dict[str, Nats]:
        """(6), the sum over steps as T times the mean: `reconstruction`, `diffusion`, `prior`."""
        term = self.chain_length * self.step_bound(prediction, x0, z_t, t)
        first = t < 1.5 / self.chain_length
        return {
            "diffusion": jnp.where(first, 0.0, term),
            "reconstruction": jnp.where(first, term, 0.0),
            "prior": self.prior_kl(x0),
        }

    def loss_terms(
        self, keys: Keys, prediction: Estimate, x0: Values, z_t: Image, t: Time
    ) -> dict[str, Nats]:
        """(5) and its kin as `simple`, lambda (6) as `vlb`; x0 is not clipped in training."""
        unclipped = dataclasses.replace(self, clip="none")
        vlb = lambda p: self.chain_length * unclipped.step_bound(p, x0, z_t, t)
        if self.loss == "vlb":
            return {"vlb": (self.vlb_weight or 1.0) * vlb(prediction)}
        target = self._target(self.scale.to_x0(x0), z_t, t)
        terms = {"simple": self.simple_loss(prediction, target, self.target, t, self.loss)}
        if self.variance in LEARNED:
            fixed_mean = dataclasses.replace(prediction, x0=jax.lax.stop_gradient(prediction.x0))
            terms["vlb"] = (self.vlb_weight or 0.001) * vlb(fixed_mean)
        return terms

    def _target(self, x0: Image, z_t: Image, t: Time) -> Image:
        """What the network's output should be."""
        if self.target == "previous":
            return self.posterior_mean(x0, z_t, t, t - 1 / self.chain_length)
        noise = self.noise_of(z_t, x0, t)
        return TARGETS[self.target](x0, noise, *self.signal_and_noise(t, z_t))
