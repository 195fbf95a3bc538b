"""What a sample is to hold: part of a text, of an image, or of arrays; the rest is drawn.

Masked processes alone can be prompted so: positions that are known are never masked, and what is
drawn for the others is drawn given them. Every step function leaves them as they are.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Integer

from md4jax.data.text import UNKNOWN
from md4jax.options import UserError

if TYPE_CHECKING:
    from md4jax.data.base import Dataset

Known = tuple[Integer[np.ndarray, "n *s"], Bool[np.ndarray, "n *s"]]  # Tokens, and which are known.


def load(path: str, dataset: Dataset) -> Known:
    """Reads a prompt for data like these: `[n, *s]` tokens, and which of them are known.

    - `.txt`: a text in which each `█` is one unknown token; it may be shorter than an example, the
      rest of which is then unknown too.
    - `.png`: an image whose transparent pixels are unknown.
    - `.npz`: arrays `tokens` and `known`, `[n, *s]` or `[*s]`.

    Raises:
      UserError: the file cannot be read or does not fit the data.
    """
    where = f"config.sampler.prompt = {path!r}"
    file = Path(path).expanduser()
    readers: dict[str, Callable] = {".txt": _text, ".png": _image, ".npz": _arrays}
    if file.suffix not in readers:
        raise UserError(f"{where}: should end in one of {', '.join(readers)}")
    try:
        tokens, known = readers[file.suffix](file, dataset, where)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{where}: cannot be read: {error}") from error
    shape, vocab_size = dataset.spec.shape, dataset.spec.vocab_size
    if tokens.shape[1:] != shape or known.shape != tokens.shape:
        raise UserError(
            f"{where}: has shape {tokens.shape[1:]} ({known.shape[1:]} of what is known), and "
            f"examples have {shape}"
        )
    if not len(tokens):
        raise UserError(f"{where}: has no prompt")
    used = tokens[known]
    if used.size and not 0 <= used.min() <= used.max() < vocab_size:
        raise UserError(
            f"{where}: has values from {used.min()} to {used.max()}, and data 0 to {vocab_size - 1}"
        )
    return np.where(known, tokens, 0).astype(np.int32), known


def _text(file: Path, dataset: Dataset, where: str) -> Known:
    if dataset.encode is None:
        raise UserError(f"{where}: the data are no text; give .npz")
    pieces = file.read_text("utf-8").removesuffix("\n").split(UNKNOWN)
    tokens, known = [], []
    for number, piece in enumerate(pieces):
        ids = dataset.encode(piece, where) if piece else np.zeros(0, np.int64)
        gap = int(number < len(pieces) - 1)  # An unknown token follows.
        tokens += [ids.astype(np.int64), np.zeros(gap, np.int64)]
        known += [np.ones(len(ids), bool), np.zeros(gap, bool)]
    tokens, known = np.concatenate(tokens), np.concatenate(known)
    (length,) = dataset.spec.shape
    if len(tokens) > length:
        raise UserError(f"{where}: has {len(tokens)} tokens, and examples have {length}")
    pad = (0, length - len(tokens))
    return np.pad(tokens, pad)[None], np.pad(known, pad)[None]


def _image(file: Path, dataset: Dataset, where: str) -> Known:
    from PIL import Image

    if dataset.levels is None:
        raise UserError(f"{where}: the data are no images; give .txt or .npz")
    pixels = np.asarray(Image.open(file).convert("RGBA")).astype(np.float64)
    channels = dataset.spec.shape[-1]
    colours = pixels[..., :3] if channels == 3 else pixels[..., :3].mean(-1, keepdims=True)
    levels = np.rint(colours * (dataset.levels - 1) / 255).astype(np.int64)
    known = np.broadcast_to(pixels[..., 3:] > 127, levels.shape)
    return levels[None], known[None]


def _arrays(file: Path, dataset: Dataset, where: str) -> Known:
    with np.load(file, allow_pickle=False) as arrays:
        tokens, known = arrays["tokens"], arrays["known"]
    if tokens.dtype.kind not in "iu" or known.dtype != bool:
        raise UserError(
            f"{where}: tokens should be integers and known bool; they are {tokens.dtype}, "
            f"{known.dtype}"
        )
    if tokens.shape == dataset.spec.shape:
        tokens, known = tokens[None], known[None]
    return tokens, known
