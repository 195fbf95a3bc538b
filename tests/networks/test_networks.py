"""What all networks promise, on small ones: `md4jax/networks/base.py` says what that is."""

import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.networks import NETWORKS
from md4jax.networks.attention import attend
from md4jax.networks.layers import ImageInput
from md4jax.options import UserError
from md4jax.processes.base import NetworkSpec

TEXT = {"shape": (6,), "vocab_size": 6, "out_features": 5}
IMAGE = {"shape": (4, 4, 2), "vocab_size": 6, "out_features": 5}
LEVELS = {"feature_dim": 8, "num_layers": 1, "ch_mult": (1, 2), "norm_groups": 4}
LEVELS |= {"attention_levels": (2,), "num_heads": 2}
SMALL = {
    "ddpm_unet": (IMAGE, LEVELS),
    "improved_unet": (IMAGE, LEVELS),
    "mlp": (IMAGE, {"feature_dim": 16, "num_layers": 2, "time_features": 8}),
    "ncsnpp": (IMAGE, LEVELS),
    "t5_encoder": (TEXT, {"feature_dim": 4, "num_layers": 2, "num_heads": 2}),
    "transformer": (TEXT, {"feature_dim": 4, "num_layers": 2, "num_heads": 2}),
    "unet": (IMAGE, {"feature_dim": 8, "num_layers": 2, "norm_groups": 4}),
    "uvit": (
        IMAGE,
        {"feature_dim": 8, "num_layers": 1, "ch_mult": (1, 2), "norm_groups": 4}
        | {"dit_layers": 2, "dit_heads": 2, "dit_hidden": 8},
    ),
}
# (has_time, num_classes)
CONDITIONS = {"time": (True, None), "both": (True, 3), "class": (False, 3), "none": (False, None)}


def compiled(function):
    """`jax.jit` for programs that run once: half the time to compile, the same result."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def make(name, condition="time", vocab_size=6, **options):
    spec, defaults = SMALL[name]
    has_time, num_classes = CONDITIONS[condition]
    spec = {**spec, "vocab_size": vocab_size, "has_time": has_time, "num_classes": num_classes}
    net = NETWORKS[name](spec=NetworkSpec(**spec), **{**defaults, **options})
    net.check()
    return net


def inputs(net, batch=2):
    rng = np.random.default_rng(0)
    spec = net.spec
    if spec.vocab_size is None:
        z_t = rng.normal(size=(batch, *spec.shape)).astype(np.float32)
    else:
        z_t = rng.integers(spec.vocab_size, size=(batch, *spec.shape))
    t = np.linspace(0.1, 0.9, batch, dtype=np.float32) if spec.has_time else None
    label = np.arange(batch) if spec.num_classes else None
    return jax.tree.map(jnp.asarray, (z_t, t, label))


def abstract_params(net):
    return jax.eval_shape(net.init, jax.random.key(0), *inputs(net, 1))["params"]


def random_params(net):
    """Nothing zero, so that every layer matters; about the scale of a trained network."""
    flat = flax.traverse_util.flatten_dict(abstract_params(net), sep="/")
    rng = np.random.default_rng(1)
    for path, leaf in flat.items():
        fan_in = leaf.shape[-2] if len(leaf.shape) > 1 else 4
        scale = 1.0 if path.endswith("norm/scale") else 0.0
        flat[path] = scale + rng.normal(size=leaf.shape, scale=0.5 / math.sqrt(fan_in)).astype(
            np.float32
        )
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def apply(net, params, **kwargs):
    return compiled(lambda p: net.apply({"params": p}, *inputs(net), **kwargs))(params)


def stack_layers(params, like):
    """Parameters of `name_0`, `name_1`, ... as those of the `name` that `like` has."""
    flat = flax.traverse_util.flatten_dict(params)
    stacked = {}
    for path in flax.traverse_util.flatten_dict(like):
        if path in flat:
            stacked[path] = flat[path]
            continue
        for i, name in enumerate(path):
            layers = [flat[k] for n in range(9)
                      if (k := (*path[:i], f"{name}_{n}", *path[i + 1 :])) in flat]  # fmt: skip
            if layers:
                stacked[path] = np.stack(layers)
    return flax.traverse_util.unflatten_dict(stacked)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_fresh_network_gives_zeros(name, condition):
    """The output layer starts at zero, whatever the conditions are."""
    net = make(name, condition)
    shape = jax.eval_shape(net.apply, {"params": abstract_params(net)}, *inputs(net)).shape
    assert shape == (2, *net.spec.shape, net.spec.out_features)

    def last_layer(key):
        return net.init(key, *inputs(net))["params"]["head"]

    for leaf in jax.tree.leaves(compiled(last_layer)(jax.random.key(0))):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_input_matters(name):
    """Time, class, and each part of z_t change the output of its example alone."""
    net = make(name, "both")
    z_t, t, label = inputs(net)
    function = compiled(lambda *args: net.apply({"params": random_params(net)}, *args))
    before = function(z_t, t, label)
    last = (0, *(n - 1 for n in net.spec.shape))
    changes = {
        "z_t": z_t.at[last].set((z_t[last] + 1) % net.spec.vocab_size),
        "t": t.at[0].multiply(0.5),
        "label": label.at[0].add(2),
    }
    for name, value in changes.items():
        after = function(*({"z_t": z_t, "t": t, "label": label} | {name: value}).values())
        # The first entry of the output sees the last of the input.
        assert np.abs(after[0] - before[0]).reshape(-1)[0] > 1e-6
        np.testing.assert_allclose(after[1], before[1], atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_real_input(name):
    net = make(name, vocab_size=None)
    output = apply(net, random_params(net))
    assert output.shape == (2, *net.spec.shape, net.spec.out_features)
    assert np.isfinite(output).all() and np.std(output) > 1e-3


def test_fourier_features():
    """VDM's waves beside each real channel, in float32 whatever the network computes in."""
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 3)), jnp.float32)
    plain = ImageInput(None, 8, jnp.float32).apply({}, z)
    np.testing.assert_array_equal(plain, z)
    features = ImageInput(None, 8, jnp.float32, (6, 7)).apply({}, z)
    assert features.shape == (2, 3, 4, 15)
    low, high = (2.0**k * 2 * np.pi * np.asarray(z, np.float64) for k in (6, 7))
    waves = [np.sin(low), np.sin(high), np.cos(low), np.cos(high)]
    # Angles go up to 3000, where float32 has a spacing of 0.0002.
    np.testing.assert_allclose(features, np.concatenate([z, *waves], axis=-1), atol=5e-4)
    coarse = ImageInput(None, 8, jnp.bfloat16, (6, 7)).apply({}, z)
    assert coarse.dtype == jnp.bfloat16
    np.testing.assert_allclose(coarse.astype(np.float32), features, rtol=0.005)

    net = make("unet", vocab_size=None, fourier_features=(6, 7))
    assert abstract_params(net)["stem"]["kernel"].shape == (3, 3, 2 * 5, 8)
    assert np.isfinite(apply(net, random_params(net))).all()


