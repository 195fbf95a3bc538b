r"""Star-shaped Gaussians, which are DDPM (arXiv:2302.05259, theorem 2).

Of alpha_bar, the signal left at each step of a DDPM, with R_t = alpha_bar_t / (1 - alpha_bar_t) and
R_{T+1} = 0:

  (1)  q(x_s | x0) = N(sqrt(a_s) x0, 1 - a_s),   a_s / (1 - a_s) = R_s - R_{s+1}
  (2)  A_s T(x_s) = sqrt(a_s) / (1 - a_s) x_s ~ N(w x0, w),   w = R_s - R_{s+1}
  (3)  the segment [s, t) is N((R_s - R_t) x0, R_s - R_t)
  (4)  KL = w (x0 - x_theta)^2 / 2

(1 - alpha_bar_t) / sqrt(alpha_bar_t) G_t is DDPM's x_t. The prior p(x_T) is N(0, I), p(x0 | G_1)
DDPM's discretised normal around the prediction, with the posterior's variance of step 2.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, process_class
from md4jax.processes.gaussian_math import (
    discretized_log_prob,
    gaussian_kl,
    scale_levels,
    standard_normal,
    sum_positions,
    to_levels,
)
from md4jax.processes.gaussian_schedules import BETAS
from md4jax.processes.star.family import Point, Statistic, Step
from md4jax.processes.star.schedules import cosine_snr
from md4jax.processes.star_shaped import StarShaped
from md4jax.typing import Data, Keys, Nats, Time


def _snr_of_betas(betas: Float64[np.ndarray, "T"]) -> Float64[np.ndarray, "T"]:
    log_a = np.cumsum(np.log1p(-betas))
    return np.exp(log_a) / -np.expm1(log_a)


# R_1, ..., R_T of T.
SCHEDULES = {"star_cosine": cosine_snr} | {
    name: lambda n, betas=betas: _snr_of_betas(betas(n)) for name, betas in BETAS.items()
}


@process_class
class StarGaussian(StarShaped):
    """Independent Gaussian views of images or real data; equals DDPM."""

    schedule: str = option(
        "R: star_cosine (published: not clipped), or that of a DDPM.",
        "star_cosine",
        one_of=tuple(SCHEDULES),
    )

    def bind(self, data: DataSpec) -> StarShaped:
        real = data.domain == "real"
        if not real and (data.vocab_size is None or data.unit != "dim"):
            kind = f"{data.unit}s" if data.domain is None else f"of the domain {data.domain}"
            raise UserError(
                "config.process.name = 'star_gaussian' needs images or data of the domain 'real'; "
                f"these are {kind}"
            )
        return super().bind(data)

    @functools.cached_property
    def snr(self) -> Float64[np.ndarray, "T2"]:
        """R of the steps 0, ..., T + 1; that of 0, which nothing uses, is R_1's, of T + 1 0."""
        r = SCHEDULES[self.schedule](self.num_timesteps)
        return np.concatenate([r[:1], r, [0.0]])

    def head(self, output: Array) -> Point:
        """x0 as it is."""
        return output[..., 0].astype(jnp.float32)

    def point(self, x0: Data) -> Point:
        """Levels scaled to [-1, 1]; real data as they are."""
        return x0 if self.data.vocab_size is None else scale_levels(x0, self.data.vocab_size)

    def values(self, point: Point) -> Data:
        return point if self.data.vocab_size is None else to_levels(point, self.data.vocab_size)

    def smooth_values(self, point: Point) -> Point:
        return point if self.data.vocab_size is None else jnp.clip(0.5 * (point + 1), 0, 1)

    def limit_point(self, shape: tuple[int, ...]) -> Float[Array, "*s"]:
        return jnp.zeros(shape)

    def level_points(self) -> Float[Array, "v"]:
        return jnp.asarray(np.linspace(-1, 1, self.data.vocab_size), jnp.float32)

    @property
    def weights(self) -> np.ndarray:
        """Of the x_s over sqrt(a_s), which are x0 and noise."""
        return self.snr[:-1] - self.snr[1:]

    def level_log_normalisers(self) -> np.ndarray:
        return 0.5 * self.snr[1:-1, None] * np.linspace(-1, 1, self.data.vocab_size) ** 2

    def _weight(self, first: Step, last: Step, like: Array) -> Array:
        return self.between(self.snr, first, last, like)

    def segment(self, keys: Keys, point: Point, first: Step, last: Step) -> Statistic:
        """Equation (3)."""
        w = self._weight(first, last, point)
        return w * point + jnp.sqrt(w) * standard_normal(keys, point.shape[1:])

    def draw(self, keys: Keys, prepared: Point, step: Step) -> Statistic:
        """Equation (2)."""
        return self.segment(keys, prepared, step, step + 1)

    def moments(self, point: Point, step: Step) -> tuple[Statistic, Statistic]:
        w = self._weight(step, step + 1, point)
        return w * point, jnp.broadcast_to(w, point.shape)

    def kl(self, point: Point, predicted: Point, step: Step) -> Float[Array, "b *s"]:
        """Equation (4)."""
        return 0.5 * self._weight(step, step + 1, point) * (point - predicted) ** 2

    def network_time(self, t: Time) -> Time:
        """As DDPM's: the step over T."""
        return t

    def prior_sample(self, keys: Keys, shape: tuple[int, ...]) -> Statistic:
        """Equation (2) of x_T ~ N(0, I)."""
        w = self.snr[-2]
        return float(np.sqrt(w * (1 + w))) * standard_normal(keys, shape)

    def prior_kl(self, x0: Data) -> Nats:
        w, zero = float(self.snr[-2]), jnp.zeros(())
        mean = float(np.sqrt(w / (1 + w))) * self.point(x0)
        return sum_positions(gaussian_kl(mean, jnp.asarray(-np.log1p(w), jnp.float32), zero, zero))

    def prior_log_ratio(self, statistic: Statistic, point: Point) -> Float[Array, "b"]:
        w = float(self.snr[-2])
        x, signal = statistic / np.sqrt(w * (1 + w)), np.sqrt(w / (1 + w))
        square = (1 + w) * (x - signal * point) ** 2 - x**2
        return sum_positions(0.5 * (np.log1p(w) - square))

    def reconstruction(self, prediction: Point, x0: Data, z_1: Statistic) -> Nats:
        r_1, r_2 = self.snr[1:3]
        # (1 - A_2 / A_1) (1 - A_1) / (1 - A_2) of A = R / (1 + R).
        log_variance = float(np.log((r_1 - r_2) / r_1 / (1 + r_1)))
        if self.data.vocab_size is None:
            square = (x0 - prediction) ** 2 * np.exp(-log_variance)
            return sum_positions(0.5 * (square + log_variance + np.log(2 * np.pi)))
        log_scale = jnp.full((), 0.5 * log_variance, jnp.float32)
        levels = self.data.vocab_size
        return -sum_positions(discretized_log_prob(x0, prediction, log_scale, levels))
