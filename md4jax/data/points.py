"""Points of a domain that `prepare_data.py` made: such as places on the sphere."""

from __future__ import annotations

import dataclasses

import numpy as np

from md4jax.data.base import Dataset, domain_dataset
from md4jax.data.prepared import Raw, open_prepared
from md4jax.options import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """Points of a simplex, sphere, ..., by prepare_data.py: its --list says which."""

    dataset: str = option("The data set's name.", "earth_fire")
    data_dir: str = option("The folder of all prepared data.", "data", changeable=True)

    def load(self) -> Dataset:
        """Reads the data into memory.

        Raises:
          UserError: they are not prepared or damaged.
        """
        prepared = open_prepared(self.dataset, self.data_dir, "points")
        decode = Raw("x", "<f4", tuple(prepared.metadata["shape"]))
        arrays = {
            name: np.stack([decode(e) for _, some in prepared.source(name).blocks() for e in some])
            for name in prepared.counts
        }
        where = f"config.data.dataset = {self.dataset!r}"
        return domain_dataset(prepared.metadata["domain"], arrays, where)
