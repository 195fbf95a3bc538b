"""Concentrations of star-shaped diffusion, as functions of the number of steps T.

SS-DDPM, A. Okhotin et al., NeurIPS 2023 (arXiv:2302.05259). Every schedule is float64, computed on
the host, without unit, with entry 0 for step 1 and entry T - 1 for step T, the noisiest.

What they are made of: with f(u) = cos^2((u / (T + 1) + s) / (1 + s) * pi / 2) and s = 0.008,

  alpha_bar_u = f(u) / f(0), u = 1, ..., T                       (1; the cosine of arXiv:2102.09672)
  SNR_u = alpha_bar_u / (1 - alpha_bar_u), SNR_{T+1} = 0                                         (2)
  S_u = SNR_u - SNR_{u+1}    a star's SNR of x_u alone, such that all of x_u, ..., x_T together have
                             DDPM's SNR_u (the paper's theorem 2)                                (3)

The paper gives the Gaussian, Dirichlet, Wishart, von Mises-Fisher and D3PM schedules in closed form
(its appendices on the synthetic, geodesic and text experiments). Beta and categorical ones are to
match the mutual information of Gaussian and D3PM chains: `matching` solves for them, its results in
`schedules_data` are read here, and closed forms near them are `beta_nu_closed_form` and (6). Of the
Gamma and von Mises schedules the paper says only where they start and end; ours are (4) and (5).
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.special import i0e, i1e

from md4jax.options import UserError

Schedule = Float64[np.ndarray, "T"]

_OFFSET = 0.008  # s of eq. (1).


def check_monotone(name: str, values: np.ndarray, decreasing: bool = True) -> None:
    """Checks that a schedule falls (or rises) strictly from each step to the next.

    Raises:
      UserError: names the schedule, the first step that does not and the two values.
    """
    values = np.asarray(values, np.float64)
    rises = np.diff(values)
    # Negated, so that a NaN offends as well.
    wrong = np.flatnonzero(~((rises < 0) if decreasing else (rises > 0)))
    if wrong.size:
        i = int(wrong[0])
        raise UserError(
            f"{name} should {'fall' if decreasing else 'rise'} at every step, but step {i + 2} has "
            f"{values[i + 1]:.6g} after {values[i]:.6g}"
        )


def _angles(T: int) -> tuple[float, float, np.ndarray]:
    """Of the cosine of eq. (1): its angle at u = 0, its angle's step, and u = 1, ..., T."""
    quarter = math.pi / 2 / (1 + _OFFSET)
    return _OFFSET * quarter, quarter / (T + 1), np.arange(1, T + 1, dtype=np.float64)


def _cosine(T: int) -> Schedule:
    """The cosine itself at u = 1, ..., T, as a sine of what is left to its zero at T + 1."""
    _, step, u = _angles(T)
    return np.sin(step * (T + 1 - u))


def cosine_alpha_bar(T: int) -> Schedule:
    """Eq. (1)."""
    start, *_ = _angles(T)
    return (_cosine(T) / math.cos(start)) ** 2


def _complement(T: int, u: np.ndarray) -> np.ndarray:
    """f(0) - f(u), as a product of sines."""
    start, step, _ = _angles(T)
    return np.sin(step * u) * np.sin(step * u + 2 * start)


def cosine_snr(T: int) -> Schedule:
    """Eq. (2); f(0) - f(u) does not cancel."""
    _, _, u = _angles(T)
    return _cosine(T) ** 2 / _complement(T, u)


def cosine_increments(T: int) -> Schedule:
    """Eq. (3): f(0) (f(u) - f(u+1)) / ((f(0) - f(u)) (f(0) - f(u+1))), of sines alone."""
    start, step, u = _angles(T)
    fall = math.sin(step) * np.sin(step * (2 * (T - u) + 1))
    return math.cos(start) ** 2 * fall / (_complement(T, u) * _complement(T, u + 1))


def gaussian_alpha_bar(T: int) -> Schedule:
    """alpha_bar of each of a Gaussian star's variables: S / (1 + S)."""
    S = cosine_increments(T)
    return S / (1 + S)


