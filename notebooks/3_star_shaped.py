# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 3 · Star-shaped diffusion: noise that fits the data
#
# *Runtime: a CPU is enough. About 4 minutes on two cores.*
#
# Gaussian noise pushes a point off the sphere, out of the simplex, and a positive definite matrix
# out of its cone. Star-shaped diffusion ([Okhotin et al., NeurIPS
# 2023](https://arxiv.org/abs/2302.05259)) uses noise that is at home where the data are. In this
# notebook:
#
# 1. why the noisy variables form a star and no chain, and the **tail**, the one sum that a model
#    has to see of them;
# 2. how a tail is drawn **at once**, however long the star is, checked against drawing it all;
# 3. three models: points on a **globe**, shares of a whole (the **simplex**), and **ellipses**
#    (positive definite matrices).

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
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

import md4jax
from md4jax.evaluation.nearest_neighbour_kl import coordinates
from md4jax.evaluation.precision_recall import precision_recall

# %% [markdown]
# ## 1. A star
#
# In a Gaussian diffusion the noisy variables are a chain: $x_t$ is made from $x_{t-1}$. This works
# because a sum of Gaussians is a Gaussian, so that the law of $x_t$ given the data $x_0$ is known
# for every $t$. Few other families of laws have this property.
#
# So let there be no chain. Each $x_s$ is a view of $x_0$ of its own,
#
# $$q(x_1, \dots, x_T \mid x_0) = \prod_{s=1}^{T} q(x_s \mid x_0), \tag{1}$$
#
# and the views get worse from $x_1$, which is nearly $x_0$, to $x_T$, which is nothing but noise.
# Drawn as a graph this is a star with $x_0$ in its middle. The law of a view can be any that suits
# the data. On the sphere take von Mises–Fisher laws, $q(x_s \mid x_0) \propto e^{\kappa_s \langle
# x_0, x_s \rangle}$: for a large $\kappa_s$ the view is near $x_0$, for $\kappa_s \to 0$ it may be
# anywhere.
#
# There is a price. In a chain all that is left of $x_0$ at time $t$ is in $x_t$. In a star every
# one of $x_t, x_{t+1}, \dots, x_T$ says something new of $x_0$, and a model that is to guess it
# must see them all.
#
# ### The tail
#
# What saves us: most laws one would think of are of the form (an exponential family)
#
# $$q(x_s \mid x_0) = h_s(x_s) \, \exp\left(\langle f(x_0), A_s T(x_s) \rangle
# - \Omega_s(x_0)\right), \tag{2}$$
#
# with $f$ the same for all $s$. Multiply (2) for all $s \ge t$: exponents add up, and the views
# meet $x_0$ only in
#
# $$\boxed{G_t = \sum_{s \ge t} A_s \, T(x_s)} \qquad\qquad
# \prod_{s \ge t} q(x_s \mid x_0) \;\propto\; \exp\left(\langle f(x_0), G_t \rangle
# - \sum_{s \ge t} \Omega_s(x_0)\right). \tag{3}$$
#
# One sum, as large as one point, holds all that $x_t, \dots, x_T$ say of $x_0$. It is a
# *sufficient statistic*, called the **tail**, and it is the $z_t$ that md4jax's star-shaped
# processes give to the network. On the sphere $T(x) = x$ and $A_s = \kappa_s$: the tail
# $\sum_{s\ge t} \kappa_s x_s$ is an arrow whose direction says where $x_0$ is and whose length
# says how surely.
#
# | data | law of a view | $A_s\,T(x_s)$ | process |
# | --- | --- | --- | --- |
# | points of a sphere | von Mises–Fisher, around $x_0$ | $\kappa_s \, x_s$ | `StarVonMisesFisher` |
# | shares of a whole | Dirichlet, mode $x_0$ | $\nu_s \log x_s$ | `StarDirichlet` |
# | positive definite matrices | Wishart | $n_s \xi_s \, x_s$ | `StarWishart` |
# | pixels, from 0 to 1 | Beta, mode $x_0$ | $\nu_s \operatorname{logit} x_s$ | `StarBeta` |
#
# ## 2. The tail is drawn at once
#
# First some data. Nothing has to be downloaded: here are made-up earthquakes, along a belt around
# the globe and in five swarms.

# %%
# Longitude and latitude of each swarm, and how far it spreads.
SWARMS = np.radians([(-100, 45), (-60, -10), (140, -30), (20, 75), (30, -40)])
WIDTHS = np.array([0.15, 0.06, 0.10, 0.08, 0.12])


