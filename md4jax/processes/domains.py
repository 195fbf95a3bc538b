r"""Where real data live, and how a network's free numbers become a point there.

  domain    points                                 numbers a point   map from the network's output o
  simplex   [k], x >= 0, sum x = 1                 k                 softmax(o)
  spd       [d, d], symmetric positive definite    d (d + 1) / 2     L Lᵀ + 1e-4 I, L of o by rows
  sphere    [k], |x| = 1                           k                 o / |o|
  circle    angle in [-pi, pi)                     2                 atan2(o_1, o_0)
  positive  x > 0                                  1                 softplus(o) + 1e-6
  interval  0 <= x <= 1                            1                 sigmoid(o)
  real      any                                    1                 o

Data may have more axes before those of a point: `(m, k)` are m points of a simplex.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

# Host data are float32 where they are checked. One rounding moves a sum of 1 by 3e-8; this is room
# for a user's own float32 sums over many entries, and far below what anyone would call a mistake.
TOLERANCE = 1e-5
SPD_FLOOR = 1e-4  # The least eigenvalue of what a head or `project` gives.
POSITIVE_FLOOR = 1e-6  # The least value: softplus alone underflows to 0 at -104.
NEAR_ZERO = 1e-3  # Of |o|; see `_off_zero`.

_EVENTS = {0: "of numbers", 1: "[.., k]", 2: "[.., d, d]"}

Points = Float[Array, "b *s"]
Output = Float[Array, "b *h"]


def _off_zero(o: Float[Array, "*s k"], start: Float[np.ndarray, "k"]) -> Float[Array, "*s k"]:
    """o, or `start` + o where |o| < `NEAR_ZERO`.

    A fresh network gives exactly 0, where o / |o| has no gradient and L Lᵀ a gradient of 0, from
    which nothing would ever be learned; from `start` it has an ordinary one.
    """
    short = jnp.sum(o**2, axis=-1, keepdims=True) < NEAR_ZERO**2
    return jnp.where(short, o + start.astype(o.dtype), o)


def _direction(o: Float[Array, "*s k"]) -> Float[Array, "*s k"]:
    """o / |o|; very short ones go near the first axis.

    There must be such a jump: nothing continuous sends a ball to its sphere and leaves the sphere
    as it is.
    """
    moved = _off_zero(o, np.eye(1, o.shape[-1])[0])
    return moved / jnp.linalg.norm(moved, axis=-1, keepdims=True)


def _wrap(angle: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """To [-pi, pi), whose ends are float32's pi."""
    pi = jnp.asarray(jnp.pi, jnp.float32)
    # An angle that is there already is left to the last bit.
    wrapped = jnp.where(jnp.abs(angle) <= pi, angle, jnp.mod(angle + pi, 2 * pi) - pi)
    return jnp.where(wrapped >= pi, -pi, wrapped)


@dataclasses.dataclass(frozen=True)
class Domain:
    """What all domains have; as it stands, real numbers without bounds.

    Attributes:
      event_ndim: axes of one point.
    """

    event_ndim = 0

    def head_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the network's output, without the batch, for data of this shape."""
        return shape

    def dimension(self, shape: tuple[int, ...]) -> int:
        """Intrinsic number of dimensions of data of this shape."""
        return math.prod(shape)

    def head(self, output: Output) -> Points:
        """`[b, *head_shape]` to points `[b, *shape]`."""
        return output

    def project(self, x: Points) -> Points:
        """The nearest valid point, for what guidance or noise have moved off the domain."""
        return x

    def problem(self, array: Shaped[np.ndarray, "n *s"]) -> str | None:
        """What is wrong with host data, in one clause that names an example; None if nothing is.

        Sums, norms and symmetry may be off by `TOLERANCE`.
        """
        if array.ndim <= self.event_ndim:
            return f"shape {list(array.shape)} has no room for examples {_EVENTS[self.event_ndim]}"
        array = np.asarray(array, np.float64)
        finite = np.isfinite(array)
        if not finite.all():
            return f"{_name('example', ~finite)} has a value that is not finite"
        return self._problem(array)

    def _problem(self, array: np.ndarray) -> str | None:
        return None


def _name(word: str, bad: np.ndarray) -> str:
    """The first example that has an entry for which `bad` is true: "row 17"."""
    return f"{word} {np.argwhere(bad)[0][0]}"


def _first(values: np.ndarray, bad: np.ndarray) -> float:
    """The value at the first place where `bad` is true."""
    return float(values[tuple(np.argwhere(bad)[0])])


class Real(Domain):
    """Any real numbers."""


class Simplex(Domain):
    """Probabilities `[.., k]`: not negative, summing to one."""

    event_ndim = 1

    def dimension(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[:-1]) * (shape[-1] - 1)

    def head(self, output: Output) -> Points:
        return jax.nn.softmax(output, axis=-1)

    def project(self, x: Points) -> Points:
        """The nearest in Euclidean distance: max(x - c, 0), with c such that the sum is one."""
        falling = -jnp.sort(-x, axis=-1)
        count = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
        shift = (jnp.cumsum(falling, axis=-1) - 1) / count
        support = jnp.sum(falling > shift, axis=-1, keepdims=True)
        c = jnp.take_along_axis(shift, jnp.maximum(support, 1) - 1, axis=-1)
        inside = jnp.maximum(x - c, 0)
        return inside / jnp.sum(inside, axis=-1, keepdims=True)

    def _problem(self, array: np.ndarray) -> str | None:
        if (bad := array < 0).any():
            return f"{_name('row', bad)} has the negative value {_first(array, bad):g}"
        total = array.sum(-1)
        if (bad := abs(total - 1) > TOLERANCE).any():
            return f"{_name('row', bad)} sums to {_first(total, bad):.6g}"
        return None


