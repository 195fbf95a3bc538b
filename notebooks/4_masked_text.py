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
# *Runtime: a CPU is enough. About 4 minutes on two cores.*
#
# A masked diffusion model ([MD4](https://arxiv.org/abs/2406.04329)) hides the characters of a text,
# in any order, and learns to guess the hidden ones from those that are left. So it can start
# anywhere and *fill in* what is missing: before, between and after what is known. In this notebook:
#
# 1. a model is trained on a small language whose rules we know, so that we can say how good it is,
#    in bits and in mistakes;
# 2. it fills gaps, and so translates in both directions without ever having been told to;
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
import datetime
import functools
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import entropy

import md4jax
from md4jax.data.describe import entropies
from md4jax.data.text import Alphabet, text_dataset

# %% [markdown]
# ## 1. A small language
#
# Every line is a date of the years 1900 to 2099, in digits and in words. There is spelling
# (*February*), grammar (*21st*, but *11th*), and meaning: left and right of the colon stands the
# same day, and it has to exist.

# %%
LENGTH = 31


def line(day):
    """`2024-02-29: 2024 February 29th`, and spaces up to 31 characters."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if day.day in (11, 12, 13) else endings.get(day.day % 10, "th")
    return f"{day.isoformat()}: {day.year} {day:%B} {day.day}{ending}".ljust(LENGTH)


first, last = datetime.date(1900, 1, 1).toordinal(), datetime.date(2100, 1, 1).toordinal()
lines = [line(datetime.date.fromordinal(number)) for number in range(first, last)]
right = set(lines)
np.random.default_rng(0).shuffle(lines)
print(*lines[:4], sep="\n")

# %% [markdown]
# One day of ten is kept for testing. An example is one line, so that every character has its place;
# a small network that sees a whole line at once then learns fast, here residual layers on the 31
# characters side by side. (For running text, of which a window begins anywhere, take
# `md4jax.TextFile(path=...)` and `md4jax.Transformer`.)

# %%
alphabet = Alphabet("".join(sorted(set("".join(lines)))))
tenth = len(lines) // 10
parts = {"train": "".join(lines[tenth:]), "test": "".join(lines[:tenth])}
dates = text_dataset(
    {name: alphabet.encode(text) for name, text in parts.items()},
    length=LENGTH, train_stride=LENGTH, vocab_size=len(alphabet), unit="char",
    to_text=alphabet.decode, encode=alphabet.encode,
)  # fmt: skip

model = md4jax.build(
    process=md4jax.Masked(time_features="none"),
    network=functools.partial(md4jax.MLP, feature_dim=512, num_layers=2),
    data=dates,
    optimizer=dict(learning_rate=3e-3, schedule="cosine", clip_norm=1.0),
    train=dict(num_steps=5_000, batch_size=128, ema_decay=0.99),
    sampler=dict(num_steps=LENGTH, batch_size=500),
)
print(model)

# %% [markdown]
# **The loss.** At time $t$ each character is hidden with probability $t$, on its own. The network
# sees the rest and gives for each hidden position $i$ a law $\mu_\theta^i$ over the alphabet. Then
#
# $$-\log p(x_0) \;\le\; \mathbb{E}_{t \sim U(0, 1)}\; \mathbb{E}_{z_t}\;\; \frac{1}{t}
# \sum_{i \text{ hidden in } z_t} -\log \mu_\theta^i(x_0^i \mid z_t): \tag{1}$$
#
# a guessing game whose mistakes count more the more there is to see, and a bound on the likelihood.
# ($1/t$ belongs to this schedule. In general it is $-\alpha'(t) / (1 - \alpha(t))$, with
# $\alpha(t)$ the share that is still there.) The best guess does not depend on $t$, only on what can
# be seen; so the network is not told, by `time_features="none"`.

# %%
losses = model.fit()
md4jax.draw_losses(losses)

# %% [markdown]
# How good is that? A line says which of 73,049 days it is, no more and no less, which is
# $\log_2 73049 = 16.2$ bits or 0.521 for each of its 31 characters. No model can need fewer in the
# mean. Counts of single characters, and of characters given the one before, are for comparison.

# %%
counted = entropies(dates)
bound = model.bound("test", time_points=16, batch_size=500)
found = {
    "uniform over the alphabet": np.log2(len(alphabet)),
    "counts of characters": counted["unigram_cross"],
    "given the one before": counted["bigram_cross"],
    "this model (bound)": bound.bits_per_dim,
    "the language itself": np.log2(len(lines)) / LENGTH,
}
figure, axes = plt.subplots(figsize=(7, 2.2), layout="constrained")
bars = axes.barh(list(found), list(found.values()), color=["#bdbdbd"] * 3 + ["#0072b2", "#333333"])
axes.bar_label(bars, fmt="%.3f", padding=4)
axes.set(xlabel="bits per character of the test lines", xlim=(0, 6))
axes.invert_yaxis()
axes.spines[["top", "right"]].set_visible(False)
plt.show()
print(bound)

# %% [markdown]
# What is left between the last two bars is at least the Kullback–Leibler divergence of the model
# from the language. Now samples. All characters are hidden at first; in each of 31 steps some are
# drawn, and stay.

# %%
samples = model.sample(500)
texts = [alphabet.decode(x) for x in samples]
for text in texts[:12]:
    print(text, "" if text in right else "  ✗")
print(f"{100 * np.mean([text in right for text in texts]):.0f} % of 500 are right")

# %% [markdown]
# The film: hidden characters are █, and appear in no order at all. Below it, at each time, the
# likeliest character of each place by itself: those need not go together, until enough is there.

# %%
model.film(8, 1, kinds=["film"], seed=2)

# %% [markdown]
# ## 2. Filling in
#
# What is known is simply never hidden. A prompt is given as a file: of a text, a `.txt` in which
# each █ is a gap; or, of many at once, an `.npz` with their `tokens` and which of these are `known`.


# %%
def fill(*prompts, **options):
    """One sample for each prompt; gaps are █, also at the end."""
    rows = [prompt.ljust(LENGTH, "█") for prompt in prompts]
    tokens = np.stack([alphabet.encode(row.replace("█", " ")) for row in rows])
    known = np.array([[character != "█" for character in row] for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "prompts.npz"
        np.savez(path, tokens=tokens, known=known)
        filled = model.sample(len(rows), prompt=str(path), **options)
    for row, x in zip(rows, filled):
        text = alphabet.decode(x)
        print(row, "→", text, "" if text in right else "  ✗")


fill(
    # What day is that?
    "1969-07-20: ", "1989-11-09: ", "2001-01-01: ",
    # And the other way round.
    "██████████: 1969 July 20th", "██████████: 1989 November 9th", "██████████: 2001 January 1st",
    # Riddles.
    "████████11: ████ S", "2███-█2-3█", "19██-██-██: ████ ████████ 31st",
    "████-██-██: ████ ████████ 29th", "████████████████████████████3rd",
    num_steps=100,
)  # fmt: skip

# %% [markdown]
# Nobody trained it to read dates, or to write them. A model of the *joint* law of all characters,
# which can be asked for any of them given any others, can do both, and even riddles: a month that
# begins with S; one whose number ends in 2 and that has a 30th; one of eight letters and 31 days;
# the 29th of a month of eight letters, which in February wants a leap year; and a line that is 31
# characters long. Where more than one answer is right, it draws one of them. Where it errs, ✗ says
# so.
#
# ## 3. What a sample costs
#
# The time goes into network calls, one a step. With 31 steps for 31 characters about one is drawn at
# a time. With fewer steps, several are drawn *at once*, each from its own law given what is there
# already, and **none knows of the others**. Early in a sample that is a mistake: if the hundreds
# digit right of the colon and the one left of it are drawn together, they will often differ. This
# error is the sampler's, not the network's, and no training takes it away.
#
# So which characters should go together? The samplers differ in that:
#
# * `Ancestral`: by chance, as the process has it. For many steps it draws the model's law.
# * `FirstHitting`: by chance too, but always equally many at a time; with one at a time it draws
#   the model's law exactly.
# * `Mean(top_p=0.9)`: as the first, but unlikely characters (the last 10 %) are never drawn.
# * `Confident`: first those that the network is surest of (MaskGIT). What is certain does no harm if
#   drawn together with others.
# * `Remask`: as the first, but some characters are hidden again later and drawn anew, now that more
#   is known. Mistakes can be mended, for more calls.
#
# Being right is not all, as a sampler might always draw the same day. So we also look at variety: the
# entropy of the months, read from their two digits where these are a month. Of twelve equal ones it
# is $\log_2 12 = 3.58$ bits.

# %%
SAMPLERS = {
    "Ancestral": md4jax.Ancestral(),
    "FirstHitting": md4jax.FirstHitting(),
    "Mean(top_p=0.9)": md4jax.Mean(top_p=0.9),
    "Confident": md4jax.Confident(),
    "Remask": md4jax.Remask(how="star", since=0.5),
}
MONTHS = {day[5:7] for day in right}


def right_and_variety(sampler, num_steps):
    """The share of 500 samples that are right, and the entropy of their months in bits."""
    drawn = model.sample(500, sampler, num_steps=num_steps, batch_size=500)
    drawn = [alphabet.decode(x) for x in drawn]
    good = [text in right for text in drawn]
    months = [text[5:7] for text in drawn if text[5:7] in MONTHS]
    _, counts = np.unique(months, return_counts=True)
    return np.mean(good), entropy(counts, base=2)


figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for name, sampler in SAMPLERS.items():
    steps = (4, 8, 31) if name == "FirstHitting" else (4, 8, 31, 124)
    found = np.array([right_and_variety(sampler, n) for n in steps])
    print(f"{name:16}", *(f"{n:5}: {a:4.0%}, {b:.2f} bits" for n, (a, b) in zip(steps, found)))
    for ax, numbers in zip(axes, found.T):
        ax.plot(steps, numbers, "o-", ms=4, label=name)
axes[0].set(ylabel="share that is right", ylim=(0, 1.02))
axes[1].set(ylabel="variety of months, bits", ylim=(0, 3.75))
axes[1].axhline(np.log2(12), color="#8c8c8c", lw=0.8, ls="--", zorder=0)
for ax in axes:
    ax.set(xlabel="network calls", xscale="log", xticks=(4, 8, 31, 124))
    ax.set_xticklabels(("4", "8", "31", "124"))
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
axes[0].legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# With few calls hardly a line is right, whichever way. What to draw together decides from there on:
# 31 calls of `Ancestral` are 31 draws of a *random* number of characters, often of several, and 62 %
# of its lines are right; `FirstHitting`, with as many calls, draws exactly one at a time, and 90 % are.
# That is as good as this model gets with its own law: what is still wrong is the network's mistake.
# `Ancestral` comes near only with many more calls.
#
# `Confident` is right even more often than the model's own law, 99 %, as it begins with what is easy and
# leaves no room for bad luck. It pays with variety: .3 bits of the months are gone. And with 8 calls it
# is the worst, as four of the surest characters at once are sure for the same reason. `Mean(top_p=0.9)` and
# `Remask` win a little at every number of calls, and keep the variety.
#
# Which is best thus depends on what the samples are for: to be looked at, to be many, or to be quick.
#
# ## Where to go from here
#
# * A text of your own: `data=md4jax.TextFile(path="my.txt", length=256)` with
#   `network=md4jax.Transformer`. A text that every Python has is `md4jax.PythonDocs(length=128)`;
#   `configs/python_docs/masked.py` trains on it for some ten minutes on two cores, to 2.87 bits per
#   character where counts of pairs have 3.36: real text is harder.
# * Longer texts than the model's: `model.sample(windows=4, overlap=64)` goes on from its own end.
# * On accelerators: `python main.py --config=configs/md4/text8.py --workdir=...`
# * The mathematics: `md4jax/processes/masked.py`, `md4jax/samplers/masked.py` and `remasking.py`.
