"""The U-Nets of DDPM and Improved DDPM against the published ones, and what they promise beyond.

`tests/golden/README.md` says where the published outputs are from; with the published parameters,
through the converter, ours must be the same. What all networks promise (bfloat16, dropout, labels,
ids as inputs) is tested in `test_networks.py`.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import GOLDEN, check_output, converted, parameters

from md4jax.convert import ddpm, improved_diffusion
from md4jax.networks import NETWORKS
from md4jax.networks.improved_unet import cosine_embedding
from md4jax.options import UserError
from md4jax.processes.base import NetworkSpec
from md4jax.training.partitioning import TENSOR_RULES

UNETS = ("ddpm_unet", "improved_unet")


@dataclasses.dataclass(frozen=True)
class Case:
    """A published network: our name and options for it, and the names of its parameters."""

    network: str
    options: dict[str, Any]
    origins: Callable
    out_features: int = 1
    num_classes: int | None = None


SMALL = {"feature_dim": 32, "num_layers": 1, "ch_mult": (1, 2), "attention_levels": (2,)}
HEADS_UP = {"num_heads": 1, "num_heads_up": 2}
CASES = {
    "ddim": Case("ddpm_unet", SMALL, ddpm.origins),
    "improved_ssn": Case(
        "improved_unet", SMALL, improved_diffusion.origins, out_features=2, num_classes=10
    ),
    "improved_add": Case(
        "improved_unet",
        SMALL | HEADS_UP | {"attention_levels": (1, 2), "scale_shift": False},
        improved_diffusion.origins,
    ),
    "improved_superres": Case(
        "improved_unet", SMALL | {"num_heads": 2}, improved_diffusion.origins, out_features=2
    ),
}


def make_unet(name, spec, **options):
    net = NETWORKS[name](spec=spec, **options)
    net.check()
    return net


def compiled(function):
    """`jax.jit` for programs that run once: half the time to compile, the same result."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def golden_inputs(golden, tag):
    """Inputs with channels last; time in [0, 1]."""

    def last(image):
        return jnp.asarray(golden[f"{tag}/in/{image}"].transpose(0, 2, 3, 1))

    x = last("x")
    shape = x.shape[1:]
    if f"{tag}/in/low_res" in golden:
        low_res = jax.image.resize(last("low_res"), x.shape, "bilinear")
        x = jnp.concatenate([x, low_res], axis=-1)
    t = jnp.asarray(golden[f"{tag}/in/t"] / np.float32(1000))
    label = golden.get(f"{tag}/in/y")
    return shape, x, t, None if label is None else jnp.asarray(label, jnp.int32)


@pytest.mark.parametrize("tag", CASES)
def test_published_outputs(tag):
    case, golden = CASES[tag], np.load(GOLDEN / "gaussian_unets.npz")
    shape, x, t, label = golden_inputs(golden, tag)
    spec = NetworkSpec(shape, None, case.out_features, num_classes=case.num_classes)
    net = make_unet(case.network, spec, **case.options)
    like = jax.eval_shape(net.init, jax.random.key(0), x, t, label)["params"]
    params = converted(case.origins(net), like, parameters(golden[f"{tag}/param_names"]))
    # Published: channels first, and all means before all variances.
    reference = golden[f"{tag}/out"].reshape(len(x), case.out_features, shape[-1], *shape[:2])
    function = compiled(lambda params: net.apply({"params": params}, x, t, label))
    check_output(function, params, reference.transpose(0, 3, 4, 2, 1))


@pytest.mark.parametrize("width", [7, 64])
def test_time_embedding(width):
    golden = np.load(GOLDEN / "gaussian_unets.npz")
    embedding = cosine_embedding(jnp.asarray(golden["temb/t"] / np.float32(1000)), width)
    # An angle of up to 1000 is rounded three times, by up to 2^-24 of itself.
    np.testing.assert_allclose(embedding, golden[f"temb/improved_{width}"], atol=2e-4)


