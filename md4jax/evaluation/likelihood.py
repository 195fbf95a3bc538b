"""The likelihood bound of a split, every example counted once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from md4jax import rng
from md4jax.console import Interrupted, Progress
from md4jax.objectives import bound, path_bound
from md4jax.training.partitioning import batch_sharding, replicated
from md4jax.training.state import bind_params, make_denoiser
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.model import Model

REPLICATES = 2  # Independent estimates of each example, whose difference tells their noise.


class Evaluator:
    """Estimates bounds as a config asks for; compiled once, for any weights."""

    def __init__(self, model: Model):
        self.model = model
        self.options = model.experiment.eval
        points = self.options.time_points // REPLICATES
        key = rng.stream(self.options.seed, "eval")

        def estimate(params, batch):
            process = bind_params(model.process, params)
            told = {name: batch.get(name) for name in ("label", "segment")}
            denoise = make_denoiser(process, model.network, params, **told)
            keys = rng.example_keys(key, batch["index"])
            replicates = [
                bound(process, denoise, batch["x0"], rng.fold(keys, r), points)
                for r in range(REPLICATES)
            ]
            terms = jax.tree.map(lambda *x: jnp.stack(x), *replicates)  # [replicates, b]
            if self.options.path_samples is None:
                return terms, None
            path_keys = rng.fold(keys, REPLICATES)
            paths = self.options.path_samples
            return terms, path_bound(process, denoise, batch["x0"], path_keys, paths)

        self._estimate = jax.jit(estimate, out_shardings=replicated(model.mesh))

    def __call__(
        self, params: PyTree, split: str, should_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float | int | str]:
        """The bound of a split in bits/dim, its terms and its errors.

        `standard_error` is that of the mean over examples drawn from the data's law, and holds
        the noise of the estimate too; `monte_carlo_error` is that noise alone: what another seed
        changes.
        The numbers do not depend on the batch size or the devices, up to float32 rounding.

        Raises:
          Interrupted: `should_stop()` became true.
        """
        from md4jax.data.pipeline import eval_batches

        data = self.model.split(split)
        n = min(len(data), self.options.num_examples or len(data))
        size = self.options.batch_size
        progress = Progress(f"evaluating {split}", n)
        values = []
        batches = eval_batches(data, size, batch_sharding(self.model.mesh), num_examples=n)
        for batch in batches:
            if should_stop():
                raise Interrupted
            batch.pop("mask")  # Padding comes last: the first n values are the examples'.
            values.append(self._estimate(params, batch))
            # Wait for the batch before, so that the devices always have one more to work on.
            jax.block_until_ready(values[-2:-1])
            progress.update(max(0, len(values) - 1) * size)
        values = jax.device_get(values)
        each = [terms for terms, _ in values]
        terms = {k: np.concatenate([v[k] for v in each], axis=1)[:, :n] for k in each[0]}
        result = {"split": split} | self._summary(terms)
        if self.options.path_samples:
            paths = np.concatenate([path for _, path in values])[:n].astype(np.float64)
            result["bits_per_dim_of_paths"] = float(paths.mean() * self._scale)
            result["path_samples"] = self.options.path_samples
        return result

    @property
    def _scale(self) -> float:
        """Bits/dim of a nat."""
        return 1 / (math.prod(self.model.spec.shape) * math.log(2))

    def _summary(self, terms: dict[str, np.ndarray]) -> dict[str, float | int]:
        """Means and errors of `[replicates, n]` nats, in bits/dim, summed in float64."""
        terms = {k: v.astype(np.float64) * self._scale for k, v in terms.items()}
        total = np.sum(list(terms.values()), axis=0)
        n = total.shape[1]
        per_example = total.mean(axis=0)
        spread = per_example.std(ddof=1) if n > 1 else float("nan")
        result = {
            "bits_per_dim": float(per_example.mean()),
            "standard_error": float(spread / math.sqrt(n)),
            "monte_carlo_error": float(np.sqrt(np.sum((total[0] - total[1]) ** 2) / 4) / n),
            "examples": n,
            "time_points": self.options.time_points,
        }
        return result | {f"{k}_bits_per_dim": float(v.mean()) for k, v in terms.items()}
