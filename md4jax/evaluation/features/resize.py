r"""Images of another size, by PyTorch's rules, that features of published networks depend on.

`torch.nn.functional.interpolate` with `align_corners=False` and without antialiasing: of n pixels
it makes m, the i-th of which is at

  (1)  s_i = (i + 1/2) n / m - 1/2
  (2)  y_i = sum_j k(s_i - j) x_min(max(j, 0), n - 1)
  (3)  bilinear:  k(d) = 1 - |d| for |d| < 1, else 0
  (4)  bicubic:   k(d) = (a + 2)|d|^3 - (a + 3)|d|^2 + 1         for |d| <= 1
                         a |d|^3 - 5 a |d|^2 + 8 a |d| - 4 a     for 1 < |d| < 2, else 0;  a = -3/4

along rows and columns. `jax.image.resize` has a = -1/2, and at the edges other weights than (2).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

CUBIC = -0.75
TAPS = 2  # No kernel reaches further to each side.


def _bilinear(d: np.ndarray) -> np.ndarray:
    return np.maximum(1 - d, 0)


def _bicubic(d: np.ndarray) -> np.ndarray:
    near = ((CUBIC + 2) * d - (CUBIC + 3)) * d**2 + 1
    far = CUBIC * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bilinear": _bilinear,
    "bicubic": _bicubic,
}


@functools.lru_cache(maxsize=16)
def resize_weights(size: int, new_size: int, kernel: str) -> Float[np.ndarray, "m n"]:
    """The matrix of (1) and (2), float32 of float64.

    Args:
      size: n.
      new_size: m.
      kernel: a key of `KERNELS`.
    """
    places = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    weights = np.zeros((new_size, size))
    for offset in range(1 - TAPS, 1 + TAPS):
        taps = np.floor(places).astype(int) + offset
        rows = np.arange(new_size), np.clip(taps, 0, size - 1)
        np.add.at(weights, rows, KERNELS[kernel](np.abs(places - taps)))
    weights = weights.astype(np.float32)
    weights.flags.writeable = False
    return weights


def resize(images: Float[Array, "b h w c"], size: int, kernel: str) -> Float[Array, "b s s c"]:
    """Square images; their sides change apart from each other.

    Args:
      size: s, pixels a side.
      kernel: "bilinear" or "bicubic", which may leave the range of the input.
    """
    _, height, width, _ = images.shape
    rows = resize_weights(height, size, kernel)
    columns = resize_weights(width, size, kernel)
    return jnp.einsum("sh,bhwc,tw->bstc", rows, images, columns)