CIFAR10, IMAGENET, LSUN = (NetworkSpec((n, n, 3), None, 2) for n in (32, 64, 256))
CLASSES = {"num_classes": 1000}
FIXED = {"out_features": 1}  # Variance; else it is learned.
LEVELS_64 = {"ch_mult": (1, 2, 3, 4), "attention_levels": (4, 8)}
LEVELS_256 = {"ch_mult": (1, 1, 2, 2, 4, 4)}
ADDED = {"scale_shift": False, "num_heads": 1, "num_layers": 2, "attention_levels": (16,)}
SUPERRES = {"num_layers": 2, "attention_levels": (16, 32), "feature_dim": 192}
CELEBA = {"ch_mult": (1, 2, 2, 2, 4), "attention_levels": (4,)}
PUBLISHED = [
    ("improved_unet", CIFAR10, {}, {}, 52_546_438),
    ("improved_unet", CIFAR10, FIXED, {}, 52_542_979),
    ("improved_unet", CIFAR10, {}, {"feature_dim": 64, "num_layers": 2}, 9_926_790),
    ("improved_unet", IMAGENET, {}, LEVELS_64, 121_063_942),
    ("improved_unet", IMAGENET, FIXED, LEVELS_64, 121_060_483),
    ("improved_unet", IMAGENET, FIXED, LEVELS_64 | {"num_layers": 2}, 92_025_731),
    ("improved_unet", IMAGENET, {}, LEVELS_64 | {"feature_dim": 64}, 30_303_494),
    ("improved_unet", IMAGENET, {}, LEVELS_64 | {"feature_dim": 96}, 68_126_598),
    ("improved_unet", IMAGENET, CLASSES, LEVELS_64 | {"feature_dim": 192}, 273_049_350),
    ("improved_unet", LSUN, {}, LEVELS_256 | ADDED, 113_676_678),
    ("improved_unet", LSUN, CLASSES, LEVELS_256 | SUPERRES, 279_792_390),
    ("ddpm_unet", CIFAR10, FIXED, {}, 35_746_307),
    ("ddpm_unet", IMAGENET, FIXED, CELEBA, 78_700_803),
    ("ddpm_unet", LSUN, FIXED, LEVELS_256 | {"attention_levels": (16,)}, 113_673_219),
]