@pytest.mark.parametrize(
    ("name", "condition", "options"),
    [
        ("transformer", "time", {}),
        ("transformer", "none", {}),
        ("unet", "time", {}),
        ("uvit", "time", {"ch_mult": (1,)}),
    ],
)
def test_scan_and_remat_change_nothing(name, condition, options):
    """Output and gradient, with the layers' parameters stacked."""

    def value_and_gradient(net, params):
        def loss(p):
            output = net.apply({"params": p}, *inputs(net))
            return jnp.sum(output**2), output

        return compiled(jax.grad(loss, has_aux=True))(params)

    plain = make(name, condition, **options)
    other = make(name, condition, scan_layers=True, remat=True, **options)
    params = random_params(plain)
    gradient, output = value_and_gradient(plain, params)
    like = abstract_params(other)
    stacked = stack_layers(params, like)
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, like)
    other_gradient, other_output = value_and_gradient(other, stacked)
    np.testing.assert_allclose(other_output, output, atol=1e-5)
    expected = stack_layers(jax.tree.map(np.asarray, gradient), like)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for got, want in zip(jax.tree.leaves(other_gradient), jax.tree.leaves(expected)):
        np.testing.assert_allclose(got, want, atol=1e-5 * largest)


@pytest.mark.parametrize("name", NETWORKS)
def test_remat_alone(name):
    """Without a scan the parameters are the same ones."""
    plain, other = make(name), make(name, remat=True)
    params = random_params(plain)
    assert abstract_params(plain) == abstract_params(other)
    if name == "transformer":  # The slow ones are covered with the scan.
        np.testing.assert_allclose(apply(other, params), apply(plain, params), atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16(name):
    """Computes in bfloat16, from float32 parameters."""
    net, exact = make(name, dtype="bfloat16"), make(name)
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract_params(net))} == {jnp.dtype("float32")}
    params = random_params(exact)
    output, reference = apply(net, params), apply(exact, params)
    assert output.dtype == jnp.bfloat16
    error = np.sqrt(np.mean((output.astype(np.float32) - reference) ** 2))
    assert 0 < error < 0.05 * np.std(reference)  # 8 bits are 0.004 a rounding.


