r"""Step functions of Gaussian processes, chains and continuous time alike.

With A = alpha_bar, S = 1 - A, the clipped prediction x0 and the noise e = (z_t - sqrt(A_t) x0) /
sqrt(S_t) that it leaves:

  (1)  z_s = sqrt(A_s) x0 + sqrt(S_s - V) e + sqrt(V) n,   n ~ N(0, I),
       V = eta^2 b S_s / S_t,   b = 1 - A_t / A_s                  [DDIM, arXiv:2010.02502, 12, 16]

Without n it is Euler's step of the probability flow in sigma = sqrt(S / A), for z / sqrt(A):
(z / sqrt(A))_s = x0 + sigma_s e. The trapezoid's rule instead, with the x0' predicted there, adds

  (2)  z_s += sqrt(A_s) (sigma_t / sigma_s - 1) (x0' - x0) / 2     [EDM, arXiv:2206.00364, alg. 2]

and with lambda = -log sigma, x0 extrapolated from the step before (at r),

  (3)  z_s = sqrt(A_s) D + sqrt(S_s / S_t) (z_t - sqrt(A_t) D),
       D = x0 + (lambda_s - lambda_t) / (lambda_t - lambda_r) (x0 - x0_r) / 2
                                                        [DPM-Solver++(2M), arXiv:2211.01095, alg. 2]

At s = 0 a chain has S = 0, and at t = 1 A is 1e-10 or even 0: hence z, not z / sqrt(A), and no
division by A_t or S_s where it would count.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from md4jax.options import UserError, option
from md4jax.processes.base import Denoiser, Process
from md4jax.processes.gaussian_math import (
    Estimate,
    GaussianBase,
    Image,
    over_positions,
    standard_normal,
    sum_positions,
)
from md4jax.samplers.base import Ancestral
from md4jax.typing import Keys, PyTree, Time

MAX_RAISE = math.sqrt(2) - 1  # Of sigma, by one step's churn (EDM).
# Of sigma: EDM goes no higher, 80 sqrt(2) with churn. Over the first step of a schedule that leaves
# almost no signal, from 1e4 or infinity, (2) would multiply a difference of predictions by 1000.
MAX_SECOND_ORDER = 120.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Gaussian(Ancestral):
    """A step for Gaussian processes only."""

    def check(self, process: Process) -> None:
        if not isinstance(process, GaussianBase):
            raise UserError(
                "config.sampler.name: this step is for Gaussian processes, not "
                f"{type(process).__name__}; use 'ancestral'"
            )
        super().check(process)


def _sigma(process: GaussianBase, t: Time) -> Time:
    """sqrt(S / A); infinite where no signal is left."""
    return jnp.sqrt(process.noise_variance(t) / process.alpha_bar(t))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(_Gaussian):
    """Equation (1): deterministic at eta = 0, the posterior's variance at eta = 1."""

    eta: float = option(
        "Fresh noise: 0 is none, 1 as much as `ancestral` with the smaller variance.",
        0.0,
        at_least=0,
        at_most=1,
    )

    def move(
        self, process: GaussianBase, keys: Keys, z_t: Image, prediction: Estimate, t: Time, s: Time
    ) -> Image:
        x0 = process.clipped(prediction)
        noise = process.noise_of(z_t, x0, t)
        if self.eta == 0:
            return process.diffuse(x0, noise, s)
        share = self.eta**2
        A_t, A_s = process.alpha_bar(t), process.alpha_bar(s)
        S_t, S_s = process.noise_variance(t), process.noise_variance(s)
        # S_s - V as a sum of positive terms: S_t - b = S_s A_t / A_s.
        kept = S_s * ((1 - share) + share * S_s * (A_t / A_s) / S_t)
        fresh = share * process.posterior_variance(t, s)
        A_s, kept, fresh = (over_positions(jnp.sqrt(x), z_t) for x in (A_s, kept, fresh))
        return A_s * x0 + kept * noise + fresh * standard_normal(keys, z_t.shape[1:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(_Gaussian):
    """EDM's sampler: Heun's method in sigma, after adding noise ("churn") if asked to.

    Two network calls a step, but one for a step that ends without noise, and for one from above
    sigma = 120, which is (1). In a chain the noise is raised to the next level that the network
    knows.
    """

    churn: float = option(
        "S_churn: sigma is raised by a factor 1 + churn / (number of steps), at most sqrt(2).",
        0.0,
        at_least=0,
    )
    s_min: float = option("Noise is added from this sigma up.", 0.0, at_least=0)
    s_max: float | None = option("Noise is added up to this sigma; None: to any.", None, at_least=0)
    s_noise: float = option("Standard deviation of the added noise; 1 is exact.", 1.0, above=0)

    def check(self, process: Process) -> None:
        super().check(process)
        if self.s_max is not None and self.s_max < self.s_min:
            raise UserError(
                f"config.sampler.s_max = {self.s_max:g} should be at least config.sampler.s_min = "
                f"{self.s_min:g}"
            )

    def __call__(
        self,
        process: GaussianBase,
        denoise: Denoiser,
        keys: Keys,
        z_t: Image,
        memory: PyTree,
        t: Time,
        s: Time,
    ) -> tuple[Image, PyTree]:
        if self.churn:
            z_t, t = self._raised(process, keys, z_t, t)
        x0 = process.clipped(denoise(z_t, t))
        euler = process.diffuse(x0, process.noise_of(z_t, x0, t), s)
        sigma, corrected = _sigma(process, t), self._corrected(process, t, s)
        # Where (2) is not for it, the factor is 0 and the network is asked something harmless.
        asked = jnp.where(corrected, s, t)
        ratio = jnp.where(corrected, sigma, 1.0) / _sigma(process, asked)
        factor = jnp.where(corrected, 0.5 * jnp.sqrt(process.alpha_bar(s)) * (ratio - 1), 0.0)

        def correct(euler: Image) -> Image:
            again = process.clipped(denoise(euler, asked))
            return euler + over_positions(factor, euler) * (again - x0)

        return jax.lax.cond(corrected.any(), correct, lambda euler: euler, euler), memory

    def spared_calls(self, process: GaussianBase) -> int:
        times = jnp.asarray(self.times(process), jnp.float32)
        t = self._raised_time(process, times[:-1]) if self.churn else times[:-1]
        return int((~self._corrected(process, t, times[1:])).sum())

    def _corrected(self, process: GaussianBase, t: Time, s: Time) -> Bool[Array, "b"]:
        """Whether a step from t to s has a second order."""
        return (process.noise_variance(s) > 0) & (_sigma(process, t) <= MAX_SECOND_ORDER)

    def _raised_time(self, process: GaussianBase, t: Time) -> Time:
        share = min(self.churn / (len(self.times(process)) - 1), MAX_RAISE)
        sigma = _sigma(process, t)
        above = self.s_max is not None and sigma > self.s_max
        raised = raised_time(process, t, 1 + share)
        return jnp.where((sigma < self.s_min) | above, t, raised)

    def _raised(self, process: GaussianBase, keys: Keys, z_t: Image, t: Time) -> tuple[Image, Time]:
        """z_t with more noise, and its time."""
        raised = self._raised_time(process, t)
        # Where t is 1 and no signal is left, b is 0 / 0.
        b = over_positions(jnp.where(raised > t, process.step_variance(raised, t), 0.0), z_t)
        noise = self.s_noise * standard_normal(keys, z_t.shape[1:])
        return jnp.sqrt(1 - b) * z_t + jnp.sqrt(b) * noise, raised


def raised_time(process: GaussianBase, t: Time, factor: float) -> Time:
    """The time `[b]` at which sigma is `factor` > 1 times that of t, or 1 if it never is.

    In a chain the nearest at or above; else found by bisection, whatever the schedule.
    """
    wanted = factor * _sigma(process, t)
    total = process.chain_length
    if total is not None:
        known = _sigma(process, jnp.arange(total + 1) / total)
        index = jnp.minimum(jnp.searchsorted(known, wanted), total)
        return index / total

    def halve(_: Array, bounds: tuple[Time, Time]) -> tuple[Time, Time]:
        low, high = bounds
        middle = 0.5 * (low + high)
        below = _sigma(process, middle) < wanted
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    # 30 halvings are more than the digits of a float32.
    return jax.lax.fori_loop(0, 30, halve, (t, jnp.ones_like(t)))[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver(_Gaussian):
    """DPM-Solver++(2M), equation (3): second order with one network call a step.

    First order where there is no step before, or one of infinite length in lambda: a last step to
    zero noise, or a first one from zero signal.
    """

    def memory(self, z: Image) -> tuple[Image, Time]:
        """The prediction before and its lambda: before the first, infinitely far away."""
        return jnp.zeros_like(z), jnp.full(z.shape[:1], -jnp.inf, jnp.float32)

    def __call__(
        self,
        process: GaussianBase,
        denoise: Denoiser,
        keys: Keys,
        z_t: Image,
        memory: PyTree,
        t: Time,
        s: Time,
    ) -> tuple[Image, PyTree]:
        before, lambda_r = memory
        x0 = process.clipped(denoise(z_t, t))
        lambda_t, lambda_s = (-jnp.log(_sigma(process, u)) for u in (t, s))
        share = 0.5 * (lambda_s - lambda_t) / (lambda_t - lambda_r)
        finite = jnp.isfinite(lambda_s) & jnp.isfinite(lambda_t) & jnp.isfinite(lambda_r)
        share = over_positions(jnp.where(finite, share, 0.0), z_t)
        D = x0 + share * (x0 - before)
        return process.diffuse(D, process.noise_of(z_t, D, t), s), (x0, lambda_t)


def ddim_encode(
    process: GaussianBase,
    denoise: Denoiser,
    x0: Image,
    times: Float[np.ndarray, "times"],
) -> Image:
    """The noise `[b, *s]` that DDIM at eta = 0 makes this data of: (1) run from t up to s.

    Inverse to it up to the step length: both predict at the end they come from. At a time without
    noise the network, which knows none, is asked at the first time above.

    Args:
      x0: data scaled to [-1, 1] (`scale_levels`).
      times: increasing, from 0; `step.times(process)[::-1]` of a `DDIM` step decodes it.

    Raises:
      ValueError: the times do not increase.
    """
    if not np.all(np.diff(times) > 0):
        raise ValueError(f"times should increase: {times}")
    grid = jnp.asarray(times, jnp.float32)

    def body(z: Image, pair: tuple[Array, Array]) -> tuple[Image, None]:
        t, s = (jnp.broadcast_to(u, z.shape[:1]) for u in pair)
        return _encode_step(process, denoise, z, t, s), None

    signal, _ = process.signal_and_noise(jnp.full(x0.shape[:1], grid[0]), x0)
    return jax.lax.scan(body, signal * x0, (grid[:-1], grid[1:]))[0]


def _encode_step(process: GaussianBase, denoise: Denoiser, z_t: Image, t: Time, s: Time) -> Image:
    """z_s = sqrt(A_s / A_t) z_t + (sqrt(S_s) - sqrt(S_t A_s / A_t)) e: (1) with x0 put in."""
    asked = jnp.where(process.noise_variance(t) > 0, t, s)
    scaled = lambda u: over_positions(jnp.sqrt(process.alpha_bar(u) / process.alpha_bar(t)), z_t)
    z = scaled(asked) * z_t
    noise = process.noise_of(z, process.clipped(denoise(z, asked)), asked)
    _, before = process.signal_and_noise(t, z_t)
    _, after = process.signal_and_noise(s, z_t)
    return scaled(s) * z_t + (after - scaled(s) * before) * noise


def slerp(z1: Image, z2: Image, share: float | Float[Array, "b"]) -> Image:
    """From z1 to z2 along the great circle (DDIM, arXiv:2010.02502, appendix D.5), one angle each.

    A straight line would pass through noise shorter than the network has ever seen.

    Args:
      share: 0 is z1, 1 is z2.
    """
    share = jnp.broadcast_to(jnp.asarray(share, z1.dtype), z1.shape[:1])
    norms = jnp.sqrt(sum_positions(z1**2) * sum_positions(z2**2))
    angle = jnp.arccos(jnp.clip(sum_positions(z1 * z2) / norms, -1, 1))
    straight = angle < 1e-3  # A line is the same there, and sin / sin is not 0 / 0.
    angle = jnp.where(straight, 1.0, angle)
    weight = lambda u: jnp.where(straight, u, jnp.sin(u * angle) / jnp.sin(angle))
    return over_positions(weight(1 - share), z1) * z1 + over_positions(weight(share), z2) * z2
