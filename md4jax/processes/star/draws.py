r"""Random draws of star-shaped families, as whole arrays and in a space where nothing underflows.

  (1)  Gamma(a, 1), a >= 1:  X = d (1 + c x)^3,  d = a - 1/3,  c = 1 / sqrt(9 d),  x ~ N(0, 1), is
       accepted if 1 + c x > 0 and log u < x^2 / 2 + d (1 - v + log v),  v = (1 + c x)^3
       [G. Marsaglia, W. W. Tsang, ACM Trans. Math. Software 26 (2000) 363]
  (2)  a < 1:  log X = log X' + log(u) / a,  X' ~ Gamma(a + 1, 1)                [the same, sec. 6]
  (3)  at fixed randomness  dX/da = -(dF/da) / (dF/dX),  F the distribution function [implicit
       reparameterisation, M. Figurnov et al., arXiv:1805.08498]. For large a, of w = log(X / a):
       dw/da = -(e^w - 1 - w) / (a (e^w - 1)) + C(w) / (2 a^2),
       C = 1/3 - w/6 + w^2/60 + w^3/180 + ..., + O(a^-3)
       as z = sqrt(a) h - log(h / (e^w - 1)) / (sqrt(a) h), h^2 / 2 = e^w - 1 - w, is normal but
       for O(a^-3/2) [N. M. Temme, Math. Comp. 58 (1992) 755]; its derivative is ours
  (4)  von Mises-Fisher on the sphere in R^k: density of E = 1 - cos(angle to the mean) is
       e^(-kappa E) (E (2 - E))^((k - 3) / 2).  k = 3:  E = -log(1 - u (1 - e^(-2 kappa))) / kappa
  (5)  other k:  E = 2 b o / (1 + b o), o the odds of Beta((k-1)/2, (k-1)/2),
       b = (k - 1) / (2 kappa + sqrt(4 kappa^2 + (k - 1)^2)), is accepted if log u is below
       -2 kappa b h / ((1 + b) (1 + b o)) + (k - 1) log((1 + h / 2) / (1 + b h / (1 + b))),
       h = o - 1
       [A. T. A. Wood, Commun. Stat. Simul. 23 (1994) 157, in terms of o]
  (6)  o = (1 + g) / (1 - g), g = sqrt(1 - u^(2 / (k - 2))) cos(pi u')  [a coordinate of a uniform
       point on that sphere; G. Ulrich, Appl. Stat. 33 (1984) 158]

Rejection is one loop for the array, until all entries are accepted; each round's draws come from
the keys and its number, so that an entry is the same whatever else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from md4jax import rng
from md4jax.typing import Keys

LARGE = 50.0  # a above which (3) is used as a series. Both sides are within 1e-3 of it there.


def normal_score(u: Float[Array, "*s"], rest: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The x whose normal distribution function is u, rest = 1 - u; between -5.4 and 5.4."""
    # The next float is 1.
    return math.sqrt(2) * jax.lax.erf_inv(jnp.clip(u - rest, -1 + 2.0**-24, 1 - 2.0**-24))


def _normal(keys: Keys, shape: tuple[int, ...]) -> Array:
    """N(0, 1) `[b, *shape]`."""
    draw = lambda key: jax.random.normal(key, (math.prod(shape),), jnp.float32)
    return jax.vmap(draw)(keys).reshape(len(keys), *shape)


def uniforms(
    keys: Keys, number: int | Int[Array, ""], count: int, shape: tuple[int, ...]
) -> list[tuple[Array, Array]]:
    """`count` pairs of u and 1 - u `[b, *shape]`, of 32 bits: at least 2^-33, exact if small."""
    size = count * math.prod(shape)
    # Drawn flat: XLA takes many times as long to compile the same bits in more dimensions.
    draw = lambda key: jax.random.bits(jax.random.fold_in(key, number), (size,), jnp.uint32)
    bits = jax.vmap(draw)(keys).reshape(len(keys), count, *shape)
    as_float = lambda n: (n.astype(jnp.float32) + 0.5) * 2.0**-32
    return [(as_float(bits[:, i]), as_float(~bits[:, i])) for i in range(count)]


def _until_accepted(
    keys: Keys, hopeless: Array, count: int, propose: Callable[..., tuple[Array, Array]]
) -> tuple[Array, Array]:
    """The first accepted proposal of each entry, NaN where `hopeless`, and log of a fresh uniform.

    `propose` makes of `count` pairs of uniforms values and the logarithm of the probability to
    accept them. u / probability is uniform again if u was below it, and independent of the value.
    """

    def missing(value):
        return jnp.isnan(value) & ~hopeless

    # What is missing is told by the value alone. A compiler may compute a comparison twice, rounded
    # in two ways: an array of what is done beside it could say done where no value was taken.
    def one_round(state):
        number, value, log_left = state
        *pairs, (u, _) = uniforms(keys, number, count + 1, value.shape[1:])
        proposed, log_accept = propose(*pairs)
        log_u = jnp.log(u)
        left = jnp.minimum(log_u - jnp.minimum(log_accept, 0), 0)
        return (
            number + 1,
            jnp.where(missing(value) & (log_u < log_accept), proposed, value),
            jnp.where(missing(value), left, log_left),
        )

    unset = jnp.full(hopeless.shape, jnp.nan, jnp.float32)
    start = (jnp.int32(0), unset, unset)
    return jax.lax.while_loop(lambda state: missing(state[1]).any(), one_round, start)[1:]


