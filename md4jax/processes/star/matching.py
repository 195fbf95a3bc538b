"""Solves for the schedules of star-shaped diffusion that match the mutual information of others.

  python -m md4jax.processes.star.matching --family=beta --output=beta_nu.json
  python -m md4jax.processes.star.matching --family=categorical --num_timesteps=500,1000 \\
      --output=categorical_b.json

The recipe is of SS-DDPM (arXiv:2302.05259; its appendix on schedules); the numerics are ours. All
information is in nats.

Beta. nu as a function of the SNR S such that, for a pixel m in [0, 1],

  I(m; x), x | m ~ Beta(1 + nu m, 1 + nu (1 - m))  =  I(m; y), y | m ~ N(2 m - 1, 1 / S).        (1)

The pixel's law is Beta(1.39, 1.55), a stand-in for that of natural images. Both sides are

  I = sum_i w_i int q(x) phi(log q(x | m_i) / q(x)) dx, phi(u) = u e^u - e^u + 1 >= 0,           (2)

over Gauss-Jacobi nodes m_i: no term is negative, so a small I keeps its digits. A function of S
serves every number of steps.

Categorical. With x_u = x0 with probability a_u, else uniform over V tokens, and pi the law of x0
given x_{u+1}, ..., x_T, one more variable tells

  I(x0; x_u | pi) = D(a e + (1 - a) / V || 1 / V) - D(a pi + (1 - a) / V || 1 / V)               (3)

nats, e being a one-hot vector. a_u is solved for, from u = T back to 1, such that the entropy of x0
that is left, E H(pi), is what D3PM leaves. The mean over pi is over simulated paths. Paths whose x0
is still open carry all that is left to be told; they grow rare, so paths are resampled by
H(pi)^0.7, with weights that undo it, and x0 drawn anew of pi. A step makes good only a fraction of
what the paths' entropy is off by (`GAIN`), which keeps their noise out of the schedule. What noise
is left is smoothed: a spline of the logarithm of a_u's ratio to `bhattacharyya_keep`, which is near
to 1.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from scipy.interpolate import make_lsq_spline
from scipy.optimize import root_scalar
from scipy.special import gammaln, roots_jacobi

from md4jax.console import Progress, duration, say
from md4jax.options import UserError
from md4jax.processes.star.schedules import (
    beta_nu_closed_form,
    bhattacharyya_keep,
    categorical_keep,
    d3pm_information,
    d3pm_keep,
    end_coordinate,
)

PIXEL_LAW = (1.39, 1.55)
# Approximate letter frequencies of English in percent, rounded by us, and 17 % spaces.
LETTERS = {
    "a": 8.2, "b": 1.5, "c": 2.8, "d": 4.3, "e": 12.7, "f": 2.2, "g": 2.0, "h": 6.1, "i": 7.0,
    "j": 0.15, "k": 0.8, "l": 4.0, "m": 2.4, "n": 6.7, "o": 7.5, "p": 1.9, "q": 0.1, "r": 6.0,
    "s": 6.3, "t": 9.1, "u": 2.8, "v": 1.0, "w": 2.4, "x": 0.15, "y": 2.0, "z": 0.07,
}  # fmt: skip
SPACES = 0.17
GAIN = 50  # A step of T makes good GAIN / T of the entropy's deviation.
RESAMPLE_EVERY = 5  # steps
RESAMPLE_POWER = 0.7
SMOOTH_KNOTS = 14

# Nodes and weights of the law of x0, from how many.
Law = Callable[[int], tuple[np.ndarray, np.ndarray]]


def pixel_law(n: int) -> tuple[np.ndarray, np.ndarray]:
    """At least n nodes m in [0, 1] and weights of Beta(*PIXEL_LAW)."""
    return _pixel_law(64 * math.ceil(n / 64))


@functools.cache
def _pixel_law(n: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = PIXEL_LAW
    x, w = roots_jacobi(n, b - 1, a - 1)
    return (1 + x) / 2, w / w.sum()


def _information(log_density: np.ndarray, w: np.ndarray, reference: np.ndarray) -> float:
    """Part of eq. (2): log densities [nodes, points] with respect to a measure [points]."""
    top = log_density.max(0)
    log_mixture = top + np.log(w @ np.exp(log_density - top))
    u = log_density - log_mixture
    return float((reference * np.exp(log_mixture)) @ (w @ (u * np.exp(u) - np.expm1(u))))


def beta_information(nu: float, law: Law = pixel_law, fineness: float = 1.0) -> float:
    """The left side of eq. (1), in nats."""
    # Where x = sin^2(angle / 2), a conditional law is 1 / sqrt(nu) wide wherever m is.
    m, w = law(int(fineness * (40 + 4 * math.sqrt(nu))))
    nodes, weights = np.polynomial.legendre.leggauss(int(fineness * (240 + 6 * math.sqrt(nu))))
    angle = (nodes + 1) * math.pi / 2
    log_x, log_rest = 2 * np.log(np.sin(angle / 2)), 2 * np.log(np.cos(angle / 2))
    dx = weights * math.pi / 2 * np.sin(angle) / 2
    alpha, beta = nu * m, nu * (1 - m)
    log_norm = gammaln(2 + nu) - gammaln(1 + alpha) - gammaln(1 + beta)
    total = 0.0
    for part in np.array_split(np.arange(len(dx)), len(dx) // 200 + 1):
        log_q = np.outer(alpha, log_x[part]) + np.outer(beta, log_rest[part]) + log_norm[:, None]
        total += _information(log_q, w, dx[part])
    return total


def signal_law(n: int) -> tuple[np.ndarray, np.ndarray]:
    """That of 2 m - 1, in [-1, 1]."""
    m, w = pixel_law(n)
    return 2 * m - 1, w


def gaussian_information(snr: float, law: Law = signal_law, fineness: float = 1.0) -> float:
    """The right side of eq. (1), I(x0; x0 + noise / sqrt(snr)), in nats."""
    x0, w = law(int(fineness * (40 + 4 * math.sqrt(snr))))
    mean = math.sqrt(snr) * (x0 - w @ x0)
    # Even spacing: of analytic functions that vanish at both ends the sum converges like exp(-n).
    low, high = mean.min() - 9.5, mean.max() + 9.5
    y, dy = np.linspace(low, high, int(fineness * (high - low) / 0.25), retstep=True)
    total = 0.0
    for part in np.array_split(np.arange(len(y)), len(y) // 200 + 1):
        # With respect to N(0, 1) if that is wide enough: then small ratios are exact.
        if snr < 1:
            log_q = np.outer(mean, y[part]) - 0.5 * mean[:, None] ** 2
            measure = dy * np.exp(-0.5 * y[part] ** 2) / math.sqrt(2 * math.pi)
        else:
            log_q = -0.5 * (y[part] - mean[:, None]) ** 2
            measure = np.full(len(part), dy / math.sqrt(2 * math.pi))
        total += _information(log_q, w, measure)
    return total


def solve_nu(snr: float) -> float:
    """nu of eq. (1), relative error about 1e-7."""
    target = math.log(gaussian_information(snr))
    guess = math.log(beta_nu_closed_form(snr))
    excess = lambda log_nu: math.log(beta_information(math.exp(log_nu))) - target
    return math.exp(root_scalar(excess, x0=guess, x1=guess + 0.05, xtol=1e-8).root)


def solve_beta(points: int, low: float = 1e-10, high: float = 1e5) -> dict[str, Any]:
    """log nu on a grid of log S, as `schedules.matched_nu` reads it."""
    log_S = np.linspace(math.log(low), math.log(high), points)
    progress, log_nu = Progress("beta", points), []
    for i, x in enumerate(log_S):
        log_nu.append(round(math.log(solve_nu(math.exp(x))), 8))
        progress.update(i + 1)
    return {
        "family": "beta",
        "pixel_law": list(PIXEL_LAW),
        "log_S_first": log_S[0],
        "log_S_last": log_S[-1],
        "log_nu": log_nu,
    }


def english_prior() -> np.ndarray:
    """Frequencies of a, ..., z and the space."""
    letters = np.array([LETTERS[c] for c in sorted(LETTERS)])
    return np.append(letters / letters.sum() * (1 - SPACES), SPACES)


def _phi(d: float) -> float:
    """(1 + d) log(1 + d) - d: V times D(p || 1 / V)'s part of a token with p = (1 + d) / V."""
    return (1 + d) * np.log1p(d) - d


