# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 2 · Gaussian diffusion: schedules, samplers, guidance
#
# *Runtime: a CPU is enough. About 8 minutes on two cores.*
#
# One trained Gaussian model can be sampled in many ways. This notebook looks at
#
# * **schedules**: how fast the signal goes away, as $\bar\alpha$ and as a signal-to-noise ratio;
# * **samplers**: the model's own reverse steps, DDIM, Heun and DPM-Solver++, with few network calls and with many;
# * **guidance**: leaning towards what is asked for, and what it costs;
# * a **film strip** of how samples come about.

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
import matplotlib.pyplot as plt
import numpy as np

import md4jax

# %% [markdown]
# ## Schedules
#
# A schedule of $T$ steps adds a little noise in each, of variance $\beta_i$. What is left of the
# signal after $i = tT$ of them is $\bar\alpha = \prod_{j \le i} (1 - \beta_j)$:
#
# $$ z_t = \sqrt{\bar\alpha(t)} \, x_0 + \sqrt{1 - \bar\alpha(t)} \, \varepsilon, \qquad
#    \mathrm{SNR}(t) = \frac{\bar\alpha(t)}{1 - \bar\alpha(t)} . $$

# %%
SCHEDULES = ["linear", "cosine", "sigmoid", "quadratic"]
processes = {name: md4jax.Gaussian(num_timesteps=1000, schedule=name) for name in SCHEDULES}
t = jnp.arange(1, 1000) / 1000

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
for name, process in processes.items():
    left.plot(t, process.alpha_bar(t), label=name)
    right.plot(t, jnp.log10(process.alpha_bar(t) / process.noise_variance(t)), label=name)
left.set(xlabel="t", ylabel=r"signal that is left, $\bar\alpha$")
right.set(xlabel="t", ylabel=r"$\log_{10}$ SNR")
left.legend(frameon=False)
for ax in (left, right):
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# The linear schedule (DDPM) destroys an image early: from about $t = 0.7$ on there is nothing to see
# and little to learn. The cosine schedule (Improved DDPM) spreads the work evenly. The same zero
# with the same noise, at nine times:

# %%
model = md4jax.build(
    process=md4jax.Gaussian(schedule="cosine", target="v", variance="learned_range"),
    network=functools.partial(
        md4jax.UViT, feature_dim=32, num_layers=1, dit_layers=2, dit_heads=4, dit_hidden=64,
        fourier_features=(2, 3),
    ),
    data=md4jax.Digits(labels=True),
    optimizer=dict(learning_rate=4e-3, schedule="cosine", weight_decay=0.01),
    train=dict(num_steps=900, batch_size=64, label_dropout=0.15),
)  # fmt: skip

zero, keys = jnp.asarray(model.examples(1)), jax.random.split(jax.random.key(0), 1)
times = jnp.linspace(0.1, 0.9, 9)
views = {
    name: process.bind(model.data.spec).forward_views(keys, zero, times)[0][0]
    for name, process in processes.items()
}
model.draw(views, titles=[f"t = {t:.1f}" for t in times], min_tile=56)

# %% [markdown]
# ## Training
#
# The network predicts $v = \sqrt{\bar\alpha} \, \varepsilon - \sqrt{1 - \bar\alpha} \, x_0$, of which
# $x_0$ and $\varepsilon$ both follow, and how wide its own reverse steps should be. One image in
# seven is shown without its label (`label_dropout`): the same network so also learns what an image
# looks like whatever the digit. Guidance needs that, below.

# %%
losses = model.fit()
md4jax.draw_losses(losses)

# %%
model.bound("test")

# %% [markdown]
# ## Samplers
#
# All of them go from $t = 1$ to $0$ over a few of the 1,000 times:
#
# | | what a step does | calls |
# | --- | --- | --- |
# | `Ancestral` | draws from $p(z_s \mid z_t)$, the process's own reverse step | 1 a step |
# | `DDIM` | goes on along the line from the predicted noise to the predicted $x_0$; no randomness | 1 a step |
# | `Heun` | DDIM's step, then corrects it with a second prediction at its end | 2 a step, 1 for the first and the last |
# | `DPMSolver` | DDIM's step along $x_0$ extrapolated from the last two predictions | 1 a step |
#
# DDIM, Heun and DPM-Solver++ all follow the same path from noise to sample, a differential equation
# in $t$, with steps of different accuracy. From the same noise they end at the same image, if the
# steps are small. With few steps they are off:

