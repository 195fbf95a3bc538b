"""Step functions of masked processes."""

from __future__ import annotations

import dataclasses

from md4jax.options import UserError, option
from md4jax.processes.base import Process
from md4jax.processes.masked import Masked, joint_reverse_sample
from md4jax.samplers.base import Ancestral
from md4jax.typing import Keys, Logits, Time, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Masked(Ancestral):
    """A step for masked processes only."""

    def check(self, process: Process) -> None:
        if not isinstance(process, Masked):
            raise UserError(
                "config.sampler.name: this step is for masked processes, not "
                f"{type(process).__name__}; use 'ancestral'"
            )
        super().check(process)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean(_Masked):
    """Which positions to unmask and which tokens to put there, drawn apart (MD4's name for it).

    At temperature 1 it draws the same law as `ancestral`. Below, likelier tokens become likelier:
    cleaner samples of less variety, which are no longer the model's law. The first tokens of a
    sample decide what it shows, the last ones its details; a temperature that falls from 1 along
    the way keeps more of the variety for the same cleanness than a constant one.
    """

    temperature: float = option("Divides the logits; 1 draws the model's law.", 1.0, above=0)
    final_temperature: float | None = option(
        "The temperature at t = 0, linear in t from `temperature` at t = 1; None: the same.",
        None,
        above=0,
    )

    def move(
        self, process: Masked, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        final = self.temperature if self.final_temperature is None else self.final_temperature
        temperature = final + (self.temperature - final) * t
        temperature = temperature.reshape(-1, *[1] * (prediction.ndim - 1))
        return process.reverse_sample(keys, z_t, prediction / temperature, t, s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(_Masked):
    """Unmask-or-not and the token in one draw, the way MD4's published sampler does it."""

    gumbel: str = option(
        "Noise of the draw: low has the published code's truncation, high is exact.",
        "low",
        one_of=("low", "high"),
    )

    def move(
        self, process: Masked, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        return joint_reverse_sample(process, keys, z_t, prediction, t, s, self.gumbel)