class SPD(Domain):
    """Symmetric positive definite matrices `[.., d, d]`."""

    event_ndim = 2

    def head_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-1] * (shape[-1] + 1) // 2)

    def dimension(self, shape: tuple[int, ...]) -> int:
        return math.prod(self.head_shape(shape))

    def head(self, output: Output) -> Points:
        """L Lᵀ + 1e-4 I, L lower triangular, filled by rows: [[o_0, 0], [o_1, o_2]] for d = 2.

        Where |o| < 1e-3, and L Lᵀ is lost beside 1e-4 I, it is taken from L + I instead.
        """
        d = (math.isqrt(8 * output.shape[-1] + 1) - 1) // 2
        rows, columns = np.tril_indices(d)
        output = _off_zero(output, np.eye(d)[rows, columns])
        zeros = jnp.zeros((*output.shape[:-1], d, d), output.dtype)
        lower = zeros.at[..., rows, columns].set(output)
        # Written out: a matrix product may run in less than float32.
        product = jnp.sum(lower[..., :, None, :] * lower[..., None, :, :], axis=-1)
        return product + SPD_FLOOR * jnp.eye(d, dtype=output.dtype)

    def project(self, x: Points) -> Points:
        """The nearest in Frobenius distance whose eigenvalues are at least 1e-4."""
        values, vectors = jnp.linalg.eigh(0.5 * (x + jnp.swapaxes(x, -1, -2)))
        values = jnp.maximum(values, SPD_FLOOR)
        scaled = vectors * values[..., None, :]
        x = jnp.sum(scaled[..., :, None, :] * vectors[..., None, :, :], axis=-1)
        return 0.5 * (x + jnp.swapaxes(x, -1, -2))

    def _problem(self, array: np.ndarray) -> str | None:
        if array.shape[-1] != array.shape[-2]:
            return f"the examples are {' x '.join(map(str, array.shape[-2:]))} and not square"
        off = abs(array - array.swapaxes(-1, -2)).max((-1, -2))
        if (bad := off > TOLERANCE * abs(array).max((-1, -2))).any():
            return f"{_name('example', bad)} is not symmetric (by {_first(off, bad):g})"
        values = np.linalg.eigvalsh(array)
        # Below this share of the largest one an eigenvalue is float32's rounding.
        if (bad := values[..., 0] <= 1e-7 * abs(values[..., -1])).any():
            least = _first(values[..., 0], bad)
            return f"{_name('example', bad)} is not positive definite (eigenvalue {least:g})"
        return None


class Sphere(Domain):
    """Unit vectors `[.., k]`."""

    event_ndim = 1

    def dimension(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[:-1]) * (shape[-1] - 1)

    def head(self, output: Output) -> Points:
        return _direction(output)

    def project(self, x: Points) -> Points:
        """x / |x|; the centre, to which all are equally near, goes to the first axis."""
        norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
        first = jnp.zeros(x.shape[-1], x.dtype).at[0].set(1)
        return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), first)

    def _problem(self, array: np.ndarray) -> str | None:
        norm = np.linalg.norm(array, axis=-1)
        if (bad := abs(norm - 1) > TOLERANCE).any():
            return f"{_name('row', bad)} has norm {_first(norm, bad):.6g}"
        return None


class Circle(Domain):
    """Angles in [-pi, pi)."""

    def head_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape, 2)

    def head(self, output: Output) -> Points:
        """The angle of (cos, sin)."""
        direction = _direction(output)
        return _wrap(jnp.arctan2(direction[..., 1], direction[..., 0]))

    def project(self, x: Points) -> Points:
        """The same angle in [-pi, pi)."""
        return _wrap(x)

    def _problem(self, array: np.ndarray) -> str | None:
        if (bad := abs(array) > np.pi + 1e-6).any():
            return f"{_name('example', bad)} has value {_first(array, bad):g} outside [-pi, pi)"
        return None


class Positive(Domain):
    """Numbers above 0."""

    def head(self, output: Output) -> Points:
        """softplus: small values on a logarithmic scale, as exp has them, but no overflow above."""
        return jax.nn.softplus(output) + POSITIVE_FLOOR

    def project(self, x: Points) -> Points:
        return jnp.maximum(x, POSITIVE_FLOOR)

    def _problem(self, array: np.ndarray) -> str | None:
        if (bad := array <= 0).any():
            return f"{_name('example', bad)} has value {_first(array, bad):g}, not above 0"
        return None


class Interval(Domain):
    """Numbers from 0 to 1. The ends belong to it: float32 rounds to them."""

    def head(self, output: Output) -> Points:
        return jax.nn.sigmoid(output)

    def project(self, x: Points) -> Points:
        return jnp.clip(x, 0, 1)

    def _problem(self, array: np.ndarray) -> str | None:
        if (bad := (array < 0) | (array > 1)).any():
            return f"{_name('example', bad)} has value {_first(array, bad):g} outside [0, 1]"
        return None


DOMAINS: dict[str, Domain] = {
    "simplex": Simplex(),
    "spd": SPD(),
    "sphere": Sphere(),
    "circle": Circle(),
    "positive": Positive(),
    "interval": Interval(),
    "real": Real(),
}


def head_of(domain: str | None) -> Domain | None:
    """The domain, if a network's numbers have to be put there; None for levels and any reals."""
    return None if domain in (None, "real") else DOMAINS[domain]
