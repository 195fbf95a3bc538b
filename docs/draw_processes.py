"""Draws docs/three_processes.png: what three processes do to a digit, and how they make one.

python docs/draw_processes.py --workdirs=GAUSSIAN,STAR_SHAPED,MASKED --to=docs/three_processes.png

The folders are of runs of configs/digits/gaussian.py, beta.py and masked.py. Columns are times. The
digit is the first test image, the samples are the first of --seed.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from md4jax import cli, rng
from md4jax.modes import restore
from md4jax.samplers.base import path
from md4jax.samplers.generate import bind_sampler

WORKDIRS = flags.DEFINE_list("workdirs", None, "Runs of the Gaussian, star-shaped, masked digits.")
TO = flags.DEFINE_string("to", "docs/three_processes.png", "The picture.")
SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
flags.mark_flag_as_required("workdirs")
TIMES, STEPS = 9, 128
MASK = "#3b6fb6"


def gaussian_z(process, z, t):
    """z_t, whose values are mostly in [-1, 1]."""
    return 0.5 * z + 0.5


def star_z(process, z, t):
    """z_t as the network is given it: less its mean and over its deviation, over the data."""
    return 0.5 + process.network_input(z, t) / 5


def masked_z(process, z, t):
    """z_t, NaN where MASK is."""
    return np.where(z == process.mask_id, np.nan, z / (process.vocab_size - 1))


def rows_of(workdir, show, words, views=False):
    """The rows of one process: a label and frames `[TIMES, h, w]`, 0 black and 1 white, by time."""
    config = json.loads((pathlib.Path(workdir) / "config.json").read_text())["config"]
    model, params, _ = restore(config, workdir)
    process, denoise = bind_sampler(model, params, None)
    step = dataclasses.replace(model.experiment.sampler, num_steps=STEPS, grid="uniform")
    x0 = jnp.asarray(model.split("test").gather(np.arange(1))["x0"])
    keys = rng.example_keys(rng.stream(SEED.value, "picture"), jnp.arange(1))
    level = lambda x: np.asarray(x)[0, ..., 0] / (model.spec.vocab_size - 1)
    times = jnp.arange(1, TIMES) / (TIMES - 1)

    draw = functools.partial(path, process, denoise, step, shape=model.spec.shape)
    end, seen = jax.jit(lambda keys: draw(keys, remember=lambda z: z))(keys)
    sample = level(jax.jit(functools.partial(process.decode, denoise))(end))
    forward, backward, predicted = [level(x0)], [sample], [sample]
    for t in times:
        t = jnp.full(1, t)
        z = process.forward_sample(keys, x0, t)
        forward.append(np.asarray(show(process, z, t))[0, ..., 0])
        z = seen[STEPS - round(float(t[0]) * STEPS)]
        backward.append(np.asarray(show(process, z, t))[0, ..., 0])
        predicted.append(level(process.view_prediction(z, jax.jit(denoise)(z, t))))
    rows = [(f"{words[0]}  →", forward), (f"{words[1]}  ←", backward)]
    rows.append(("$x_0$ predicted from it  ←", predicted))
    if views:
        seen = process.forward_views(keys, x0, times)[0][0, ..., 0]
        rows.insert(0, ("one noisy view $x_t$", [level(x0), *(seen / (model.spec.vocab_size - 1))]))
    return rows


BLOCKS = {
    "Gaussian": (gaussian_z, ("$z_t$: data to noise", "$z_t$: noise to sample")),
    "star-shaped (Beta)": (
        star_z, ("$z_t$: sum of all views from $t$ on", "$z_t$: noise to sample"), True,
    ),
    "masked": (masked_z, ("$z_t$: data to all MASK (blue)", "$z_t$: all MASK to sample")),
}  # fmt: skip


def main(argv: list[str]) -> None:
    """Draws the picture."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    folders = zip(WORKDIRS.value, BLOCKS.items(), strict=True)
    blocks = {name: rows_of(workdir, *how) for workdir, (name, how) in folders}
    inch, width, gap = 0.75, 10.2, 0.55
    height = inch * (sum(map(len, blocks.values())) + gap * len(blocks))
    figure = plt.figure(figsize=(width, height))
    grey = matplotlib.colormaps["gray"].copy()
    grey.set_bad(MASK)
    left, line, top = 3.4 / width, inch / height, 1.0
    for name, rows in blocks.items():
        top -= gap * line
        figure.text(0.01, top + 0.006, name, fontsize=15, weight="bold")
        for column in range(TIMES):
            words = f"t = {column / (TIMES - 1):.3g}" if column else "t = 0"
            place = left + (column + 0.47) * inch / width
            figure.text(place, top + 0.008, words, fontsize=9, ha="center")
        for label, frames in rows:
            top -= line
            figure.text(left - 0.012, top + 0.47 * line, label, fontsize=11, ha="right",
                        va="center")  # fmt: skip
            for column, frame in enumerate(frames):
                place = left + column * inch / width, top, 0.94 * inch / width, 0.94 * line
                axes = figure.add_axes(place)
                axes.imshow(frame, cmap=grey, vmin=0, vmax=1, interpolation="nearest")
                axes.axis("off")
    figure.savefig(TO.value, dpi=100, pil_kwargs={"optimize": True})
    print(TO.value)


if __name__ == "__main__":
    cli.run_main(main)
