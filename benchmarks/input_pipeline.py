"""Examples a second of each input pipeline, against what the matching training step consumes.

    python benchmarks/input_pipeline.py [--seconds=5] [--steps=20] [--only=cifar10]

Made data of each set's shape are prepared in a temporary folder; batches are read as training reads
them, from memory, from disk, and by grain's workers; the training step is that of the config named,
with its own batch, compiled and warm, on the devices there are. The ratio says how many times as
fast as the step its data come: above 1 nothing waits.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags

from md4jax import cli
from md4jax.config import load_config, make_config, to_dict
from md4jax.console import say
from md4jax.data.pipeline import TrainBatches
from md4jax.data.prepare.image_arrays import ImageArrays
from md4jax.data.prepare.image_folder import as_png
from md4jax.data.prepare.one_text import OneText
from md4jax.data.prepare.recipe import Part
from md4jax.data.prepare.run import prepare
from md4jax.model import Model, assemble
from md4jax.training import partitioning
from md4jax.training.state import make_train_step

SECONDS = flags.DEFINE_float("seconds", 5.0, "Of reading, each way.", lower_bound=0.1)
STEPS = flags.DEFINE_integer("steps", 20, "Training steps timed; 0 for none.", lower_bound=0)
ONLY = flags.DEFINE_list("only", None, "Of the sets; all if not given.")
ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set as published: its config, its size, how many examples are made."""

    config: str
    count: int
    side: int | None = None  # Of images; None is text.
    packed: bool = False
    workers: int = 2


CASES = {
    "mnist": Case("configs/mnist/masked.py", 20_000, 28),
    "cifar10": Case("configs/md4/cifar10.py", 20_000, 32),
    "imagenet64": Case("configs/md4/imagenet64.py", 10_000, 64),
    "lsun256": Case("configs/ddpm/lsun_church.py", 300, 256, packed=True),
    "text8": Case("configs/md4/text8.py", 20_000),
    "openwebtext": Case("configs/md4/openwebtext.py", 20_000),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedArrays(ImageArrays):
    """Images kept as PNG, as LSUN's are."""

    packed = True

    def pieces(self, source: pathlib.Path) -> list:
        """The arrays' one piece, its images packed."""
        (read,) = super().pieces(source)

        def packed() -> Iterator[dict[str, Part]]:
            for parts in read():
                yield {split: _packed(part) for split, part in parts.items()}

        return [packed]


def _packed(part: Part) -> Part:
    return {"png": [as_png(image) for image in part["image"]]}


def make_images(case: Case, folder: pathlib.Path, name: str, channels: int) -> None:
    """Smooth random images: noise would not pack as photographs do."""
    rng = np.random.default_rng(0)
    small = rng.integers(256, size=(case.count, case.side // 4, case.side // 4, channels))
    images = small.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    np.savez(folder / f"{name}.npz", train=images, test=images[:10])
    recipe = (PackedArrays if case.packed else ImageArrays)(size=case.side, grey=channels == 1)
    prepare(recipe, "image_arrays", folder, str(folder / f"{name}.npz"), name, workers=1)


def make_text(case: Case, folder: pathlib.Path, name: str, length: int) -> None:
    """Random letters, in rows of the length trained with."""
    letters = np.random.default_rng(0).choice(
        np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ", np.uint8), case.count * length
    )
    (folder / f"{name}.txt").write_bytes(letters.tobytes())
    recipe = OneText(tokenizer="bytes", row_length=length)
    prepare(recipe, "text", folder, str(folder / f"{name}.txt"), name, workers=1)


def data_of(case: Case, folder: pathlib.Path, name: str, values: dict) -> dict:
    """Makes the data of a case; the section `data` that reads them."""
    data = dict(values, dataset=name, data_dir=str(folder))
    if case.side is None:
        make_text(case, folder, name, data["length"])
        return data | {"tokenizer": "bytes"}
    make_images(case, folder, name, 1 if name == "mnist" else 3)
    return data


def reading(model: Model, seconds: float, workers: int) -> float:
    """Examples a second on the devices."""
    train = model.experiment.train
    sharding = partitioning.batch_sharding(model.mesh)
    with TrainBatches(
        model.split("train"), seed=0, batch_size=train.batch_size, sharding=sharding,
        workers=workers,
    ) as batches:  # fmt: skip
        next(batches)  # Permutation, files opened, processes started.
        started = time.perf_counter()
        count = 0
        while time.perf_counter() - started < seconds:
            jax.block_until_ready(next(batches))
            count += train.batch_size
        return count / (time.perf_counter() - started)


def training(model: Model, steps: int) -> float:
    """Examples a second of the training step, its batch on the devices already."""
    train = model.experiment.train
    step = jax.jit(
        make_train_step(train, model.gradient(), model.experiment.optimizer.build(steps)),
        donate_argnums=0,
    )
    sharding = partitioning.batch_sharding(model.mesh)
    with TrainBatches(
        model.split("train"), seed=0, batch_size=train.batch_size, sharding=sharding
    ) as batches:
        batch = next(batches)
    state, _ = step(model.init_state(), batch)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(steps):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    return steps * train.batch_size / (time.perf_counter() - started)


def measure(name: str, folder: pathlib.Path) -> list[str]:
    """The rows of a set: one a way of reading."""
    case = CASES[name]
    sections = to_dict(load_config(ROOT / case.config))
    sections["eval"]["splits"] = ["train"]
    data = data_of(case, folder, name, sections["data"])
    model = lambda **more: assemble(make_config(**sections | {"data": data | more}))
    ways = {"memory, thread": (model(), 0)}
    if case.side is not None or data["train_stride"] != 1:  # Overlapping windows need memory.
        on_disk = model(memory_gb=0.0)
        ways |= {
            "disk, thread": (on_disk, 0),
            f"disk, {case.workers} workers": (on_disk, case.workers),
        }
    consumed = training(ways["memory, thread"][0], STEPS.value) if STEPS.value else None
    rows = []
    for way, (made, workers) in ways.items():
        read = reading(made, SECONDS.value, workers)
        against = f"{consumed:,.1f} | {read / consumed:,.1f}" if consumed else "- | -"
        rows.append(f"| {name} ({case.config}) | {way} | {read:,.0f} | {against} |")
        say(rows[-1])
    return rows


def main(argv: list[str]) -> None:
    del argv
    say(f"devices: {jax.devices()}")
    rows = ["| data (config) | read from | examples/s | the step's examples/s | ratio |",
            "| --- | --- | --- | --- | --- |"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in ONLY.value or CASES:
            rows += measure(name, pathlib.Path(folder))
    say("\n".join(rows))


if __name__ == "__main__":
    cli.run_main(main)
