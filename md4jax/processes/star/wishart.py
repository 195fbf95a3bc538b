r"""Star-shaped Wisharts: symmetric positive definite matrices (arXiv:2302.05259, section 5.1).

  (1)  q(x_s | x0) = Wishart(n_s, V_s),   V_s^-1 = n_s mu_s,   mu_s = xi_s x0^-1 + (1 - xi_s) I
  (2)  T(x) = x,   A_s = n_s xi_s,   f(x0) = -x0^-1 / 2
  (3)  Cov X_ij, X_kl = n (V_ik V_jl + V_il V_jk), so that where V is diagonal entries of X are
       uncorrelated, of variance n V_ii V_jj, and twice that if i = j
  (4)  KL = n (tr E - log det(I + E)) / 2,   E = L^-1 (mu_hat - mu) L^-T,   mu = L L^T

xi falls from 1 to 0 (the paper's is one less this), so the limit is Wishart(n_T, I / n_T). All V_s
have the eigenvectors of x0: draws are added up in that basis, and turned back once.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64
from scipy.special import multigammaln

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, process_class
from md4jax.processes.gaussian_math import standard_normal
from md4jax.processes.star.draws import bartlett
from md4jax.processes.star.family import Point, Statistic, Step, on_domain
from md4jax.processes.star.remainder import root, sum_over_steps
from md4jax.processes.star.schedules import check_monotone, wishart_n, wishart_xi
from md4jax.processes.star.special import log_det_divergence
from md4jax.processes.star_shaped import StarShaped
from md4jax.typing import Data, Keys, PyTree


@process_class
class StarWishart(StarShaped):
    """Symmetric positive definite matrices of any size, seen through Wisharts around them."""

    num_timesteps: int = option("T.", 64, at_least=2)
    df_max: float = option("n_1, the degrees of freedom of the clearest view.", 20_000.0, above=0)
    df_min: float = option("n_T; more than the matrices' size less one.", 5.0, above=0)
    ratio: float = option("n falls by about this factor a step.", 1.3, above=1)

    event_ndim = 2
    rescales = True
    has_remainder = True

    def bind(self, data: DataSpec) -> StarShaped:
        data = on_domain(data, "spd", "star_wishart")
        if self.df_min <= data.shape[-1] - 1:
            raise UserError(
                f"config.process.df_min = {self.df_min}: matrices of size {data.shape[-1]} need "
                f"more than {data.shape[-1] - 1} degrees of freedom"
            )
        return super().bind(data)

    @functools.cached_property
    def df(self) -> Float64[np.ndarray, "T1"]:
        """n of the steps 0, ..., T; that of 0 is n_1 again."""
        n = wishart_n(self.num_timesteps, self.df_max, self.df_min, self.ratio)
        check_monotone("n", n)
        return np.concatenate([n[:1], n])

    @functools.cached_property
    def xi(self) -> Float64[np.ndarray, "T1"]:
        """xi of the steps 0, ..., T; that of 0 is xi_1 again."""
        xi = wishart_xi(self.num_timesteps)
        return np.concatenate([xi[:1], xi])

    @property
    def weights(self) -> np.ndarray:
        return self.df * self.xi

    def limit_point(self, shape: tuple[int, ...]) -> Float[Array, "*s"]:
        return jnp.broadcast_to(jnp.eye(shape[-1]), shape)

    def prepare(self, point: Point) -> PyTree:
        """Eigenvalues `[b, *u, d]` and eigenvectors `[b, *u, d, d]` of x0."""
        return tuple(jnp.linalg.eigh(point))

    def _precision(self, values: Array, step: Step) -> Array:
        """Eigenvalues of mu of those of x0."""
        xi = self.at(self.xi, step, values)
        return xi / values + (1 - xi)

    def draw(self, keys: Keys, prepared: PyTree, step: Step) -> Statistic:
        values, _ = prepared
        d = values.shape[-1]
        n, xi = self.at(self.df, step), self.at(self.xi, step)
        factor = bartlett(keys, n, values.shape[1:-1], d)
        factor = factor / jnp.sqrt(self._precision(values, step))[..., None]
        weight = xi.reshape(xi.shape + (1,) * (factor.ndim - 1))  # A_s / n_s
        return weight * factor @ jnp.swapaxes(factor, -1, -2)

    def add_remainder(
        self, total: Statistic, keys: Keys, prepared: PyTree, first: Step, last: Step
    ) -> Statistic:
        """A normal of mean n V and (3); its mean alone where the sum leaves the cone otherwise."""
        values, _ = prepared

        def term(n, xi):
            inverse = 1 / (xi / values + (1 - xi))
            squares = inverse[..., :, None] * inverse[..., None, :]
            return n * xi * inverse, n * xi**2 * squares

        mean, variance = sum_over_steps(term, (self.df, self.xi), first, last)
        normal = standard_normal(keys, variance.shape[1:])
        normal = (normal + jnp.swapaxes(normal, -1, -2)) / np.sqrt(2)
        center = total + mean[..., None] * jnp.eye(values.shape[-1])
        found = center + root(variance) * normal
        factor = jnp.linalg.cholesky(jax.lax.stop_gradient(found))  # NaN outside of the cone.
        inside = jnp.isfinite(factor).all(axis=(-2, -1), keepdims=True)
        return jnp.where(inside, found, center)

    def finish(self, total: Statistic, prepared: PyTree) -> Statistic:
        _, vectors = prepared
        return vectors @ total @ jnp.swapaxes(vectors, -1, -2)

    def moments(self, point: Point, step: Step) -> tuple[Statistic, Statistic]:
        values, vectors = self.prepare(point)
        inverse = jnp.eye(values.shape[-1]) / self._precision(values, step)[..., None]
        inverse = self.finish(inverse, (values, vectors))
        n, xi = self.at(self.df, step, point), self.at(self.xi, step, point)
        diagonal = jnp.diagonal(inverse, axis1=-2, axis2=-1)
        spread = diagonal[..., :, None] * diagonal[..., None, :] + inverse**2
        return n * xi * inverse, n * xi**2 * spread

    def kl(self, point: Point, predicted: Point, step: Step) -> Float[Array, "b *u"]:
        """Equation (4)."""
        xi, eye = self.at(self.xi, step, point), jnp.eye(point.shape[-1])
        inverse, guess = jnp.linalg.inv(point), jnp.linalg.inv(predicted)
        difference = xi * guess @ (point - predicted) @ inverse  # Of the inverses, exactly.
        difference = 0.5 * (difference + jnp.swapaxes(difference, -1, -2))
        cholesky = jnp.linalg.cholesky(xi * inverse + (1 - xi) * eye)
        divergence = log_det_divergence(difference, cholesky)
        return 0.5 * self.at(self.df, step, divergence) * divergence

    def scale(self, step: Step) -> Float[Array, "b"]:
        """n_t, as published."""
        return self.at(self.df, step)

    def natural(self, point: Point) -> Statistic:
        return -0.5 * jnp.linalg.inv(point)

    def log_density(self, x0: Data, predicted: Point) -> Float[Array, "b *u"]:
        """As n times the divergence of x0 from the mean, so that little cancels."""
        d, n, xi = x0.shape[-1], float(self.df[0]), float(self.xi[0])
        mean = jnp.linalg.inv(xi * jnp.linalg.inv(predicted) + (1 - xi) * jnp.eye(d))
        divergence = log_det_divergence(x0 - mean, jnp.linalg.cholesky(mean))
        constant = 0.5 * n * d * (np.log(n / 2) - 1) - multigammaln(0.5 * n, d)
        return constant - 0.5 * n * divergence - 0.5 * (d + 1) * jnp.linalg.slogdet(x0)[1]
