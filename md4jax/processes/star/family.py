r"""What a star-shaped family says of its variables, in the terms of `star_shaped.py`.

A family is a subclass of `StarShaped` (which is a subclass of what is here): one file, registered
by `process_class`, with those of the methods below that are not right for it as they are.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md4jax.options import UserError
from md4jax.processes.base import DataSpec, Defaults
from md4jax.processes.domains import DOMAINS, head_of
from md4jax.processes.gaussian_math import over_positions
from md4jax.typing import Data, Keys, PyTree, Time

Step = Int[Array, "b"]  # in 1, ..., T; 0 is the entry that stands before the first
Point = Float[Array, "b *s"]  # x0 as the family's parameter, of the shape of z
Statistic = Float[Array, "b *s"]  # A_s T(x_s), or a sum of them


def on_domain(data: DataSpec, domain: str, name: str) -> DataSpec:
    """The data, if they are of this domain. Raises UserError if not."""
    if data.domain == domain:
        return data
    found = f"of the domain {data.domain!r}" if data.domain else f"integers ({data.unit}s)"
    raise UserError(
        f"config.process.name = {name!r} needs data of the domain {domain!r}; these are {found}"
    )


def sum_all(x: Float[Array, "b *u"]) -> Float[Array, "b"]:
    """Sums over all but the batch."""
    return x.reshape(x.shape[0], -1).sum(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(Defaults):
    """(2) of `star_shaped.py` for one family; `[b, *u]` are variables, `[b, *s]` entries of z.

    To be given: `weights`, `limit_point`, `draw`, `kl`, `moments`, and `log_density` (real data) or
    `level_points` and `level_log_normalisers` (others); where x0, f or T are not what they are
    here, `z_shape`, `head`, `point`, `values`, `natural` and `undo`; `scale` if it has a rescaled
    loss.

    Attributes:
      num_timesteps: T.
      data: what `bind` was given.
      event_ndim: trailing axes of z that are one variable.
      rescales: whether there is a rescaled loss.
      has_remainder: whether there is `add_remainder`.
      tails: the ways its tails can be drawn.
    """

    num_timesteps: int
    data: DataSpec | None = None

    event_ndim: ClassVar[int] = 0
    rescales: ClassVar[bool] = False
    has_remainder: ClassVar[bool] = False
    tails: ClassVar[tuple[str, ...]] = ("exact", "draws")

    def z_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of one z, for data of this shape."""
        return shape

    def head(self, output: Array) -> Point:
        """The network's output as the point x_theta."""
        return self.point(DOMAINS[self.data.domain].head(output.astype(jnp.float32)))

    def point(self, x0: Data) -> Point:
        """x0 in the family's terms, of the shape of z."""
        return x0

    def values(self, point: Point) -> Data:
        """The data that a point is; the inverse of `point`."""
        return point

    def smooth_values(self, point: Point) -> Float[Array, "b *s"]:
        """`values` before they are rounded, of levels as 0 to 1. Raises UserError if tokens."""
        if self.data.vocab_size is not None:
            raise UserError(
                f"config.process.name: what {type(self).__name__} draws of these data are tokens, "
                "which have no derivative; finetune a process of levels or of real data"
            )
        return self.values(point)

    @property
    def weights(self) -> np.ndarray:
        """A_s of (2) for the steps 0, ..., T, float64; that of 0 is not used."""
        raise NotImplementedError

    def undo(self, statistic: Statistic) -> Point:
        """The x whose T(x) this is, or the nearest."""
        return statistic

    def project(self, point: Point) -> Point:
        """The nearest point, where guidance has left them."""
        domain = head_of(self.data.domain)
        return self.point(domain.project(self.values(point))) if domain else point

    def limit_point(self, shape: tuple[int, ...]) -> Float[Array, "*s"]:
        """The x0 whose q(x_T | x0) is the prior p(x_T), for z of this shape."""
        raise NotImplementedError

    def prepare(self, point: Point) -> PyTree:
        """What `draw` needs of a point, computed once for many steps; arrays `[b, ...]`."""
        return point

    def draw(self, keys: Keys, prepared: PyTree, step: Step) -> Statistic:
        """A_s T(x_s) of one x_s ~ q(x_s | x0), in the terms of `prepare`."""
        raise NotImplementedError

    def observe(self, statistic: Statistic, step: Step) -> Statistic:
        """What of a drawn statistic enters the tail."""
        return statistic

    def add_remainder(
        self, total: Statistic, keys: Keys, prepared: PyTree, first: Step, last: Step
    ) -> Statistic:
        """A sum of `draw`s plus a normal like that of all first <= s < last; see `remainder`."""
        raise NotImplementedError

    def finish(self, total: Statistic, prepared: PyTree) -> Statistic:
        """A sum of `draw`s as part of z."""
        return total

    def kl(self, point: Point, predicted: Point, step: Step) -> Float[Array, "b *u"]:
        """KL(q(x_s | x0) || q(x_s | predicted)) of each variable, nats, without cancellation."""
        raise NotImplementedError

    def scale(self, step: Step) -> Float[Array, "b"]:
        """What the rescaled loss at a step t divides the KL of step t - 1 by."""
        raise NotImplementedError

    def moments(self, point: Point, step: Step) -> tuple[Statistic, Statistic]:
        """Mean and variance of each entry of A_s T(x_s)."""
        raise NotImplementedError

    def log_ratio(
        self, statistic: Statistic, point: Point, predicted: Point, step: Step
    ) -> Float[Array, "b"]:
        """log q(x_s | x0) - log q(x_s | predicted), summed over variables, from A_s T(x_s)."""
        mean, _ = self.moments(point, step)
        inner = (self.natural(point) - self.natural(predicted)) * (statistic - mean)
        return sum_all(self.kl(point, predicted, step)) + sum_all(inner)

    def prior_log_ratio(self, statistic: Statistic, point: Point) -> Float[Array, "b"]:
        """log q(x_T | x0) - log p(x_T), summed over variables."""
        limit = jnp.broadcast_to(self.limit_point(point.shape[1:]), point.shape)
        step = jnp.full(len(point), self.num_timesteps, jnp.int32)
        return self.log_ratio(statistic, point, limit, step)

    def natural(self, point: Point) -> Statistic:
        """f(x0) of (2)."""
        return point

    def log_density(self, x0: Data, predicted: Point) -> Float[Array, "b *u"]:
        """log q_0(x0 | predicted) of each variable, nats; for real data."""
        raise NotImplementedError

    def level_points(self) -> Float[Array, "v *e"]:
        """The points of the V levels or tokens."""
        raise NotImplementedError

    def level_log_normalisers(self) -> np.ndarray:
        """Sums over s >= t of Omega_s of each level or token, `[T, v]` for t = 1, ..., T."""
        raise NotImplementedError

    def level_logits(self, output: Array) -> Float[Array, "b *u v"]:
        """A network's output as logits of a law over the levels or tokens."""
        return output.astype(jnp.float32)

    # The schedule, as tables of T + 1 entries on the host.

    @property
    def chain_length(self) -> int:
        """T."""
        return self.num_timesteps

    def step(self, t: Time) -> Step:
        """The step that a time is."""
        return jnp.round(t * self.num_timesteps).astype(jnp.int32)

    def at(self, table: np.ndarray, step: Step, like: Array | None = None) -> Array:
        """A table's entry at each example's step, to broadcast against `like`."""
        found = jnp.asarray(table, jnp.float32)[step]
        return found if like is None else over_positions(found, like)

    def between(
        self, sums: np.ndarray, first: Step, last: Step, like: Array | None = None
    ) -> Array:
        """sums[first] - sums[last], to broadcast against `like`."""
        # Each is a sum of two float32, so that the difference of neighbours is float64's.
        high = sums.astype(np.float32)
        difference = lambda table: self.at(table, first) - self.at(table, last)
        found = difference(high) + difference(sums - high)
        return found if like is None else over_positions(found, like)
