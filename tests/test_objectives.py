"""objectives.py: the bound on data of known entropy, with exact denoisers."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax import rng
from md4jax.objectives import bits_per_dim, bound, training_loss
from md4jax.processes.masked import Masked

VOCAB, LENGTH = 3, 3


def known_law():
    """Words of three letters `[words, length]`, their probabilities `[words]`, far from equal."""
    words = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    weights = np.exp(2.0 * np.random.default_rng(0).normal(size=len(words)))
    return jnp.asarray(words), jnp.asarray(weights / weights.sum(), jnp.float32)


def exact_denoiser(words, probabilities, mask_id):
    """p(x_i | the unmasked positions) by summing over all words; logits `[b, length, vocab]`."""

    def denoise(z_t, t):
        fits = (z_t[:, None, :] == mask_id) | (z_t[:, None, :] == words[None])  # [b, words, length]
        posterior = jnp.where(fits.all(-1), probabilities, 0.0)  # [b, words]
        joint = jnp.einsum("bw,wlv->blv", posterior, jax.nn.one_hot(words, VOCAB))
        return jnp.log(joint / joint.sum(-1, keepdims=True))

    return denoise


def bound_of_law(process, num_examples=40_000, time_points=2, seed=0):
    """Mean bound in nats over draws from the known law, its standard error, and the entropy."""
    words, p = known_law()
    keys = rng.example_keys(rng.stream(seed, "test"), jnp.arange(num_examples))
    draws = jax.random.choice(jax.random.key(seed), len(words), (num_examples,), p=p)
    denoise = exact_denoiser(words, p, process.mask_id)
    terms = jax.jit(lambda x, k: bound(process, denoise, x, k, time_points))(words[draws], keys)
    total = np.asarray(sum(terms.values()), np.float64)
    entropy = float(-(p * jnp.log(p)).sum())
    return total.mean(), total.std() / math.sqrt(num_examples), entropy


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_continuous_bound_of_the_exact_denoiser_is_the_entropy(schedule):
    """Within 4.5 standard errors (false alarm 7e-6); eps adds at most 2 eps D ln V + eps H."""
    process = Masked(schedule=schedule, vocab_size=VOCAB)
    mean, error, entropy = bound_of_law(process)
    slack = 3 * 1e-4 * LENGTH * math.log(VOCAB)
    assert abs(mean - entropy) < 4.5 * error + slack
    assert error < 0.02 * entropy  # Else the line above says nothing.


def exact_discrete_bound(process):
    """The T-step bound of the exact denoiser, summed over all words, times and masks in float64."""
    words, p = (np.asarray(a, np.float64) for a in known_law())
    steps = process.num_timesteps
    denoise = exact_denoiser(*known_law(), process.mask_id)
    masks = np.array(list(itertools.product([False, True], repeat=LENGTH)))
    total = 0.0
    for i in range(1, steps + 1):
        t = jnp.array([i / steps])
        masked = float(process.mask_probability(t)[0])
        u = float(process.unmask_probability(t, 1 / steps)[0])
        for mask in masks:
            probability = np.prod(np.where(mask, masked, 1 - masked))
            z_t = jnp.asarray(np.where(mask, process.mask_id, words).astype(int))
            log_mu = np.asarray(denoise(z_t, t), np.float64)
            at_x = np.take_along_axis(log_mu, words.astype(int)[..., None], -1)[..., 0]
            total -= u * probability * (p * (at_x * mask).sum(-1)).sum()
    return total + 2 * LENGTH * process.eps * math.log(VOCAB)


def test_discrete_bound_falls_to_the_continuous_one():
    """(4) is above the entropy for every T and falls towards it, as 1 / T; the estimate agrees."""
    process = {steps: Masked(num_timesteps=steps, vocab_size=VOCAB) for steps in (1, 2, 4, 8, 64)}
    bounds = {steps: exact_discrete_bound(p) for steps, p in process.items()}
    _, _, entropy = bound_of_law(process[8], num_examples=2)
    ordered = [bounds[steps] for steps in (1, 2, 4, 8, 64)]
    assert ordered == sorted(ordered, reverse=True)
    assert entropy < bounds[64] < entropy + 0.02 * (bounds[1] - entropy) + 1e-3
    for steps in (2, 8):
        # With T points each of the T steps is visited once.
        mean, error, _ = bound_of_law(process[steps], time_points=steps)
        assert abs(mean - bounds[steps]) < 4.5 * error


def test_bound_of_independent_pixels_is_the_sum_of_their_entropies():
    """A denoiser that ignores z: E[bound] = -sum log mu[x] for every x, whatever the schedule."""
    mu = jnp.array([0.7, 0.2, 0.1])
    process = Masked(schedule="polynomial", power=2.0, vocab_size=3)
    x0 = jnp.tile(jnp.array([[0, 1, 2, 0]]), (20_000, 1))
    keys = rng.example_keys(jax.random.key(1), jnp.arange(len(x0)))
    denoise = lambda z, t: jnp.broadcast_to(jnp.log(mu), (*z.shape, 3))
    terms = bound(process, denoise, x0, keys, 4)
    values = np.asarray(terms["diffusion"], np.float64)
    expected = -float(jnp.log(mu[x0[0]]).sum()) * (1 - 2 * process.eps)
    assert abs(values.mean() - expected) < 4.5 * values.std() / math.sqrt(len(x0))


def test_bound_of_an_example_does_not_depend_on_its_batch():
    process = Masked(vocab_size=VOCAB)
    words, p = known_law()
    keys = rng.example_keys(rng.stream(0, "eval"), jnp.arange(len(words)))
    denoise = exact_denoiser(words, p, process.mask_id)
    whole = bound(process, denoise, words, keys, 3)["diffusion"]
    part = bound(process, denoise, words[5:9], keys[5:9], 3)["diffusion"]
    np.testing.assert_allclose(whole[5:9], part, rtol=1e-6)


def test_training_loss_is_the_sum_of_its_terms_in_bits():
    process = Masked(vocab_size=VOCAB)
    words, p = known_law()
    keys = rng.example_keys(jax.random.key(0), jnp.arange(len(words)))
    u = jnp.linspace(0.1, 0.9, len(words))
    denoise = exact_denoiser(words, p, 3)
    loss, terms, each = training_loss(process, denoise, words, u, keys)
    assert float(loss) == pytest.approx(float(each.mean()), rel=1e-6)
    parts = [v for name, v in terms.items() if name != "loss"]
    assert float(loss) == pytest.approx(float(sum(parts)), rel=1e-6)
    assert set(terms) == {"loss", "loss_diffusion", "loss_reconstruction", "loss_prior"}
    assert bits_per_dim(math.log(2) * 6, (2, 3)) == pytest.approx(1.0)
    weight = jnp.linspace(0.0, 2.0, len(words))
    weighted, _, unweighted = training_loss(process, denoise, words, u, keys, weight)
    assert float(weighted) == pytest.approx(float((weight * each).mean()), rel=1e-6)
    np.testing.assert_array_equal(unweighted, each)


def test_first_loss_of_zero_logits_is_log2_of_the_vocabulary():
    """A zero-initialised output layer: every token costs ln V wherever it is masked."""
    process = Masked(vocab_size=27)
    x0 = jax.random.randint(jax.random.key(0), (4000, 16), 0, 27)
    keys = rng.example_keys(jax.random.key(1), jnp.arange(4000))
    terms = bound(process, lambda z, t: jnp.zeros((*z.shape, 27)), x0, keys, 4)
    bits = bits_per_dim(np.asarray(terms["diffusion"], np.float64), (16,))
    assert abs(bits.mean() - math.log2(27) * 0.9998) < 4.5 * bits.std() / math.sqrt(4000)
