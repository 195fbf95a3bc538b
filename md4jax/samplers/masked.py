"""Step functions of masked processes."""

from __future__ import annotations

import dataclasses

from md4jax.options import UserError, option
from md4jax.processes.masked import Masked, joint_reverse_sample
from md4jax.samplers.base import Ancestral
from md4jax.typing import Keys, Logits, Time, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(Ancestral):
    """Unmask-or-not and the token in one draw, the way MD4's published sampler does it."""

    gumbel: str = option(
        "Noise of the draw: low has the published code's truncation, high is exact.",
        "low",
        one_of=("low", "high"),
    )

    def check(self, process: object) -> None:
        if not isinstance(process, Masked):
            raise UserError(
                f"config.sampler.name: this step is for masked processes, not "
                f"{type(process).__name__}; use 'ancestral'"
            )

    def __call__(
        self, process: Masked, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        return joint_reverse_sample(process, keys, z_t, prediction, t, s, self.gumbel)
