"""The head that tells wrong tokens, on the words of three letters, where all can be summed up."""

import itertools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_words import LAW, LENGTH, PROCESS, VOCAB, WORDS, exact

from md4jax.config import Train
from md4jax.finetuning.remasker import Remasker, error_bits
from md4jax.networks.base import Network
from md4jax.networks.heads import token_head
from md4jax.networks.transformer import Transformer
from md4jax.networks.unet import UNet
from md4jax.networks.uvit import UViT
from md4jax.processes.base import DataSpec
from md4jax.training.state import init_params, make_denoiser

DATA = DataSpec((LENGTH,), VOCAB)


class Exact(Network, kw_only=True):
    """Without parameters: the exact law, and for features the whole word and the place in it."""

    gives_features = True

    @nn.compact
    def __call__(self, z_t, t, label=None, train=False, features=False):
        word = (z_t @ jnp.array([9, 3, 1]))[:, None] * LENGTH + jnp.arange(LENGTH)
        return jax.nn.one_hot(word, 27 * LENGTH) if features else exact(z_t, t)


def chances():
    """`[27, 3]`: of each guess, and of its each token's being wrong together with it.

    Of all words, all masks and all draws; a mask of k tokens has the chance k! (3 - k)! / 4!, the
    mean of t^k (1 - t)^(3 - k) over t (but for eps = 1e-4).
    """
    words, law = np.asarray(WORDS), np.asarray(LAW, np.float64)
    guesses, wrong = np.zeros(27), np.zeros((27, LENGTH))
    for mask in itertools.product([False, True], repeat=LENGTH):
        mask = np.array(mask)
        chance = 1 / (4 * len(list(itertools.combinations(range(LENGTH), mask.sum()))))
        z = np.where(mask, VOCAB, words)
        mu = np.exp(np.asarray(exact(jnp.asarray(z), None), np.float64))
        mu /= mu.sum(-1, keepdims=True)
        for i, guess in enumerate(words):
            # What is not masked is right.
            p = np.where(mask, mu[:, np.arange(LENGTH), guess], words == guess).prod(1)
            guesses[i] += chance * (law * p).sum()
            wrong[i] += chance * (law * p) @ (words != guess)
    return guesses, wrong


def test_the_head_learns_what_is_wrong():
    """Trained, its expected loss is within 0.01 bits a token of the entropy, which bounds it."""
    train = Train(num_steps=300, batch_size=256, ema_decay=0.0)
    network = Exact(spec=PROCESS.network_spec(DATA))
    experiment = types.SimpleNamespace(train=train)
    model = types.SimpleNamespace(
        experiment=experiment, process=PROCESS, network=network, spec=DATA, mesh=None
    )
    finetune = Remasker()
    params = finetune.init_params(model, {"network": {}, "process": {}})
    gradient = finetune.gradient(model)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.3, train.num_steps))

    def body(state, step):
        params, moments = state
        keys = jax.random.fold_in(jax.random.key(7), step)
        x0 = WORDS[jax.random.categorical(keys, jnp.log(LAW), shape=(train.batch_size,))]
        grads, (metrics, _, losses) = gradient(params, ({}, None), {"x0": x0}, step)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), (metrics, losses.mean())

    def learn(params):
        return jax.lax.scan(body, (params, optimizer.init(params)), jnp.arange(train.num_steps))

    (learned, _), (metrics, losses) = jax.jit(learn)(params)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    assert abs(metrics["loss"][0] - 1) < 1e-6  # Of a head that says 1/2 everywhere.

    guesses, wrong = chances()
    assert abs(guesses.sum() - 1) < 1e-6
    share, n = wrong.sum() / LENGTH, train.num_steps * train.batch_size * LENGTH
    # Tokens of a word are wrong together: their error is at most three times that of single ones.
    assert abs(metrics["wrong"].mean() - share) < 4.5 * (3 * share * (1 - share) / n) ** 0.5 + 1e-3
    p = wrong / guesses[:, None]
    entropy = guesses @ -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean(1)
    errors = finetune.denoiser(PROCESS, network, learned).errors(WORDS, jnp.zeros(27))
    ours = [error_bits(errors, jnp.full(WORDS.shape, value)) for value in (False, True)]
    each = np.stack([np.asarray(error_of(errors, value)) for value in (False, True)])
    expected = guesses @ ((1 - p) * each[0] + p * each[1]).mean(1)
    np.testing.assert_allclose(each.mean(-1), ours, rtol=1e-5)
    assert entropy - 1e-3 < expected < entropy + 0.01 < 0.9


def error_of(errors, wrong):
    """(1) of each token, bits."""
    return np.log2(1 + np.exp(np.asarray(errors) * (-1 if wrong else 1)))


def test_features_are_what_the_output_layer_reads():
    """Of the transformer in numbers; of images one vector a pixel, for all its channels."""
    data = DataSpec((5,), 7)
    process = PROCESS.bind(data)
    network = Transformer(spec=process.network_spec(data), feature_dim=8, num_layers=1, num_heads=2)
    z, t = jnp.array([[0, 7, 3, 7, 1]]), jnp.array([0.4])

    def both():
        params = init_params(process, network, data, seed=0)
        head = jax.random.normal(jax.random.key(0), params["network"]["head"]["kernel"].shape)
        params["network"]["head"]["kernel"] = head
        denoise = make_denoiser(process, network, params)
        return denoise(z, t), denoise.features(z, t) @ head

    np.testing.assert_allclose(*jax.jit(both)(), rtol=1e-5, atol=1e-5)
    data = DataSpec((4, 4, 3), 7)
    process = PROCESS.bind(data)
    spec, sizes = process.network_spec(data), dict(feature_dim=8, num_layers=1, norm_groups=4)
    z, t = jnp.zeros((2, 4, 4, 3), jnp.int32), jnp.zeros(2)
    dit = dict(dit_layers=1, dit_heads=2, dit_hidden=8)
    for network in (UNet(spec=spec, **sizes), UViT(spec=spec, **sizes, **dit)):
        ask = lambda key, net=network: net.init_with_output(key, z, t, features=True)
        features, variables = jax.eval_shape(ask, jax.random.key(0))
        assert features.shape == (2, 4, 4, 8) and "head" not in variables["params"]
        assert token_head(z.shape, features.shape).features == 3
