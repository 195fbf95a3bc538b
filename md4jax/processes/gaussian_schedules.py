"""Noise schedules of Gaussian diffusion: variances of T steps, and log-SNR of continuous time.

Discrete schedules give beta_1, ..., beta_T, the variance that each step adds, as float64: with the
cosine schedule and T = 4000 the signal that is left, alpha_bar_T = prod (1 - beta_i), is 1.5e-10.

Continuous ones give gamma(t) = -log SNR(t) on [0, 1], increasing from gamma_min to gamma_max.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Key
from scipy.special import expit

from md4jax.options import UserError
from md4jax.typing import PyTree

Betas = Float64[np.ndarray, "T"]

MAX_BETA = 0.999


def _ends(T: int) -> tuple[float, float]:
    """DDPM's first and last beta, scaled so that T steps destroy as much as its 1000 do."""
    return 1e-4 * 1000 / T, min(0.02 * 1000 / T, MAX_BETA)


def _from_signal(signal: Callable[[np.ndarray], np.ndarray], T: int) -> Betas:
    """The betas whose products follow a function alpha_bar(u), u = 0, 1/T, ..., 1."""
    alpha_bar = signal(np.arange(T + 1) / T)
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


def linear(T: int) -> Betas:
    """DDPM's (arXiv:2006.11239), scaled by 1000 / T (arXiv:2102.09672)."""
    return np.linspace(*_ends(T), T)


def quadratic(T: int) -> Betas:
    """Square roots evenly spaced between the linear schedule's ends (DDIM's code)."""
    return np.linspace(*np.sqrt(_ends(T)), T) ** 2


def constant(T: int) -> Betas:
    """The linear schedule's last value throughout."""
    return np.full(T, _ends(T)[1])


def sigmoid_beta(T: int) -> Betas:
    """Betas along a sigmoid from -6 to 6 between the linear schedule's ends (DDIM's code)."""
    start, end = _ends(T)
    return expit(np.linspace(-6, 6, T)) * (end - start) + start


def jsd(T: int) -> Betas:
    """1/T, 1/(T - 1), ..., 1: nothing is left at the end (arXiv:1503.03585)."""
    return 1 / np.arange(T, 0, -1.0)


def cosine(T: int) -> Betas:
    """alpha_bar falls like cos^2 (arXiv:2102.09672, eq. 17)."""
    return _from_signal(lambda u: np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2, T)


def sigmoid(T: int) -> Betas:
    """alpha_bar falls like a sigmoid from -3 to 3 (arXiv:2212.11972, section 3.1)."""
    low, high = expit(-3.0), expit(3.0)
    return _from_signal(lambda u: (high - expit(6 * u - 3)) / (high - low), T)


BETAS: dict[str, Callable[[int], Betas]] = {
    "linear": linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "quadratic": quadratic,
    "const": constant,
    "jsd": jsd,
    "sigmoid_beta": sigmoid_beta,
}


def space_timesteps(T: int, respacing: str) -> list[int]:
    """Which of the steps 0, ..., T - 1 a shorter chain keeps (Improved DDPM's two notations).

    Args:
      respacing: "ddimN", the steps 0, s, 2s, ... with the one stride s that gives N of them; or
        numbers "n1,n2,...", where T is cut into as many equal sections and n_i steps evenly spaced
        from the first to the last of section i are kept.

    Raises:
      UserError: there are no such steps.
    """
    if respacing.startswith("ddim") and respacing[4:].isdecimal():
        wanted = int(respacing[4:])
        for stride in range(1, T):
            if len(range(0, T, stride)) == wanted:
                return list(range(0, T, stride))
        raise UserError(
            f"respacing = {respacing!r}: no stride through {T} steps makes {wanted} of them; "
            f"{wanted!r} spaces them evenly"
        )
    counts = respacing.split(",")
    if not all(c.strip().isdecimal() and int(c) > 0 for c in counts):
        raise UserError(
            f"respacing = {respacing!r} should be 'ddim50', '50' or sections such as '10,15,20'"
        )
    kept, start = [], 0
    for i, count in enumerate(map(int, counts)):
        size = T // len(counts) + (i < T % len(counts))
        if count > size:
            raise UserError(
                f"respacing = {respacing!r}: section {i + 1} of {T} steps has {size}, not {count}"
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # Summed up, not multiplied, as published: a half may round to the other side.
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += size
    return kept


def linear_gamma(params: PyTree, t: Array, low: float, high: float) -> Array:
    """gamma linear in t (VDM, arXiv:2107.00630, appendix H)."""
    return low + (high - low) * t


def cosine_gamma(params: PyTree, t: Array, low: float, high: float) -> Array:
    """alpha_bar = cos^2(pi u / 2), u linear in t, cut to [low, high] (arXiv:2202.00512)."""
    first, last = (2 / math.pi * math.atan(math.exp(0.5 * g)) for g in (low, high))
    u = first + (last - first) * t
    # sin / cos rather than tan, with the cosine near u = 1 as a sine of what is left.
    ends = (1 - first) - (last - first) * t
    return 2 * jnp.log(jnp.sin(0.5 * math.pi * u) / jnp.sin(0.5 * math.pi * ends))


def learned_gamma(params: PyTree, t: Array, low: float, high: float) -> Array:
    """A monotone network, rescaled so that gamma(0) = low and gamma(1) = high whatever it learns.

    (VDM's network, appendix H, with the end points it leaves loose pinned.)
    """
    positive = jax.nn.softplus

    def hidden(t):
        return jax.nn.sigmoid(positive(params["slope"]) * (t[..., None] - params["centre"]))

    def risen(t):
        # Less its value at 0 unit by unit: units that are flat leave nothing to be rounded.
        since_0 = hidden(t) - hidden(jnp.zeros_like(t))
        # No matrix product: accelerators would round its inputs to 10 bits or fewer.
        return positive(params["linear"]) * t + jnp.sum(since_0 * positive(params["height"]), -1)

    return low + (high - low) * risen(t) / risen(jnp.ones_like(t))


def learned_linear_gamma(params: PyTree, t: Array, low: float, high: float) -> Array:
    """b + |w| t: linear, with ends that are learned (VDM's code); low and high are the first."""
    return params["b"] + jnp.abs(params["w"]) * t


def init_learned_linear_gamma(low: float, high: float) -> dict[str, Float[Array, ""]]:
    """Parameters of `learned_linear_gamma` at which it goes from low to high."""
    return {"b": jnp.float32(low), "w": jnp.float32(high - low)}


def init_learned_gamma(key: Key[Array, ""], width: int = 64) -> dict[str, Float[Array, "..."]]:
    """Parameters of `learned_gamma` at which it is all but linear."""
    return {
        "linear": jnp.ones(()),
        "slope": jnp.full(width, 10.0),
        "centre": jnp.linspace(0.0, 1.0, width) + 0.01 * jax.random.normal(key, (width,)),
        "height": jnp.full(width, -6.0),
    }


GAMMAS: dict[str, Callable] = {
    "linear": linear_gamma,
    "cosine": cosine_gamma,
    "learned": learned_gamma,
    "learned_linear": learned_linear_gamma,
}
