"""How training draws its times: from u in [0, 1), which the process maps to a time.

A sampler is `init`, `draw` and `update` around a state that is part of the train state (None where
there is nothing to remember), so that a resumed run goes on with the same one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from md4jax import rng
from md4jax.options import UserError
from md4jax.processes.base import Process
from md4jax.typing import Nats, PyTree

Uniform = Float[Array, "b"]  # u in [0, 1)

HISTORY = 10  # Losses remembered a step.
UNIFORM_SHARE = 0.001  # Of the probability that is spread evenly, so that no step is forgotten.


class Independent:
    """Independent u ~ U(0, 1), one an example."""

    @staticmethod
    def check(process: Process) -> None:
        """Raises UserError if times of this process cannot be drawn so."""

    @staticmethod
    def init(process: Process) -> PyTree:
        """The state before the first step."""
        return None

    @staticmethod
    def draw(
        state: PyTree, key: Key[Array, ""], index: Int[Array, "b"], total: int
    ) -> tuple[Uniform, Float[Array, "b"]]:
        """u and the weights of the losses, for the examples `index` of `total` in a batch."""
        u = jax.vmap(jax.random.uniform)(rng.example_keys(key, index))
        return u, jnp.ones_like(u)

    @staticmethod
    def update(state: PyTree, u: Uniform, loss: Nats) -> PyTree:
        """The state after a batch with these u and (unweighted) losses."""
        return state


class Antithetic(Independent):
    """One offset for the whole global batch: u_i = (u + i / total) mod 1.

    Each u_i is uniform, and together they cover [0, 1) evenly, which takes most of the variance
    that the time brings out of the loss (VDM, arXiv:2107.00630, appendix I.1).
    """

    @staticmethod
    def draw(
        state: PyTree, key: Key[Array, ""], index: Int[Array, "b"], total: int
    ) -> tuple[Uniform, Float[Array, "b"]]:
        u = jnp.mod(jax.random.uniform(key) + index / total, 1.0)
        return u, jnp.ones_like(u)


class LossSecondMoment(Antithetic):
    """Steps of a chain in proportion to the root mean square of their last losses.

    Improved DDPM, arXiv:2102.09672, section 3.3 (eq. 18): least variance of L_vlb. Uniform with
    weight one until every step has a full history. The antithetic u go through the inverse of the
    distribution function, so a batch is as evenly spread under it.
    """

    @staticmethod
    def check(process: Process) -> None:
        if process.chain_length is None:
            raise UserError(
                "config.train.time_sampling = 'loss_second_moment' needs a process of T steps, "
                "such as gaussian; use 'antithetic'"
            )

    @staticmethod
    def init(process: Process) -> dict[str, Array]:
        return {
            "losses": jnp.zeros((process.chain_length, HISTORY)),
            "count": jnp.zeros(process.chain_length, jnp.int32),
        }

    @staticmethod
    def probabilities(state: dict[str, Array]) -> Float[Array, "T"]:
        """Of each step of the chain."""
        chain_length = len(state["count"])
        weight = jnp.sqrt(jnp.mean(state["losses"] ** 2, axis=1))
        p = weight / weight.sum() * (1 - UNIFORM_SHARE) + UNIFORM_SHARE / chain_length
        return jnp.where(jnp.all(state["count"] >= HISTORY), p, 1 / chain_length)

    @staticmethod
    def draw(
        state: dict[str, Array], key: Key[Array, ""], index: Int[Array, "b"], total: int
    ) -> tuple[Uniform, Float[Array, "b"]]:
        p = LossSecondMoment.probabilities(state)
        u, _ = Antithetic.draw(None, key, index, total)
        step = jnp.searchsorted(jnp.cumsum(p), u, side="right")
        step = jnp.minimum(step, len(p) - 1)  # The sum may round to below one.
        return (step + 0.5) / len(p), 1 / (len(p) * p[step])

    @staticmethod
    def update(state: dict[str, Array], u: Uniform, loss: Nats) -> dict[str, Array]:
        """Puts each loss in the place of its step's oldest, in the order of the batch."""
        chain_length = len(state["count"])
        step = jnp.floor(u * chain_length).astype(jnp.int32)
        same = step[:, None] == step[None, :]
        before = jnp.sum(jnp.tril(same, -1), axis=1)  # Losses of the same step earlier in it.
        after = jnp.sum(jnp.triu(same, 1), axis=1)
        place = (state["count"][step] + before) % HISTORY
        # What later ones of the batch would overwrite is not written: their order would be open.
        row = jnp.where(after < HISTORY, step, chain_length)
        return {
            "losses": state["losses"].at[row, place].set(loss, mode="drop"),
            "count": state["count"].at[step].add(1),
        }


TIME_SAMPLING: dict[str, type[Independent]] = {
    "antithetic": Antithetic,
    "uniform": Independent,
    "loss_second_moment": LossSecondMoment,
}
