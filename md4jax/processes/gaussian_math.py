r"""What every Gaussian diffusion shares, in terms of how much signal is left at each time.

Data are levels x in 0, ..., V - 1, scaled to x0 = 2 x / (V - 1) - 1, or real and x0 = x, in a
domain (`domains.py`) that the noise knows nothing of and the predicted x0 does not leave. With
A(t) = alpha_bar(t), the signal left, and S(t) = 1 - A(t):

  (1)  q(z_t | x0) = N(sqrt(A) x0, S)                                       [DDPM, eq. 4]
  (2)  q(z_s | z_t, x0) = N(c1 x0 + c2 z_t, V),   b = 1 - A_t / A_s         [DDPM, eqs. 6, 7]
       c1 = b sqrt(A_s) / S_t,   c2 = S_s sqrt(1 - b) / S_t,   V = b S_s / S_t
  (3)  KL(N(m1, e^l1) || N(m2, e^l2)) = (l2 - l1 + e^(l1 - l2) + (m1 - m2)^2 e^-l2 - 1) / 2
  (4)  log p(x | m, s): the mass of N(m, s^2) from x - 1/(V-1) to x + 1/(V-1), the outer levels
       taking the tails, with the normal distribution function in the closed form
       Phi(u) = sigmoid(2 g(u)),  g(u) = sqrt(2/pi) (u + 0.044715 u^3)      [DDPM, eq. 13; code]

A network gives the noise e, x0, v = sqrt(A) e - sqrt(S) x0 (arXiv:2202.00512) or the mean of (2).

Of real data p(x | m, s) is the density of N(m, s^2) in the space they are written in: a bound can
be negative, and of data that fill less than it, as a sphere does, it falls without end as T grows.

DDPM: J. Ho, A. Jain, P. Abbeel, arXiv:2006.11239.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real, Shaped

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, Defaults, Denoiser
from md4jax.processes.domains import DOMAINS, Domain
from md4jax.typing import Data, Keys, PyTree, Time

Image = Float[Array, "b *s"]  # scaled to [-1, 1], or real data
Levels = Int[Array, "b *s"]
Values = Real[Array, "b *s"]  # the data's own: levels, or real


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a network says of x0.

    Attributes:
      x0: the x0 it stands for, not clipped.
      output: what the network was trained to give: noise, x0, v or the mean of (2).
      variance: its second number a channel, if the variance is learned; else None.
    """

    x0: Image
    output: Image
    variance: Image | None


def over_positions(per_example: Shaped[Array, "b"], like: Array) -> Array:
    """[b] to [b, 1, ...] so that it broadcasts against `like`."""
    return per_example.reshape(per_example.shape + (1,) * (like.ndim - 1))


def sum_positions(x: Float[Array, "b *s"]) -> Float[Array, "b"]:
    """Sums over all but the batch."""
    return x.reshape(x.shape[0], -1).sum(axis=1)


def gaussian_kl(m1: Array, l1: Array, m2: Array, l2: Array) -> Array:
    """Equation (3), nats per entry; l are log-variances."""
    d = l1 - l2
    # Nearly equal variances are the rule, and e^d - 1 - d would cancel to rounding errors.
    excess = jnp.where(jnp.abs(d) < 0.03, d**2 * (0.5 + d / 6 + d**2 / 24), jnp.expm1(d) - d)
    return 0.5 * (excess + (m1 - m2) ** 2 * jnp.exp(-l2))


def discretized_log_prob(x: Levels, mean: Image, log_scale: Array, levels: int) -> Image:
    """Equation (4), nats per entry: log of a probability over the levels, in float32 throughout.

    With A = 2 g(u + h), B = 2 g(u - h) it is log(sigmoid(A) - sigmoid(B)), which is
    log sigmoid(A) + log sigmoid(-B) + log(1 - e^(B - A)), and A - B factors: nothing underflows or
    cancels, however unlikely or narrow the bin. The probabilities telescope: they sum to one.
    """
    inverse = jnp.exp(-log_scale)
    twice_g = lambda u: 2 * math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)
    # Of whole numbers: the upper edge of a bin is, to the last bit, the lower one of the next.
    at = lambda twice_x: (twice_x * (1 / (levels - 1)) - 1 - mean) * inverse
    u, half = at(2 * x), inverse / (levels - 1)
    width = 4 * math.sqrt(2 / math.pi) * half * (1 + 0.044715 * (3 * u**2 + half**2))
    below = jax.nn.log_sigmoid(twice_g(at(2 * x + 1)))
    above = jax.nn.log_sigmoid(-twice_g(at(2 * x - 1)))
    inside = below + above + jnp.log(-jnp.expm1(-width))
    return jnp.where(x == 0, below, jnp.where(x == levels - 1, above, inside))