@pytest.mark.parametrize(
    ("name", "scan_layers"),
    [
        ("improved_unet", False),
        ("transformer", False),
        ("transformer", True),
        ("unet", True),
        ("uvit", True),
    ],
)
def test_dropout(name, scan_layers):
    """On with train=True, by its key; without, the program is that of a network with no dropout."""
    net = make(name, dropout_rate=0.1, scan_layers=scan_layers)
    params = random_params(net)

    def program(net):
        return str(jax.make_jaxpr(lambda p: net.apply({"params": p}, *inputs(net)))(params))

    assert program(net) == program(make(name, scan_layers=scan_layers))
    draw = compiled(
        lambda p, key: net.apply({"params": p}, *inputs(net), train=True, rngs={"dropout": key})
    )
    first, again, second = (draw(params, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 1e-3


def test_dropped_attention():
    """Without a key the probabilities are those of JAX; with one, their mean over draws is."""
    one = jax.random.normal(jax.random.key(0), (3, 1, 5, 2, 4))
    plain = attend(*one)
    np.testing.assert_array_equal(attend(*one, dropout_rate=0.5), plain)
    q, k, v = jnp.broadcast_to(one, (3, 1000, 5, 2, 4))
    many = compiled(lambda key: attend(q, k, v, "xla", 0.5, key))(jax.random.key(1))
    # 40 means of 1000 draws each: 5 standard errors fail by chance for one seed in 40 000.
    error = np.abs(many.mean(0) - plain[0]) / (many.std(0) / np.sqrt(len(many)))
    assert error.max() < 5


TEXT8 = NetworkSpec((256,), 28, 27), {"narrow_embedding": True}
OWT = NetworkSpec((1024,), 50258, 50257), {}
CIFAR10 = NetworkSpec((32, 32, 3), 257, 256), {"num_layers": 32}
IMAGENET = NetworkSpec((64, 64, 3), 257, 256), {}
IMAGENET_CLASSES = NetworkSpec((64, 64, 3), 257, 256, num_classes=1000), {}


def without_time(spec, options):
    return NetworkSpec(spec.shape, spec.vocab_size, spec.out_features, has_time=False), options


# The published models' sizes.
PUBLISHED = [
    ("transformer", TEXT8, {}, 88_734_272),
    ("transformer", without_time(*TEXT8), {}, 85_026_304),
    ("transformer", OWT, {}, 165_857_344),
    ("transformer", without_time(*OWT), {}, 162_149_376),
    ("transformer", OWT, {"num_layers": 24, "num_heads": 16}, 416_240_960),
    ("unet", CIFAR10, {}, 28_427_520),
    ("uvit", IMAGENET, {}, 204_595_712),
    ("uvit", IMAGENET_CLASSES, {}, 205_113_856),
    ("uvit", IMAGENET, {"num_layers": 24, "dit_layers": 12}, 198_279_680),
]


@pytest.mark.parametrize(("name", "published", "options", "count"), PUBLISHED)
def test_published_parameter_counts(name, published, options, count):
    """With our defaults where the published configs say nothing else; nothing is allocated."""
    spec, more = published
    net = NETWORKS[name](spec=spec, **more, **options, scan_layers=True)
    net.check()
    leaves = jax.tree.leaves(abstract_params(net))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("transformer", {"spec": IMAGE}, r"data of shape \(length,\), got \(4, 4, 2\)"),
        ("transformer", {"feature_dim": 5}, "feature_dim = 5 should be even"),
        ("transformer", {"conditioning": "film"}, "conditioning = 'film' should be one of adaln"),
        ("transformer", {"feed_forward": "mlp"}, "feed_forward = 'mlp' should be one of glu"),
        ("transformer", {"attention": "cudnn"}, "needs config.network.dtype = 'bfloat16'"),
        ("transformer", {"attention": "cudnn", "dtype": "bfloat16"}, "feature_dim = 4 makes 4"),
        ("unet", {"spec": TEXT}, r"data of shape \(height, width, channels\), got \(6,\)"),
        ("unet", {"norm_groups": 3}, "feature_dim = 8 should be a multiple of 3 because"),
        ("unet", {"num_heads": 3}, "feature_dim = 8 should be a multiple of 3 because"),
        ("unet", {"dtype": "float16"}, "dtype = 'float16' should be one of float32, bfloat16"),
        ("unet", {"fourier_features": (6,)}, r"fourier_features = \(6,\) should be \(\)"),
        ("unet", {"dropout_rate": 1.0}, "dropout_rate = 1.0 should be at least 0 and below 1"),
        ("uvit", {"ch_mult": (1, 2, 4)}, "height and width should be multiples of 8, got"),
        ("uvit", {"ch_mult": ()}, r"ch_mult = \(\) should have"),
        ("uvit", {"dit_hidden": 6}, "dit_hidden = 6 should be a multiple of 4 because"),
        ("uvit", {"dit_heads": 3}, "dit_hidden = 8 should be a multiple of 3 because"),
    ],
)
def test_check(name, options, message):
    spec = NetworkSpec(**options.get("spec", SMALL[name][0]))
    options = {**SMALL[name][1], **{k: v for k, v in options.items() if k != "spec"}}
    with pytest.raises(UserError, match=r"^config\.network.*" + message) as error:
        NETWORKS[name](spec=spec, **options).check()
    assert "\n" not in str(error.value)


def test_cudnn_needs_a_gpu():
    if jax.default_backend() == "gpu":
        pytest.skip("there is one")
    with pytest.raises(UserError, match="needs a GPU; this is cpu"):
        make("transformer", attention="cudnn", dtype="bfloat16", feature_dim=8)


@pytest.mark.parametrize("name", NETWORKS)
def test_missing_or_unwanted_inputs(name):
    net = make(name, "time")
    z_t, t, _ = inputs(net)
    for args in ((z_t, None), (z_t, t, jnp.zeros(2, int))):
        with pytest.raises(ValueError, match="was made with"):
            jax.eval_shape(net.init, jax.random.key(0), *args)
