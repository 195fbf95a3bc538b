"""The bound of a split, as a notebook shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# Of `config.eval`: what it depends on.
OPTIONS = ("time_points", "num_examples", "seed", "batch_size", "path_samples")


@dataclasses.dataclass(frozen=True)
class Bound:
    """An upper bound on -log2 p(x0) per dimension, of a split; see `Evaluator`.

    Attributes:
      bits_per_dim: the bound.
      standard_error: of the mean over examples, which holds the estimate's own noise too.
      monte_carlo_error: that noise alone.
      terms: what sums to the bound.
      of_paths: with `path_samples`, the importance-weighted bound and its errors.
    """

    split: str
    bits_per_dim: float
    standard_error: float
    monte_carlo_error: float
    examples: int
    unit: str
    terms: dict[str, float]
    of_paths: dict[str, float] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        paths = ""
        if self.of_paths:
            bits, error = (self.of_paths[name] for name in ("bits_per_dim", "standard_error"))
            paths = f"; of whole paths {bits:.3f} ± {error:.3f}"
        return (
            f"{self.split}: {self.bits_per_dim:.3f} ± {self.standard_error:.3f} bits/{self.unit} "
            f"({self.examples} examples){paths}"
        )

    @classmethod
    def of(cls, found: Mapping[str, Any], unit: str) -> Bound:
        """What an `Evaluator` found."""
        names = {f.name for f in dataclasses.fields(cls)} & found.keys()
        terms, of_paths = (
            {k.removesuffix(ending): v for k, v in found.items() if k.endswith(ending)}
            for ending in ("_bits_per_dim", "_of_paths")
        )
        return cls(**{k: found[k] for k in names}, unit=unit, terms=terms, of_paths=of_paths)
