"""evaluation/features/classifier: the command, its file and how that is read, what is refused."""

import json
import math
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from md4jax.config import load_config, to_dict
from md4jax.data.digits import Digits
from md4jax.evaluation.features import FEATURES
from md4jax.evaluation.features.base import ClassFeatures
from md4jax.evaluation.features.classifier.config import SECTIONS, ClassifierOptions, make_config
from md4jax.evaluation.features.classifier.features import abstract_params
from md4jax.evaluation.features.classifier.training import train
from md4jax.options import UserError
from md4jax.processes.base import DataSpec

DIGITS = DataSpec((8, 8, 1), 17)
# The data that the counts in the docstrings are for.
CLASSIFIERS = {
    "configs/classifier/cifar10.py": ((32, 32, 3), 10),
    "configs/classifier/digits.py": ((8, 8, 1), 10),
    "configs/classifier/mnist.py": ((28, 28, 1), 10),
}


def config(**classifier):
    small = dict(width=8, num_layers=2, features=12, num_steps=60, batch_size=32)
    return make_config(
        data=dict(name="digits", labels=True), classifier=small | classifier
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The file of a small classifier of the digits."""
    return train(config(learning_rate=0.02), tmp_path_factory.mktemp("digits"))


def test_it_learns_and_its_file_is_what_was_trained(trained):
    """Features, probabilities and accuracy from the file alone.

    By chance a tenth of the digits is right; that of 297 half are has a probability below 1e-60.
    """
    with np.load(trained) as file:
        metadata = json.loads(str(file["metadata"]))
    assert set(metadata["config"]) == {"data", "classifier"}
    classifier = FEATURES["classifier"].load(str(trained), DIGITS)
    assert isinstance(classifier, ClassFeatures)
    assert (classifier.dim, classifier.num_classes) == (12, 10)
    assert classifier.rule == (
        "classifier of 8x8x1 images of 17 levels: 2x - 1, 12 features of the layer before the last"
    )
    test = Digits(labels=True).load().splits["test"].gather(np.arange(297))
    x = jnp.asarray(test["x0"] / 16, jnp.float32)
    probabilities = jax.jit(classifier.probabilities)(classifier.params, x)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    right = (probabilities.argmax(-1) == test["label"]).mean()
    assert float(right) == pytest.approx(metadata["test_accuracy"]) and right > 0.5

    # The last layer takes the features, and nothing else, to the probabilities.
    features = jax.jit(classifier)(classifier.params, x)
    head = classifier.params["head"]
    again = jax.nn.softmax(features @ head["kernel"] + head["bias"])
    np.testing.assert_allclose(again, probabilities, rtol=1e-4, atol=1e-6)
    # Each image by itself.
    alone = jax.jit(classifier)(classifier.params, x[3:4])
    np.testing.assert_allclose(alone, features[3:4], rtol=1e-4, atol=1e-5)


def test_a_finished_folder_is_left_as_it_is(trained, capsys):
    before = trained.read_bytes()
    assert train(config(learning_rate=0.02), trained.parent) == trained
    said = capsys.readouterr().out
    assert "it is trained already" in said and trained.read_bytes() == before
    assert f"use: --config.eval.features=classifier --config.eval.weights={trained}" in said
    with pytest.raises(UserError, match=r"classifier\.num_steps: 60 -> 61 \(saved -> given\)"):
        train(config(learning_rate=0.02, num_steps=61), trained.parent)
    assert [p.name for p in trained.parent.iterdir()] == ["classifier.npz"]


def test_the_command(trained, tmp_path):
    """As a person starts it, with its last line used; other weights than the fixture's."""
    command = [sys.executable, "-m", "md4jax.evaluation.features.classifier",
               "--config=configs/classifier/digits.py", f"--workdir={tmp_path}",
               "--config.classifier.width=8", "--config.classifier.num_layers=1",
               "--config.classifier.num_steps=2"]  # fmt: skip
    options = dict(capture_output=True, text=True, cwd=tiny.ROOT, env=tiny.environment())
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr
    assert "% of the test images are classified rightly" in done.stdout
    *_, flag = done.stdout.split()
    path = flag.removeprefix("--config.eval.weights=")
    assert path == f"{tmp_path}/classifier.npz"
    first, second = (FEATURES["classifier"].load(str(p), DIGITS) for p in (path, trained))
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"classifier": {"wdth": 8}}, "config.classifier.wdth = 8: ClassifierOptions has no such"),
        ({"classifier": {"width": 4}}, "config.classifier.width = 4 should be at least 8"),
        ({"classifier": {"width": 12}}, "config.classifier.width = 12 should be a multiple of 8"),
        ({"classifier": {"num_layers": 4}}, "num_layers = 4 levels halve the sides so often"),
        ({"data": {"name": "digits"}}, "use config.data.labels = True"),
        ({"data": {"name": "text_file"}}, "config.data.path"),
        ({"train": {}}, "config.train: the sections are data, classifier"),
        ({"classifier": {"learning_rate": 1e38}}, "config.classifier.learning_rate = 1e+38: the"),
    ],
)
def test_what_is_refused(sections, words, tmp_path):
    """Nothing is written."""
    values = to_dict(config(num_steps=3), SECTIONS)
    with pytest.raises(UserError) as error:
        train(make_config(**{**values, **merged(values, sections)}), tmp_path / "run")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.npz"))