def earthquakes(count, seed):
    """Points on the unit sphere, `[count, 3]`."""
    rng = np.random.default_rng(seed)
    longitude, latitude = SWARMS.T
    centres = np.stack([
        np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude),
        np.sin(latitude),
    ], axis=1)  # fmt: skip
    around, tilt = rng.uniform(0, 2 * np.pi, count), np.radians(35)
    belt = np.stack([
        np.cos(around), np.cos(tilt) * np.sin(around), np.sin(tilt) * np.sin(around)
    ], axis=1)  # fmt: skip
    swarm, on_belt = rng.integers(0, 5, count), rng.random((count, 1)) < 0.4
    x = np.where(on_belt, belt, centres[swarm])
    x += np.where(on_belt, 0.05, WIDTHS[swarm, None]) * rng.standard_normal((count, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


globe = md4jax.build(
    process=md4jax.StarVonMisesFisher(num_timesteps=100, loss="kl"),
    network=functools.partial(md4jax.MLP, feature_dim=256, num_layers=3),
    data=md4jax.dataset(earthquakes(20_000, seed=0), earthquakes(2_000, seed=1), domain="sphere"),
    optimizer=dict(learning_rate=3e-3, schedule="cosine", clip_norm=1.0),
    train=dict(num_steps=5_000, batch_size=512),
    sampler=dict(batch_size=2_000),
)
print(globe)

# %% [markdown]
# Training takes an example $x_0$ and a random $t$, and needs $G_t$. By its definition that is up
# to $T$ draws, for every example of every batch. But the network sees the sum alone, so it is
# enough to draw from the *law of the sum*, and that law is often known.
#
# On the sphere it follows from (3). For any tail of length $|G_t| = r$ and direction $u$, what
# depends on $x_0$ is the factor $e^{\langle x_0, G_t \rangle} = e^{r \langle x_0, u \rangle}$; all
# the rest is the same in every direction. So:
#
# * given its length, the direction of a tail is von Mises–Fisher itself, with $\kappa = r$,
#   *whatever* views were added up;
# * the law of the length does not depend on $x_0$: for each $t$ there is one table of its
#   quantiles, computed once.
#
# To draw $G_t$: look up a length, draw one direction. That costs the same for $T = 10$ and $T =
# 1000$. It is what the process's option `tail="table"`, the default, does; `tail="draws"` draws
# all $T$ views and adds up those from $t$ on. They had better agree:

# %%
COUNT = 10_000 if globe.process.num_timesteps == 100 else 100
point = np.tile([[0.6, 0.0, 0.8]], (COUNT, 1)).astype(np.float32)
keys = jax.random.split(jax.random.key(0), COUNT)
length = lambda tail: np.linalg.norm(tail, axis=1)
angle = lambda tail: np.degrees(np.arccos((tail * point).sum(axis=1) / length(tail)))


@functools.partial(jax.jit, static_argnames="tail")
def tails(keys, x0, t, tail):
    """`[COUNT, ...]` tails at a time t in [0, 1], drawn one way or the other."""
    process = dataclasses.replace(globe.process, tail=tail)
    return process.forward_sample(keys, x0, jnp.full(len(x0), t))


figure, axes = plt.subplots(2, 3, figsize=(10, 4.6), layout="constrained")
for column, t in zip(axes.T, (0.25, 0.5, 0.75)):
    all_draws, at_once = (np.asarray(tails(keys, point, t, way)) for way in ("draws", "table"))
    for ax, number, unit in zip(
        column, (length, angle), ("length of $G_t$", "angle to $x_0$, degrees")
    ):
        a, b = number(all_draws), number(at_once)
        bins = np.linspace(*np.quantile(np.append(a, b), (0.0005, 0.9995)), 50)
        ax.hist(a, bins, density=True, color="#bdbdbd", label="all $T$ views")
        ax.hist(b, bins, density=True, histtype="step", color="#0072b2", lw=1.4, label="at once")
        distance = stats.ks_2samp(a, b).statistic
        ax.set(xlabel=unit, yticks=[])
        ax.text(0.97, 0.92, f"KS {distance:.3f}", transform=ax.transAxes, ha="right", fontsize=9)
        ax.spines[["top", "right", "left"]].set_visible(False)
    column[0].set_title(f"$t$ = {t}")
axes[0, 0].legend(frameon=False, loc="upper left", fontsize=9)
plt.show()

# %% [markdown]
# *Tails of one point, drawn both ways, 10,000 each. The distance of their distribution functions
# (Kolmogorov–Smirnov) is what two samples of the **same** law have: below 0.019 in 95 of 100
# cases.*
#
# The gain is largest for images. Their pixels are seen through Betas, and the published model has
# $T = 1000$ views of each. Here a table has the quantiles of $G_t$ for each $t$ and each of the 17
# grey levels of the digits:

# %%
pixels = md4jax.build(process=md4jax.StarBeta(), network=md4jax.MLP, data=md4jax.Digits())
images = pixels.examples(64, "train")
keys_of_images = jax.random.split(jax.random.key(1), len(images))


def seconds(process, x0, keys):
    """What a batch of tails takes at its fastest; half-way, where half of the views count."""
    draw = jax.jit(process.forward_sample)
    t = jnp.full(len(x0), 0.5)
    took = []
    for _ in range(4):
        began = time.perf_counter()
        jax.block_until_ready(draw(keys, x0, t))
        took.append(time.perf_counter() - began)
    return min(took)


print("milliseconds for a batch of tails:         all T views   at once")
for name, model, x0, of in (
    ("points on the sphere, 10,000, T = 100", globe, point, keys),
    ("digits, 64 of 64 pixels, T = 1000", pixels, images, keys_of_images),
):
    found = [
        1000 * seconds(dataclasses.replace(model.process, tail=way), x0, of)
        for way in ("draws", "table")
    ]
    print(f"{name:40s} {found[0]:12.1f} {found[1]:11.2f}")

# %% [markdown]
# Where does a law of the sum come from?
#
# * **Gaussian** views: a sum of Gaussians is a Gaussian. With the right schedule the star *is* the
#   Gaussian diffusion (`StarGaussian`).
# * **von Mises–Fisher** on the sphere, **Beta**: a table, computed once and kept on disk.
# * **Dirichlet**, **Wishart**, tokens and others: there is no formula, and too many $x_0$ for a
#   table. By default the views $s \ge t$ are drawn, and only those. With `exact_terms=8` the first
#   8 are, and all later ones, which are many and weak, are replaced by *one* Gaussian with the mean
#   and covariance of their sum. Then the number of draws no longer grows with $T$; how far this is
#   from the exact law is measured in `md4jax/processes/star/remainder.py` (for the simplex, by a
#   KS distance of 0.002 at most).
#
# ## 3. The globe
#
# The network sees $G_t$ and $t$ and predicts $x_0$; call this $x_\theta$. The loss is how far the
# next view's law is from what the prediction makes of it,
#
# $$\mathrm{KL}\big(q(x_{t-1} \mid x_0) \,\big\|\, q(x_{t-1} \mid x_\theta(G_t, t))\big), \tag{4}$$
#
# in closed form for each family, and the sum of (4) over $t$ is the bound on $-\log p(x_0)$. On
# the sphere (4) is $\kappa\, a(\kappa)\, (1 - \langle x_0, x_\theta \rangle)$ with $\kappa =
# \kappa_{t-1}$ and $a(\kappa)$ the mean of $\langle x_0, x_{t-1} \rangle$.

# %%
losses = globe.fit()
md4jax.draw_losses(losses)

# %% [markdown]
# To sample, begin with a tail $G_T$ of pure noise and add views one by one, drawn from the
# prediction as if that were the data:
#
# $$x_{t-1} \sim q(x_{t-1} \mid x_0 = x_\theta(G_t, t)), \qquad G_{t-1} = G_t + A_{t-1} T(x_{t-1}).
# \tag{5}$$

# %%
places = globe.sample(2_000)
globe.draw(places)

# %% [markdown]
# *In front: what the model draws. Behind: test data, which it has not seen. Every sample is a unit
# vector, with nothing done to make it one.*
#
# Looks can flatter, so here are two numbers as well: **precision**, the share of samples that lie
# among the data, and **recall**, the share of data that lie among the samples, where "among" is
# nearer to one of them than its own third neighbour. Below, the same of training data instead of
# samples; as their law is the right one, nothing could do better, but for chance.


# %%
def judge(model, samples):
    """Precision and recall against as many test examples, of samples and of other data."""
    place = functools.partial(coordinates, model.data.spec.domain)
    test = place(model.examples(len(samples)))
    shown = {"samples": samples, "other data": model.examples(len(samples), "train")}
    for name, points in shown.items():
        precision, recall = precision_recall(test, place(points))
        print(f"{name:10s}  precision {precision:.3f}  recall {recall:.3f}")


judge(globe, places)

# %% [markdown]
# The film shows both directions. Look at the lower half first: in single views (third row) hardly
# anything can be recognised after a fifth of the way, but their tail (last row), which is what the
# network sees, keeps the picture about twice as long. Above that, the way back: the tail (first row)
# and the prediction from it (second row), at first a vague guess, which makes little difference as
# the views drawn from it are mostly noise, then sharper and sharper.

# %%
globe.film(6, 300, batch_size=300)

# %% [markdown]
# Fewer network calls than $T$ are no special case. From $t$ to any earlier $s$ *all* views in
# between are drawn from the same prediction: the segment $G_s - G_t = \sum_{s \le k < t} A_k
# T(x_k)$ is one call of the same function that draws the tails for training.
#
# ## 4. The simplex
#
# Shares of a whole, such as sand, silt and clay in a soil, are points $x \ge 0$ with $\sum_i x_i =
# 1$. Their views are Dirichlet laws, $\mathrm{Dir}(1 + \nu_s x_0)$, and what is added up is $\nu_s
# \log x_s$. The data are a mixture of three Dirichlets, from the paper.

# %%
shares = md4jax.build(
    process=md4jax.StarDirichlet(exact_terms=8),
    network=functools.partial(md4jax.MLP, feature_dim=256, num_layers=3),
    data=md4jax.SimplexMixture(),
    optimizer=dict(learning_rate=2e-3, schedule="cosine"),
    train=dict(num_steps=3_000, batch_size=256),
    sampler=dict(batch_size=10_000),
)
shares.fit()
drawn = shares.sample(10_000)
shares.draw(drawn)

# %% [markdown]
# Between the three heaps there is a faint bridge of samples, where there should be none; the longer
# one trains, the fainter it becomes.

# %%
judge(shares, drawn)

# %%
shares.film(6, 1_000, batch_size=1_000)

# %% [markdown]
# ## 5. Ellipses
#
# A symmetric positive definite matrix $x$ is the ellipse $\{v : v^\top x^{-1} v = 1\}$.
# Covariances are such matrices, and so are the diffusion tensors of brain scans. A Gaussian step
# may leave their cone; a **Wishart** draw never does. Its views are $q(x_s \mid x_0) =
# \mathrm{Wishart}(n_s, V_s)$ with $V_s^{-1} = n_s \left(\xi_s x_0^{-1} + (1 - \xi_s) I\right)$:
# with many degrees of freedom $n_s$ and $\xi_s = 1$ the view is nearly $x_0$, with few and $\xi_s
# = 0$ it is a noisy circle.
#
# Our ellipses may lie in any direction, and the direction decides how long they are. The loss is (4)
# over $n_t$ (`loss="rescaled"`, as published): otherwise the clearest views, with the largest
# $n$, count so much that the others are learned slowly.


# %%
def ellipses(count, seed):
    """Positive definite matrices `[count, 2, 2]`: variance `along` in a direction, `across` it."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi / 2, np.pi / 2, count)
    along = np.exp(1.2 + 0.8 * np.sin(2 * angle) + 0.12 * rng.standard_normal(count))
    across = np.exp(-0.6 + 0.25 * rng.standard_normal(count))
    c, s = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([c, -s], axis=1), np.stack([s, c], axis=1)], axis=1)
    return turn * np.stack([along, across], axis=1)[:, None] @ turn.swapaxes(1, 2)


matrices = md4jax.build(
    process=md4jax.StarWishart(num_timesteps=32, df_max=2_000.0, loss="rescaled"),
    network=functools.partial(md4jax.MLP, feature_dim=256, num_layers=3),
    data=md4jax.dataset(ellipses(20_000, seed=0), ellipses(2_000, seed=1), domain="spd"),
    optimizer=dict(learning_rate=2e-3, schedule="cosine"),
    train=dict(num_steps=3_000, batch_size=256),
    sampler=dict(batch_size=2_000),
)
matrices.fit()
tensors = matrices.sample(2_000)
matrices.draw(tensors)

# %% [markdown]
# A hundred ellipses on top of each other show that there are the right shapes. Does the rule hold,
# by which the direction decides the length?

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
shown = {"samples": (tensors, "#0072b2"), "data": (matrices.examples(2_000), "#8c8c8c")}
for ax, (title, (x, colour)) in zip(axes, shown.items()):
    values, vectors = np.linalg.eigh(x)
    direction = np.degrees(np.arctan(vectors[:, 1, 1] / vectors[:, 0, 1]))
    ax.plot(direction, np.sqrt(values[:, 1]), ".", ms=2.5, color=colour)
    ax.set(title=title, xlabel="direction of the longer axis, degrees", xticks=range(-90, 91, 45))
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set(ylabel="half its length")
plt.show()
judge(matrices, tensors)

# %% [markdown]
# It does, almost too well: samples keep to the rule more closely than the data, which is what the
# recall notices. That would become better with more than a minute of training.

# %%
matrices.film(6, 300, batch_size=300, kinds=["film"])

# %% [markdown]
# *The tail above what is predicted from it; a panel draws forty of the ellipses, coloured by
# direction. There are ellipses and nothing else at every step.*
#
# ## Where to go from here
#
# * Other families: `md4jax.StarBeta` (images, numbers in (0, 1)), `StarGamma` (positive numbers),
#   `StarVonMises` (angles), `StarCategorical` (tokens), `StarGaussian`.
# * On accelerators: `python main.py --config=configs/star_shaped/earth_vmf.py --workdir=...`; the
#   other files in `configs/star_shaped/` have the paper's settings.
# * A family of your own is one file with some seven short methods: `docs/add_a_family.md`.
# * The equations, with the paper's numbers: `md4jax/processes/star_shaped.py`.