def scale_levels(x: Levels, levels: int) -> Image:
    """x0 of the levels 0, ..., V - 1: evenly spaced from -1 to 1."""
    return x.astype(jnp.float32) * (2 / (levels - 1)) - 1


def to_levels(x0: Image, levels: int) -> Levels:
    """The nearest level."""
    x = jnp.round((x0 + 1) * ((levels - 1) / 2))
    return jnp.clip(x, 0, levels - 1).astype(jnp.int32)


def clip_static(x0: Image, quantile: float) -> Image:
    """To [-1, 1]."""
    return jnp.clip(x0, -1, 1)


def clip_dynamic(x0: Image, quantile: float) -> Image:
    """To [-s, s] and divided by s, the larger of 1 and a quantile of an image's |x0| (Imagen)."""
    flat = jnp.abs(x0).reshape(x0.shape[0], -1)
    s = over_positions(jnp.maximum(1.0, jnp.quantile(flat, quantile, axis=1)), x0)
    return jnp.clip(x0, -s, s) / s


CLIPS: dict[str, Callable] = {
    "none": lambda x0, quantile: x0,
    "static": clip_static,
    "dynamic": clip_dynamic,
}
# The network's output `o` as x0, from z and sqrt(A), sqrt(S).
TO_X0: dict[str, Callable] = {
    "noise": lambda o, z, signal, noise: (z - noise * o) / signal,
    "x0": lambda o, z, signal, noise: o,
    "v": lambda o, z, signal, noise: signal * z - noise * o,
}
# What it should be, from x0 and the noise.
TARGETS: dict[str, Callable] = {
    "noise": lambda x0, e, signal, noise: e,
    "x0": lambda x0, e, signal, noise: x0,
    "v": lambda x0, e, signal, noise: signal * e - noise * x0,
}
# What its squared error is to be multiplied by to be that of x0.
PER_NOISE_ERROR: dict[str, Callable] = {
    "noise": lambda snr: 1 / snr,
    "x0": lambda snr: jnp.ones_like(snr),
    "v": lambda snr: 1 / (snr + 1),
}
DISTANCES: dict[str, Callable] = {
    "mse": jnp.square,
    "l1": jnp.abs,
    "huber": lambda d: jnp.where(jnp.abs(d) < 1, 0.5 * d**2, jnp.abs(d) - 0.5),
}


@dataclasses.dataclass(frozen=True)
class LevelScale:
    """How levels become the x0 that noise is added to, and back.

    Attributes:
      levels: V.
    """

    levels: int

    def to_x0(self, x: Levels) -> Image:
        """The data as x0."""
        return scale_levels(x, self.levels)

    def to_values(self, x0: Image) -> Levels:
        """The nearest values that data can have."""
        return to_levels(x0, self.levels)

    def to_unit(self, x0: Image) -> Image:
        """Where between the lowest level, 0, and the highest, 1."""
        return jnp.clip(0.5 * (x0 + 1), 0, 1)

    def clip(self, x0: Image, kind: str, quantile: float) -> Image:
        """A predicted x0 as samplers and bounds use it."""
        return CLIPS[kind](x0, quantile)

    def guided(self, x0: Image) -> Image:
        """A predicted x0 after guidance."""
        return x0

    def log_prob(self, x: Levels, mean: Image, log_scale: Array) -> Image:
        """log p(x | mean, scale), nats per entry: (4)."""
        return discretized_log_prob(x, mean, log_scale, self.levels)


