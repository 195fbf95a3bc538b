"""Trains a classifier and writes it: what `python -m` of this package does."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from md4jax import rng
from md4jax.config import checked, differences, to_dict
from md4jax.console import Progress, say
from md4jax.convert.weights import flat
from md4jax.data.base import Dataset
from md4jax.data.pipeline import TrainBatches, eval_batches
from md4jax.evaluation.features.base import check_images, read_arrays
from md4jax.evaluation.features.classifier.config import SECTIONS, ClassifierOptions
from md4jax.evaluation.features.classifier.features import METADATA, WANTED, read_metadata
from md4jax.networks.towers.classifier import SmallClassifier
from md4jax.options import UserError
from md4jax.training.optimizers import AdamW
from md4jax.typing import PyTree

FILE = "classifier.npz"
EVALUATED = 256  # Images at a time; changes no number.


def train(
    config: Mapping[str, Any] | ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> pathlib.Path:
    """Trains a classifier in a folder, unless it is there, and says how good it is.

    Returns:
      the file.

    Raises:
      UserError: the config is wrong, the data have no classes or no test examples, training
        diverges, or the folder cannot be written or has a classifier of another config.
    """
    parts = checked(SECTIONS, config)
    options, data = (parts[section][0](**parts[section][1]) for section in ("classifier", "data"))
    dataset = data.load()
    tower = _check_data(dataset, options)
    path = pathlib.Path(workdir).absolute() / FILE
    metadata = {
        "config": to_dict(config, SECTIONS),
        "data_fingerprint": dataset.fingerprint,
        "shape": dataset.spec.shape,
        "levels": dataset.spec.vocab_size,
        "num_classes": dataset.spec.num_classes,
    }
    if path.exists():
        say("it is trained already")
        _tell(path, _check_same(path, metadata))
        return path
    with _writing(workdir):  # It is known before the training whether it can be.
        path.parent.mkdir(parents=True, exist_ok=True)
    params = _fit(dataset, tower, options)
    metadata["test_accuracy"] = accuracy(dataset, tower, params)
    with _writing(workdir):
        _write(path, params, metadata)
    _tell(path, metadata)
    return path


def _check_data(dataset: Dataset, options: ClassifierOptions) -> SmallClassifier:
    check_images(dataset.spec)
    if dataset.spec.num_classes is None:
        raise UserError("config.data gives no classes to learn; use config.data.labels = True")
    if "test" not in dataset.splits:
        raise UserError("config.data has no test examples to measure the classifier by")
    return options.tower(dataset.spec.shape, dataset.spec.num_classes)


def _check_same(path: pathlib.Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the file there says; raises UserError if it is another classifier."""
    arrays, given = read_arrays(str(path), "--workdir's file", WANTED)
    saved = read_metadata(arrays, given)
    lines = differences(saved["config"], metadata["config"], SECTIONS)
    if saved["data_fingerprint"] != metadata["data_fingerprint"] and not lines:
        lines = ["data: other content"]
    if lines:
        raise UserError(
            f"{path} is a classifier of another config: {'; '.join(lines)} (saved -> given). "
            "Give another --workdir, or set these fields back"
        )
    return saved


def _tell(path: pathlib.Path, metadata: Mapping[str, Any]) -> None:
    say(f"{100 * metadata['test_accuracy']:.2f} % of the test images are classified rightly")
    say(f"results: {path}")
    say(f"use: --config.eval.features=classifier --config.eval.weights={path}")


def _model(dataset: Dataset, tower: SmallClassifier) -> Callable:
    """`(params, x0) -> logits`, `x0` integers as the data have them."""
    white = dataset.spec.vocab_size - 1

    def logits(params, x0):
        return tower.apply({"params": params}, 2 * x0.astype(jnp.float32) / white - 1)[1]

    return logits


def _fit(dataset: Dataset, tower: SmallClassifier, options: ClassifierOptions) -> PyTree:
    """Parameters after all steps."""
    logits, steps = _model(dataset, tower), options.num_steps
    optimizer = AdamW(
        learning_rate=options.learning_rate,
        warmup_steps=-(-steps // 10),
        weight_decay=options.weight_decay,
    ).build(steps)

    def init():
        images = jnp.zeros((1, *dataset.spec.shape))
        params = tower.init(rng.stream(options.seed, "init"), images)["params"]
        return params, optimizer.init(params)

    def loss(params, batch):
        values = optax.softmax_cross_entropy_with_integer_labels(
            logits(params, batch["x0"]), batch["label"]
        )
        return values.mean()

    @jax.jit
    def step(params, state, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    # Placed as the batches are: else the second step would be compiled anew.
    params, state = jax.jit(init, out_shardings=_device())()
    progress = None
    with TrainBatches(
        dataset.splits["train"],
        seed=options.seed,
        batch_size=options.batch_size,
        sharding=_device(),
    ) as batches:
        for done in range(1, steps + 1):
            params, state, value = step(params, state, next(batches))
            jax.block_until_ready(value)  # Else the time left would be of steps not yet taken.
            progress = progress or Progress("training", steps)  # The first step has to compile.
            progress.update(done)
    if not math.isfinite(value):
        raise UserError(
            f"config.classifier.learning_rate = {options.learning_rate}: the loss is {value} after "
            "the last step; use a smaller one"
        )
    return params


def accuracy(dataset: Dataset, tower: SmallClassifier, params: PyTree) -> float:
    """The share of test images whose likeliest class is theirs."""
    logits = _model(dataset, tower)

    @jax.jit
    def right(batch):
        return batch["mask"] * (logits(params, batch["x0"]).argmax(-1) == batch["label"])

    split = dataset.splits["test"]
    batches = eval_batches(split, EVALUATED, _device())
    return sum(float(right(batch).sum()) for batch in batches) / len(split)


def _device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


@contextlib.contextmanager
def _writing(workdir: str | pathlib.Path) -> Iterator[None]:
    """Raises UserError where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from error


def _write(path: pathlib.Path, params: PyTree, metadata: Mapping[str, Any]) -> None:
    """The file at once: it is never there in part."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **{METADATA: np.array(json.dumps(metadata))}, **jax.device_get(flat(params)))
    os.replace(temporary, path)
