"""One device against four. Run by `test_devices.py`, in a process that has four.

Rounding: float32 sums in another order differ by some 2^-24 log2(n) of the sum of the n terms'
absolute values. Each of about 30 such sums that follow each other here, of up to 1,000 terms, so
adds 6e-7, and all of them at most 2e-5. The errors looked for are of order 1: a gradient times the
number of devices, noise shared between devices or microbatches, examples counted twice.
"""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType

from md4jax.config import load_config, make_config
from md4jax.evaluation.distances import Polynomial, mmd_with_error
from md4jax.evaluation.likelihood import Evaluator
from md4jax.evaluation.samples import SampleMetrics
from md4jax.model import assemble
from md4jax.samplers.generate import Generator
from md4jax.training import partitioning

ROUNDING = 2e-5
MESHES = [(4, 1, 1), (1, 2, 2)]  # Others below, with microbatches and of images.
NAMES = ("data", "fsdp", "tensor")


@pytest.fixture(scope="module", autouse=True)
def small_arrays_are_spread_too():
    assert jax.device_count() == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitioning, "MIN_FSDP_SIZE", 2)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A transformer on text, with plain gradient descent: Adam would hide a factor."""
    config = tiny.tiny(load_config(tiny.ROOT / "configs/text8/small.py")).to_dict()
    config["optimizer"] = dict(name="sgd", learning_rate=0.1, schedule="constant")
    config["train"] |= dict(batch_size=8)
    config["network"] |= dict(num_layers=2, num_heads=4)
    return tiny.with_data(make_config(**config), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def images():
    """A U-ViT on images with classes."""
    config = tiny.tiny(load_config(tiny.ROOT / "configs/digits/masked.py"))
    return tiny.override(config, data__labels=True, network__dropout_rate=0.0, train__batch_size=8)


def model_on(config, mesh, **values):
    """The model of a config on four devices as the config lays them out, or on one alone."""
    data, fsdp, tensor = (4, 1, 1) if mesh == (1, 1, 1) else mesh
    config = tiny.override(config, mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor, **values)
    model = assemble(config)
    if mesh != (1, 1, 1):
        return model
    one = jax.make_mesh(mesh, NAMES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
    return dataclasses.replace(model, mesh=one)


def assert_close(ours, theirs):
    """Leaf by leaf, relative to the largest entry of the leaf.

    A leaf whose true value is 0, as is the gradient of a bias before a softmax, is all rounding: so
    entries below 1 % of the largest of all leaves are compared to that.
    """
    ours, theirs = jax.device_get((ours, theirs))
    largest = max(np.abs(x).max() for x in jax.tree.leaves(theirs))
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(theirs)]
    for name, a, b in zip(names, jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = max(np.abs(b).max(), 0.01 * largest)
        assert np.abs(a - b).max() <= ROUNDING * scale, name


def gradient(model):
    """Of a shaken network for the first batch, with its metrics."""
    state = tiny.shaken(model.init_state())
    batch = model.split("train").gather(np.arange(model.experiment.train.batch_size))
    batch = jax.device_put(batch, partitioning.batch_sharding(model.mesh))
    return jax.jit(model.gradient())(state.params, state.fixed, batch, state.step)


@pytest.fixture(scope="module")
def one_device(text):
    """State and metrics after three steps, on one device in one piece."""
    return tiny.take_steps(model_on(text, (1, 1, 1)), 3)


def test_every_array_is_moved(text, one_device):
    """So that all gradients are under test."""
    first, (last, _) = tiny.shaken(model_on(text, (1, 1, 1)).init_state()), one_device
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, first.params, last.params)
    still = [
        jax.tree_util.keystr(p) for p, x in jax.tree_util.tree_leaves_with_path(moved) if not x
    ]
    assert not still


@pytest.mark.parametrize(
    ("mesh", "microbatches"), [*((mesh, 1) for mesh in MESHES), ((1, 1, 1), 2), ((2, 2, 1), 2)]
)
def test_training(text, one_device, mesh, microbatches):
    """Neither devices nor microbatches change what steps lead to, or the gradient's norm."""
    model = model_on(text, mesh, train__microbatches=microbatches)
    state, metrics = one_device
    ours, our_metrics = tiny.take_steps(model, 3)
    assert_close(ours.params, state.params)
    assert_close(ours.ema_params, state.ema_params)
    assert_close(our_metrics, metrics)


@pytest.mark.parametrize("mesh", MESHES)
def test_arrays_are_spread(text, mesh):
    """A share of the parameters as `fsdp` and `tensor` say lies on each device."""
    params = model_on(text, mesh).init_state().params
    all_entries = sum(x.size for x in jax.tree.leaves(params))
    here = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(params))
    # Only norms, biases and what does not divide evenly are on all devices.
    assert here < all_entries / (mesh[1] * mesh[2]) * 1.25


def test_gradient_of_images_with_classes(images):
    assert_close(gradient(model_on(images, (2, 1, 2))), gradient(model_on(images, (1, 1, 1))))


def test_likelihood(text):
    """The same number on one and four devices, with other batch sizes; each example once."""
    values = dict(eval__num_examples=11, eval__splits=("train",), eval__time_points=4)
    one = model_on(text, (1, 1, 1), eval__batch_size=4, **values)
    params = tiny.shaken(one.init_state()).params
    expected = Evaluator(one)(params, "train")
    assert expected["examples"] == 11
    for mesh, size in (((4, 1, 1), 8), ((2, 1, 2), 12)):
        model = model_on(text, mesh, eval__batch_size=size, **values)
        result = Evaluator(model)(tiny.shaken(model.init_state()).params, "train")
        assert result.keys() == expected.keys()
        numbers = [k for k, v in expected.items() if isinstance(v, float)]
        assert [result[k] for k in numbers] == pytest.approx(
            [expected[k] for k in numbers], rel=ROUNDING
        )
        assert result["examples"] == 11


def test_samples(text):
    """The same ids, on one and four devices and with another batch size.

    Of 8 x 12 tokens one would differ only if two Gumbel draws, of 27 for a token, were within
    rounding (1e-5) of each other at the top: once in about 1,000 seeds.
    """

    def samples(mesh, size):
        model = model_on(text, mesh, sampler__batch_size=size, sampler__num_samples=8)
        return Generator(model)(tiny.shaken(model.init_state()).params)[0]

    expected = samples((1, 1, 1), 8)
    assert len({x.tobytes() for x in expected}) == 8
    for mesh, size in (((4, 1, 1), 4), ((2, 1, 2), 8)):
        assert (samples(mesh, size) == expected).all()


def test_features_of_samples(images):
    """Each of 7 images once, though batches of 4 do not divide them, and on all devices."""
    model = model_on(images, (2, 2, 1), eval__metrics=("kid",), sampler__num_samples=7)
    samples = model.split("test").gather(np.arange(7))["x0"]
    result = SampleMetrics(model).from_samples(samples)
    train, count = model.split("train"), len(model.split("train"))
    reference = train.gather(np.arange(7) * count // 7)["x0"]
    x, y = ((z / np.float32(16)).reshape(7, -1) for z in (reference, samples))
    value, error = mmd_with_error(x, y, Polynomial(3))
    # Pixels are copied, not summed.
    assert result["kid"] == pytest.approx(value, rel=1e-12)
    assert result["kid_standard_error"] == pytest.approx(error, rel=1e-12)