# %%
CALLS = [4, 8, 16, 32]
SAMPLERS = {
    "DDIM": lambda calls: md4jax.DDIM(num_steps=calls),
    "Heun": lambda calls: md4jax.Heun(num_steps=calls // 2 + 1),
    "DPM-Solver++": lambda calls: md4jax.DPMSolver(num_steps=calls),
}
goal = model.sample(100, md4jax.Heun(num_steps=100))
drawn = {
    (name, calls): model.sample(100, sampler(calls))
    for name, sampler in SAMPLERS.items()
    for calls in CALLS
}

fig, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
for name in SAMPLERS:
    ax.plot(CALLS, [np.mean(abs(drawn[name, c] - goal)) for c in CALLS], marker="o", label=name)
ax.set(xscale="log", yscale="log", xlabel="network calls", ylabel="grey levels from the goal")
ax.set_xticks(CALLS, CALLS)
ax.set_yticks(ticks := [0.1, 0.2, 0.3, 0.4, 0.6], ticks)
ax.minorticks_off()
ax.legend(frameon=False)
ax.grid(alpha=0.3)
plt.show()

# %% [markdown]
# DPM-Solver++ gets closest with any number of calls. Heun pays two of them for most steps, with four calls
# it takes three steps; they are better than DDIM's by about as much as they are fewer.
#
# `Ancestral` is no such path: it draws fresh noise in each step, and ends at another image each time.
# So compare what the images are like as a whole: how far are two images of the same digit from each
# other, in the mean?


# %%
def spread(images):
    """The mean distance of two images of the same digit; image i is of the digit i mod 10."""
    x = np.asarray(images, float).reshape(len(images) // 10, 10, -1)  # [image, digit, pixels]
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return np.mean(distances[~np.eye(len(x), dtype=bool)])


test = model.data.splits["test"]
ten_each = np.stack([np.flatnonzero(test.labels == digit)[:10] for digit in range(10)], axis=1)
real = test.examples[ten_each.ravel()]
for calls in (4, 50):
    drawn["Ancestral", calls] = model.sample(100, md4jax.Ancestral(num_steps=calls))

print(f"test images                 {spread(real):.1f}")
for name, calls in [("DDIM", 4), ("DDIM", 32), ("Ancestral", 4), ("Ancestral", 50)]:
    print(f"{name:12} {calls:4} calls     {spread(drawn[name, calls]):.1f}")

# %%
shown = [("DDIM", 4), ("DPM-Solver++", 8), ("Heun", 32), ("Ancestral", 4), ("Ancestral", 50)]
rows = {f"{name}, {calls} calls": drawn[name, calls][:10] for name, calls in shown}
model.draw(rows | {"test images": real[:10]}, titles=[str(i) for i in range(10)])

# %% [markdown]
# With few calls every sampler draws what is typical of a digit: clean, a little blurred, too much
# alike.
#
# ## Guidance
#
# A model that knows both $\hat x_0(z_t, \text{label})$ and $\hat x_0(z_t)$ can be pushed along their
# difference,
#
# $$ \hat x_0(z_t) + w \, \big( \hat x_0(z_t, \text{label}) - \hat x_0(z_t) \big), $$
#
# where $w = 1$ is the model as it is, $w = 0$ ignores the label, and $w > 1$ exaggerates what is
# typical of it. Images get clearer, and more alike: their spread falls.
#
# To see whether an image is of the digit asked for, it is read by its nearest neighbour among the
# training images.

# %%
train = model.data.splits["train"]


def read(images):
    """The label of the nearest training image."""
    x, y = (np.asarray(a, float).reshape(len(a), -1) for a in (images, train.examples))
    return train.labels[np.argmin((y**2).sum(1) - 2 * x @ y.T, axis=1)]


digits = np.arange(100) % 10
guided = {
    w: model.sample(100, md4jax.DPMSolver(num_steps=20), guidance=w) for w in (0.0, 1.0, 2.0, 4.0)
}
print(f"test: read right {np.mean(read(real) == digits):4.0%}, spread {spread(real):.1f}")
for w, images in guided.items():
    print(
        f"w = {w:g}: read right {np.mean(read(images) == digits):4.0%}, spread {spread(images):.1f}"
    )

# %%
model.draw({f"w = {w:g}": images[:50] for w, images in guided.items()}, columns=10, min_tile=40)

# %% [markdown]
# One digit only, with guidance 2:

# %%
model.draw(model.sample(20, md4jax.DPMSolver(num_steps=20), label=8, guidance=2.0), columns=10)

# %% [markdown]
# ## A film strip
#
# Above $z_t$ on its way from noise to a sample, below the $x_0$ predicted from it. The prediction is
# a blurred mean of all that $z_t$ may become; it sharpens as the noise goes.

# %%
model.film(9, 3, md4jax.DDIM(num_steps=50), kinds=["film"])

# %% [markdown]
# ## More
#
# `config.sampler.name` on the command line is one of `ancestral`, `ddim`, `heun` and `dpm_solver`;
# `python main.py --describe=sampler` lists their options. A model in continuous time with a learned
# schedule is `md4jax.VDM`. And with 4 or 5 calls a model can be *trained* to do better:
# `5_few_steps`.