def d3pm_keep(T: int) -> Schedule:
    """D3PM's probability to still have x0's token: the cosine of eq. (1) not squared."""
    start, *_ = _angles(T)
    return _cosine(T) / math.cos(start)


def d3pm_betas(T: int) -> Schedule:
    """D3PM's probability that a step draws anew: 1 - keep_u / keep_{u-1}, as a product of sines."""
    start, step, u = _angles(T)
    return 2 * math.sin(step / 2) * np.sin(start + step * (u - 0.5)) / np.sin(step * (T + 2 - u))


def _geometric(T: int, first: float, last: float, ratio: float) -> Schedule:
    """last + (first - last) (r_u - 1) / (r_1 - 1), r_u = ratio^(63 (T - u) / (T - 1)).

    The paper's T is 64, and any other runs through the same curve.
    """
    if T < 2:
        raise UserError(f"config.process.num_timesteps = {T} should be at least 2 here")
    growth = np.expm1(math.log(ratio) * 63 * np.arange(T - 1, -1, -1.0) / (T - 1))
    return last + (first - last) * growth / growth[0]


def dirichlet_nu(
    T: int, nu_max: float = 2000.0, nu_min: float = 1e-6, ratio: float = 1.25
) -> Schedule:
    """nu of Dirichlet(1 + nu x0): geometric, less a constant."""
    return _geometric(T, nu_max, nu_min, ratio)


def wishart_n(T: int, n_max: float = 20000.0, n_min: float = 5.0, ratio: float = 1.3) -> Schedule:
    """Degrees of freedom of a Wishart star: geometric, less a constant."""
    return _geometric(T, n_max, n_min, ratio)


def wishart_xi(T: int, last: float = 1e-8) -> Schedule:
    """Weight of x0's inverse in the inverse mean xi / x0 + (1 - xi) I: the root of a line."""
    return np.sqrt(np.linspace(1.0, last, T))


def vmf_kappa(T: int) -> Schedule:
    """kappa on the sphere: its log10 is a cubic through (1, 3), (30, 0.7), (70, 0), (100, -3).

    Taken at 100 (u - 1) / T, so that step 1 lies before the first of the points.
    """
    log10 = CubicSpline([1.0, 30.0, 70.0, 100.0], [3.0, 0.7, 0.0, -3.0], bc_type="not-a-knot")
    return 10.0 ** log10(100 * np.arange(T) / T)


def gamma_alpha(T: int, alpha_min: float = 1.0) -> Schedule:
    """Shape of a Gamma star: alpha = alpha_min + S; see `gamma_xi`."""
    return alpha_min + cosine_increments(T)


def gamma_xi(T: int, alpha_min: float = 1.0) -> Schedule:
    """xi of the rate alpha (xi + (1 - xi) / x0): 1 - xi = sqrt(S / alpha), so xi rises to 1.

    The paper: xi from 0 to 1, alpha from infinity to a constant. The Fisher information of the
    Gamma law about log x0 is alpha (1 - xi)^2 at x0 = 1, at any concentration; it is S,
    as that of the Gaussian star's variable about x0.                                            (4)
    """
    S = cosine_increments(T)
    alpha = alpha_min + S
    # 1 - sqrt(S / alpha), written so that the early steps, where S >> alpha_min, keep their digits.
    return alpha_min / alpha / (1 + np.sqrt(S / alpha))


def von_mises_kappa(T: int) -> Schedule:
    """kappa on the circle, with Fisher information about the angle kappa I1 / I0 = S.          (5)

    So it has the information, and in both limits the mutual information with an angle of uniform
    law, of a Gaussian with SNR S of the point on the circle: kappa -> S + 1/2 and sqrt(2 S).
    """
    S = cosine_increments(T)
    kappa = (S + np.sqrt(S**2 + 8 * S)) / 2
    for _ in range(20):  # Newton; 20 is many more than it takes.
        ratio = i1e(kappa) / i0e(kappa)
        kappa = kappa - (kappa * ratio - S) / (kappa * (1 - ratio**2))
    return kappa


