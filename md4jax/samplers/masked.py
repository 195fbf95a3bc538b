"""Step functions of masked processes that unmask and never change their mind.

`remasking.py` has those that do.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from md4jax.options import UserError, option
from md4jax.processes.base import Denoiser, Process
from md4jax.processes.masked import Masked
from md4jax.processes.masking import categorical, joint_reverse_sample
from md4jax.samplers.base import predict_at
from md4jax.samplers.filters import Filtered
from md4jax.typing import Keys, Logits, PyTree, Time, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean(Filtered):
    """Which positions to unmask and which tokens to put there, drawn apart (MD4's name for it).

    At temperature 1 with top_p = 1 it draws the same law as `ancestral`. Otherwise likelier tokens
    become likelier: cleaner samples of less variety, which are no longer the model's law.
    """

    def move(
        self, process: Process, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        return process.reverse_sample(keys, z_t, self.filter(prediction, t), t, s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint(Filtered):
    """Unmask-or-not and the token in one draw, the way MD4's published samplers do it.

    With top_p = 0.98 this is the published `topp`. With gumbel = "high" and no filter it draws the
    model's law.
    """

    gumbel: str = option(
        "Noise of the draw: low has the published code's truncation, high is exact.",
        "low",
        one_of=("low", "high"),
    )

    def move(
        self, process: Process, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        logits = self.filter(prediction, t)
        return joint_reverse_sample(process, keys, z_t, logits, t, s, self.gumbel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneSchedule(Filtered):
    """A step for masked processes in which all tokens have the same schedule."""

    def check(self, process: Process) -> None:
        super().check(process)
        if not isinstance(process, Masked):
            raise UserError(
                "config.sampler.name: this step needs one schedule for all tokens, which "
                f"{type(process).__name__} has not; use 'ancestral' or 'mean'"
            )


def positions(x: Array) -> Array:
    """`[b, *s]` as `[b, positions]`."""
    return x.reshape(x.shape[0], -1)


def ranks(score: Float[Array, "b n"]) -> Integer[Array, "b n"]:
    """Place of each score among those of its row, 0 for the lowest."""
    return jnp.argsort(jnp.argsort(score, axis=1), axis=1)


def gumbel(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "b *_"]:
    """Standard Gumbel noise, `[b, *shape]`."""
    return jax.vmap(lambda key: jax.random.gumbel(key, shape, mode="high"))(keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confident(OneSchedule):
    """The tokens the network is surest of first (MaskGIT, arXiv:2202.04200). Not the model's law.

    Each step leaves as many positions masked as the schedule has at s, D (1 - alpha(s)) rounded.
    `choose` says how the others are picked: "token_first" draws a token everywhere and keeps those
    with the largest log probability + noise t Gumbel, as MaskGIT does; "position_first" picks
    positions by their law alone and then draws there (the moment sampler of S. Hayakawa et al.,
    arXiv:2510.04525), to which the former comes close where few of many positions are picked: with
    beta = 1 + 1 / (noise t) positions by log sum_v mu_v^beta + Gumbel, tokens from mu^beta.
    """

    noise: float = option("How much chance has a part in which positions go first.", 1.0, above=0)
    choose: str = option("What is drawn first.", "token_first",
                         one_of=("token_first", "position_first"))  # fmt: skip

    def move(
        self, process: Masked, keys: Keys, z_t: Tokens, prediction: Logits, t: Time, s: Time
    ) -> Tokens:
        noise_keys, token_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        log_mu = jax.nn.log_softmax(self.filter(prediction, t), axis=-1)
        scale = jnp.maximum(self.noise * t, 1e-3)[:, None]
        perturbation = gumbel(noise_keys, (z_t[0].size,))
        if self.choose == "position_first":
            beta = (1 + 1 / scale).reshape(-1, *[1] * (log_mu.ndim - 1))
            tokens = categorical(token_keys, beta * log_mu, "high")
            score = positions(jax.nn.logsumexp(beta * log_mu, axis=-1)) + perturbation
        else:
            tokens = categorical(token_keys, log_mu, "high")
            picked = jnp.take_along_axis(log_mu, tokens[..., None], axis=-1)[..., 0]
            score = positions(picked) + scale * perturbation
        masked = z_t == process.mask_id
        score = jnp.where(positions(masked), score, jnp.inf)
        left = jnp.round(z_t[0].size * process.mask_probability(s))[:, None]
        stays = (ranks(score) < left).reshape(z_t.shape)
        return jnp.where(masked & ~stays, tokens, z_t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstHitting(OneSchedule):
    """Unmasks k = ceil(D / num_steps) positions a network call, at times drawn by themselves.

    K. Zheng et al., arXiv:2409.02908. With n positions masked at time tau the next one is unmasked
    at the time where 1 - alpha is u^(1/n) (1 - alpha(tau)), u uniform, and it may be any. With one
    position a call (num_steps >= D) this is the model's law exactly, as `ancestral` has it for
    infinitely many steps; k positions of one call are drawn as if they did not depend on each
    other. The grid's times are not used. Logits are computed at these k alone, if the network can.
    """

    def memory(self, z: Tokens) -> PyTree:
        """The time reached, one an example."""
        return jnp.ones(z.shape[0])

    def __call__(
        self, process: Masked, denoise: Denoiser, keys: Keys, z_t: Tokens, memory: PyTree,
        t: Time, s: Time,
    ) -> tuple[Tokens, PyTree]:  # fmt: skip
        """Unmasks k positions."""
        count = -(-z_t[0].size // self.num_steps)
        time_keys, place_keys, token_keys = jnp.unstack(
            jax.vmap(lambda key: jax.random.split(key, 3))(keys), axis=1
        )
        masked = z_t == process.mask_id
        left = positions(masked).sum(axis=1)
        log_u = jnp.log(jax.vmap(lambda key: jax.random.uniform(key, (count,), minval=1e-30))(
            time_keys))  # fmt: skip
        # What is still masked falls by u^(1/n), u'^(1/(n-1)), ...: the k-th of these is next.
        shares = jnp.cumsum(log_u / jnp.maximum(left[:, None] - jnp.arange(count), 1), axis=1)
        share = process.mask_probability(memory)[:, None] * jnp.exp(shares)
        times = process.time_of(share)
        tau = times[:, 0]
        score = jnp.where(positions(masked), gumbel(place_keys, (z_t[0].size,)), -jnp.inf)
        chosen = jax.lax.top_k(score, count)[1]  # [b, k]; what is drawn there alone is drawn.
        logits = predict_at(denoise, z_t, tau, chosen)
        tokens = categorical(token_keys, self.filter(logits, tau), "high")
        flat, rows = positions(z_t), jnp.arange(len(z_t))[:, None]
        there = flat[rows, chosen]  # Of fewer masked positions than k some are not.
        flat = flat.at[rows, chosen].set(jnp.where(there == process.mask_id, tokens, there))
        return flat.reshape(z_t.shape), times[:, -1]
