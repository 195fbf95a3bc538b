"""Real data of your own on a simplex, a sphere or another domain, in one `.npz` file.

`train` and, if there are any, `valid` and `test` are `[N, *shape]`, where the last axes of shape
are those of a point: k for "simplex" and "sphere", d, d for "spd", none for the others. `[N]`
becomes `[N, 1]`. They are kept as float32. `md4jax/processes/domains.py` says what each domain is.
"""

from __future__ import annotations

import dataclasses
import zipfile
import zlib

import numpy as np
from jaxtyping import Shaped

from md4jax.data.base import Dataset, domain_dataset
from md4jax.data.text import local_file
from md4jax.options import UserError, option
from md4jax.processes.domains import DOMAINS

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifoldNpz:
    """Real data of your own on a domain, from one .npz file."""

    path: str = option(
        "An .npz with train and perhaps valid and test, [N, *shape].",
        "data/points.npz",
        changeable=True,
    )
    domain: str = option("Where the examples live.", "real", one_of=tuple(DOMAINS))

    def load(self) -> Dataset:
        """Reads the file.

        Raises:
          UserError: no such file, or an array that is missing, of the wrong shape or type, or not
            of the domain.
        """
        arrays = self._read()
        for name, array in arrays.items():
            self._check(name, array)
        shapes = {array.shape[1:] for array in arrays.values()}
        if len(shapes) > 1:
            raise self._error(f"{', '.join(arrays)} differ in shape: {sorted(shapes)}")
        if shapes == {()}:
            arrays = {name: array[:, None] for name, array in arrays.items()}
        return domain_dataset(self.domain, arrays, self._where)

    @property
    def _where(self) -> str:
        return f"config.data.path = {self.path!r}"

    def _error(self, what: str) -> UserError:
        return UserError(f"{self._where}: {what}")

    def _check(self, name: str, array: Shaped[np.ndarray, "..."]) -> None:
        if array.dtype.kind not in "fiu":
            raise self._error(f"{name} should be of real numbers and is {array.dtype}")
        if array.ndim < 1 or 0 in array.shape:
            raise self._error(f"{name} should be [N, *shape] and is {list(array.shape)}")

    def _read(self) -> dict[str, np.ndarray]:
        path = local_file(
            "path", self.path, "make it with np.savez_compressed(path, train=..., test=...)"
        )
        try:
            file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise self._error("should be an .npz with an array train, and is one array")
            with file:
                if "train" not in file.files:
                    raise self._error(f"has no array train, only {', '.join(file.files) or 'none'}")
                return {name: file[name] for name in SPLITS if name in file.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._error(f"cannot be read as .npz: {error}") from error
