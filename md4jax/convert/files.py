"""Checkpoints as they lie on disk: PyTorch's, .npz and .safetensors of arrays by name, Flax's.

PyTorch is needed for its own files alone. Where it is not at hand, `numpy.savez(file, **arrays)` of
a state dict made elsewhere will do.
"""

from __future__ import annotations

import json
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from md4jax.hosts import one_line
from md4jax.options import UserError

# Of safetensors: a JSON header after 8 bytes that say how long it is.
SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "U8": "uint8",
}  # fmt: skip


def read_file(path: pathlib.Path, given: str | None = None) -> Any:
    """The content of a checkpoint, with NumPy arrays: a dict of them, or what else was saved.

    What kind of file it is is seen from its first bytes, not from its name. Nothing in it is run.

    Args:
      path: of the file.
      given: how the user named it, for messages; None is `--checkpoint=<path>`.

    Raises:
      UserError: it is not there, is damaged or no checkpoint, or needs PyTorch, which is missing.
    """
    given = f"--checkpoint={path}" if given is None else given
    try:
        return _reader(path)(path)
    except _Unreadable as error:
        raise UserError(f"{given} {error}") from error
    except OSError as error:
        raise UserError(f"{given} cannot be read: {error.strerror}") from error
    except Exception as error:  # Damage shows in each of these libraries' own ways.
        raise UserError(f"{given} cannot be read: {one_line(error)}") from error


class _Unreadable(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


def _reader(path: pathlib.Path) -> Callable[[pathlib.Path], Any]:
    with path.open("rb") as file:
        start = file.read(16).ljust(2, b"\0")
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise _Unreadable(
                "is an archive of TorchScript, which holds code: in PyTorch save its arrays, "
                "numpy.savez(FILE, **{k: v.float().numpy() for k, v in "
                "torch.jit.load(ARCHIVE, 'cpu').state_dict().items()}), and give that .npz"
            )
        return _read_npz if all(name.endswith(".npy") for name in names) else _read_torch
    if start[8:9] == b"{" and path.stat().st_size > int.from_bytes(start[:8], "little"):
        return _read_safetensors
    if start[0] == 0x80 and start[1] in (2, 3, 4, 5):  # A pickle: PyTorch before 1.6.
        return _read_torch
    if 0x80 < start[0] <= 0x8F or start[0] in (0xDE, 0xDF):  # A dict of MessagePack.
        return _read_flax
    raise _Unreadable("is no file of PyTorch, NumPy (.npz), safetensors or Flax (msgpack)")


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    content = np.fromfile(path, np.uint8)
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    arrays = {}
    for name, entry in json.loads(content[8:start].tobytes()).items():
        if name == "__metadata__":
            continue
        first, last = (start + offset for offset in entry["data_offsets"])
        kind = jnp.dtype(SAFETENSORS_TYPES[entry["dtype"]])
        arrays[name] = content[first:last].view(kind).reshape(entry["shape"])
    return arrays


def _read_flax(path: pathlib.Path) -> Any:
    from flax.serialization import msgpack_restore

    return msgpack_restore(path.read_bytes())


def _read_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise _Unreadable(
            "is a file of PyTorch, which is not installed: pip install torch "
            "(or, where it is, save the arrays with numpy.savez, and give that .npz)"
        ) from None

    def to_numpy(x):
        if isinstance(x, torch.Tensor):
            return x.detach().to(torch.float32).numpy()
        if isinstance(x, Mapping):
            return {key: to_numpy(value) for key, value in x.items()}
        return [to_numpy(value) for value in x] if isinstance(x, (list, tuple)) else x

    try:
        return to_numpy(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise _Unreadable(
            "is damaged, or holds more than arrays, numbers, lists and dicts"
        ) from error


def state_dict(content: Any, file: str, given: str | None = None) -> dict[str, np.ndarray]:
    """Arrays by name, without the `module.` that training on several devices puts before them.

    Args:
      content: of the file, see `read_file`.
      file: its name.
      given: how the user named it, for messages; None is `--checkpoint=<file>`.

    Raises:
      UserError: that is not what the file holds.
    """
    given = f"--checkpoint={file}" if given is None else given
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{given} holds no arrays by name, but {_kind(content)}")
    others = [str(k) for k, v in content.items() if not isinstance(v, np.ndarray)]
    if others:
        raise UserError(
            f"{given} should hold nothing but arrays by name; {others[0]!r} is "
            f"{_kind(content[others[0]])}"
        )
    return {str(name).removeprefix("module."): array for name, array in content.items()}


def _kind(x: Any) -> str:
    return f"{type(x).__name__} of {len(x)}" if hasattr(x, "__len__") else type(x).__name__
