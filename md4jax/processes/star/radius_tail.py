r"""The tail statistic of von Mises-Fisher star-shaped diffusion on the sphere S^2: its length.

Steps are numbered s = 1, ..., T, with concentrations kappa_s and a unit vector x0 the data:

  (1)  x_s ~ vMF(x0, kappa_s),  G_t = sum_{s >= t} kappa_s x_s         [SS-DDPM, section 3, app.]

Given its length r, the direction of G_t is vMF(x0, r), and the law of r does not depend on x0. So a
tail with one more step is a sum of two independent vectors, kappa u and r' u', with u ~ vMF(x0,
kappa) and u' ~ vMF(x0, r'): their directions have the joint density ~ exp(x0 . (kappa u + r' u')),
the exponential tilt of two uniform ones, whose sum has a squared length that is uniform from
(r' - kappa)^2 to (r' + kappa)^2. Tilted, the density of r given r' is ~ sinh r between the edges
l = |r' - kappa| and h = r' + kappa, that is

  (2)  P(r <= R | r') = (cosh R - cosh l) / (cosh h - cosh l),   l <= R <= h

From r = kappa_T at t = T, the mixture of (2) over the law of r' gives all laws. Tables hold their
quantiles at equispaced normal scores, read as those of `quantile_table`: with 65 nodes the
distribution function is right to 2e-4, hard edges of the last few steps included.

SS-DDPM: A. Okhotin et al., arXiv:2302.05259.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int
from scipy import special

from md4jax.console import Progress
from md4jax.processes.star import table_cache
from md4jax.processes.star.beta_tail import SCORES
from md4jax.processes.star.draws import aside, normal_score, sphere_excess, uniforms
from md4jax.processes.star.quantile_table import per_entry, read_curve
from md4jax.typing import Keys

WIDE = 6.0  # The law that is mixed over is known at normal scores in [-6, 6],
MIXED = 601  # so many of them,
POINTS = 1024  # and its successor at so many lengths,
COARSE = 64  # found in steps of so many.
BUILD = 1  # Part of a cached table's name: to be counted up as `build` changes its result.


def edges(r: np.ndarray, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """l and h of equation (2)."""
    return np.abs(r - kappa), r + kappa


def step_cdf(
    length: Float64[np.ndarray, "P"], r: Float64[np.ndarray, "M"], kappa: float
) -> Float64[np.ndarray, "M P"]:
    """Equation (2) for each length R and each r'.

    cosh R - cosh l = 2 sinh((R - l) / 2) sinh((R + l) / 2), so neither cancels nor overflows here:
    the ratio is e^(R - h) (1 - e^(l-R)) (1 - e^(-l-R)) / ((1 - e^(l-h)) (1 - e^(-l-h))).
    """
    low, high = (edge[:, None] for edge in edges(r, kappa))
    at = np.clip(length, low, high)
    rise = lambda x: np.expm1(low - x) * np.expm1(-low - x)
    return np.exp(at - high) * rise(at) / rise(high)


def add_step(
    r: Float64[np.ndarray, "M"], scores: Float64[np.ndarray, "M"], kappa: float
) -> Float64[np.ndarray, "M"]:
    """Quantiles of the length after one more step, from those before it, at normal scores."""
    weight = np.exp(-0.5 * scores**2)
    weight /= weight.sum()
    low, high = edges(r, kappa)[0].min(), edges(r, kappa)[1].max()
    # Nearly all of a wide law may be in a small part of it: look closer where it is.
    for points in (COARSE, COARSE, COARSE, POINTS):
        lengths = np.linspace(low, high, points)
        cdf = weight @ step_cdf(lengths, r, kappa)
        low = lengths[max(np.searchsorted(cdf, 1e-10) - 1, 0)]
        high = lengths[min(np.searchsorted(cdf, 1 - 1e-10), points - 1)]
    cdf = np.maximum.accumulate(cdf)
    # In normal scores the distribution function is nearly linear between two lengths.
    place = special.ndtri(np.clip(cdf, 1e-13, 1 - 1e-13))
    place, keep = np.unique(place, return_index=True)
    return np.interp(scores, place, lengths[keep])


def build(
    kappa: Float64[np.ndarray, "T"],
    nodes: int = 65,
    report: Callable[[int], None] | None = None,
) -> Float32[np.ndarray, "T nodes"]:
    """Quantiles of |G_1|, ..., |G_T| at equispaced normal scores in [-5, 5].

    Args:
      kappa: concentrations of the steps 1, ..., T, above 0.
      nodes: number of scores.
      report: is told how many steps are done.
    """
    scores = np.linspace(-WIDE, WIDE, MIXED)
    stored = np.linspace(-SCORES, SCORES, nodes)
    table = np.empty((len(kappa), nodes), np.float32)
    table[-1] = kappa[-1]
    r = np.full(MIXED, kappa[-1])
    for t in reversed(range(len(kappa) - 1)):
        r = add_step(r, scores, kappa[t])
        table[t] = np.interp(stored, scores, r)
        if report:
            report(len(kappa) - t)
    return table


def load(
    kappa: Float64[np.ndarray, "T"], nodes: int = 65, folder: str | os.PathLike | None = None
) -> Float[Array, "T nodes"]:
    """The table of `build`, from the cache if it was built before.

    Args:
      kappa: concentrations of the steps 1, ..., T, above 0.
      nodes: number of scores.
      folder: of the cache; None for `table_cache.default_folder`.
    """

    def make() -> table_cache.Arrays:
        progress = Progress("table of tail lengths, steps", len(kappa))
        quantiles = build(kappa, nodes, progress.update)
        progress.end()
        return {"quantiles": quantiles}

    parameters = {"law": "vMF tail length", "build": BUILD, "kappa": kappa, "nodes": nodes}
    return jnp.asarray(table_cache.cached(folder, parameters, make)["quantiles"])


def radius(
    table: Float[Array, "T nodes"], step: Int[Array, "b"], score: Float[Array, "b *s"]
) -> Float[Array, "b *s"]:
    """|G_t|.

    Args:
      table: of `build`.
      step: t in 1, ..., T.
      score: N(0, 1).
    """
    return jnp.maximum(read_curve(table, per_entry(step - 1, score.shape[1:]), score), 0)


def draw(
    keys: Keys,
    table: Float[Array, "T nodes"],
    step: Int[Array, "b"],
    mean: Float[Array, "b *s 3"],
) -> Float[Array, "b *s 3"]:
    """G_t: its length, then a direction from von Mises-Fisher.

    Args:
      keys: one an example; with its step and mean they decide its draw.
      table: of `build`.
      step: t in 1, ..., T.
      mean: x0.
    """
    # Three uniforms of one call: calls, not their length, are what takes time.
    of_length, of_cosine, (of_angle, _) = uniforms(keys, 0, 3, mean.shape[1:-1])
    r = radius(table, step, normal_score(*of_length))
    angle = 2 * np.pi * of_angle
    direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return r[..., None] * aside(mean, direction, sphere_excess(*of_cosine, r))
