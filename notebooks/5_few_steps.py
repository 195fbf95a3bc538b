# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 5 · Few steps
#
# *Runtime: a CPU is enough. About 6 minutes on two cores.*
#
# A diffusion model asks its network a hundred times for one sample. Asked only twice it draws fog.
# Here a model of handwritten digits is trained, and then *finetuned* for the very thing that is
# wrong: its sampler with two network calls is run in training, and its weights are changed until
# what comes out looks like data
# ([Aiello, Valsesia, Magli, 2023](https://arxiv.org/abs/2301.07969)). The judges are features that
# were not trained on.

# %%
# In Colab this installs md4jax.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("md4jax") is None:
    repository = "git+https://github.com/md4jax/md4jax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", repository], check=True)

# %%
import contextlib
import functools
import io
import tempfile

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import md4jax
from md4jax import small
from md4jax.evaluation.distances import Polynomial, mmd_with_error
from md4jax.evaluation.features.classifier.config import make_config
from md4jax.evaluation.features.classifier.features import Classifier
from md4jax.evaluation.features.classifier.training import train as train_classifier
from md4jax.evaluation.precision_recall import precision_recall

# %% [markdown]
# ## A model
#
# A Gaussian diffusion of the 8 × 8 digits with $T = 1000$ noise levels, as in notebook 2, but
# smaller.

# %%
model = md4jax.build(
    process=md4jax.Gaussian(schedule="cosine", target="v", variance="fixed_small"),
    network=functools.partial(
        md4jax.UViT, feature_dim=32, num_layers=2, norm_groups=8,
        dit_layers=3, dit_heads=4, dit_hidden=96,
    ),
    data=md4jax.Digits(labels=False),
    optimizer=dict(learning_rate=2e-3, schedule="cosine"),
    train=dict(num_steps=900, batch_size=64),
)  # fmt: skip
losses = model.fit()
md4jax.draw_losses(losses)

# %% [markdown]
# DDIM is the sampler that needs the fewest steps. It is deterministic: a sample is a function of the
# noise it starts from, and the same noise is used in all pictures below. So you can follow one
# digit through them.

# %%
few_or_many = {f"{n} network calls": model.sample(64, md4jax.DDIM(num_steps=n)) for n in (2, 5, 50)}
model.draw(few_or_many, columns=8)

# %% [markdown]
# Why fog? The network predicts the *mean* of all $x_0$ that fit the noisy image. At $t = 1$, where
# nothing can be seen, that is the mean of all digits, and a long step follows it for half the way.
# With many small steps a sample can make up its mind little by little; with two it cannot.
#
# ## What is minimised
#
# The two steps together are one smooth function $y = g_\theta(z)$ from noise to image, and it may be
# trained as such. But towards what? There is no right image for a given noise. What should be right
# is the *law* of the images, so a batch of them is compared with a batch of data. With features
# $x_i$ of $n$ examples and $y_j$ of $n$ samples, and a kernel $k(x, y)$, large where $x$ and $y$ are
# alike, the squared **maximum mean discrepancy** is
#
# $$\mathrm{MMD}^2 = \underbrace{\frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j)}_{\text{data with data}}
# + \underbrace{\frac{1}{n(n-1)} \sum_{i \ne j} k(y_i, y_j)}_{\text{samples with samples}}
# - \underbrace{\frac{2}{n^2} \sum_{i,j} k(x_i, y_j)}_{\text{samples with data}}. \tag{1}$$
#
# Minimising it pulls samples to the data (the last term) and pushes them away from each other (the
# second), so that they do not all become the same nice digit. Leaving out $i = j$ makes (1)
# unbiased: its mean over batches is the discrepancy of the two *laws*, which is 0 only if they are
# the same for as far as $k$ can see, and a single batch may well give a number below 0. So batches
# of 64 are enough.
#
# The gradient goes through both network calls, back to the weights. As features take the pixels
# themselves, from 0 to 1, and as kernel $k(x, y) = e^{-|x - y|^2 / 4}$. Two different digits are at
# $|x - y|^2 \approx 9$, so the kernel sees only which digits are *near* each other.

# %%
squares = model.examples(300, "train").reshape(-1, 64) / 16
distances = ((squares[:, None] - squares[None]) ** 2).sum(axis=-1)
figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
axes.hist(distances[np.triu_indices(len(squares), k=1)], 60, density=True, color="#bdbdbd")
at = np.linspace(0, 20, 100)
axes.plot(at, 0.15 * np.exp(-at / 4), color="#d55e00", label="kernel (its height at 0 is 1)")
axes.set(xlabel="$|x - y|^2$ of two digits", yticks=[], xlim=(0, 20))
axes.spines[["top", "right", "left"]].set_visible(False)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Finetuning
#
# `model.finetuning` makes a new model that begins with the weights of this one, which stays as it
# is. The sampler given here is the one that it is trained for. (`rematerialise=False` keeps what
# every step computed for the gradient. On accelerators, with large networks, leave it `True`: the
# memory then is that of one step.)


