"""Laws of single entries of tails, exact and with a normal remainder, by Fourier inversion.

Each step adds an independent A_s T(x_s): logarithms of their characteristic functions add up.
`[omega]` in, complex `[omega]` out, of the entry's law given x0, all float64.
"""

import numpy as np
from scipy import special

from md4jax.processes.star import beta_tail

WIDTH = 24.0  # Of the interval that laws are computed on, in standard deviations.
POINTS = 2**10  # Lengths and frequencies.


def compare(terms, counts):
    """Of a sum of terms, and of sums of the first K of them and a normal for the others.

    Args:
      terms: (log CF, mean, variance) of each.
      counts: the K.

    Returns:
      x and P(X <= x) of the former, and the KS distance of each of the latter to it.
    """
    log_cfs, means, variances = zip(*terms)
    mean, sd = sum(means), np.sqrt(sum(variances))
    h = 2 * np.pi / (WIDTH * sd)
    omega = (np.arange(POINTS) + 0.5) * h
    j = np.arange(POINTS) - POINTS // 2

    def inverted(log_cf):
        """-1/pi times the integral over omega > 0 of Im(exp(-i omega x) CF) / omega."""
        transform = np.fft.fft(np.exp(log_cf - 1j * omega * mean) / omega)
        return (
            -h / np.pi * (np.exp(-1j * np.pi * j / POINTS) * np.roll(transform, POINTS // 2)).imag
        )

    sums = np.cumsum([0j * omega, *(f(omega) for f in log_cfs)], axis=0)
    exact, distances = inverted(sums[-1]), []
    for k in counts:
        rest = 1j * omega * sum(means[k:]) - 0.5 * omega**2 * sum(variances[k:])
        distances.append(float(np.abs(inverted(sums[k] + rest) - exact).max()))
    return mean + j * WIDTH * sd / POINTS, 0.5 + exact, distances


def dirichlet_entry(nu, x, dimension=3):
    """Of nu log x_i, x ~ Dir(1 + nu x0), x0's entry x: log CF, mean and variance."""
    a, total = 1 + nu * x, dimension + nu
    shift = special.loggamma(total) - special.loggamma(a)

    def log_cf(w):
        return special.loggamma(a + 1j * w * nu) - special.loggamma(total + 1j * w * nu) + shift

    mean = nu * (special.digamma(a) - special.digamma(total))
    return log_cf, mean, nu**2 * (special.polygamma(1, a) - special.polygamma(1, total))


def clipped_beta(nu, m):
    """Of nu logit x, x ~ Beta(1 + nu m, 1 + nu (1 - m)), clipped as the published one is."""
    m = np.array([m])
    mean, variance = (float(x[0, 0]) for x in beta_tail.step_moments(np.array([nu]), m))

    @np.errstate(divide="ignore")  # Where it vanishes.
    def log_cf(w):
        return np.log(beta_tail.step_cf(nu, m, np.array([mean]), w[None])[0]) + 1j * w * mean

    return log_cf, mean, variance


def wishart_diagonal(n, xi, value):
    """Of n xi X_ii in x0's eigenbasis: xi / mu times a chi-square."""
    m = xi / (xi / value + 1 - xi)
    return lambda w: -0.5 * n * np.log(1 - 2j * w * m), n * m, 2 * n * m**2


def wishart_off_diagonal(n, xi, value, other):
    """Of n xi X_ij: a sum of n products of two normals."""
    square = xi**2 / (xi / value + 1 - xi) / (xi / other + 1 - xi)
    return lambda w: -0.5 * n * np.log1p(w**2 * square) + 0j, 0.0, n * square


def categorical_entry(w_s, p):
    """Of w_s if the token is drawn, else 0."""
    return lambda w: np.log(1 - p + p * np.exp(1j * w * w_s)), w_s * p, w_s**2 * p * (1 - p)
