# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 1 · One idea, three processes
#
# *Runtime: a CPU is enough. About 8 minutes on two cores.*
#
# A diffusion model is made of two things:
#
# * a **process** that destroys data: $q(z_t \mid x_0)$, where $z_0$ still tells $x_0$ and $z_1$ tells
#   nothing. It is written down by hand and has no weights;
# * a **network** that looks at $z_t$ and guesses $x_0$. It is all that is learned.
#
# Everything else follows: to draw a sample, begin with $z_1$ and replace, step by step, $z_t$ by a
# less destroyed $z_s$ that fits the guess; to train, make the guesses good. How good they are also
# bounds the likelihood of data, in bits, so that models can be compared whatever they do.
#
# Here the same network learns the same handwritten digits with three processes that destroy them in
# very different ways. By the end you will have trained all three, and know the five functions that
# any process consists of.

# %%
# In Colab this installs md4jax.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("md4jax") is None:
    repository = "git+https://github.com/md4jax/md4jax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", repository], check=True)

# %%
import functools

import jax
import jax.numpy as jnp
import numpy as np

import md4jax
from md4jax.data.describe import entropies

# %% [markdown]
# ## Three models
#
# The data are scikit-learn's digits: 8 × 8 pixels with 17 levels of grey, 1,500 to train with and
# 297 to test, and their labels 0 to 9. Process, network and data are chosen independently; here
# only the process differs.

# %%
network = functools.partial(
    md4jax.UViT, feature_dim=32, num_layers=1, dit_layers=2, dit_heads=4, dit_hidden=64
)


def build(process, grid, **options):
    return md4jax.build(
        process=process,
        network=functools.partial(network, **options),
        data=md4jax.Digits(labels=True),
        sampler=md4jax.Ancestral(num_steps=100, grid=grid),
        optimizer=dict(learning_rate=4e-3, schedule="cosine", weight_decay=0.01),
        train=dict(num_steps=600, batch_size=64),
    )


models = {
    "masked": build(md4jax.Masked(), grid="cosine"),
    "Gaussian": build(
        md4jax.Gaussian(schedule="cosine", target="v", variance="learned_range"),
        grid="uniform",
        fourier_features=(2, 3),  # The network also sees sines of its input: to tell levels apart.
    ),
    "star-shaped": build(
        md4jax.StarBeta(loss="kl", tail="table", prediction="posterior"), grid="endpoints"
    ),
}
for model in models.values():
    print(model)

# %% [markdown]
# ## Destroying a digit
#
# ### Masked
#
# Each pixel is hidden, on its own, with a probability that grows with $t$:
#
# $$ z_t^i = \begin{cases} x_0^i & \text{with probability } \alpha(t) = 1 - t \\
#    \text{MASK} & \text{else} \end{cases} $$
#
# What is not hidden is certain. (Masks are drawn as a middle grey.)

# %%
models["masked"].film(9, 3, kinds=["forward"])

# %% [markdown]
# ### Gaussian
#
# Levels become numbers from −1 to 1, which are shrunk while noise is added:
#
# $$ z_t = \sqrt{\bar\alpha(t)} \, x_0 + \sqrt{1 - \bar\alpha(t)} \, \varepsilon,
#    \qquad \varepsilon \sim \mathcal N(0, I) $$
#
# Everything is still there, but nothing is certain.

# %%
models["Gaussian"].film(9, 3, kinds=["forward"])

# %% [markdown]
# ### Star-shaped
#
# Instead of one noisy image there are $T = 1000$, each drawn from $x_0$ itself, later ones noisier:
# here each pixel from a Beta distribution around its level. What $x_t, \ldots, x_T$ together say of
# $x_0$ is in one sum, the *tail*
#
# $$ G_t = \sum_{s \ge t} \nu_s \, \mathrm{logit}(x_s), \qquad x_s \sim
#    \mathrm{Beta}\big(1 + \nu_s x_0, \, 1 + \nu_s (1 - x_0)\big) $$
#
# which is what the network sees: $z_t = G_t$. Noise need not be Gaussian that way; it can live
# wherever the data do. Above a single $x_t$, below the tail, drawn as the mean of the $x_s$ that are
# in it. (By eye little can be seen in it; the network is given the numbers.)

# %%
models["star-shaped"].film(9, 3, kinds=["forward"])