def example(spec, batch=2, channels=None):
    """Inputs of a network, drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *spec.shape[:2], channels or spec.shape[2])).astype(np.float32)
    t = np.linspace(0.1, 0.9, batch, dtype=np.float32) if spec.has_time else None
    label = np.arange(batch) if spec.num_classes else None
    return jax.tree.map(jnp.asarray, (x, t, label))


@pytest.mark.parametrize(("name", "spec", "conditions", "options", "count"), PUBLISHED)
def test_published_parameter_counts(name, spec, conditions, options, count):
    """With our defaults where nothing else is said; nothing is allocated."""
    spec = dataclasses.replace(spec, **conditions)
    net = make_unet(name, spec, **options)
    channels = 6 if options.items() >= SUPERRES.items() else 3  # An image and one to go by.
    params = jax.eval_shape(net.init, jax.random.key(0), *example(spec, 1, channels))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count


TINY = {"feature_dim": 8, "num_layers": 1, "ch_mult": (1, 2), "norm_groups": 4}
TINY |= {"attention_levels": (2,), "num_heads": 2}
SPEC = NetworkSpec((4, 4, 3), None, 2, num_classes=3)


def random_params(net):
    """Nothing zero, so that every layer matters."""
    like = jax.eval_shape(net.init, jax.random.key(0), *example(net.spec))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: 0.2 * rng.normal(size=p.shape).astype(np.float32), like)


@pytest.mark.parametrize("name", UNETS)
def test_fresh_network(name):
    """Its output is zero; kernels and biases are uniform on +-1/sqrt(fan-in), or zero."""
    net = make_unet(name, SPEC, **TINY | {"feature_dim": 32})
    init = compiled(lambda key: net.init_with_output(key, *example(SPEC)))
    output, variables = init(jax.random.key(0))
    assert output.shape == (2, 4, 4, 3, 2)
    np.testing.assert_array_equal(output, 0)
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    zero = r"(conv_2|attention/out|^head)/" if name == "improved_unet" else "^head/"
    for path, leaf in flat.items():
        module, kind = path.rsplit("/", 1)
        if re.search(zero, path):
            np.testing.assert_array_equal(leaf, 0, err_msg=path)
        elif "norm" in path:
            np.testing.assert_array_equal(leaf, kind == "scale", err_msg=path)
        elif kind == "embedding":
            # Normal of deviation 1, within 5 standard errors.
            np.testing.assert_allclose(np.std(leaf), 1, atol=5 / math.sqrt(2 * leaf.size))
        else:
            unit = np.abs(leaf) * math.sqrt(math.prod(flat[f"{module}/kernel"].shape[:-1]))
            assert unit.max() <= 1 + 1e-6, path
            # The mean of |u| is 1/2, with a deviation of 1/sqrt(12).
            assert abs(unit.mean() - 0.5) < 5 / math.sqrt(12 * leaf.size), path


@pytest.mark.parametrize(
    ("name", "shape"), [("ddpm_unet", (4, 8, 1)), ("improved_unet", (6, 2, 5))]
)
def test_any_image(name, shape):
    """Sides that differ, and any number of channels."""
    net = make_unet(name, dataclasses.replace(SPEC, shape=shape), **TINY)
    output = compiled(net.apply)({"params": random_params(net)}, *example(net.spec))
    assert output.shape == (2, *shape, 2)
    assert np.isfinite(output).all() and np.std(output) > 1e-3


def test_remat_changes_nothing():
    """Neither output nor gradient; the two networks have the same blocks."""

    def gradient_and_output(net):
        def loss(params):
            output = net.apply({"params": params}, *example(SPEC))
            return jnp.sum(output**2), output

        return compiled(jax.grad(loss, has_aux=True))(random_params(net))

    plain = make_unet("improved_unet", SPEC, **TINY)
    gradient, output = gradient_and_output(plain)
    other_gradient, other_output = gradient_and_output(dataclasses.replace(plain, remat=True))
    np.testing.assert_allclose(other_output, output, atol=1e-5)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
    for got, want in zip(jax.tree.leaves(other_gradient), jax.tree.leaves(gradient)):
        np.testing.assert_allclose(got, want, atol=1e-5 * largest)


@pytest.mark.parametrize("name", UNETS)
def test_kernels_spread_over_devices(name):
    """Pairs of layers that open and close a width have names that say so; no convolution has."""
    net = make_unet(name, SPEC, **TINY)
    params = jax.eval_shape(net.init, jax.random.key(0), *example(SPEC))["params"]
    paths = flax.traverse_util.flatten_dict(params, sep="/")
    spread = {path for path in paths if any(p.search(path) for p, _ in TENSOR_RULES)}
    modules = {re.sub(r"^.*_attention", "attention", path).rsplit("/", 1)[0] for path in spread}
    assert modules == {
        *(f"attention/{layer}" for layer in ("query", "key", "value", "out")),
        *(f"conditioning_mlp/{layer}" for layer in ("up", "down", "class_embedding")),
        "head",
    }


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (6,)}, r"data of shape \(height, width, channels\), got \(6,\)"),
        ({"shape": (4, 5, 3)}, r"should be multiples of 2, got data of shape \(4, 5, 3\)"),
        ({"scan_layers": True}, r"\.scan_layers = True should be False: .*UNet's blocks"),
        ({"norm_groups": 3}, r"\.feature_dim = 8 should be a multiple of 3 because .*norm_groups"),
        ({"num_heads": 3}, r"\.feature_dim = 8, 2-fold .* a multiple of 3 .*\.num_heads = 3"),
        ({"ch_mult": ()}, r"\.ch_mult = \(\) should have a number for each level"),
        ({"attention_levels": (3,)}, r"\.attention_levels = \(3,\) should be among 1, 2: the"),
        ({"attention_levels": (4,)}, r"\.attention_levels = \(4,\) should be among 1, 2: the"),
        ({"num_layers": 0}, r"\.num_layers = 0 should be at least 1"),
        ({"attention": "cudnn", "dtype": "bfloat16", "num_heads": 4}, "over num_heads makes 4$"),
    ],
)
def test_check(name, options, message):
    options = {"shape": SPEC.shape} | TINY | options
    spec = dataclasses.replace(SPEC, shape=options.pop("shape"))
    with pytest.raises(UserError, match=r"^config\.network.*" + message) as error:
        make_unet(name, spec, **options)
    assert "\n" not in str(error.value)


def test_heads_up():
    """They are checked where they are used: not without attention on the way up."""
    message = r"^config\.network\.feature_dim = 8, 2-fold .*\.num_heads_up = 3$"
    with pytest.raises(UserError, match=message):
        make_unet("improved_unet", SPEC, **TINY, num_heads_up=3)
    make_unet("improved_unet", SPEC, **TINY | {"attention_levels": ()}, num_heads_up=3)
