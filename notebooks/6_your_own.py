# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 6 · Your own process, network and data
#
# *Runtime: a CPU is enough. About 6 minutes on two cores.*
#
# Everything in md4jax is written once, against a small protocol. So whatever you bring is trained,
# sampled and evaluated like what is there already. In this notebook all three parts are new, each
# in one cell:
#
# * **data**: letters, as counts of ink dots;
# * a **process** that lets the dots disappear one by one, with its own likelihood bound;
# * a **network**: a few convolutions in Flax.
#
# At the end: what makes them choices of a config file, for `main.py` on accelerators.

# %%
# In Colab this installs md4jax.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("md4jax") is None:
    repository = "git+https://github.com/md4jax/md4jax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", repository], check=True)

# %%
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy.special import xlogy
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

import md4jax
from md4jax.options import option
from md4jax.processes.base import Defaults

# %% [markdown]
# ## Data
#
# One of six letters is drawn 48 pixels wide, in one of three typefaces, a little turned and moved. Each block
# of 4 × 4 pixels becomes one number: how many of its 16 dots are black. So an image is
# 12 × 12 integers from 0 to 16.

# %%
LETTERS = "MD4JAX"
FACES = ["DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"]  # They come with matplotlib.
FILES = [findfont(FontProperties(family=name, weight="bold")) for name in FACES]


def letter(rng, number):
    page = Image.new("L", (48, 48))
    font = ImageFont.truetype(rng.choice(FILES), int(rng.integers(38, 46)))
    place = 24 + rng.uniform(-2, 2, size=2)
    ImageDraw.Draw(page).text(tuple(place), LETTERS[number], fill=255, font=font, anchor="mm")
    ink = np.asarray(page.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR)) > 127
    return ink.reshape(12, 4, 12, 4).sum(axis=(1, 3))


rng = np.random.default_rng(0)
train_labels, test_labels = np.arange(3000) % 6, np.arange(480) % 6
train, test = (
    np.stack([letter(rng, number) for number in labels]) for labels in (train_labels, test_labels)
)

# %% [markdown]
# `md4jax.dataset` checks arrays and makes a data set of them: integers with `levels`, or real
# numbers with the `domain` they live on (`"real"`, `"sphere"`, `"simplex"`, ...).

# %%
letters = md4jax.dataset(train, test, levels=17, train_labels=train_labels, test_labels=test_labels)
letters.spec

# %% [markdown]
# ## Process
#
# The dots disappear: at time $t$ each of the $x$ dots of a block is still there with probability
# $\alpha(t)$, so
#
# $$ \alpha(t) = (1 - t^2)^3, \qquad z_t \sim \mathrm{Binomial}(x, \alpha(t)), \qquad z_0 = x, \qquad z_1 = 0. \tag{1} $$
#
# Seen backwards, dots appear. Of the $x - z_t$ dots that are missing at $t$, each is one that
# disappeared between $s$ and $t$ with probability $(\alpha(s) - \alpha(t)) / (1 - \alpha(t))$:
# if we knew $x$, dots would appear at the rate
#
# $$ w(t) \, (x - z_t), \qquad w = \frac{-\alpha'}{1 - \alpha} . \tag{2} $$
#
# We don't, so the network guesses how many are missing, $\lambda_\theta(z_t, t)$, and dots appear at
# the rate $w \lambda_\theta$. The divergence of two such jump processes gives the bound,
#
# $$ -\log p(x) \le \int_0^1 w(t) \, \mathbb E \Big[ r \log \frac r \lambda - r + \lambda \Big] dt,
#    \qquad r = x - z_t, \tag{3} $$
#
# summed over the blocks; at $t = 1$ nothing is left of $x$ and at $t = 0$ all of it is there, so
# there are no other terms. (This is count thinning, [Chen and
# Zhou, 2023](https://arxiv.org/abs/2305.18375), and a close relative of [blackout
# diffusion](https://arxiv.org/abs/2305.11089).)
#
# That is all there is to write down. `Defaults` has what most processes have in common.