@jax.custom_jvp
def _with_gradient(a: Array, w: Array) -> Array:
    """w = log(X / a), a draw for a >= 1, with the derivative (3) by a."""
    return w


@_with_gradient.defjvp
def _(primals, tangents):
    a, w = primals
    # XLA's gradient takes sqrt(a) rounds and loses a share 1e-8 a^1.5 of the digits.
    few = jnp.minimum(a, LARGE)
    x = few * jnp.exp(jnp.where(a < LARGE, w, 0.0))
    exact = jax.lax.random_gamma_grad(few, x) / x - 1 / few
    # (e^w - 1 - w) / (e^w - 1), where w is small.
    near = w * (1 / 2 - w * (1 / 12 - w**2 / 720))
    safe = jnp.where(jnp.abs(w) < 0.1, 1.0, w)
    share = jnp.where(jnp.abs(w) < 0.3, near, 1 - safe / jnp.expm1(safe))
    series = (-share + (1 / 3 - w / 6 + w**2 / 60 + w**3 / 180) / (2 * a)) / a
    return w, jnp.where(a < LARGE, exact, series) * tangents[0]


def _log_over_mean(keys: Keys, a: Float[Array, "b *s"]) -> Float[Array, "b *s"]:
    """log(X / a), X ~ Gamma(a, 1): equations (1) to (3).

    It is small for large a, where log X itself would have lost the digits that matter.
    """
    shape = jnp.where(a < 1, a + 1, a)
    fixed = jax.lax.stop_gradient(shape)
    d = fixed - 1 / 3
    c = 1 / jnp.sqrt(9 * d)

    def propose(pair):
        u, rest = pair
        x = normal_score(u, rest)
        y = c * x
        inside = y > -1
        log_v = 3 * jnp.log1p(jnp.where(inside, y, 0.0))
        # 1 - v as a polynomial: for large a, v is nearly 1.
        log_accept = x**2 / 2 + d * (log_v - y * (3 + y * (3 + y)))
        return log_v, jnp.where(inside, log_accept, -jnp.inf)

    log_v, log_u = _until_accepted(keys, ~((fixed > 0) & (fixed < jnp.inf)), 1, propose)
    w = _with_gradient(shape, jax.lax.stop_gradient(log_v + jnp.log1p(-1 / (3 * fixed))))
    return jnp.where(a < 1, w + jnp.log1p(1 / a) + log_u / a, w)


def log_gamma(keys: Keys, a: Float[Array, "b *s"]) -> Float[Array, "b *s"]:
    """log X, X ~ Gamma(a, 1); has a gradient by a. Equations (1) to (3)."""
    return jnp.log(a) + _log_over_mean(keys, a)


def logit_beta(
    keys: Keys, a: Float[Array, "b *s"], b: Float[Array, "b *s"]
) -> Float[Array, "b *s"]:
    """log(X / (1 - X)), X ~ Beta(a, b); finite, with a gradient by a and b."""
    both = _log_over_mean(keys, jnp.stack([a, b], axis=1))
    return jnp.log(a / b) + (both[:, 0] - both[:, 1])


def log_beta(
    keys: Keys, a: Float[Array, "b *s"], b: Float[Array, "b *s"]
) -> tuple[Float[Array, "b *s"], Float[Array, "b *s"]]:
    """log X and log(1 - X), X ~ Beta(a, b), of the X of `logit_beta`."""
    logit = logit_beta(keys, a, b)
    return jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)


def log_dirichlet(keys: Keys, a: Float[Array, "b *s k"]) -> Float[Array, "b *s k"]:
    """log X, X ~ Dir(a) over the last axis; has a gradient by a."""
    return jax.nn.log_softmax(
        jnp.log(a / a.sum(-1, keepdims=True)) + _log_over_mean(keys, a), axis=-1
    )


def bartlett(
    keys: Keys, df: Float[Array, "b"], shape: tuple[int, ...], dimension: int
) -> Float[Array, "b *s d d"]:
    """Lower triangular A such that A A^T ~ Wishart(df, I), df > dimension - 1.

    Row i has i standard normals and the square root of a chi-square of df - i, a Gamma.
    """
    half = (df[:, None] - jnp.arange(dimension)) / 2
    half = half.reshape(df.shape + (1,) * len(shape) + (dimension,))
    half = jnp.broadcast_to(half, df.shape + shape + (dimension,))
    chi = jnp.sqrt(2 * half) * jnp.exp(_log_over_mean(rng.fold(keys, 0), half) / 2)
    rows, columns = jnp.tril_indices(dimension, -1)
    normals = _normal(rng.fold(keys, 1), (*shape, len(rows)))
    on_diagonal = chi[..., None] * jnp.eye(dimension)
    return on_diagonal.at[..., rows, columns].set(normals)


