"""Small versions of the shipped configs, small data for them, and commands to run on them."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import zlib
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

import md4jax
from md4jax.data.pipeline import TrainBatches
from md4jax.data.prepare.documents import Documents
from md4jax.data.prepare.earth import Events
from md4jax.data.prepare.image_arrays import ImageArrays
from md4jax.data.prepare.one_text import OneText
from md4jax.data.prepare.run import prepare
from md4jax.data.tokenizers import END_OF_TEXT
from md4jax.training import partitioning
from md4jax.training.checkpoints import Checkpoints
from md4jax.training.state import make_train_step

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py"))
# Of the networks that measure samples; all others are experiments.
CLASSIFIERS = [path for path in FILES if path.startswith("configs/classifier/")]
CONFIGS = [path for path in FILES if path not in CLASSIFIERS]

# Sizes only: which components there are, and of what kind, stays as it is.
SMALL = {
    "process": {"num_timesteps": 4, "exact_terms": 2},
    "network": {
        "feature_dim": 8, "num_layers": 1, "num_heads": 2, "norm_groups": 4,
        "dit_layers": 1, "dit_heads": 2, "dit_hidden": 8,
    },
    "data": {
        "length": 12, "vocab_size": 40, "levels": 9,
        "num_train": 30, "num_test": 12,
    },
    "sampler": {"num_steps": 3, "num_samples": 4, "batch_size": 4},
    "optimizer": {"warmup_steps": 1},
    "train": {
        "num_steps": 4, "batch_size": 4, "log_every": 1, "eval_every": 2, "sample_every": 2,
        "checkpoint_every": 2,
    },
    "eval": {"batch_size": 4, "time_points": 2},
}  # fmt: skip


def tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same experiment, a few numbers wide and a few steps long."""
    config = config.copy_and_resolve_references()
    for section, sizes in SMALL.items():
        for key, value in sizes.items():
            if config[section].get(key) is not None:
                config[section][key] = value
    if "attention_levels" in config.network:  # A U-Net of levels: one, with attention.
        config.network.ch_mult, config.network.attention_levels = (1,), (1,)
        # These take longest to compile. With the same numbers more of them are the same program.
        config.network.dropout_rate, config.optimizer.learning_rate = 0.1, 1e-4
    if config.sampler.respacing:
        config.sampler.respacing = "3"
    config.eval.num_examples = 6
    return config


def with_data(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    seed: int = 0,
    characters: int = 400,
) -> ml_collections.ConfigDict:
    """Writes the files that a tiny config's data set reads, and points it to them."""
    data, rng = config.data, np.random.default_rng(seed)
    if data.name == "text_file":
        data.path = str(folder / "text")
        pathlib.Path(data.path).write_bytes(letters(rng, characters))
    elif data.name in ("images", "tokens", "points"):
        data.data_dir = str(folder)
        if data.name == "tokens":
            (folder / "text").write_bytes(letters(rng, characters))
        make = {"images": prepare_images, "tokens": prepare_text, "points": prepare_points}
        make[data.name](config, folder, rng)
    elif data.name == "image_npz":
        data.path = str(folder / "images.npz")
        write_images(folder / "images.npz", rng, data.levels)
    return config


