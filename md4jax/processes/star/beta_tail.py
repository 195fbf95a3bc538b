r"""The tail statistic of Beta star-shaped diffusion: its moments, and a table of its quantiles.

Steps are numbered s = 1, ..., T. With m in [1e-4, 1 - 1e-4] the data, nu_s the concentrations and
C = log 9999, the statistic that the network sees is a sum over all later steps:

  (1)  x_s ~ Beta(a, b),   a = 1 + nu_s m,   b = 1 + nu_s (1 - m)       [SS-DDPM, section 3, app.]
  (2)  G_t = sum_{s >= t} nu_s T(x_s),   T(x) = logit x, clipped to [-C, C]

Drawn as written it costs T Beta draws an entry. Its law is known well enough to draw it at once.
Without the clip, T has mean psi(a) - psi(b), variance psi'(a) + psi'(b) and

  (3)  E e^{iwT} = Gamma(a + iw) Gamma(b - iw) / (Gamma(a) Gamma(b))

The clip at -C, where x / (1 - x) = z = 1e-4 / (1 - 1e-4), moves what lies below. There y = logit x
has the density sum_k c_k e^{(a+k) (y+C)}, with c_k = binom(-(a + b), k) z^(a+k) / B(a, b), so that

  (4)  E T    += sum_k c_k / (a+k)^2
       E T^2  -= 2 C sum_k c_k / (a+k)^2 + 2 sum_k c_k / (a+k)^3
       E e^{iwT} += e^{-iwC} sum_k c_k (1 / (a+k) - 1 / (a+k+iw))

and the clip at C does the same with a and b, and the signs of T and w, exchanged. Products of (3)
with (4) over s >= t, inverted by FFT, give the distribution function of G_t.

SS-DDPM: A. Okhotin et al., arXiv:2302.05259.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Complex128, Float32, Float64
from scipy import special

from md4jax.options import UserError

EDGE = 1e-4  # Data, and x inside T, are kept this far from 0 and 1.
BOUND = float(np.log((1 - EDGE) / EDGE))  # C
SCORES = 5.0  # The table's nodes are equispaced normal scores in [-5, 5].
MAX_NU = 2e5  # The series (4) alternates, and loses 8 digits here.

FREQUENCIES = 512  # N: of the characteristic function, kept at w = 0, d, ..., (N - 1) d.
HALF_PERIOD = 24.0  # pi / d in units of a scale that is between half the sd and the sd.
POINTS = 2048  # Of the distribution function, over one period.
NEGLIGIBLE = 1e-13  # Absolute values of characteristic functions below this count as zero.
CLIPPED_MASS = 1e-9  # A side of the clip is left out of (3) at a step if it moves less mass.

# log Gamma(z) - ((z - 1/2) log z - z + const) as a series in 1 / z: B_2j / (2j (2j - 1)).
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
SHIFT = 5  # Gamma at Re z < 6 is taken at z + 5: Stirling's error is then below 1e-11.

Table64 = Float64[np.ndarray, "T L"]
Rows = Float64[np.ndarray, "L"]


def half_levels(levels: int) -> Rows:
    """m of the levels 0, ..., ceil(V / 2) - 1; the others follow, G(V - 1 - l) = -G(l) in law."""
    m = np.arange((levels + 1) // 2) / (levels - 1)
    return np.clip(m, EDGE, 1 - EDGE)


def half_knots(count: int) -> Rows:
    """`count` values of m from 1e-4 to 1/2, evenly spaced in logit m, to interpolate between."""
    return special.expit(np.linspace(-BOUND, 0, count))


def clip_series(
    a: Float64[np.ndarray, "*n"], b: Float64[np.ndarray, "*n"]
) -> list[Float64[np.ndarray, "*n"]]:
    """c_0, c_1, ... of equation (4), until they vanish in float64."""
    z = EDGE / (1 - EDGE)
    c = np.exp(a * np.log(z) - special.betaln(a, b))
    series = [c]
    while np.max(np.abs(c)) > 1e-18:
        k = len(series)
        c = c * (-z * (a + b + k - 1) / k)
        series.append(c)
    return series


def step_moments(nu: Float64[np.ndarray, "T"], m: Rows) -> tuple[Table64, Table64]:
    """Mean and variance of nu_s T(x_s), exact: equations (3) and (4).

    Args:
      nu: concentrations of the steps 1, ..., T.
      m: data in [1e-4, 1 - 1e-4].
    """
    a, b = 1 + nu[:, None] * m, 1 + nu[:, None] * (1 - m)
    mean = special.psi(a) - special.psi(b)
    variance = special.polygamma(1, a) + special.polygamma(1, b)
    first, second = np.zeros_like(mean), np.zeros_like(mean)
    for sign, near, far in ((1, a, b), (-1, b, a)):
        for k, c in enumerate(clip_series(near, far)):
            first += sign * c / (near + k) ** 2
            second -= 2 * c * (BOUND / (near + k) ** 2 + 1 / (near + k) ** 3)
    # E T^2 - (E T)^2 without their difference, which cancels where nu is large.
    variance += second - 2 * mean * first - first**2
    return nu[:, None] * (mean + first), nu[:, None] ** 2 * variance


def tail_moments(nu: Float64[np.ndarray, "T"], m: Rows) -> tuple[Table64, Table64]:
    """Mean and variance of G_1, ..., G_T, exact; arguments as of `step_moments`."""
    mean, variance = step_moments(nu, m)
    return reversed_cumsum(mean), reversed_cumsum(variance)


def reversed_cumsum(x: Table64) -> Table64:
    """sum_{s >= t} x_s along the first axis."""
    return np.cumsum(x[::-1], axis=0)[::-1]


def _stirling(z: np.ndarray) -> np.ndarray:
    """log Gamma(z) less log(2 pi) / 2, for Re z >= 6."""
    inverse = 1 / z
    square = inverse * inverse
    series = STIRLING[-1] * square + STIRLING[-2]
    for term in STIRLING[-3::-1]:
        series = series * square + term
    return (z - 0.5) * np.log(z) - z + series * inverse


def gamma_ratio(
    a: Rows, w: Float64[np.ndarray, "L K"]
) -> tuple[Complex128[np.ndarray, "L K"], Complex128[np.ndarray, "L K"]]:
    """(p, q) with Gamma(a + iw) / Gamma(a) = e^p / q; exactly one at w = 0."""
    low = a < 1 + SHIFT
    p, q = np.empty(w.shape, complex), np.ones(w.shape, complex)
    for rows, shift in ((low, SHIFT), (~low, 0)):
        if not rows.any():
            continue
        x = a[rows, None]
        z = x + 1j * w[rows]
        for j in range(shift):
            q[rows] *= (z + j) / (x + j)
        p[rows] = _stirling(z + shift) - _stirling(x + shift)
    return p, q


def step_cf(
    nu: float, m: Rows, mean: Rows, w: Float64[np.ndarray, "L K"]
) -> Complex128[np.ndarray, "L K"]:
    """E e^{iw (nu T - mean)} of one step at its own frequencies w for each of `m`: (3) and (4)."""
    a, b = 1 + nu * m, 1 + nu * (1 - m)
    y = nu * w
    (p, q), (r, s) = gamma_ratio(a, y), gamma_ratio(b, -y)
    cf = np.exp(p + r) / (q * s)
    for sign, near, far in ((1, a, b), (-1, b, a)):
        rows = special.betainc(near, far, EDGE) > CLIPPED_MASS
        if not rows.any():
            continue
        x, iy = near[rows, None], 1j * sign * y[rows]
        moved = np.zeros(iy.shape, complex)
        for k, c in enumerate(clip_series(near[rows], far[rows])):
            if np.max(np.abs(c)) > NEGLIGIBLE:
                # 1 / (x+k) - 1 / (x+k+iy), which must vanish at y = 0.
                moved += c[:, None] / (x + k) * iy / (x + k + iy)
        cf[rows] += moved * np.exp(-BOUND * iy)
    return cf * np.exp(-1j * w * mean[:, None])


def double_period(cf: Complex128[np.ndarray, "L N"]) -> Complex128[np.ndarray, "L N"]:
    """From frequencies 0, d, ... to 0, d / 2, ...: the density, with zeros put around it."""
    n = cf.shape[1]
    density = np.fft.fftshift(np.fft.irfft(cf, 2 * n), axes=1)
    wide = np.pad(density, ((0, 0), (n, n)))
    return np.fft.rfft(np.fft.ifftshift(wide, axes=1))[:, :n]


def distribution(cf: Complex128[np.ndarray, "L K"]) -> Float64[np.ndarray, "L P"]:
    """The distribution function at P points evenly spaced over [-pi / d, pi / d).

    Args:
      cf: characteristic function at the frequencies 0, d, 2 d, ..., all others being zero.
    """
    k = np.arange(1, cf.shape[1])
    # A jump in the law (the clip's) would ring: high frequencies fade out.
    fade = np.exp(-36 * (k / FREQUENCIES) ** 8)
    integral = np.zeros((len(cf), POINTS // 2 + 1), complex)
    # FFTs have e^{-iwx} where a characteristic function has e^{iwx}: hence the conjugate. The sign
    # shifts the result by half a period.
    integral[:, 1 : len(k) + 1] = np.conj(cf[:, 1:]) * (fade * (-1.0) ** k / (1j * k))
    values = np.fft.irfft(integral, POINTS)
    values *= POINTS / (2 * np.pi)
    values -= values[:, :1].copy()
    values += np.arange(POINTS) / POINTS
    np.clip(values, 0, 1, out=values)
    return np.maximum.accumulate(values, axis=1, out=values)


def invert(
    cdf: Float64[np.ndarray, "L P"], scores: Float64[np.ndarray, "n"]
) -> Float64[np.ndarray, "L n"]:
    """Where, in [-1, 1), distribution functions over that interval take the values Phi(score).

    Between two points the normal score of the distribution function is taken to be linear.
    """
    rows, points = cdf.shape
    # One search of all rows: each is lifted above the one before it.
    lift = 2.0 * np.arange(rows)[:, None]
    above = np.searchsorted((cdf + lift).ravel(), (special.ndtr(scores) + lift).ravel())
    above = above.reshape(rows, -1) - points * np.arange(rows)[:, None]
    above = np.clip(above, 1, points - 1)
    row = np.arange(rows)[:, None]
    left, right = (
        special.ndtri(np.clip(cdf[row, i], NEGLIGIBLE, 1 - NEGLIGIBLE)) for i in (above - 1, above)
    )
    share = np.clip((scores - left) / np.maximum(right - left, 1e-9), 0, 1)
    return (above - 1 + share) * (2 / points) - 1


def last_quantiles(
    nu: float, m: Rows, scores: Float64[np.ndarray, "n"]
) -> Float64[np.ndarray, "L n"]:
    """Quantiles of G_T, a single clipped logit of a Beta variable, in closed form."""
    a, b = (1 + nu * m)[:, None], (1 + nu * (1 - m))[:, None]
    below, above = (
        special.betaincinv(a, b, special.ndtr(scores)),
        special.betaincinv(b, a, special.ndtr(-scores)),
    )
    return nu * np.clip(np.log(below) - np.log(above), -BOUND, BOUND)


def build(
    nu: Float64[np.ndarray, "T"],
    m: Rows,
    nodes: int = 33,
    report: Callable[[int], None] | None = None,
) -> Float32[np.ndarray, "T L nodes"]:
    """Quantiles of G_1, ..., G_T, less the mean and over the sd, at equispaced normal scores.

    From the last step to the first, the characteristic function is multiplied by that of one more
    step. It is kept in units of the sd: as the sd doubles, `double_period`. Read with the monotone
    cubic of `quantile_table`, 33 nodes have a distribution function right to 2.4e-4 at T = 1000 (at
    t = 1, level 0, where the clip's atom is; elsewhere to 1e-4) and to 5e-4 at T = 100.

    Args:
      nu: concentrations of the steps 1, ..., T.
      m: data in [1e-4, 1 - 1e-4].
      nodes: number of scores, from -5 to 5.
      report: is told how many steps are done.

    Raises:
      UserError: the concentrations are not positive or too large for the series (4).
    """
    if not (np.all(nu > 0) and np.all(nu <= MAX_NU)):
        raise UserError(
            f"the concentrations nu of a Beta process should be above 0 and at most {MAX_NU:g}; "
            f"these are {nu.min():g} to {nu.max():g}"
        )
    scores = np.linspace(-SCORES, SCORES, nodes)
    steps = len(nu)
    step_mean, _ = step_moments(nu, m)
    mean, variance = tail_moments(nu, m)
    sd = np.sqrt(variance)
    bound = BOUND * np.cumsum(nu[::-1])[::-1]
    table = np.empty((steps, len(m), nodes), np.float32)
    scale = sd[-1].copy()
    cf = np.ones((len(m), FREQUENCIES), complex)
    for t in reversed(range(steps)):
        while (small := sd[t] > 2 * scale).any():
            cf[small] = double_period(cf[small])
            scale[small] *= 2
        # Products only get smaller: what has become negligible stays so.
        active = 1 + np.flatnonzero((np.abs(cf) > NEGLIGIBLE).any(axis=0))[-1]
        cf[:, active:] = 0
        half_period = HALF_PERIOD * scale[:, None]
        w = np.arange(active) * np.pi / half_period
        cf[:, :active] *= step_cf(nu[t], m, step_mean[t], w)
        if t == steps - 1:
            values = last_quantiles(nu[t], m, scores) - mean[t][:, None]
        else:
            values = half_period * invert(distribution(cf[:, :active]), scores)
            values = np.clip(values, *(s * bound[t] - mean[t][:, None] for s in (-1, 1)))
        table[t] = values / sd[t][:, None]
        if report:
            report(steps - t)
    return table