def sphere_excess(
    u: Float[Array, "*s"], rest: Float[Array, "*s"], kappa: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """Equation (4) for k = 3, of a uniform u and rest = 1 - u; has a gradient by kappa."""
    kappa = jnp.maximum(kappa, 1e-30)  # 0 / 0 at 0. The limit, 2 u, is reached long before.
    share = -jnp.expm1(-2 * kappa)
    small = u * share < 0.5
    # The logarithm of 1 - u share, which is 1 - u + u e^(-2 kappa): no digits are lost in either.
    log_small = jnp.log1p(-jnp.minimum(u * share, 0.5))
    log_large = jnp.log(rest + u * jnp.exp(-2 * kappa))
    return jnp.minimum(-jnp.where(small, log_small, log_large) / kappa, 2.0)


def _sphere_rejection(keys: Keys, kappa: Array, k: int) -> Array:
    """Equations (5) and (6) for k >= 2."""
    root = jnp.sqrt(4 * kappa**2 + (k - 1) ** 2)
    b = (k - 1) / (2 * kappa + root)

    def propose(by_radius, by_angle):
        # 1 - radius^2, of the point in the unit disc whose first coordinate is g.
        log_outside = jnp.log(by_radius[0]) * (2 / (k - 2) if k > 2 else math.inf)
        radius = jnp.sqrt(-jnp.expm1(log_outside))
        rim = jnp.exp(log_outside) / (1 + radius)
        u, rest = by_angle
        # 1 +- g as sums of what is positive, with 1 +- cos(pi u) as squares.
        up = rim + radius * 2 * jnp.sin(math.pi / 2 * rest) ** 2
        odds = up / (rim + radius * 2 * jnp.sin(math.pi / 2 * u) ** 2)
        h, y = odds - 1, b * odds
        log_accept = -2 * kappa * b * h / ((1 + b) * (1 + y)) + (k - 1) * (
            jnp.log1p(h / 2) - jnp.log1p(b * h / (1 + b))
        )
        return 2 * y / (1 + y), log_accept

    return _until_accepted(keys, ~((kappa >= 0) & (kappa < jnp.inf)), 2, propose)[0]


def cosine_excess(keys: Keys, kappa: Float[Array, "b *s"], k: int) -> Float[Array, "b *s"]:
    """1 - cos(angle to the mean) of von Mises-Fisher draws in R^k: equations (4) to (6).

    Not the cosine, which is 1 in float32 wherever kappa is large. Has a gradient by kappa only if
    k = 3; else kappa counts as a constant.
    """
    if k == 3:
        ((u, rest),) = uniforms(keys, 0, 1, kappa.shape[1:])
        return sphere_excess(u, rest, kappa)
    return _sphere_rejection(keys, jax.lax.stop_gradient(kappa), k)


def around(
    keys: Keys, mean: Float[Array, "b *s k"], excess: Float[Array, "b *s"]
) -> Float[Array, "b *s k"]:
    """Unit vectors at 1 - cos(angle) = `excess` from the unit vectors `mean`, any way around."""
    k = mean.shape[-1]
    direction = _normal(keys, (*mean.shape[1:-1], k - 1))
    # A normal draw may be 0.
    direction = direction.at[..., 0].add(jnp.where((direction == 0).all(-1), 1.0, 0.0))
    direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    return aside(mean, direction, excess)


def aside(
    mean: Float[Array, "b *s k"], direction: Float[Array, "b *s k1"], excess: Float[Array, "b *s"]
) -> Float[Array, "b *s k"]:
    """Unit vectors at 1 - cos(angle) = `excess` from the unit vectors `mean`, in a direction.

    The direction is a unit vector among the first k - 1 axes, and the reflection that takes the
    last axis to the mean (or away from it, which is further and so more exact) takes it to the
    tangent space.
    """
    side = jnp.where(mean[..., -1:] < 0, -1.0, 1.0)
    rest, last = mean[..., :-1], mean[..., -1:]
    along = (rest * direction).sum(-1, keepdims=True)
    head = direction - rest * along / (1 + side * last)
    tangent = jnp.concatenate([head, -side * along], axis=-1)
    excess = excess[..., None]
    return (1 - excess) * mean + jnp.sqrt(excess * (2 - excess)) * tangent


def von_mises_fisher(
    keys: Keys, mean: Float[Array, "b *s k"], kappa: Float[Array, "b"]
) -> Float[Array, "b *s k"]:
    """Unit vectors of density ~ exp(kappa mean . x); `mean` of unit vectors, kappa >= 0."""
    kappa = kappa.reshape(kappa.shape + (1,) * (mean.ndim - 2))
    kappa = jnp.broadcast_to(kappa, mean.shape[:-1])
    excess = cosine_excess(rng.fold(keys, 0), kappa, mean.shape[-1])
    return around(rng.fold(keys, 1), mean, excess)
