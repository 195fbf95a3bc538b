"""Optimizers of the config: optax, with the schedules and the clipping published runs use."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from md4jax.options import Table, UserError, option
from md4jax.typing import PyTree

if TYPE_CHECKING:
    import optax

OPTIMIZERS = Table(
    "optimizer",
    {
        "adamw": "md4jax.training.optimizers:AdamW",
        "sgd": "md4jax.training.optimizers:SGD",
    },
)


def _constant(peak: float, warmup: int, num_steps: int, decay_rate: float):
    import optax

    return optax.warmup_constant_schedule(0.0, peak, warmup) if warmup else peak


def _cosine(peak: float, warmup: int, num_steps: int, decay_rate: float):
    import optax

    if not warmup:
        return optax.cosine_decay_schedule(peak, num_steps)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(num_steps, warmup + 1))


def _exponential(peak: float, warmup: int, num_steps: int, decay_rate: float):
    import optax

    return optax.warmup_exponential_decay_schedule(0.0, peak, warmup, 1, decay_rate)


SCHEDULES = {"constant": _constant, "cosine": _cosine, "exponential": _exponential}


def _kernels(params: PyTree) -> PyTree:
    """True for what multiplies activations; by name, for a scan adds an axis to all."""
    import jax

    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def freeze(
    optimizer: optax.GradientTransformation, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
    """The optimizer, leaving the parameters' subtrees of these names as they are.

    Nothing moves them, weight decay neither, and nothing of them is kept, as their moments would.
    """
    import optax

    if not frozen:
        return optimizer
    labels = lambda params: {name: "frozen" if name in frozen else "moved" for name in params}
    return optax.multi_transform({"moved": optimizer, "frozen": optax.set_to_zero()}, labels)


DECAY_MASKS = {"all": None, "kernels": _kernels}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD:
    """Plain gradient descent, with the warm-up, schedule and clipping of all optimizers here."""

    learning_rate: float = option("The largest of the schedule.", 3e-4, at_least=0)
    schedule: str = option("Of the learning rate.", "cosine", one_of=tuple(SCHEDULES))
    warmup_steps: int = option("Steps of linear warm-up from 0.", 0, at_least=0)
    decay_rate: float | None = option(
        "Of the exponential schedule: the rate is multiplied by it in each step after the warm-up.",
        None, above=0, at_most=1,
    )  # fmt: skip
    clip_norm: float | None = option("Largest global norm of a gradient.", None, above=0)

    def __post_init__(self):
        if (self.decay_rate is not None) != (self.schedule == "exponential"):
            raise UserError(
                f"config.optimizer.decay_rate = {self.decay_rate}: the exponential schedule needs "
                f"a number, others none; config.optimizer.schedule = {self.schedule!r}"
            )

    def learning_rate_schedule(self, num_steps: int):
        """step -> learning rate; `cosine` ends at 0 after `num_steps`."""
        make = SCHEDULES[self.schedule]
        schedule = make(self.learning_rate, self.warmup_steps, num_steps, self.decay_rate)
        return schedule if callable(schedule) else lambda step: schedule

    def _update(self, learning_rate) -> optax.GradientTransformation:
        import optax

        return optax.sgd(learning_rate)

    def build(self, num_steps: int) -> optax.GradientTransformation:
        """The optax transformation for a run of `num_steps`."""
        import optax

        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        return optax.chain(clip, self._update(self.learning_rate_schedule(num_steps)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(SGD):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    b1: float = option("Decay of the first moment.", 0.9, at_least=0, below=1)
    b2: float = option("Decay of the second moment.", 0.999, at_least=0, below=1)
    adam_eps: float = option("Added to the root of the second moment.", 1e-8, above=0)
    weight_decay: float = option("Times the learning rate, a step.", 0.0, at_least=0)
    decay_mask: str = option(
        "Which parameters decay: all (as MD4 does) or kernels (no norms, biases, embeddings).",
        "all",
        one_of=tuple(DECAY_MASKS),
    )

    def _update(self, learning_rate) -> optax.GradientTransformation:
        import optax

        return optax.adamw(
            learning_rate,
            b1=self.b1,
            b2=self.b2,
            eps=self.adam_eps,
            weight_decay=self.weight_decay,
            mask=DECAY_MASKS[self.decay_mask],
        )
