"""A known law over the 27 words of three letters, and masked diffusion's exact answer to it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2

from md4jax import rng
from md4jax.processes.masked import Masked
from md4jax.samplers.base import sample

VOCAB, LENGTH = 3, 3
WORDS = jnp.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))
WEIGHTS = jnp.exp(1.5 * jax.random.normal(jax.random.key(3), (len(WORDS),)))
LAW = WEIGHTS / WEIGHTS.sum()
PROCESS = Masked(vocab_size=VOCAB)


def exact(z_t, t):
    """p(x_i | the unmasked positions), as logits."""
    fits = ((z_t[:, None] == VOCAB) | (z_t[:, None] == WORDS[None])).all(-1)
    joint = jnp.einsum("bw,wlv->blv", jnp.where(fits, LAW, 0.0), jax.nn.one_hot(WORDS, VOCAB))
    return jnp.log(joint)


def keys_of(n, seed=0):
    """Of n samples."""
    return rng.example_keys(rng.stream(seed, "sample"), jnp.arange(n))


def draw(step, n, process=PROCESS, known=None):
    """Samples of the exact denoiser."""
    draws = jax.jit(lambda k: sample(process, exact, step, k, (LENGTH,), known))
    return np.asarray(draws(keys_of(n)))


def chi_squared_p(samples, expected):
    """How likely counts at least so far from those expected are."""
    counts = np.bincount(samples @ np.array([9, 3, 1]), minlength=27)
    expected = np.asarray(expected, np.float64) * len(samples)
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), 26)