# %%
def finetuned(num_steps):
    """The model for so many network calls, and the MMD of each training step."""
    few = model.finetuning(
        md4jax.MMD(features="pixels", kernel="rbf", gamma=0.25, rematerialise=False),
        sampler=md4jax.DDIM(num_steps=num_steps),
        optimizer=dict(learning_rate=1e-4, schedule="constant", clip_norm=0.5),
        train=dict(num_steps=150, batch_size=64, ema_decay=0.0),
    )
    return few, few.fit()


two, mmd_of_two = finetuned(2)
md4jax.draw_losses({"MMD², 2 network calls": mmd_of_two})

# %% [markdown]
# The same noise, the same two network calls, before and after:

# %%
model.draw({"before": few_or_many["2 network calls"], "after": two.sample(64)}, columns=8)

# %% [markdown]
# ## Judged by other features
#
# Pixels can no longer be the judge: they are what was trained on. So train a small classifier of
# the digits (some seconds), and compare samples and data by the 64 numbers in its layer before the
# last. It has never seen a sample.

# %%
judge_config = make_config(
    data=dict(name="digits", labels=True),
    classifier=dict(width=32, num_layers=2, features=64, num_steps=small.steps(600)),
)
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
    file = train_classifier(judge_config, folder)
    judge = Classifier.load(str(file), model.parts.spec)
print(said.getvalue().splitlines()[0])

# %% [markdown]
# Three numbers:
#
# * **KID**, the MMD of these features with the kernel $(\langle x, y \rangle / 64 + 1)^3$: 0 if samples
#   and data have the same law (it may come out a little below);
# * **precision**, the share of samples that lie among the data: are they digits?
# * **recall**, the share of data that lie among the samples: are all kinds of digits drawn?
#
# The last line is for scale: data against data. "Among" means nearer to one of them than its own
# third neighbour, so that not even true digits have all of it.

# %%
features = lambda images: np.asarray(judge(judge.params, jnp.asarray(images) / 16))
data, other_data = np.split(features(model.examples(1_000, "train")), 2)


def scores(y):
    """KID with its standard error, precision and recall of features, against the data's."""
    kid, error = mmd_with_error(data, y, Polynomial())
    precision, recall = precision_recall(data, y)
    return f"{kid:7.3f} ± {error:.3f} {precision:10.2f} {recall:8.2f}"


print("          calls       KID        precision   recall")
for name, which, calls in (("before", model, (2, 5, 50)), ("after", two, (2, 5))):
    for n in calls:
        samples = which.sample(len(data), md4jax.DDIM(num_steps=n), batch_size=500)
        print(f"{name:8s} {n:6d} {scores(features(samples))}")
print(f"{'data':15s} {scores(other_data)}")

# %% [markdown]
# ## What it costs
#
# The finetuned model is **for its number of steps**. Asked with others, its samples get worse, as the
# line with 5 calls says, where the model it came from gets better. The network no longer
# predicts the mean of what fits a noisy image, but what two steps of this very sampler make the
# best of:

# %%
two.draw({f"after, {n} calls": two.sample(64, num_steps=n) for n in (2, 5, 50)}, columns=8)

# %% [markdown]
# So it has also lost the likelihood: the bound of a diffusion model holds for any network, but it is
# good only if the network predicts means.

# %%
print("before:", model.bound("test", time_points=16, batch_size=99))
print("after: ", two.bound("test", time_points=16, batch_size=99))

# %% [markdown]
# And what is minimised decides what is gained. The kernel looks at near pixels, so pixels get
# right; of what it cannot see, nothing is promised. A batch of 64 cannot tell rare kinds of images
# from missing ones either; published models finetune on features of large networks (Inception,
# CLIP), which md4jax reads too: `md4jax.MMD(features="clip", weights=...)`.
#
# ## Where to go from here
#
# * More calls: `finetuned(5)` is the same with five. It takes two or three times as long, and there
#   is less to gain: docs/results.md, "Few steps", has measurements for 2, 5, 10 and 20 calls.
# * Star-shaped models of real data or levels are finetuned in the same way: their draws are smooth
#   functions of the weights too. For masked models, whose samples are tokens, the gradient is
#   estimated by the score function (experimental).
# * On accelerators: `python main.py --config=configs/mmd/cifar10.py --mode=finetune --workdir=...`
# * The mathematics: `md4jax/finetuning/mmd.py`.