# %%
@dataclasses.dataclass(frozen=True, kw_only=True)
class Thinning(Defaults):
    """Counts whose units disappear one by one."""

    power: float = option("alpha(t) = (1 - t^2)^power.", 3.0, at_least=1)
    most: int = 0  # The largest count there may be, from the data.

    def bind(self, data):
        return dataclasses.replace(self, most=data.vocab_size - 1)

    def network_spec(self, data):
        return md4jax.NetworkSpec(
            shape=data.shape, vocab_size=data.vocab_size, out_features=1,
            num_classes=data.num_classes,
        )  # fmt: skip

    def time(self, uniform):
        return jnp.maximum(uniform, 1e-4)  # w(0) is infinite.

    def gone(self, t):
        """1 - alpha(t); the difference itself would lose its digits near t = 0."""
        return -jnp.expm1(self.power * jnp.log1p(-(t**2)))

    def rate(self, t):
        """w(t)."""
        return 2 * self.power * t * (1 - t**2) ** (self.power - 1) / self.gone(t)

    def over(self, t, z_t):
        """`[b]` as `[b, 1, ..., 1]`."""
        return t.reshape(-1, *[1] * (z_t.ndim - 1))

    # 1. Where sampling begins: no dot is left.
    def prior_sample(self, keys, shape):
        return jnp.zeros((len(keys), *shape), jnp.int32)

    # 2. What is left of x at time t, equation (1).
    def forward_sample(self, keys, x0, t):
        there = jnp.arange(self.most) < x0[..., None]
        coins = jax.vmap(lambda key: jax.random.uniform(key, there.shape[1:]))(keys)
        stays = coins >= self.over(self.gone(t), there)
        return jnp.sum(there & stays, axis=-1)

    # 3. What the network's output says: how many dots are missing, at most all that fit in.
    def predict(self, output, z_t, t):
        return (self.most - z_t) * jax.nn.sigmoid(output[..., 0]) + 1e-6

    # 4. The bound, equation (3).
    def bound_terms(self, keys, prediction, x0, z_t, t):
        r = jnp.float32(x0 - z_t)
        terms = xlogy(r, r) - r * jnp.log(prediction) - r + prediction
        return {"diffusion": self.rate(t) * jnp.sum(terms, axis=tuple(range(1, r.ndim)))}

    loss_terms = bound_terms

    # 5. A step from t down to s, equation (2).
    def reverse_sample(self, keys, z_t, prediction, t, s):
        new = prediction * self.over(1 - self.gone(s) / self.gone(t), z_t)
        new = jax.vmap(jax.random.poisson)(keys, new)
        return jnp.minimum(z_t + new, self.most)

    # What is drawn of z_t and of the prediction, and the sample itself.
    def view(self, z_t, t):
        return z_t

    def view_prediction(self, z_t, prediction):
        return jnp.minimum(jnp.round(z_t + prediction).astype(jnp.int32), self.most)

    def decode(self, denoise, z_0):
        return z_0


# %% [markdown]
# ### Is it right?
#
# A denoiser is any function `(z_t, t) -> prediction`, so the mathematics can be tested without a
# network. For one block whose law $p$ we choose, Bayes' rule gives the best $\lambda$ there is, the
# mean of $x - z_t$ given $z_t$. With it the bound has to cost exactly the entropy of $p$.

# %%
p = jnp.array([0.4, 0.05, 0.1, 0.05, 0.4])
counts = jnp.arange(5)
one_block = Thinning().bind(md4jax.DataSpec(shape=(1,), vocab_size=5))


def exact(z_t, t):
    z, alpha = z_t[..., None], 1 - one_block.gone(t)[:, None, None]
    likelihood = jax.scipy.stats.binom.pmf(z, counts, alpha)
    posterior = p * likelihood / jnp.sum(p * likelihood, axis=-1, keepdims=True)
    return jnp.sum(posterior * (counts - z), axis=-1) + 1e-6


n = 5000
x = jax.random.choice(jax.random.key(1), counts, (n, 1), p=p)
keys = jax.random.split(jax.random.key(2), n)
nats = sum(md4jax.bound(one_block, exact, x, keys, time_points=32).values())
print(f"bound    {nats.mean():.4f} ± {nats.std() / n**0.5:.4f} nats")
print(f"entropy  {-jnp.sum(p * jnp.log(p)):.4f} nats")

# %% [markdown]
# And sampling with it has to give back $p$:

# %%
drawn = md4jax.draw(one_block, exact, md4jax.Ancestral(num_steps=100), keys, (1,))
shares = np.bincount(np.asarray(drawn).ravel(), minlength=5) / n
fig, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
ax.bar(counts - 0.2, p, 0.4, label="p", color="#bdbdbd")
ax.bar(counts + 0.2, shares, 0.4, label="5,000 samples", color="#0072b2")
ax.set(xlabel="number of dots", ylabel="share")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Network
#
# A Flax module. `self.spec` is what the process asked for in `network_spec`; called with `z_t`, the
# time `t` and a `label` it puts out `[b, *shape, out_features]`. The last layer starts at zero.
# (`Network` adds what all networks here have in common, such as their checks.)