def letters(rng: np.random.Generator, count: int) -> bytes:
    """Random letters and spaces."""
    return rng.choice(np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ", np.uint8), count).tobytes()


def write_images(
    path: pathlib.Path, rng: np.random.Generator, levels: int, size: int = 4, classes: int = 3
) -> None:
    """Twelve and eight images."""
    images = rng.integers(levels, size=(20, size, size, 3), dtype=np.uint8)
    labels = np.arange(20) % classes
    np.savez(path, train=images[:12], test=images[12:], train_labels=labels[:12],
             test_labels=labels[12:])  # fmt: skip


def prepare_images(config, folder, rng) -> None:
    write_images(folder / "images.npz", rng, 256)
    recipe = ImageArrays(size=4, classes=bool(config.data.labels))
    source = str(folder / "images.npz")
    prepare(recipe, "image_arrays", folder, source, config.data.dataset, workers=1)


def prepare_text(config, folder, rng) -> None:
    """Of letters for characters, else of bytes: GPT-2's vocabulary is not for such a text."""
    config.data.tokenizer = "chars" if config.data.tokenizer == "chars" else "bytes"
    recipe = OneText(tokenizer=config.data.tokenizer, valid_fraction=0.125, test_fraction=0.125)
    source, name = str(folder / "text"), config.data.dataset
    if config.data.documents:
        text = (folder / "text").read_text()
        pathlib.Path(source).with_suffix(".txt").write_text(text.replace("a", END_OF_TEXT))
        source, recipe = f"{source}.txt", Documents(tokenizer="bytes", test_every=3, row_length=12)
    prepare(recipe, "documents" if config.data.documents else "text", folder, source, name, 1)


def prepare_points(config, folder, rng) -> None:
    places = np.stack([rng.uniform(-90, 90, 60), rng.uniform(-180, 180, 60)], axis=1)
    np.savetxt(folder / "events.csv", places, delimiter=",")
    prepare(Events(), "earth_events", folder, str(folder / "events.csv"), config.data.dataset, 1)


def override(config: ml_collections.ConfigDict, **values: object) -> ml_collections.ConfigDict:
    """Sets `section__key=value`, as `--config.section.key=value` would."""
    config = config.copy_and_resolve_references()
    for name, value in values.items():
        section, key = name.split("__")
        config[section][key] = value
    return config


def train_until_saved(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains up to the first checkpoint, where a SIGTERM stops it."""

    def save_and_stop(checkpoints, *args):
        save(checkpoints, *args)
        signal.raise_signal(signal.SIGTERM)

    save = Checkpoints.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        assert md4jax.train(config, workdir) == {}


def shaken(state: Any) -> Any:
    """A fresh state with noise on its parameters: else the zeros in it hide most gradients."""

    def shake(path, x):
        key = jax.random.fold_in(jax.random.key(0), zlib.crc32(jax.tree_util.keystr(path).encode()))
        return jax.device_put(x + 0.1 * jax.random.normal(key, x.shape), x.sharding)

    return dataclasses.replace(state, params=jax.tree_util.tree_map_with_path(shake, state.params))


def take_steps(model: Any, steps: int, state: Any = None) -> tuple[Any, dict[str, float]]:
    """Trains from the state given or a shaken one; the state and the metrics after the steps."""
    train, sharding = model.experiment.train, partitioning.batch_sharding(model.mesh)
    shardings = jax.tree.map(lambda x: x.sharding, model.abstract_state())
    step = jax.jit(
        make_train_step(train, model.gradient(), model.optimizer()),
        out_shardings=(shardings, None),
    )
    state = shaken(model.init_state()) if state is None else state
    with TrainBatches(
        model.split("train"), seed=train.seed, batch_size=train.batch_size, sharding=sharding
    ) as batches:
        for _ in range(steps):
            state, metrics = step(state, next(batches))
    return state, jax.device_get(metrics)


def flags(config: ml_collections.ConfigDict, of: ml_collections.ConfigDict) -> list[str]:
    """The command line's overrides that make the config `config` of the config `of`."""
    return [
        f"--config.{section}.{key}={value}"
        for section, values in config.items()
        for key, value in values.items()
        if value != of[section][key]
    ]


def environment(devices: int = 1) -> dict[str, str]:
    """Of a process of its own; `conftest.py` says how it compiles."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {
        "PYTHONPATH": path,
        "JAX_PLATFORMS": "cpu",
        "NPROC": "32",  # Else fake devices may wait for each other for ever.
        "XLA_FLAGS": flags.strip(),
    }


def start_main(*arguments: str, script: str = "main.py", devices: int = 1) -> subprocess.Popen:
    """Starts `python main.py <arguments>` at the repository's root."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment(devices),
    )  # fmt: skip


def run_main(
    *arguments: str, script: str = "main.py", devices: int = 1
) -> subprocess.CompletedProcess:
    """`python main.py <arguments>` to its end."""
    process = start_main(*arguments, script=script, devices=devices)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
