"""Step functions of masked processes that may hide a token again and choose it anew.

Going from t to s, with x0 the tokens that are there and mu the network's law where MASK is,

  (1)  p(z_s | z_t = x) = (1 - sigma) [x] + sigma [MASK]
  (2)  p(z_s | z_t = MASK) = (alpha(s) - (1 - sigma) alpha(t)) / (1 - alpha(t)) mu
                             + (1 - alpha(s) - sigma alpha(t)) / (1 - alpha(t)) [MASK]

keeps the law of z_s given the right x0 for every sigma up to min(1, (1 - alpha(s)) / alpha(t))
(ReMDM: G. Wang et al., arXiv:2503.00307). So with a perfect network in the limit of many steps each
draws the data's law; with the one there is none draws the model's own. A mistake made early can be
mended, at the cost of more network calls.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from md4jax.options import UserError, option
from md4jax.processes.base import Denoiser, Process
from md4jax.processes.masked import Masked
from md4jax.processes.masking import bernoulli, categorical, over_positions
from md4jax.samplers.masked import OneSchedule, gumbel, positions, ranks
from md4jax.typing import Keys, PyTree, Time, Tokens


def largest_sigma(alpha_t: Time, alpha_s: Time) -> Time:
    """min(1, (1 - alpha(s)) / alpha(t))."""
    return jnp.minimum(1.0, (1 - alpha_s) / alpha_t)


# How likely a token is hidden again: sigma of eta and the two alphas.
SIGMAS = {
    "cap": lambda eta, alpha_t, alpha_s: jnp.minimum(eta, (1 - alpha_s) / alpha_t),
    "rescale": lambda eta, alpha_t, alpha_s: eta * largest_sigma(alpha_t, alpha_s),
    # The forward-backward corrector: as far forward as the step has gone back.
    "forward_backward": lambda eta, alpha_t, alpha_s: jnp.minimum(
        (alpha_s - alpha_t) / alpha_t, largest_sigma(alpha_t, alpha_s)
    ),
    # All is drawn afresh from q(z_s | x0): the star-shaped sampler.
    "star": lambda eta, alpha_t, alpha_s: largest_sigma(alpha_t, alpha_s),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remask(OneSchedule):
    """ReMDM's samplers and their kin; not the model's law, see the module's docstring.

    `how` says sigma: "cap" min(eta, its largest), "rescale" eta times its largest,
    "forward_backward" (alpha(s) - alpha(t)) / alpha(t) if it may be so large, "star" its largest:
    where that is below 1, z_s is drawn afresh from q(z_s | x0), with x0 the tokens there are and
    those drawn for the others (star-shaped masked diffusion, arXiv:2510.08369). Tokens are hidden
    again only for t in (`until`, `since`]; elsewhere it is `mean`.
    """

    how: str = option("Which sigma.", "cap", one_of=tuple(SIGMAS))
    eta: float = option("Of cap and rescale.", 0.02, at_least=0, at_most=1)
    since: float = option(
        "The time from which on tokens are hidden again.", 1.0, above=0, at_most=1
    )
    until: float = option("The time from which on they no longer are.", 0.0, at_least=0, below=1)

    def sigma(self, alpha_t: Time, alpha_s: Time, t: Time) -> Time:
        """Probability `[b]` with which a token is hidden again."""
        on = (t <= self.since) & (t > self.until)
        return jnp.where(on, SIGMAS[self.how](self.eta, alpha_t, alpha_s), 0.0)

    def move(
        self, process: Masked, keys: Keys, z_t: Tokens, prediction: Array, t: Time, s: Time
    ) -> Tokens:
        alpha_t, alpha_s = process.alpha(t), process.alpha(s)
        sigma = self.sigma(alpha_t, alpha_s, t)
        logits = self.filter(prediction, t)
        return remasked(process, keys, z_t, logits, alpha_t, alpha_s, over_positions(sigma, z_t))


def remasked(
    process: Masked,
    keys: Keys,
    z_t: Tokens,
    logits: Float[Array, "b *s v"],
    alpha_t: Time,
    alpha_s: Time,
    sigma: Float[Array, "b *_"],
) -> Tokens:
    """z_s of (1) and (2); `sigma` may differ between positions."""
    hide_keys, unmask_keys, token_keys = jnp.unstack(
        jax.vmap(lambda key: jax.random.split(key, 3))(keys), axis=1
    )
    shape = z_t.shape[1:]
    alpha_t, alpha_s = over_positions(alpha_t, z_t), over_positions(alpha_s, z_t)
    unmask = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    tokens = categorical(token_keys, logits, "high")
    masked = z_t == process.mask_id
    full = lambda p: jnp.broadcast_to(jnp.clip(p, 0.0, 1.0), z_t.shape)
    shown = jnp.where(bernoulli(unmask_keys, full(unmask), shape), tokens, process.mask_id)
    hidden = jnp.where(bernoulli(hide_keys, full(sigma), shape), process.mask_id, z_t)
    return jnp.where(masked, shown, hidden)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemaskUnsure(OneSchedule):
    """ReMDM-conf: what the network was least sure of when it chose it is hidden again first.

    sigma of position i is its largest value times softmax over the unmasked positions of
    -mu(x_i), mu as it was when x_i was drawn. Not the model's law.
    """

    def memory(self, z: Tokens) -> PyTree:
        """mu of each token when it was drawn; that of tokens that were not drawn is 0."""
        return jnp.zeros(z.shape)

    def __call__(
        self, process: Masked, denoise: Denoiser, keys: Keys, z_t: Tokens, memory: PyTree,
        t: Time, s: Time,
    ) -> tuple[Tokens, PyTree]:  # fmt: skip
        """z_s, and the confidences of its tokens."""
        alpha_t, alpha_s = process.alpha(t), process.alpha(s)
        logits = self.filter(denoise(z_t, t), t)
        masked = z_t == process.mask_id
        score = jnp.where(positions(masked), -jnp.inf, -positions(memory))
        share = jnp.where(positions(masked), 0.0, jax.nn.softmax(score, axis=1))
        share = jnp.nan_to_num(share).reshape(z_t.shape)  # NaN: nothing is unmasked yet.
        sigma = over_positions(largest_sigma(alpha_t, alpha_s), z_t) * share
        z_s = remasked(process, keys, z_t, logits, alpha_t, alpha_s, sigma)
        tokens = jnp.minimum(z_s, process.vocab_size - 1)
        mu = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), tokens[..., None], axis=-1)
        return z_s, jnp.where(masked, mu[..., 0], memory)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemaskLoop(OneSchedule):
    """ReMDM-loop: unmask most of it, go over it again and again, unmask the rest.

    On the way from t = 1 to `since` alpha grows to `alpha_on`, as 1 - t does; down to `until` it
    stays there, while each step hides a token again with probability eta and unmasks as many; then
    it grows to 1. The network is told the time at which its process has that alpha. Not the
    model's law.
    """

    eta: float = option("Probability a step of hiding a token again.", 0.02, above=0, at_most=1)
    since: float = option("The time from which on alpha stays.", 0.55, above=0, below=1)
    until: float = option("The time until which it does.", 0.05, above=0, below=1)
    alpha_on: float = option("Where it stays.", 0.9, above=0, below=1)

    def alpha(self, t: Time) -> Time:
        """The share that is unmasked at t."""
        before = (1 - t) * self.alpha_on / (1 - self.since)
        after = 1 - t * (1 - self.alpha_on) / self.until
        return jnp.where(t > self.since, before, jnp.where(t > self.until, self.alpha_on, after))

    def __call__(
        self, process: Masked, denoise: Denoiser, keys: Keys, z_t: Tokens, memory: PyTree,
        t: Time, s: Time,
    ) -> tuple[Tokens, PyTree]:  # fmt: skip
        """z_s; nothing is remembered."""
        alpha_t, alpha_s = self.alpha(t), self.alpha(s)
        told = process.time_of(1 - alpha_t)
        logits = self.filter(denoise(z_t, told), t)
        staying = (t <= self.since) & (s >= self.until)
        sigma = jnp.where(staying, self.eta, 0.0)
        sigma = jnp.minimum(sigma, largest_sigma(jnp.maximum(alpha_t, 1e-6), alpha_s))
        sigma = over_positions(sigma, z_t)
        return remasked(process, keys, z_t, logits, alpha_t, alpha_s, sigma), memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemaskErrors(OneSchedule):
    """Star-shaped, but what is likely wrong is hidden: of a model finetuned by `remasker`.

    Each step replaces every MASK by a draw, asks the finetuned head for the probability p_i that
    token i of this guess is wrong, and hides as many as the schedule has at s, D (1 - alpha(s))
    rounded: drawn one after the other, each in proportion to p_i^sharpness among those left. 0 is
    any, as in the star-shaped sampler; a large one hides the likeliest. Two network calls a step
    (arXiv:2510.08369). Not the model's law, however good model and head are: tokens that are
    unlikely where they stand are hidden more often than others, right or not.
    """

    asks_for_errors: ClassVar[bool] = True

    sharpness: float = option("Power of the probability of being wrong.", 1.0, at_least=0)

    def check(self, process: Process) -> None:
        super().check(process)
        if self.reuse:
            raise UserError(
                "config.sampler.reuse = True: remask_errors asks the network for guesses, which "
                "change with each step; use False"
            )

    def __call__(
        self, process: Masked, denoise: Denoiser, keys: Keys, z_t: Tokens, memory: PyTree,
        t: Time, s: Time,
    ) -> tuple[Tokens, PyTree]:  # fmt: skip
        """z_s; nothing is remembered."""
        token_keys, hide_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        tokens = categorical(token_keys, self.filter(denoise(z_t, t), t), "high")
        guess = jnp.where(z_t == process.mask_id, tokens, z_t)
        log_wrong = positions(jax.nn.log_sigmoid(denoise.errors(guess, t)))
        score = self.sharpness * log_wrong + gumbel(hide_keys, (z_t[0].size,))
        left = jnp.round(z_t[0].size * process.mask_probability(s))[:, None]
        hidden = (ranks(-score) < left).reshape(z_t.shape)
        return jnp.where(hidden, process.mask_id, guess), memory