# %% [markdown]
# ## The five functions
#
# To the rest of the code a process is five functions:
#
# | function | gives | |
# | --- | --- | --- |
# | `prior_sample(keys, shape)` | $z_1$ | where sampling begins |
# | `forward_sample(keys, x0, t)` | $z_t \sim q(z_t \mid x_0)$ | what training shows the network |
# | `predict(output, z_t, t)` | what the network says of $x_0$ | logits, noise or a mean: each process reads its output its own way |
# | `bound_terms(keys, prediction, x0, z_t, t)` | nats | what a wrong guess costs; `loss_terms` is what training minimises |
# | `reverse_sample(keys, z_t, prediction, t, s)` | $z_s$, for $s < t$ | a step of sampling |
#
# Let's call them by hand, for two digits half destroyed. `keys` are random keys, one an example. A
# fresh network puts out zeros, so we know its output without asking it.

# %%
x0 = jnp.asarray(models["masked"].examples(2))
keys = jax.random.split(jax.random.key(0), 2)
t, s = jnp.full(2, 0.5), jnp.full(2, 0.4)

for name, model in models.items():
    process = model.process
    z_1 = process.prior_sample(keys, x0.shape[1:])
    z_t = process.forward_sample(keys, x0, t)
    output = jnp.zeros((2, *process.network_spec(model.data.spec).output_shape))
    prediction = process.predict(output, z_t, t)
    terms = process.bound_terms(keys, prediction, x0, z_t, t)
    z_s = process.reverse_sample(keys, z_t, prediction, t, s)
    print(f"{name}: z_1 in [{z_1.min():.1f}, {z_1.max():.1f}], z_t {z_t.dtype} {z_t.shape}")
    print(f"   nats: {', '.join(f'{k} {v.mean():.1f}' for k, v in terms.items())}")

# %% [markdown]
# A network that puts out zeros gives all 17 levels the same probability, and of the masked pixels
# (half of them here) each costs $\log 17$, times the rate 2 at which pixels are hidden: so the bound
# of the masked process is close to $64 \log 17 \approx 181$ nats.

# %% [markdown]
# ## Training
#
# The loss is the same for all: draw a time, destroy an example up to there, ask the network, and
# see what its guess costs,
#
# $$ -\log p(x_0) \;\le\; \mathbb E_{t, \, z_t} \big[ \texttt{bound\_terms} \big]. $$
#
# (For the Gaussian process it is reweighted, as everybody does since DDPM, and for the star-shaped
# one divided by $T$; so these numbers do not compare.)

# %%
losses = {name: model.fit(name=f"{name:11}") for name, model in models.items()}

# %%
md4jax.draw_losses(losses, panels=True)

# %% [markdown]
# ## One number for all
#
# The bound, in bits per pixel, on the 297 test images: what it would cost to send an image to
# someone who has the same model and is told the digit. With no model at all a pixel costs
# $\log_2 17$ bits; knowing how often each level occurs at each pixel ("counts"), already less.

# %%
counted = entropies(models["masked"].data)["cross_entropy"]
print(f"{'model':12} bits/dim")
print(f"{'none':12} {np.log2(17):.3f}")
print(f"{'counts':12} {counted:.3f}")
for name, model in models.items():
    bound = model.bound("test")
    print(f"{name:12} {bound.bits_per_dim:.3f} ± {bound.standard_error:.3f}")

# %% [markdown]
# ## Samples
#
# Column $i$ was asked for the digit $i$.

# %%
samples = {name: model.sample(50) for name, model in models.items()}
test = models["masked"].data.splits["test"]
five_each = [np.flatnonzero(test.labels == digit)[:5] for digit in range(10)]
real = test.examples[np.stack(five_each, axis=1).ravel()]
models["masked"].draw({**samples, "test images": real}, columns=10, min_tile=48)

# %% [markdown]
# How one comes about: above the $z_t$ of a sample on its way, below the $x_0$ that the network
# takes it for at that moment. Masked: pixels are decided one by one and stay. Gaussian: all become clear
# together. Star-shaped: evidence is summed up.

# %%
models["masked"].film(9, 3, kinds=["film"])

# %%
models["Gaussian"].film(9, 3, kinds=["film"])

# %%
models["star-shaped"].film(9, 3, kinds=["film"])

# %% [markdown]
# ## Where to go from here
#
# * `2_gaussian`: schedules, samplers that need few calls, guidance.
# * `3_star_shaped`: data on spheres, simplices and matrices.
# * `4_masked_text`: text.
# * `5_few_steps`: finetuning a model to a few network calls.
# * `6_your_own`: the five functions of a process that you write yourself.
#
# Larger ones, trained longer and not told the digit, are `configs/digits/masked.py`, `gaussian.py` and
# `beta.py`:
#
# ```sh
# python main.py --config=configs/digits/masked.py --workdir=/tmp/md4jax/digits
# ```
