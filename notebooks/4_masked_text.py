# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 4 · Masked text
#
# *Runtime: a CPU is enough. About 6 minutes on two cores.*
#
# A masked diffusion model ([MD4](https://arxiv.org/abs/2406.04329)) hides the characters of a text,
# one after the other in any order, and learns to guess the hidden ones from those that are left. So
# it can begin anywhere and *fill in* what is missing, before, between and after what is known. In
# this notebook:
#
# 1. a model of characters is trained on a text whose rules we know, so that we can say how good it
#    is, in bits and in mistakes;
# 2. it fills gaps: it reads numbers aloud, and writes down what it hears;
# 3. ways to sample are compared by what they cost, which is network calls.

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
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import md4jax
from md4jax.data.describe import entropies

# %% [markdown]
# ## 1. A text
#
# Every line is a number from 100 to 999, in digits and in words. A small language, but one with
# spelling, grammar, and a meaning: what stands left and right of the colon has to be the same
# number.

# %%
SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def line(n):
    """`342: three hundred forty-two`."""
    hundreds, rest = divmod(n, 100)
    words = [SMALL[hundreds], "hundred"]
    if rest >= 20:
        tens, ones = divmod(rest, 10)
        words.append(TENS[tens - 2] + (f"-{SMALL[ones]}" if ones else ""))
    elif rest:
        words.append(SMALL[rest])
    return f"{n}: {' '.join(words)}\n"


rng = np.random.default_rng(0)
numbers = rng.permutation(np.arange(100, 1000))
held_out, seen = numbers[:90], numbers[90:]
text = "".join(
    line(n) for part in (seen, held_out) for _ in range(20) for n in rng.permutation(part)
)
print(text[:160])

# %% [markdown]
# The last tenth of the text is for testing, and it is made of numbers that do not occur in the rest.
# `TextFile` takes any file of yours. An example is a window of 40 characters, wherever it begins.

# %%
folder = tempfile.TemporaryDirectory()
path = pathlib.Path(folder.name) / "numbers.txt"
path.write_text(text)

LENGTH = 40
model = md4jax.build(
    process=md4jax.Masked(time_features="none"),
    network=functools.partial(md4jax.Transformer, feature_dim=16, num_heads=4, num_layers=3),
    data=md4jax.TextFile(path=str(path), length=LENGTH, test_fraction=0.1),
    optimizer=dict(learning_rate=4e-3, schedule="cosine", clip_norm=1.0),
    train=dict(num_steps=1_500, batch_size=64, ema_decay=0.99),
    sampler=dict(num_steps=LENGTH, batch_size=250),
)
print(model)

# %% [markdown]
# **The loss.** At time $t$ each character is hidden with probability $t$, on its own. The network
# sees the rest and gives, for each hidden position $i$, a law $\mu_\theta^i$ over the alphabet. Then
#
# $$-\log p(x_0) \;\le\; \mathbb{E}_{t \sim U(0, 1)}\, \mathbb{E}_{z_t}\; \frac{1}{t}
# \sum_{i \text{ hidden in } z_t} -\log \mu_\theta^i(x_0^i \mid z_t): \tag{1}$$
#
# a weighted guessing game, and a bound on the likelihood. ($1/t$ is for this schedule; in general it
# is $-\alpha'(t) / (1 - \alpha(t))$, with $\alpha(t)$ the share that is still there.) The network need
# not be told $t$, which it can see by counting: hence `time_features="none"`.

# %%
losses = model.fit()
md4jax.draw_losses(losses)

# %% [markdown]
# How good is that? Here are bits per character of the test text by counts of the training text: of
# single characters, of characters given the one before; then the model's bound. And the truth: a
# line tells which of 900 numbers it is, $\log_2 900 = 9.8$ bits, however many characters it takes.
# (Windows begin and end within lines, whose numbers are then a little easier or harder to tell; and
# the test text has only 90 of the numbers, which the model cannot know.)

# %%
counted = entropies(model.data)
print({name: round(bits, 2) for name, bits in counted.items()})
print(model.bound("test", time_points=8, batch_size=250, num_examples=1_000))
print(f"truth: {np.log2(900) / np.mean([len(line(n)) for n in range(100, 1000)]):.3f} bits/char")

# %%
samples = model.sample(250)
model.draw(samples[:4])
