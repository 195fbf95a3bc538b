"""Which tokens a masked sampler may choose: temperature, top-k, top-p."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.options import UserError, option
from md4jax.processes.base import Process
from md4jax.processes.masking import Masking
from md4jax.samplers.base import Ancestral
from md4jax.typing import Logits, Time

DROPPED = -1e7  # As published: probability 0, without the NaNs that -inf may give.


def nucleus(logits: Logits, p: float) -> Logits:
    """Logits with the classes outside of the nucleus set to -1e7.

    Kept is every class whose probability is at least tau, the largest float32 for which those kept
    have at least p together: the class that crosses p and all ties with it are kept. tau is found
    bit by bit, as sorting a large vocabulary takes longer.
    """
    probability = jax.nn.softmax(logits, axis=-1)

    def add_bit(i, bits):
        with_bit = bits | (1 << (30 - i))  # Positive float32 are ordered as their bits are.
        tau = jax.lax.bitcast_convert_type(with_bit, jnp.float32)
        mass = jnp.sum(jnp.where(probability >= tau[..., None], probability, 0.0), axis=-1)
        return jnp.where(mass >= p, with_bit, bits)

    bits = jax.lax.fori_loop(0, 31, add_bit, jnp.zeros(logits.shape[:-1], jnp.int32))
    tau = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(probability >= tau[..., None], logits, DROPPED)


def likeliest(logits: Logits, k: int) -> Logits:
    """Logits with all but the k largest set to -1e7; ties with the k-th are kept."""
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= least, logits, DROPPED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForMasked(Ancestral):
    """A step for masked processes only."""

    def check(self, process: Process) -> None:
        if not isinstance(process, Masking):
            raise UserError(
                "config.sampler.name: this step is for masked processes, not "
                f"{type(process).__name__}; use 'ancestral'"
            )
        super().check(process)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filtered(ForMasked):
    """Steps that choose tokens from a sharper law than the network's, if asked to.

    Temperature divides the logits first, then top-k, then top-p drop classes. With 1, None and 1
    nothing is changed. The first tokens of a sample decide what it shows, the last ones its
    details; a temperature that falls from 1 along the way keeps more of the variety for the same
    cleanness than a constant one.
    """

    temperature: float = option("Divides the logits; 1 draws the model's law.", 1.0, above=0)
    final_temperature: float | None = option(
        "The temperature at t = 0, linear in t from `temperature` at t = 1; None: the same.",
        None,
        above=0,
    )
    top_k: int | None = option("Only so many likeliest tokens; None is all.", None, at_least=1)
    top_p: float = option(
        "Only the likeliest tokens that have so much probability together; MD4's text samples have "
        "0.98; 1 is all.",
        1.0,
        above=0,
        at_most=1,
    )

    def filter(self, logits: Logits, t: Time) -> Float[Array, "b *s v"]:
        """Float32 logits of what may be chosen at time t."""
        final = self.temperature if self.final_temperature is None else self.final_temperature
        temperature = final + (self.temperature - final) * t
        temperature = temperature.reshape(-1, *[1] * (logits.ndim - 1))
        logits = logits.astype(jnp.float32) / temperature
        if self.top_k is not None:
            logits = likeliest(logits, min(self.top_k, logits.shape[-1]))
        return logits if self.top_p == 1 else nucleus(logits, self.top_p)