def beta_nu_closed_form(S: float | np.ndarray) -> float | np.ndarray:
    """nu of Beta(1 + nu m, 1 + nu (1 - m)) from S: two powers joined, a fit.

    nu = ((0.96074 S^0.47209)^q + (0.77297 S)^q)^(1/q), q = 1.25354: within 13 % of the schedule
    that was published as a table at T = 1000 (1.9 % rms). In theory nu -> S exp(E log 4 m (1 - m)),
    about 0.68 S for pixels, at high SNR, and nu -> sqrt(12 S) / pi at low.
    """
    S = np.asarray(S, np.float64)
    q = 1.25354
    return ((0.96074 * S**0.47209) ** q + (0.77297 * S) ** q) ** (1 / q)


def read_matched(family: str, file: str | pathlib.Path | None = None) -> dict[str, Any]:
    """What `matching` wrote: of a file, or of the one that comes with the package.

    Raises:
      UserError: the file cannot be read, or is of another family.
    """
    if file is None:
        return _shipped(family)
    try:
        result = json.loads(pathlib.Path(file).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: no schedule of md4jax.processes.star.matching: {error}") from None
    if not isinstance(result, dict) or result.get("family") != family:
        raise UserError(f"{file}: should be of --family={family}")
    return result


@functools.cache
def _shipped(family: str) -> dict[str, Any]:
    name = {"beta": "beta_nu.json", "categorical": "categorical_b.json"}[family]
    folder = importlib.resources.files("md4jax.processes.star") / "schedules_data"
    return json.loads((folder / name).read_text())


def matched_nu(S: np.ndarray, file: str | pathlib.Path | None = None) -> np.ndarray:
    """nu whose Beta channel tells as much of a pixel as a Gaussian of SNR S, any S > 0.

    Monotone cubics of log nu between the solved points; the limiting powers 1/2 and 1 outside.
    """
    table = read_matched("beta", file)
    x = np.linspace(table["log_S_first"], table["log_S_last"], len(table["log_nu"]))
    log_S = np.log(S)
    inside = np.clip(log_S, x[0], x[-1])
    log_nu = PchipInterpolator(x, table["log_nu"])(inside)
    beyond = log_S - inside
    return np.exp(log_nu + np.where(beyond > 0, beyond, beyond / 2))


def beta_nu(num_timesteps: int, file: str | pathlib.Path | None = None) -> Schedule:
    """nu of a Beta star of images, for any number of steps: `matched_nu` of eq. (3).

    At T = 1000 it is 6 % rms and at most 14 % off the table published, whose estimates are noisy.
    """
    nu = matched_nu(cosine_increments(num_timesteps), file)
    check_monotone("nu of the Beta star", nu)
    return nu


def d3pm_information(keep: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """I(x0; x_u) in nats where x_u is x0 with probability `keep`, else uniform."""
    V, keep = len(prior), np.asarray(keep, np.float64)
    # V D(p || 1 / V) is the sum of (1 + d) log(1 + d) - d over tokens of p = (1 + d) / V.
    part = lambda d: (1 + d) * np.log1p(d) - d
    of_x0 = part(keep * (V - 1)) + (V - 1) * part(-keep)
    return (of_x0 - part(np.multiply.outer(keep, V * prior - 1)).sum(-1)) / V


def bhattacharyya_keep(T: int, prior: np.ndarray) -> Schedule:
    """1 - b of a categorical star that has about D3PM's information, for any prior; a formula.

    Where x0 is all but known, the entropy H that is left falls with each variable by its
    Bhattacharyya coefficient, that of two tokens,
    B(k) = (2 sqrt((1 + (V - 1) k) (1 - k)) + (V - 2) (1 - k)) / V; so, with D3PM's H,

      -log B(k_u) = c_u log(H_{u+1} / H_u), c_u = 1 + (c_T - 1) H_u / H_T                        (6)

    where c_T, near 1.7 for text, makes step T exact, and so those where a variable tells little.
    """
    V, keep = len(prior), d3pm_keep(T)
    told = np.append(d3pm_information(keep, prior), 0.0)
    left = -(prior * np.log(prior)).sum() - told
    rate = np.log1p((told[:-1] - told[1:]) / left[:-1])
    k = keep[-1]
    B_T = (2 * math.sqrt((1 + (V - 1) * k) * (1 - k)) + (V - 2) * (1 - k)) / V
    c_T = -math.log(B_T) / rate[-1]
    gone = -np.expm1(-(1 + (c_T - 1) * left[:-1] / left[-2]) * rate)  # 1 - B
    k = ((V - 2) * gone + 2 * np.sqrt(gone * (1 + (V - 1) * (1 - gone)))) / V
    k[-1] = keep[-1]  # Rounding aside it is that.
    return k


def categorical_keep_closed_form(T: int, vocab_size: int) -> Schedule:
    """Eq. (6) for tokens that are equally likely: any vocabulary, any length.

    Of 27 tokens it is within 9 % of the one matched for English, from T = 4 to 4000.
    """
    return bhattacharyya_keep(T, np.full(vocab_size, 1 / vocab_size))


def end_coordinate(step: np.ndarray, T: int) -> np.ndarray:
    """log(u / (T + 1 - u)) of u = 1, ..., T: it resolves single steps at both ends."""
    return np.log(step / (T + 1 - step))


def categorical_keep(
    num_timesteps: int, file: str | pathlib.Path | None = None, vocab_size: int | None = None
) -> Schedule:
    """1 - b: x_u is x0's token with probability 1 - b_u, else uniform over all tokens.

    G_u of all of x_u, ..., x_T tells as much of x0 as D3PM's x_u does. Solved, for English text of
    27 characters, at a few T (`schedules_data`, or a `file` that `matching` wrote); the logarithm
    of its ratio to eq. (6) is interpolated: in the step by monotone cubics, and at
    equal (u - 1) / (T - 1) in log T by a line. What is between two T is thus not a chain of
    merged steps, but one of about the same information, as `matching` measures. The table published
    for T = 1000 is 0.81 to 1.20 times this, steps 21 to 960; before and after them it follows lines
    of 20 steps, which leave ten times D3PM's entropy at step 1 and tell nothing at step T.

    Raises:
      UserError: there is nothing for this T, or for this vocabulary.
    """
    result = read_matched("categorical", file)
    if vocab_size is not None and vocab_size != len(result["prior"]):
        raise UserError(
            f"the schedule of {file or 'md4jax'} is for {len(result['prior'])} tokens, not "
            f"{vocab_size}: make one with python -m md4jax.processes.star.matching --help"
        )
    curves = {int(T): curve for T, curve in result["curves"].items()}
    solved = np.array(sorted(curves))
    if not solved[0] <= num_timesteps <= solved[-1]:
        raise UserError(
            f"config.process.num_timesteps = {num_timesteps}: the categorical schedule is matched "
            f"for {solved[0]} to {solved[-1]} steps; python -m md4jax.processes.star.matching "
            "--family=categorical makes others"
        )
    along = np.linspace(0.0, 1.0, num_timesteps) if num_timesteps > 1 else np.zeros(1)
    above = int(np.searchsorted(solved, num_timesteps))
    pair = [solved[above]] if solved[above] == num_timesteps else solved[above - 1 : above + 1]
    ratios = []
    for T in map(int, pair):
        x = end_coordinate(np.asarray(curves[T]["step"], np.float64), T)
        cubic = PchipInterpolator(x, curves[T]["log_ratio"]) if len(x) > 1 else np.zeros_like
        ratios.append(cubic(end_coordinate(1 + along * (T - 1), T)))
    weight = 0.0
    if len(pair) == 2:
        weight = math.log(num_timesteps / pair[0]) / math.log(pair[1] / pair[0])
    log_ratio = (1 - weight) * ratios[0] + weight * ratios[-1]
    keep = bhattacharyya_keep(num_timesteps, np.array(result["prior"])) * np.exp(log_ratio)
    check_monotone("1 - b of the categorical star", keep)
    return keep
