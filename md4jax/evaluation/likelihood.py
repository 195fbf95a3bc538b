"""The likelihood bound of a split, every example counted once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from md4jax import rng
from md4jax.console import Interrupted, Progress
from md4jax.objectives import bound_by_time, path_bound
from md4jax.training.partitioning import batch_sharding, replicated
from md4jax.training.state import bind_params, make_denoiser
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.model import Model

REPLICATES = 2  # Independent estimates of each example, whose difference tells their noise.


class Evaluator:
    """Estimates bounds as a config asks for; compiled once, for any weights.

    Attributes:
      by_time: what each time gave to the last bound, in the order of `objectives.strata`, bits/dim;
        their sum is the bound.
    """

    by_time: Float[np.ndarray, "k"]

    def __init__(self, model: Model, path_replicates: int = 1):
        """Compiles nothing yet.

        Args:
          model: whose `config.eval` says how.
          path_replicates: independent estimates by whole paths; their noise shows with two.
        """
        self.model = model
        self.options = model.experiment.eval
        points = self.options.time_points // REPLICATES
        key = rng.stream(self.options.seed, "eval")

        def estimate(params, batch):
            process = bind_params(model.process, params)
            told = {name: batch.get(name) for name in ("label", "segment")}
            denoise = make_denoiser(process, model.network, params, **told)
            keys = rng.example_keys(key, batch["index"])
            x0, paths = batch["x0"], self.options.path_samples
            times = lambda r: bound_by_time(process, denoise, x0, rng.fold(keys, r), points)
            each = jax.lax.map(times, jnp.arange(REPLICATES))  # [replicates, k, b]
            terms = jax.tree.map(lambda x: jnp.sum(x, axis=1), each)
            by_time = jnp.sum(jnp.mean(sum(each.values()), axis=0) * batch["mask"], axis=1)
            if paths is None:
                return terms, by_time, None
            whole = lambda r: path_bound(process, denoise, x0, rng.fold(keys, r), paths)
            return terms, by_time, jax.lax.map(whole, REPLICATES + jnp.arange(path_replicates))

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
            values.append(self._estimate(params, batch))
            # Wait for the batch before, so that the devices always have one more to work on.
            jax.block_until_ready(values[-2:-1])
            progress.update(max(0, len(values) - 1) * size)
        progress.end()
        each, by_time, paths = zip(*jax.device_get(values))
        self.by_time = np.sum(by_time, axis=0, dtype=np.float64) / n * self._scale
        # Padding comes last: the first n values are the examples'.
        join = lambda *x: np.concatenate(x, axis=1)[:, :n].astype(np.float64) * self._scale
        result = {"split": split} | self._summary(jax.tree.map(join, *each))
        if self.options.path_samples:
            of_paths = errors(join(*paths))
            result |= {f"{name}_of_paths": value for name, value in of_paths.items()}
            result["path_samples"] = self.options.path_samples
        return result

    @property
    def _scale(self) -> float:
        """Bits/dim of a nat."""
        return 1 / (math.prod(self.model.spec.shape) * math.log(2))

    def _summary(self, terms: dict[str, np.ndarray]) -> dict[str, float | int]:
        """Means and errors of terms `[replicates, n]`, bits/dim."""
        total = np.sum(list(terms.values()), axis=0)
        counts = {"examples": total.shape[1], "time_points": self.options.time_points}
        means = {f"{k}_bits_per_dim": float(v.mean()) for k, v in terms.items()}
        found = errors(total)
        return found | counts | self._of_texts(found["bits_per_dim"]) | means

    def _of_texts(self, bits: float) -> dict[str, float]:
        """Of sequences of ids the bound on the perplexity of one."""
        spec = self.model.spec
        if spec.vocab_size is None or len(spec.shape) > 1:
            return {}
        with np.errstate(over="ignore"):  # Infinite for a model that is far off.
            return {"perplexity": float(np.exp2(bits))}


def errors(values: Float[np.ndarray, "replicates n"]) -> dict[str, float]:
    """Mean of estimates, its standard error over examples and, of two replicates, their noise."""
    n, per_example = values.shape[1], values.mean(axis=0)
    spread = per_example.std(ddof=1) if n > 1 else float("nan")
    found = {
        "bits_per_dim": float(per_example.mean()),
        "standard_error": float(spread / math.sqrt(n)),
    }
    if len(values) == 2:
        noise = np.sqrt(np.sum((values[0] - values[1]) ** 2) / 4) / n
        found["monte_carlo_error"] = float(noise)
    return found