def merged(values, sections):
    """The sections over those that there are; one with a name of its own is whole."""
    return {
        name: section if "name" in section else values.get(name, {}) | section
        for name, section in sections.items()
    }


def test_files_that_do_not_fit(trained, tmp_path):
    """Of other images, of other weights than they say, or of none at all."""
    for spec in (DataSpec((8, 8, 1), 16), DataSpec((8, 8, 3), 17)):
        with pytest.raises(UserError, match=r"was trained on images \(8, 8, 1\) of 17 levels; the"):
            FEATURES["classifier"].load(str(trained), spec)
    with np.load(trained) as file:
        arrays = dict(file)
    lacking = {name: x for name, x in arrays.items() if name != "head/bias"}
    for content, words in (
        ({"a": np.ones(1)}, "holds no classifier"),
        (arrays | {"metadata": np.array("{}")}, "holds no classifier"),
        (lacking, "does not fit the network it says it is: 1 array that the network wants"),
    ):
        np.savez(tmp_path / "file.npz", **content)
        with pytest.raises(UserError) as error:
            FEATURES["classifier"].load(str(tmp_path / "file.npz"), DIGITS)
        assert words in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--workdir=.*/file/run cannot be written: Not a dir"):
        train(config(), tmp_path / "file" / "run")


def test_a_folder_of_other_data(trained, tmp_path):
    """The same config on other images is another classifier."""
    file = shutil.copy(trained, tmp_path)
    with np.load(file) as saved:
        arrays = dict(saved)
    metadata = json.loads(str(arrays["metadata"])) | {"data_fingerprint": "other"}
    np.savez(file, **arrays | {"metadata": np.array(json.dumps(metadata))})
    with pytest.raises(UserError, match="another config: data: other content"):
        train(config(learning_rate=0.02), tmp_path)


@pytest.mark.parametrize("path", tiny.CLASSIFIERS)
def test_a_config_says_what_it_is(path):
    """Its command, what it gives, and a count of parameters that is right."""
    shape, classes = CLASSIFIERS[path]
    words = (tiny.ROOT / path).read_text().split('"""')[1]
    options = ClassifierOptions(**load_config(tiny.ROOT / path).classifier)
    params = abstract_params(options.tower(shape, classes), shape)
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    assert f"{count:,} parameters" in words
    assert f"python -m md4jax.evaluation.features.classifier --config={path}" in words
    assert "Expected:" in words