def keep_information(keep: float, pi: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Eq. (3), summed over posteriors [N, V] with weights [N], and its derivative by the keep."""
    V = pi.shape[1]
    excess = V * pi - 1
    log = np.log1p(keep * excess)
    # Row by row sum of log(1 + d) and of d log(1 + d), d = keep * excess; d itself sums to 0.
    logs, slopes = log.sum(1), np.einsum("nv,nv->n", log, excess)
    total = weight.sum()
    told = total * (_phi(keep * (V - 1)) + (V - 1) * _phi(-keep)) - weight @ (logs + keep * slopes)
    slope = total * (V - 1) * (np.log1p(keep * (V - 1)) - np.log1p(-keep)) - weight @ slopes
    return float(told / V), float(slope / V)


def _entropy(p: np.ndarray) -> float | np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def _draw(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Tokens of laws [N, V] from numbers in [0, 1)."""
    return np.minimum((p.cumsum(-1) < u[:, None]).sum(-1), p.shape[-1] - 1)


def _next_keep(want: float, guess: float, pi: np.ndarray, weight: np.ndarray) -> float:
    """The keep that tells `want` nats: Newton's method, of logarithms."""
    for _ in range(50):
        told, slope = keep_information(guess, pi, weight)
        change = math.log(want / told) * told / (slope * guess)
        # Never past 1: half of the way to it at most.
        new = min(guess * math.exp(min(max(change, -1), 1)), 0.5 + 0.5 * guess)
        if abs(new / guess - 1) < 1e-3:  # What is left of it is of the order of its square.
            return new
        guess = new
    return guess


def walk(
    T: int,
    prior: np.ndarray,
    paths: int,
    seed: int,
    keep: np.ndarray | None = None,
    update: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Paths from step T back to 1: (keep [T], ratio [T] of the entropy left to D3PM's).

    A schedule `keep` is followed; without one it is solved for.
    """
    rng, V = np.random.default_rng([seed, T]), len(prior)
    d3pm = d3pm_keep(T)
    told = np.append(d3pm_information(d3pm, prior), 0.0)
    left = _entropy(prior) - told
    gain = min(1.0, GAIN / T)
    x0 = _draw(prior[None], (np.arange(paths) + 0.5) / paths)
    log_pi, pi = np.log(np.tile(prior, (paths, 1))), np.tile(prior, (paths, 1))
    weight, entropy = np.full(paths, 1 / paths), np.full(paths, _entropy(prior))
    solved, ratio, a = np.zeros(T), np.zeros(T), d3pm[-1]
    for t in range(T - 1, -1, -1):
        if keep is None:
            off = weight @ entropy / left[t + 1]
            want = (off - 1) * left[t + 1] - left[t] * math.expm1((1 - gain) * math.log(off))
            step = told[t] - told[t + 1]
            a = _next_keep(max(step + want, 0.2 * step), a, pi, weight)
        else:
            a = keep[t]
        solved[t] = a
        x = np.where(rng.random(paths) < a, x0, rng.integers(0, V, paths))
        log_pi[np.arange(paths), x] += math.log1p(V * a / (1 - a))
        log_pi -= log_pi.max(1, keepdims=True)
        pi = np.exp(log_pi)
        norm = pi.sum(1)
        pi /= norm[:, None]
        entropy = np.log(norm) - np.einsum("nv,nv->n", pi, log_pi)
        ratio[t] = weight @ entropy / left[t]
        if t % RESAMPLE_EVERY == 0 and t > 0:
            chance = (entropy + 1e-9) ** RESAMPLE_POWER
            cumulated = np.cumsum(weight * chance)
            at = (np.arange(paths) + rng.random()) / paths * cumulated[-1]
            taken = np.minimum(np.searchsorted(cumulated, at), paths - 1)
            weight = cumulated[-1] / (paths * chance[taken])
            log_pi, pi, entropy = log_pi[taken], pi[taken], entropy[taken]
            x0 = _draw(pi, rng.random(paths))
        update(T - t)
    return solved, ratio


def smooth(keep: np.ndarray, prior: np.ndarray) -> dict[str, Any]:
    """Steps, and there the logarithm of the ratio to the closed form; short ones as they are."""
    T = len(keep)
    step = np.arange(1, T + 1, dtype=np.float64)
    log_ratio = np.log(keep / bhattacharyya_keep(T, prior))
    if T > 2 * SMOOTH_KNOTS:
        x = end_coordinate(step, T)
        knots = np.linspace(x[0], x[-1], SMOOTH_KNOTS)
        # A knot a step at the ends, where steps are further apart than even knots.
        nearest = np.unique(np.abs(x[:, None] - knots).argmin(0))
        inner = x[nearest[1:-1]]
        spline = make_lsq_spline(x, log_ratio, np.r_[[x[0]] * 4, inner, [x[-1]] * 4], k=3)
        step, log_ratio = step[nearest], spline(x[nearest])
        log_ratio[-1] = 0.0  # At step T the two are the same.
    return {"step": step.astype(int).tolist(), "log_ratio": np.round(log_ratio, 5).tolist()}


def solve_categorical(
    num_timesteps: list[int], prior: np.ndarray, work: int, seed: int
) -> dict[str, Any]:
    """Smoothed schedules of several lengths, with how well each matches on fresh paths.

    Args:
      work: steps times paths, for each length.
    """
    curves: dict[str, Any] = {}
    prior = np.round(prior, 6)
    prior[-1] = 1 - prior[:-1].sum()
    for T in num_timesteps:
        paths = min(max(work // T, 1000), 60_000)
        update = Progress(f"categorical, {T} steps", T).update
        keep, _ = walk(T, prior, paths, seed, update=update)
        curves[str(T)] = smooth(keep, prior) | {"paths": paths}
    return {"family": "categorical", "prior": prior.round(6).tolist(), "curves": curves}


def verify_categorical(
    file: pathlib.Path, num_timesteps: list[int], prior: np.ndarray, work: int, seed: int
) -> dict[str, list[float]]:
    """By T: root mean square and largest deviation of the entropy left from D3PM's, fresh paths."""
    errors = {}
    for T in num_timesteps:
        paths = min(max(work // T, 1000), 60_000)
        update = Progress(f"verifying {T} steps", T).update
        _, ratio = walk(T, prior, paths, seed, categorical_keep(T, file), update)
        off = np.abs(ratio - 1)
        errors[str(T)] = [round(float(v), 4) for v in (np.sqrt(np.mean(off**2)), off.max())]
    return errors


def _steps(text: str) -> list[int]:
    if not all(part.isdecimal() and int(part) > 0 for part in text.split(",")):
        raise UserError(f"--num_timesteps={text} should be numbers such as 1000 or 500,1000")
    return sorted({int(part) for part in text.split(",")})


def _beta(args: argparse.Namespace, result: dict[str, Any], write: Callable) -> None:
    result |= solve_beta(args.points, high=args.highest_snr)


def _categorical(args: argparse.Namespace, result: dict[str, Any], write: Callable) -> None:
    V, lengths = args.vocab_size, _steps(args.num_timesteps)
    prior = english_prior() if V == 27 else np.full(V, 1 / V)
    result |= solve_categorical(lengths, prior, args.work, args.seed)
    write()
    result["entropy_off_rms_max"] = verify_categorical(
        args.output, lengths, np.array(result["prior"]), args.work, args.seed + 1
    )


FAMILIES = {"beta": _beta, "categorical": _categorical}  # Each fills the result.


def main(argv: list[str]) -> None:
    """Solves, verifies and writes one family's schedules."""
    parser = argparse.ArgumentParser(prog="python -m md4jax.processes.star.matching")
    parser.add_argument("--family", required=True, choices=list(FAMILIES))
    parser.add_argument("--output", required=True, type=pathlib.Path, help="the file to write")
    parser.add_argument("--num_timesteps", default="1000", help="categorical: lengths, by commas")
    parser.add_argument("--vocab_size", type=int, default=27, help="if not 27: a uniform prior")
    parser.add_argument("--work", type=int, default=12_000_000, help="steps times paths per length")
    parser.add_argument("--points", type=int, default=121, help="beta: points of the table")
    parser.add_argument("--highest_snr", type=float, default=1e5, help="beta: the last point")
    parser.add_argument("--seed", type=int, default=0)
    args, started = parser.parse_args(argv), time.monotonic()
    if not args.output.parent.is_dir():
        raise UserError(f"--output={args.output}: no folder {args.output.parent}")
    result: dict[str, Any] = {
        "made_by": "python -m md4jax.processes.star.matching "
        + " ".join(f"--{key}={value}" for key, value in vars(args).items() if key != "output"),
        "date": datetime.date.today().isoformat(),
        "versions": f"Python {sys.version.split()[0]}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}",
    }
    write = lambda: args.output.write_text(json.dumps(result) + "\n")
    FAMILIES[args.family](args, result, write)
    write()
    say(f"{args.output}: {args.family} schedule, in {duration(time.monotonic() - started)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