# %%
class ConvNet(md4jax.Network, kw_only=True):
    """Residual convolutions at half the resolution."""

    width: int = option("Channels.", 64, at_least=1)
    depth: int = option("Residual blocks.", 4, at_least=1)

    @nn.compact
    def __call__(self, z_t, t, label=None, train=False):
        waves = t[:, None] * jnp.pi * 2.0 ** jnp.arange(6)
        told = nn.Embed(self.spec.num_classes, 64, embedding_init=nn.initializers.normal(1.0))(
            label
        )
        told = nn.Dense(128)(jnp.concatenate([told, jnp.sin(waves), jnp.cos(waves)], axis=-1))

        x = 2 * z_t / (self.spec.vocab_size - 1) - 1
        first = nn.Conv(self.width // 2, (3, 3))(x)
        x = nn.Conv(self.width, (2, 2), strides=2)(nn.swish(first))
        for _ in range(self.depth):
            scale, shift = jnp.split(nn.Dense(2 * self.width)(nn.swish(told))[:, None, None], 2, -1)
            h = nn.LayerNorm()(x) * (1 + scale) + shift
            h = nn.Conv(self.width, (3, 3))(nn.swish(h))
            x = x + nn.Conv(self.width, (3, 3))(nn.swish(h))
        x = nn.ConvTranspose(self.width // 2, (2, 2), strides=(2, 2))(nn.swish(x))
        x = nn.swish(nn.Dense(self.width)(jnp.concatenate([x, first], axis=-1)))
        x = nn.Dense(np.prod(self.spec.output_shape[2:]), kernel_init=nn.initializers.zeros)(x)
        return x.reshape(len(z_t), *self.spec.output_shape)


# %% [markdown]
# ## Together
#
# `md4jax.build` takes an object for each section of a config. A network is given as its class, or
# as `functools.partial` of it with options, for it is made when the shape of the data is known.
# What is not given (optimizer, batch size, ...) has defaults.

# %%
model = md4jax.build(
    process=Thinning(),
    network=functools.partial(ConvNet, width=64),
    data=letters,
    sampler=md4jax.Ancestral(num_steps=100),
    optimizer=dict(learning_rate=2e-3, schedule="cosine", clip_norm=1.0),
    train=dict(num_steps=800, batch_size=64),
)
model

# %% [markdown]
# How letters turn into nothing:

# %%
model.film(9, 3, kinds=["forward"])

# %%
losses = model.fit()
md4jax.draw_losses(losses)

# %%
model.bound("test")

# %% [markdown]
# Sample $i$ is of the class $i \bmod 6$, so that the samples write:

# %%
model.draw({"samples": model.sample(48), "test images": model.examples(48)}, columns=6)

# %% [markdown]
# Below each $z_t$ the $x$ that the network takes it for. At first it can only guess what the class
# tells; then the dots decide.

# %%
model.film(9, 4, kinds=["film"])

# %% [markdown]
# ## What `main.py` needs
#
# A config file names things, so they need names: one line in a table each.
#
# 1. Put `Thinning` into `md4jax/processes/thinning.py` and add to `PROCESSES` in
#    `md4jax/processes/__init__.py`
#    ```python
#    "thinning": "md4jax.processes.thinning:Thinning",
#    ```
# 2. `ConvNet` into `md4jax/networks/conv_net.py` and its line into `NETWORKS`.
# 3. Data sets likewise (`DATASETS`); but arrays can stay a file,
#    `np.savez("letters.npz", train=..., test=..., train_labels=..., test_labels=...)`.
#
# Fields made by `option` (`power`, `width`, `depth`) thereby are keys of the config: documented by
# `--describe`, checked before anything compiles, and settable on the command line:
#
# ```sh
# python main.py --config=configs/own/images.py --workdir=/tmp/letters \
#     --config.process.name=thinning --config.process.power=2 --config.network.name=conv_net \
#     --config.data.name=image_npz --config.data.path=letters.npz --config.data.levels=17 \
#     --config.data.labels=True --config.train.random_flip=False --config.sampler.name=ancestral
# ```
#
# From there on: many devices, checkpoints that resume bit for bit, metrics. Until then, one thing
# in a notebook is refused, and says why:

# %%
try:
    model.save("letters_run")
except md4jax.UserError as error:
    print(error)
