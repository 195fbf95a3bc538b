r"""Divergences of exponential families in float32, without cancellation.

Late in a star-shaped diffusion two distributions differ by 1e-5 of their parameters and their
divergence is 1e-10, which no difference of log-gammas in float32 can see. All of it is built of
two functions that are >= 0, have a double zero at r = 0 and are known there to all digits:

  (1)  excess(r)         = r - log(1 + r)
  (2)  entropy_excess(r) = (1 + r) log(1 + r) - r
       With s = r / (2 + r), log(1 + r) = 2 atanh(s) and P = 1/3 + s^2/5 + s^4/7 + ...
       excess = r s (1 - s (1 - s) P),   entropy_excess = r s (1 + s (1 + s) P)
  (3)  D(a, b) = lnG(b) - lnG(a) - psi(a) (b - a),   G the gamma function, psi = (lnG)'
       D(a, b) = D(a + n, b + n) + sum_(j < n) excess((b - a) / (a + j))     [G(z + 1) = z G(z)]
       and for large a, b Stirling's series: with d = b - a, r = d / a, u = 1/a, v = 1/b
       D(a, b) = a entropy_excess(r) + excess(r) / 2 + d^2 u^2 v (1/12 - (3u^2 + 2uv + v^2) / 360
                 + (5u^4 + 4u^3 v + 3u^2 v^2 + 2u v^3 + v^4) / 1260 - ...)
  (4)  KL(Dir(a) || Dir(b)) = sum_i D(a_i, b_i) - D(sum a, sum b)
  (5)  KL(p || q) = sum_i q_i entropy_excess((p_i - q_i) / q_i)
  (6)  tr E - log det(I + E) = sum_i excess(c_i) + |u_i|^2 / (1 + c_i), where elimination finds the
       pivots 1 + c_i of I + E and the rows u_i right of them. KL(W(n, V) || W(n, V')) is n/2 of it
       for I + E similar to V'^-1 V.
  (7)  psi(a) = psi(a + n) - sum_(j < n) 1 / (a + j),   psi'(a) = psi'(a + n) + sum 1 / (a + j)^2,
       psi(z) = log z - u/2 - u^2/12 + u^4/120 - u^6/252 + ...,   u = 1 / z
       psi'(z) = u + u^2/2 + u^3/6 - u^5/30 + u^7/42 - ...

The families: A. Okhotin et al., "Star-Shaped Denoising Diffusion Probabilistic Models",
arXiv:2302.05259, table 6. The forms here are ours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

SHIFT = 5  # n in (3). The terms left out are then 1e-7 of D.
NEAR = 0.2  # |s| below which (1) and (2) are series; above, their differences lose a factor of 6.


def _parts(x: Array, y: Array, difference: Array) -> tuple[Array, Array, Array, Array, Array]:
    """s, P, r s and log(y / x) of r = difference / x, and where the series are to be used.

    Of y / x = 1 + r, not of r: that has no digits left of 1 + r if y is a millionth of x.
    """
    s = difference / (x + y)
    near = jnp.abs(s) < NEAR
    s = jnp.clip(s, -NEAR, NEAR)  # What is not selected stays finite, and so do gradients.
    square = s * s
    # 0.04^6 / 15 are left out.
    P = square * (1 / 7 + square * (1 / 9 + square * (1 / 11 + square / 13)))
    P = 1 / 3 + square * (1 / 5 + P)
    # A y of 0 has the logarithm of the least float, so that its gradient is finite too.
    log_ratio = jnp.log(jnp.maximum(y / x, jnp.finfo(jnp.float32).tiny))
    return s, P, s * (difference / x), log_ratio, near


def _excess(x: Array, y: Array, difference: Array) -> Array:
    """(1) of r = y / x - 1, where difference = y - x."""
    s, P, product, log_ratio, near = _parts(x, y, difference)
    return jnp.where(near, product * (1 - s * (1 - s) * P), difference / x - log_ratio)


def _entropy_excess(x: Array, y: Array, difference: Array) -> Array:
    """x times (2) of r = y / x - 1, where difference = y - x."""
    s, P, product, log_ratio, near = _parts(x, y, difference)
    return jnp.where(near, x * (product * (1 + s * (1 + s) * P)), y * log_ratio - difference)


def excess(r: Array) -> Array:
    """Equation (1) for r > -1."""
    return _excess(jnp.ones_like(r), 1 + r, r)


def entropy_excess(r: Array) -> Array:
    """Equation (2) for r >= -1."""
    return _entropy_excess(jnp.ones_like(r), 1 + r, r)


def lgamma_bregman(a: Array, b: Array, difference: Array | None = None) -> Array:
    """Equation (3) for a, b > 0: what ln Gamma at b is above its tangent at a.

    Args:
      a, b: broadcast against each other; 0.01 to 1e6 are tested.
      difference: b - a, where it is known to more digits than a and b are; else by subtraction.
    """
    difference = b - a if difference is None else difference
    a, b, difference = jnp.broadcast_arrays(a, b, difference)
    # The sum of (3) and, as its last term, that of Stirling's series, with its half.
    j = jnp.arange(SHIFT + 1, dtype=a.dtype).reshape(-1, *(1,) * a.ndim)
    excesses = jnp.where(j < SHIFT, 1.0, 0.5) * _excess(a + j, b + j, difference)
    a, b = a + SHIFT, b + SHIFT
    u, v = 1 / a, 1 / b
    series = (
        1 / 12
        - (3 * u**2 + 2 * u * v + v**2) / 360
        + (5 * u**4 + 4 * u**3 * v + 3 * u**2 * v**2 + 2 * u * v**3 + v**4) / 1260
    )
    near_entropy = _entropy_excess(a, b, difference) + (difference * u) ** 2 * v * series
    return excesses.sum(0) + near_entropy


def dirichlet_kl(
    a1: Float[Array, "... k"],
    a2: Float[Array, "... k"],
    difference: Float[Array, "... k"] | None = None,
    same_total: bool = False,
) -> Float[Array, "..."]:
    """Equation (4): KL(Dir(a1) || Dir(a2)) in nats, over the last axis.

    The last term of (4) is all that is subtracted. It cancels digits where a1 and a2 have nearly
    the same mean and totals that differ much; with equal totals it is 0.

    Args:
      difference: a2 - a1, where it is known to more digits than a1 and a2 are.
      same_total: both have the same sum, so that the term is left out.
    """
    difference = a2 - a1 if difference is None else difference
    kl = lgamma_bregman(a1, a2, difference).sum(-1)
    if same_total:
        return kl
    return kl - lgamma_bregman(a1.sum(-1), a2.sum(-1), difference.sum(-1))


def beta_kl(
    a1: Float[Array, "*s"],
    b1: Float[Array, "*s"],
    a2: Float[Array, "*s"],
    b2: Float[Array, "*s"],
    difference: tuple[Float[Array, "*s"], Float[Array, "*s"]] | None = None,
    same_total: bool = False,
) -> Float[Array, "*s"]:
    """Equation (4) for two entries: KL(Beta(a1, b1) || Beta(a2, b2)) in nats.

    Args:
      difference: a2 - a1 and b2 - b1, where they are known to more digits than by subtraction.
      same_total: a1 + b1 = a2 + b2; see `dirichlet_kl`.
    """
    by_a, by_b = (a2 - a1, b2 - b1) if difference is None else difference
    kl = lgamma_bregman(a1, a2, by_a) + lgamma_bregman(b1, b2, by_b)
    if same_total:
        return kl
    return kl - lgamma_bregman(a1 + b1, a2 + b2, by_a + by_b)


def digamma_trigamma(a: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """psi(a) and psi'(a) for a >= 1: equation (7); their rounding is float32's."""
    below = [1 / (a + j) for j in range(SHIFT)]
    u = 1 / (a + SHIFT)
    square = u * u
    psi = -jnp.log(u) - u / 2 - square * (1 / 12 - square * (1 / 120 - square / 252))
    slope = u + square / 2 + u * square * (1 / 6 - square * (1 / 30 - square / 42))
    return psi - sum(below), slope + sum(x * x for x in below)


def categorical_kl(
    p_minus_q: Float[Array, "... k"], q: Float[Array, "... k"]
) -> Float[Array, "..."]:
    """Equation (5): KL(p || q) in nats over the last axis, from the difference of probabilities.

    p may be 0; where q is 0 the term is 0 if p is, else infinite.
    """
    possible = q > 0
    safe_q, d = jnp.where(possible, q, 1.0), jnp.where(possible, p_minus_q, 0.0)
    # q + (p - q), rounded, may be slightly below 0.
    terms = _entropy_excess(safe_q, jnp.maximum(safe_q + d, 0.0), d)
    return jnp.where(possible, terms, jnp.where(p_minus_q > 0, jnp.inf, 0.0)).sum(-1)


def log_det_divergence(
    difference: Float[Array, "*s d d"], base_cholesky: Float[Array, "*s d d"]
) -> Float[Array, "*s"]:
    """Equation (6) of E = L^-1 D L^-T: tr E - log det(I + E), which is >= 0.

    The pivots are kept without their 1, so that nothing cancels however small E is, and no term of
    the sum is negative. Unrolled over d, which is meant to be small.

    Args:
      difference: D, symmetric, such that L L^T + D is positive definite.
      base_cholesky: L, lower triangular.
    """
    solve = lambda x: jax.lax.linalg.triangular_solve(base_cholesky, x, left_side=True, lower=True)
    E = solve(jnp.swapaxes(solve(difference), -1, -2))
    total = jnp.zeros(E.shape[:-2], E.dtype)
    for _ in range(E.shape[-1]):
        c, u = E[..., 0, 0], E[..., 0, 1:]
        scaled = u / (1 + c)[..., None]
        total = total + excess(c) + (u * scaled).sum(-1)
        E = E[..., 1:, 1:] - u[..., :, None] * scaled[..., None, :]
    return total


def through_four(
    place: Float[Array, "*n"], knots: int
) -> tuple[Int[Array, "*n"], tuple[Float[Array, "*n"], ...]]:
    """The cubic through the four knots around a place: the first of them, and their weights.

    Args:
      place: from 0 to `knots` - 1, which is at least 3.
      knots: how many there are, one apart.
    """
    start = jnp.clip(jnp.floor(place).astype(jnp.int32) - 1, 0, knots - 4)
    u = place - start
    return start, (
        (1 - u) * (u - 2) * (u - 3) / 6,
        u * (u - 2) * (u - 3) / 2,
        u * (1 - u) * (u - 3) / 2,
        u * (u - 1) * (u - 2) / 6,
    )
