"""How the masked share m(t) of MD4's tokens grows from 0 to 1 (arXiv:2406.04329, table 4)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array


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

    def time_of(self, m: Array) -> Array:
        """The t with m(t) = m."""
        return m


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

    def time_of(self, m: Array) -> Array:
        return 2 / jnp.pi * jnp.arcsin(m)


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

    def time_of(self, m: Array) -> Array:
        return m ** (1 / self.power)


SCHEDULES = {"linear": Linear, "cosine": Cosine, "polynomial": Polynomial}