@dataclasses.dataclass(frozen=True)
class DomainScale:
    """The same of real data: nothing is scaled, and what a head gives needs no clipping.

    Attributes:
      domain: where the data live.
    """

    domain: Domain

    def to_x0(self, x: Image) -> Image:
        return x

    def to_values(self, x0: Image) -> Image:
        return self.domain.project(x0)

    to_unit = to_values

    def clip(self, x0: Image, kind: str, quantile: float) -> Image:
        return x0

    def guided(self, x0: Image) -> Image:
        return self.domain.project(x0)

    def log_prob(self, x: Image, mean: Image, log_scale: Array) -> Image:
        """log of the density of N(mean, scale^2), nats per entry."""
        error = (x - mean) * jnp.exp(-log_scale)
        return -0.5 * (error**2 + math.log(2 * math.pi)) - log_scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianBase(Defaults):
    """All that needs only `alpha_bar`, `noise_variance` and `step_variance` of a subclass."""

    weighting: str = option(
        "Of the simple loss: uniform in what is predicted, snr (all predictions as one of noise, "
        "unweighted) or min_snr (arXiv:2303.09556).",
        "uniform",
        one_of=("uniform", "snr", "min_snr"),
    )
    snr_clip: float = option("gamma of min_snr.", 5.0, above=0)
    clip: str = option(
        "Predicted x0 of levels in bounds and samples, not in training: none, static to [-1, 1], "
        "dynamic to a quantile (Imagen, arXiv:2205.11487).",
        "static",
        one_of=tuple(CLIPS),
        changeable=True,
    )
    clip_quantile: float = option("Of dynamic clipping.", 0.995, above=0, at_most=1,
                                  changeable=True)  # fmt: skip

    standardise: bool = option(
        "Give the network z_t less its mean and over its standard deviation, over the data.", False
    )

    # From the data: V, or where real data live and their shape.
    levels: int = 0
    domain: str | None = None
    data_shape: tuple[int, ...] = ()
    # Mean and variance of x0 over examples and entries.
    statistics: PyTree = dataclasses.field(default_factory=dict, compare=False)
    is_learned = False  # Whether the schedule is known only with the parameters.

    def bind(self, data: DataSpec) -> GaussianBase:
        if data.unit != "dim":
            raise UserError(
                "config.process.name = 'gaussian' or 'vdm': it is noise on real data or levels, "
                f"as of images; these are {data.unit}s: use 'masked' or 'star_categorical'"
            )
        if data.vocab_size is None:
            return dataclasses.replace(self, domain=data.domain or "real", data_shape=data.shape)
        return dataclasses.replace(self, levels=data.vocab_size)

    @property
    def scale(self) -> LevelScale | DomainScale:
        """What x0 are of the data."""
        return LevelScale(self.levels) if self.domain is None else DomainScale(DOMAINS[self.domain])

    # What a subclass knows: [b] in, [b] out.

    def alpha_bar(self, t: Time) -> Time:
        """A(t), the share of the signal's power that is left."""
        raise NotImplementedError

    def noise_variance(self, t: Time) -> Time:
        """S(t) = 1 - A(t), not by subtraction."""
        raise NotImplementedError

    def step_variance(self, t: Time, s: Time) -> Time:
        """b = 1 - A(t) / A(s), not by subtraction."""
        raise NotImplementedError

    # The mathematics in terms of it.

    def signal_and_noise(self, t: Time, like: Array) -> tuple[Array, Array]:
        """sqrt(A) and sqrt(S), to broadcast against `like`."""
        return (
            over_positions(jnp.sqrt(self.alpha_bar(t)), like),
            over_positions(jnp.sqrt(self.noise_variance(t)), like),
        )

    def prior_sample(self, keys: Keys, shape: tuple[int, ...]) -> Image:
        """N(0, I)."""
        return standard_normal(keys, shape)

    def forward_sample(self, keys: Keys, x0: Values, t: Time) -> Image:
        """Equation (1)."""
        return self.diffuse(self.scale.to_x0(x0), standard_normal(keys, x0.shape[1:]), t)

    def diffuse(self, x0: Image, noise: Image, t: Time) -> Image:
        """z_t from x0 and the noise: equation (1)."""
        signal, sigma = self.signal_and_noise(t, x0)
        return signal * x0 + sigma * noise

    def noise_of(self, z_t: Image, x0: Image, t: Time) -> Image:
        """The noise that makes z_t of x0."""
        signal, sigma = self.signal_and_noise(t, z_t)
        return (z_t - signal * x0) / sigma

    def abstract_statistics(self) -> PyTree:
        number = jax.ShapeDtypeStruct((), jnp.float32)
        return {"mean": number, "variance": number} if self.standardise else {}

    def estimate_statistics(self, examples: np.ndarray) -> PyTree:
        if not self.standardise:
            return {}
        x0 = np.asarray(self.scale.to_x0(jnp.asarray(examples)), np.float64)
        return {"mean": jnp.float32(x0.mean()), "variance": jnp.float32(x0.var())}

    def with_statistics(self, statistics: PyTree) -> GaussianBase:
        return dataclasses.replace(self, statistics=statistics)

    def network_input(self, z_t: Image, t: Time) -> Image:
        """z_t itself, or of mean 0 and variance 1 over the data."""
        if not self.standardise:
            return z_t
        mean, variance = self.statistics["mean"], self.statistics["variance"]
        center = over_positions(jnp.sqrt(self.alpha_bar(t)) * mean, z_t)
        spread = self.alpha_bar(t) * variance + self.noise_variance(t)
        return (z_t - center) / over_positions(jnp.sqrt(spread), z_t)

    def clipped(self, prediction: Estimate) -> Image:
        """The predicted x0 that samplers and bounds use."""
        return self.scale.clip(prediction.x0, self.clip, self.clip_quantile)

    def posterior_mean(self, x0: Image, z_t: Image, t: Time, s: Time) -> Image:
        """The mean of (2)."""
        b, noise = self.step_variance(t, s), self.noise_variance(t)
        c1 = b * jnp.sqrt(self.alpha_bar(s)) / noise
        c2 = self.noise_variance(s) * jnp.sqrt(self.alpha_bar(t) / self.alpha_bar(s)) / noise
        return over_positions(c1, z_t) * x0 + over_positions(c2, z_t) * z_t

    def posterior_variance(self, t: Time, s: Time) -> Time:
        """V of (2)."""
        return self.step_variance(t, s) * self.noise_variance(s) / self.noise_variance(t)

    def prior_kl(self, x0: Values) -> Float[Array, "b"]:
        """KL(q(z_1 | x0) || N(0, I)) in nats."""
        one = jnp.ones(x0.shape[0])
        signal = over_positions(jnp.sqrt(self.alpha_bar(one)), x0)
        log_variance = over_positions(jnp.log(self.noise_variance(one)), x0)
        zero = jnp.zeros(())
        mean = signal * self.scale.to_x0(x0)
        return sum_positions(gaussian_kl(mean, log_variance, zero, zero))

    def simple_loss(
        self, prediction: Estimate, target: Image, kind: str, t: Time, distance: str
    ) -> Float[Array, "b"]:
        """The mean over entries of a distance to the target, weighted, times D ln 2.

        With that factor, the division by D ln 2 that every loss goes through leaves the mean, so
        that a logged loss is the papers' L_simple and the published weights beside it hold.
        """
        weight = jnp.ones_like(t)
        if self.weighting != "uniform":
            snr = self.alpha_bar(t) / self.noise_variance(t)
            weight = jnp.minimum(snr, self.snr_clip) if self.weighting == "min_snr" else snr
            weight = weight * PER_NOISE_ERROR[kind](snr)
        error = DISTANCES[distance](target - prediction.output)
        return math.log(2) * weight * sum_positions(error)

    def guide(self, conditional: Estimate, unconditional: Estimate, scale: float) -> Estimate:
        """As of arrays, then back onto the domain; a learned variance is the conditional one's."""
        guided = super().guide(conditional, unconditional, scale)
        x0 = self.scale.guided(guided.x0)
        return dataclasses.replace(guided, x0=x0, variance=conditional.variance)

    def view(self, z_t: Image, t: Time) -> Values:
        return self.scale.to_values(z_t)

    def view_prediction(self, z_t: Image, prediction: Estimate) -> Values:
        return self.scale.to_values(self.clipped(prediction))

    def decode(self, denoise: Denoiser, z_0: Data) -> Values:
        """The nearest levels, or point of the domain, to z_0, its signal scaled back."""
        return self.scale.to_values(self._unscaled(z_0))

    def decode_smoothly(self, denoise: Denoiser, z_0: Data) -> Image:
        """The same before it is rounded, levels as 0 to 1."""
        return self.scale.to_unit(self._unscaled(z_0))

    def _unscaled(self, z_0: Data) -> Image:
        signal, _ = self.signal_and_noise(jnp.zeros(z_0.shape[0]), z_0)
        return z_0 / signal


def standard_normal(keys: Keys, shape: tuple[int, ...]) -> Image:
    """N(0, I) `[b, *shape]`, float32, one key an example."""
    # Of one axis: the same numbers, and the program compiles in a fraction of the time.
    flat = jax.vmap(lambda key: jax.random.normal(key, (math.prod(shape),), jnp.float32))(keys)
    return flat.reshape(-1, *shape)
