r"""Star-shaped diffusion: noisy variables that are independent given the data.

A. Okhotin, D. Molchanov, V. Arkhipkin, G. Bartosh, V. Ohanesian, A. Alanov, D. Vetrov, "Star-Shaped
Denoising Diffusion Probabilistic Models", NeurIPS 2023, arXiv:2302.05259 (SS).

There is no chain: x_1, ..., x_T are noisier and noisier views of x0, each drawn from x0 itself,

  (1)  q(x_1, ..., x_T | x0) = prod_s q(x_s | x0)                                        [SS, eq. 5]
  (2)  q(x_s | x0) = h_s(x_s) exp(<A_s f(x0), T(x_s)> - Omega_s(x0))              [SS, theorem 1]

and all that x_t, ..., x_T say of x0 is in their tail statistic, whose law is of the same form:

  (3)  G_t = sum over s >= t of A_s T(x_s),   q(x_{t-1} | x_t, ..., x_T) = q(x_{t-1} | G_t)
  (4)  q(x0 | G_t) ~ q(x0) exp(<f(x0), G_t> - sum over s >= t of Omega_s(x0))

So (x0, G_1, ..., G_T) is a Markov diffusion, and G_t is this package's z_t, at the time t / T:

  (5)  G_s = G_t + sum over s <= k < t of A_k T(x_k)      the segment [s, t), for any s < t
  (6)  p(x_k | G_t) = q(x_k | x0 = x_theta(G_t, t)),  k < t                             [SS, eq. 12]
  (7)  -log p(x0) <= E[-log p(x0 | G_1)] + sum over 2 <= t <= T of                     [SS, eq. 11]
       E KL(q(x_{t-1} | x0) || q(x_{t-1} | x_theta(G_t, t))) + KL(q(x_T | x0) || p(x_T))

With fewer network calls than T no variable is left out: between two calls all are drawn from the
last prediction (SS, eq. 25), which is (5) and (6) with s < t - 1. z_0 is the last prediction.

Where data are levels or tokens p(x0 | G_1) is (4), normalised over them, with a fixed prior: any
prior makes (7) a bound. Where they are real it is the density q_0(x0 | x_theta(G_1, 1)), with q_0
the entry 0 that each family adds to its schedule; the same entry stands for t - 1 = 0 in training.

A family (one file in `star/`) is a subclass of `StarShaped` that says what (2) is.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from md4jax.options import UserError, option
from md4jax.processes.base import DataSpec, Denoiser, NetworkSpec, step_time
from md4jax.processes.domains import head_of
from md4jax.processes.gaussian_math import over_positions
from md4jax.processes.star.family import Family, Point, Statistic, Step, sum_all
from md4jax.processes.star.remainder import sum_terms
from md4jax.typing import Data, Keys, Nats, PyTree, Time


@dataclasses.dataclass(frozen=True, kw_only=True)
class StarShaped(Family):
    """What all families share. See the module's docstring, whose numbers the methods cite."""

    num_timesteps: int = option("T.", 1000, at_least=2)
    loss: str = option(
        "What is minimised, a mean over variables: the KL of (7), or the KL over its scale at that "
        "step (SS, section 4).",
        "kl",
        one_of=("kl", "rescaled"),
    )
    tail: str = option(
        "How G_t is drawn in training: exact (closed form, or the draws of s >= t alone), table "
        "(one draw from tabulated laws) or draws (all T variables, for comparison).",
        "exact",
        one_of=("exact", "table", "draws"),
    )
    exact_terms: int | None = option(
        "Steps of a tail or a segment that are drawn, the first ones; the others are one normal of "
        "their mean and covariance. None: all, without error. The KS distance of entries to exact "
        "ones is at most .0018 (Dirichlet, 8 of 64; Beta, 16 of 1000), .0046 (Wishart, 12 of 64), "
        ".0052 (categorical, 256 of 1000; up to .024 of functions of many): star/remainder.py.",
        None,
        at_least=1,
        changeable=True,
    )
    prediction: str = option(
        "What the network gives of data that are levels or tokens: mean (x0 itself, as published), "
        "levels (a law over them, whose mean is taken) or posterior (a law that is multiplied by "
        "what G_t says, by (4), which so need not be learned).",
        "mean",
        one_of=("mean", "levels", "posterior"),
    )
    level_prior: str = option(
        "Of p(x0 | G_1), where data are levels or tokens: uniform, or their shares in training.",
        "unigram",
        one_of=("unigram", "uniform"),
    )

    statistics: PyTree = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.loss == "rescaled" and not self.rescales:
            raise UserError(
                f"config.process.loss = 'rescaled': {type(self).__name__} has no rescaled loss; "
                "use 'kl'"
            )
        if self.tail not in self.tails:
            raise UserError(
                f"config.process.tail = {self.tail!r}: {type(self).__name__} has "
                f"{', '.join(self.tails)}"
            )
        self._check_exact_terms()

    def _check_exact_terms(self):
        """That they change something, if they are given."""
        if self.exact_terms is None:
            return
        problem = None
        if not self.has_remainder:
            problem = f"{type(self).__name__} has no approximate remainder"
        elif self.tail == "draws":
            problem = "it is for tail = 'exact' or 'table', not 'draws'"
        elif self.exact_terms >= self.chain_length:
            problem = f"there are {self.chain_length} steps, so all are drawn as it is"
        if problem:
            raise UserError(
                f"config.process.exact_terms = {self.exact_terms}: {problem}; leave it None"
            )

    # Tails and segments.

    def segment(self, keys: Keys, point: Point, first: Step, last: Step) -> Statistic:
        """(5): the sum over first <= s < last of A_s T(x_s), each x_s drawn from the point."""
        prepared = self.prepare(point)
        shape = jax.eval_shape(self.draw, keys, prepared, first)
        total = jnp.zeros(shape.shape, shape.dtype)
        total = sum_terms(
            self._term, self.add_remainder, self.exact_terms, keys, prepared, first, last, total
        )
        return self.finish(total, prepared)

    def _term(self, keys: Keys, prepared: PyTree, step: Step) -> Statistic:
        """The share of one step. The same key and step give the same one, however it is summed."""
        keys = jax.vmap(jax.random.fold_in)(keys, step)
        return self.observe(self.draw(keys, prepared, step), step)

    def exact_tail(self, keys: Keys, x0: Data, step: Step) -> Statistic:
        """G at a step by the draws of the steps from there on."""
        return self.segment(keys, self.point(x0), step, jnp.full_like(step, self.chain_length + 1))

    def table_tail(self, keys: Keys, x0: Data, step: Step) -> Statistic:
        """G at a step by one draw from a tabulated law."""
        raise NotImplementedError

    def draws_tail(self, keys: Keys, x0: Data, step: Step) -> Statistic:
        """G at a step from all T variables, those before it thrown away."""
        prepared = self.prepare(self.point(x0))

        def add(total, s):
            s = jnp.full_like(step, s)
            term = self._term(keys, prepared, s)
            return total + jnp.where(over_positions(s >= step, term), term, 0), None

        shape = jax.eval_shape(self.draw, keys, prepared, step)
        zero = jnp.zeros(shape.shape, shape.dtype)
        return self.finish(jax.lax.scan(add, zero, 1 + jnp.arange(self.chain_length))[0], prepared)

    # The five functions.

    def bind(self, data: DataSpec) -> StarShaped:
        if data.vocab_size is None and self.prediction != "mean":
            raise UserError(
                f"config.process.prediction = {self.prediction!r}: the data are real, and have no "
                "levels; use 'mean'"
            )
        return dataclasses.replace(self, data=data)

    def network_spec(self, data: DataSpec) -> NetworkSpec:
        """Its output is what the domain's head takes; else one number an entry of z, or V."""
        domain = head_of(data.domain)
        return NetworkSpec(
            shape=self.z_shape(data.shape),
            vocab_size=None,
            out_features=1 if self.prediction == "mean" or self.event_ndim else data.vocab_size,
            num_classes=data.num_classes,
            out_shape=domain.head_shape(data.shape) if domain else None,
        )

    def time(self, uniform: Float[Array, "b"]) -> Time:
        return step_time(uniform, self.chain_length)

    def network_time(self, t: Time) -> Time:
        """0.999 times T evenly spaced numbers from 0.001 to 1, as published."""
        return self.at(0.999 * np.linspace(1e-3, 1, self.chain_length), self.step(t) - 1)

    def network_input(self, z_t: Statistic, t: Time) -> Statistic:
        """G less its mean over its standard deviation, over the data and all entries."""
        step = self.step(t)
        mean = over_positions(self.statistics["mean"][step], z_t)
        return (z_t - mean) / over_positions(self.statistics["std"][step], z_t)

    def prior_sample(self, keys: Keys, shape: tuple[int, ...]) -> Statistic:
        """G_T of x_T ~ p(x_T)."""
        limit = self.limit_point(self.z_shape(shape))
        point = jnp.broadcast_to(limit, (keys.shape[0], *limit.shape))
        step = jnp.full(keys.shape[0], self.chain_length, jnp.int32)
        return self.segment(keys, point, step, step + 1)

    def forward_sample(self, keys: Keys, x0: Data, t: Time) -> Statistic:
        """G_t given x0 (3)."""
        tail = {"exact": self.exact_tail, "table": self.table_tail, "draws": self.draws_tail}
        return tail[self.tail](keys, x0, self.step(t))

    def predict(self, output: Array, z_t: Statistic, t: Time) -> Point:
        """The network's output as a point of the family."""
        if self.prediction == "mean":
            return self.head(output)
        logits, points = self.level_logits(output), self.level_points()
        if self.prediction == "posterior":
            axes = tuple(range(-self.event_ndim, 0)), tuple(range(1, points.ndim))
            said = jnp.tensordot(z_t, self.natural(points), axes)
            normalisers = self.level_log_normalisers()
            normalisers = self.at(normalisers - normalisers[:, :1], self.step(t) - 1)
            logits = logits + said + self.statistics["log_prior"]
            logits = logits - jnp.expand_dims(normalisers, tuple(range(1, logits.ndim - 1)))
        return jnp.tensordot(jax.nn.softmax(logits, axis=-1), points, 1)

    def guide(self, conditional: Point, unconditional: Point, scale: float) -> Point:
        """As of arrays, back to where the data live."""
        return self.project(super().guide(conditional, unconditional, scale))

    def loss_terms(
        self, keys: Keys, prediction: Point, x0: Data, z_t: Statistic, t: Time
    ) -> dict[str, Nats]:
        """The mean over variables of the KL of step t - 1, or of its rescaled form.

        With the factor D ln 2, so that the logged loss is the paper's mean (see `simple_loss` of
        `gaussian_math.py`).
        """
        step = self.step(t)
        kl = self.kl(self.point(x0), prediction, step - 1)
        mean = kl.reshape(kl.shape[0], -1).mean(axis=1)
        if self.loss == "rescaled":
            mean = mean / self.scale(step)
        return {self.loss: math.log(2) * math.prod(x0.shape[1:]) * mean}

    def bound_terms(
        self, keys: Keys, prediction: Point, x0: Data, z_t: Statistic, t: Time
    ) -> dict[str, Nats]:
        """(7), the sum over steps as T times the mean: `diffusion`, `reconstruction`, `prior`."""
        step = self.step(t)
        first = step == 1
        kl = self.kl(self.point(x0), prediction, jnp.maximum(step - 1, 1))
        reconstruction = self.reconstruction(prediction, x0, z_t)
        return {
            "diffusion": self.chain_length * jnp.where(first, 0.0, sum_all(kl)),
            "reconstruction": self.chain_length * jnp.where(first, reconstruction, 0.0),
            "prior": self.prior_kl(x0),
        }

    def prior_kl(self, x0: Data) -> Nats:
        """KL(q(x_T | x0) || p(x_T))."""
        point = self.point(x0)
        limit = jnp.broadcast_to(self.limit_point(point.shape[1:]), point.shape)
        step = jnp.full(point.shape[0], self.chain_length, jnp.int32)
        return sum_all(self.kl(point, limit, step))

    def reconstruction(self, prediction: Point, x0: Data, z_1: Statistic) -> Nats:
        """-log p(x0 | G_1): by (4) for levels and tokens, else -log q_0(x0 | prediction)."""
        if self.data.vocab_size is None:
            return -sum_all(self.log_density(x0, prediction))
        # Each level's log probability over that of x0: of differences, for the logits are large.
        natural, prior = self.natural(self.level_points()), self.statistics["log_prior"]
        axes = tuple(range(-self.event_ndim, 0))
        z = jnp.expand_dims(z_1, -1 - self.event_ndim)
        inner = jnp.sum((natural - jnp.expand_dims(natural[x0], -1 - self.event_ndim)) * z, axes)
        normalisers = self.level_log_normalisers()[0]
        difference = jnp.asarray(normalisers[None, :] - normalisers[:, None], jnp.float32)
        logits = inner - difference[x0] + prior - prior[x0][..., None]
        return sum_all(jax.nn.logsumexp(logits, axis=-1))

    def reverse_sample(
        self, keys: Keys, z_t: Statistic, prediction: Point, t: Time, s: Time
    ) -> Statistic:
        """(5) and (6); at s = 0 the prediction itself."""
        last, first = self.step(t), self.step(s)
        at_end = first == 0
        z_s = z_t + self.segment(keys, prediction, jnp.where(at_end, last, first), last)
        return jnp.where(over_positions(at_end, z_t), prediction, z_s)

    def decode(self, denoise: Denoiser, z_0: Statistic) -> Data:
        """The data that the last prediction is."""
        return self.values(z_0)

    def decode_smoothly(self, denoise: Denoiser, z_0: Statistic) -> Point:
        """The last prediction, of levels as 0 to 1."""
        return self.smooth_values(z_0)

    def path_log_weight(self, keys: Keys, denoise: Denoiser, x0: Data) -> Nats:
        """log p(x0, x_1, ..., x_T) - log q(x_1, ..., x_T | x0) of one draw of (1); T network calls.

        Its mean is at most log p(x0), and that of its exponential is p(x0).
        """
        point = self.point(x0)
        prepared, count = self.prepare(point), jnp.ones(len(x0), jnp.int32)

        def draw(s):
            step = s * count
            step_keys = jax.vmap(jax.random.fold_in)(keys, step)
            statistic = self.draw(step_keys, prepared, step)
            seen = self.finish(self.observe(statistic, step), prepared)
            return step, self.finish(statistic, prepared), seen

        def add(carry, s):
            z, total = carry
            predicted = denoise(z, (s + 1) * count / self.chain_length)
            step, statistic, seen = draw(s)
            return (z + seen, total - self.log_ratio(statistic, point, predicted, step)), None

        _, statistic, z = draw(self.chain_length)
        first = (z, -self.prior_log_ratio(statistic, point))
        order = jnp.arange(self.chain_length - 1, 0, -1)
        (z, total), _ = jax.lax.scan(add, first, order)
        prediction = denoise(z, count / self.chain_length)
        return total - self.reconstruction(prediction, x0, z)

    # Pictures.

    def view(self, z_t: Statistic, t: Time) -> Data:
        """The x whose T(x) is the weighted mean of all T(x_s) in the tail."""
        total = np.append(0.0, np.cumsum(self.weights[:0:-1])[::-1])
        return self.values(self.undo(z_t / self.at(total, self.step(t), z_t)))

    def view_prediction(self, z_t: Statistic, prediction: Point) -> Data:
        return self.values(prediction)

    def forward_views(self, keys: Keys, x0: Data, times: Float[Array, "frames"]) -> list[Data]:
        """x_t and G_t of one draw of (1)."""
        prepared, count = self.prepare(self.point(x0)), jnp.ones(len(x0), jnp.int32)

        def add(total, s):
            step = s * count
            term = self.finish(self._term(keys, prepared, step), prepared)
            total = total + term
            x = self.values(self.undo(term / self.at(self.weights, step, term)))
            return total, (x, self.view(total, step / self.chain_length))

        first = jnp.zeros((len(x0), *self.z_shape(x0.shape[1:])))
        _, views = jax.lax.scan(add, first, jnp.arange(self.chain_length, 0, -1))
        frames = self.chain_length - self.step(times)
        return [jnp.moveaxis(x[frames], 0, 1) for x in views]

    # What is estimated once and saved.

    def abstract_statistics(self) -> PyTree:
        table = jax.ShapeDtypeStruct((self.chain_length + 1,), jnp.float32)
        shapes = {"mean": table, "std": table}
        if self.data.vocab_size is not None:
            shapes["log_prior"] = jax.ShapeDtypeStruct((self.data.vocab_size,), jnp.float32)
        return shapes

    def with_statistics(self, statistics: PyTree) -> StarShaped:
        return dataclasses.replace(self, statistics=statistics)

    def estimate_statistics(self, examples: np.ndarray) -> PyTree:
        """Mean and standard deviation of G by step, and the levels' shares.

        From the exact moments of G given x0, averaged over the levels' histogram or the examples.
        """
        if self.data.vocab_size is None:
            points, weights = self.point(jnp.asarray(examples)), np.full(len(examples), 1.0)
            statistics = {}
        else:
            points = self.level_points()
            weights = np.bincount(np.ravel(examples), minlength=self.data.vocab_size)
            # Add one: what training has not seen must stay possible.
            prior = np.log((weights + 1.0) / (weights + 1.0).sum())
            if self.level_prior == "uniform":
                prior = np.full_like(prior, -math.log(len(prior)))
            statistics = {"log_prior": jnp.asarray(prior, jnp.float32)}
        mean, std = self._tail_moments(points, jnp.asarray(weights / weights.sum(), jnp.float32))
        return statistics | {"mean": mean, "std": std}

    def _tail_moments(
        self, points: Float[Array, "n *s"], weights: Float[Array, "n"]
    ) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
        """Mean and standard deviation of G at each step over points and entries; entry 0 is 1's."""

        def add(carry, s):
            mean, variance = self.moments(points, jnp.full(len(points), s))
            m, v = jax.tree.map(jnp.add, carry, (mean, variance))
            average = lambda x: jnp.sum(weights * x.reshape(len(x), -1).mean(axis=1))
            center = average(m)
            return (m, v), (center, jnp.sqrt(average(v + (m - center) ** 2)))

        zero = jnp.zeros_like(points)
        steps = jnp.arange(self.chain_length, 0, -1)
        _, (mean, std) = jax.jit(lambda: jax.lax.scan(add, (zero, zero), steps))()
        return tuple(jnp.concatenate([x[-1:], x[::-1]]) for x in (mean, std))
