"""The networks of star-shaped diffusion: published sizes, inputs of every kind, and their parts.

What all networks promise is tested in `test_networks.py` too.
"""

import dataclasses
import functools
import math
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.networks import NETWORKS
from md4jax.networks.layers import time_embedding
from md4jax.networks.ncsnpp import PixelAttention, ResBlock
from md4jax.networks.t5_encoder import BUCKETS, MAX_DISTANCE, EncoderBlock, relative_buckets
from md4jax.options import UserError
from md4jax.processes.base import NetworkSpec
from md4jax.training.partitioning import TENSOR_RULES

SIMPLEX, MATRIX = NetworkSpec((3,), None, 1), NetworkSpec((2, 2), None, 1, out_shape=(3,))
IMAGE, TEXT = NetworkSpec((2, 4, 3), None, 2), NetworkSpec((5, 4), None, 1)
BOTH, NEITHER = {"num_classes": 3}, {"has_time": False}
SMALL = {
    "mlp": (MATRIX, {"feature_dim": 16, "num_layers": 2, "time_features": 6}),
    "ncsnpp": (
        IMAGE,
        {"feature_dim": 8, "num_layers": 1, "ch_mult": (1, 2), "attention_levels": (2,)}
        | {"norm_groups": 4},
    ),
    "t5_encoder": (TEXT, {"feature_dim": 4, "num_layers": 2, "num_heads": 2}),
}
ONE_LEVEL = {"ncsnpp": {"ch_mult": (1,), "attention_levels": ()}}  # Compiles faster.
IDS = {
    "mlp": NetworkSpec((2, 3), 6, 5),
    "ncsnpp": NetworkSpec((2, 4, 3), 6, 5),
    "t5_encoder": NetworkSpec((5,), 6, 5),
}


def compiled(function):
    """`jax.jit` for programs that run once: half the time to compile, the same result."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def make(name, spec=None, **options):
    net = NETWORKS[name](spec=spec or SMALL[name][0], **{**SMALL[name][1], **options})
    net.check()
    return net


def inputs(net, batch=2):
    rng, spec = np.random.default_rng(0), net.spec
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
    """Nothing zero, so that every layer matters."""
    rng = np.random.default_rng(1)

    def draw(leaf):
        fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        return (rng.normal(size=leaf.shape) / math.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(draw, abstract_params(net))


def apply(net, params, *args, **kwargs):
    return compiled(lambda p: net.apply({"params": p}, *(args or inputs(net)), **kwargs))(params)


@pytest.mark.parametrize(
    ("name", "spec", "count"),
    [
        ("mlp", SIMPLEX, 807_939),
        ("mlp", MATRIX, 808_451),
        ("ncsnpp", NetworkSpec((32, 32, 3), None, 1), 61_804_419),
        ("t5_encoder", NetworkSpec((256, 27), None, 1), 84_995_739),
    ],
)
def test_published_parameter_counts(name, spec, count):
    """With our defaults; nothing is allocated."""
    net = NETWORKS[name](spec=spec)
    net.check()
    leaves = jax.tree.leaves(abstract_params(net))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


# Computed with the published networks, at four times: the sine and the cosine of the second
# frequency, by width: of the MLP, the U-Net and the encoder.
TIMES = [0.999, 10.5, 123.4, 999.0]
EMBEDDED = {
    32: ([0.5146748, -0.5653894, -0.7221279, 0.2709892],
         [0.8573855, 0.8248242, -0.6917595, 0.9625824]),
    128: ([0.7598774, 0.3456201, -0.1966792, 0.7267159],
          [0.6500664, -0.9383745, 0.9804679, -0.6869381]),
    768: ([0.8278493, -0.7350438, 0.8854061, 0.9797149],
          [0.5609506, -0.6780196, 0.4648182, 0.2003965]),
}  # fmt: skip


@pytest.mark.parametrize("width", EMBEDDED)
def test_time_embedding(width):
    """All sines stand before the cosines."""
    embedding = np.asarray(time_embedding(jnp.asarray(TIMES, jnp.float32) / 1000, width))
    # An angle of up to 1000 is rounded three times, by up to 2^-24 of itself.
    np.testing.assert_allclose(embedding[:, 1 :: width // 2].T, EMBEDDED[width], atol=2e-4)
    first = [np.sin(TIMES), np.cos(TIMES)]
    np.testing.assert_allclose(embedding[:, :: width // 2].T, first, atol=2e-4)


@pytest.mark.parametrize(
    ("kind", "conditions"),
    [("real", {}), ("ids", BOTH), ("real", BOTH | NEITHER), ("ids", NEITHER)],
)
@pytest.mark.parametrize("name", SMALL)
def test_fresh_network(name, kind, conditions):
    """Shapes of the output; the last layer starts at zero."""
    spec = dataclasses.replace(SMALL[name][0] if kind == "real" else IDS[name], **conditions)
    net = make(name, spec)
    output, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), *inputs(net))
    assert output.shape == (2, *spec.output_shape)

    def last_layer(key):
        return net.init(key, *inputs(net))["params"]["head"]

    if conditions == BOTH:  # It is the same layer in all cases.
        head = compiled(last_layer)(jax.random.key(0))
        assert set(head) == {"kernel", "bias"}
        for leaf in head.values():
            np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("name", SMALL)
def test_every_input_matters(name):
    """Time, class, and the last entry of real values change the output of their example alone."""
    net = make(name, dataclasses.replace(SMALL[name][0], **BOTH))
    params = random_params(net)
    function = compiled(lambda *args: net.apply({"params": params}, *args))
    z_t, t, label = inputs(net)
    before = function(z_t, t, label)
    assert before.shape == (2, *net.spec.output_shape)
    last = (0, *(n - 1 for n in net.spec.shape))
    for args in (
        (z_t.at[last].add(1), t, label),
        (z_t, t.at[0].multiply(0.5), label),
        (z_t, t, label.at[0].add(2)),
    ):
        after = function(*args)
        # The first entry of the output sees the last of the input.
        assert np.abs(after[0] - before[0]).reshape(-1)[0] > 1e-6
        np.testing.assert_allclose(after[1], before[1], atol=1e-5)


@functools.cache
def exact_output(name):
    """Of `random_params`, in float32."""
    net = make(name, **ONE_LEVEL.get(name, {}))
    return apply(net, random_params(net))


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16(name):
    """Computes in bfloat16, from float32 parameters."""
    net = make(name, dtype="bfloat16", **ONE_LEVEL.get(name, {}))
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract_params(net))} == {jnp.dtype("float32")}
    output, reference = apply(net, random_params(net)), exact_output(name)
    assert output.dtype == jnp.bfloat16
    error = np.sqrt(np.mean((output.astype(np.float32) - reference) ** 2))
    assert 0 < error < 0.05 * np.std(reference)  # 8 bits are 0.004 a rounding.


def test_remat_of_the_unet():
    """The same parameters and output."""
    net = make("ncsnpp", remat=True, **ONE_LEVEL["ncsnpp"])
    params = random_params(net)
    np.testing.assert_allclose(apply(net, params), exact_output("ncsnpp"), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "scan_layers"),
    [("mlp", False), ("mlp", True), ("ncsnpp", False), ("t5_encoder", True)],
)
def test_dropout(name, scan_layers):
    """On with train=True, by its key; without, the program is that of a network with no dropout."""
    options = ONE_LEVEL.get(name, {}) | {"scan_layers": scan_layers}
    net = make(name, dropout_rate=0.1, **options)
    params = random_params(net)

    def program(net):
        return str(jax.make_jaxpr(lambda p: net.apply({"params": p}, *inputs(net)))(params))

    assert program(net) == program(make(name, **options))
    draw = compiled(
        lambda p, key: net.apply({"params": p}, *inputs(net), train=True, rngs={"dropout": key})
    )
    first, again, second = (draw(params, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 1e-3


def stack_layers(params, name):
    """Parameters of `name_0`, `name_1`, ... as those of one `name`."""
    layers = [params[key] for key in sorted(params) if re.fullmatch(rf"{name}_\d", key)]
    rest = {key: value for key, value in params.items() if not key.startswith(f"{name}_")}
    return rest | {name: jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}


@pytest.mark.parametrize(("name", "layers"), [("mlp", "layers"), ("t5_encoder", "blocks")])
def test_scan_and_remat_change_nothing(name, layers):
    """Output and gradient, with the layers' parameters stacked."""

    def gradient_and_output(net, params):
        def loss(params):
            output = net.apply({"params": params}, *inputs(net))
            return jnp.sum(output**2), output

        return compiled(jax.grad(loss, has_aux=True))(params)

    plain, other = make(name), make(name, remat=True, scan_layers=True)
    params = random_params(plain)
    stacked = stack_layers(params, layers)
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, abstract_params(other))
    gradient, output = gradient_and_output(plain, params)
    other_gradient, other_output = gradient_and_output(other, stacked)
    np.testing.assert_allclose(other_output, output, atol=1e-5)
    expected = stack_layers(jax.tree.map(np.asarray, gradient), layers)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for got, want in zip(jax.tree.leaves(other_gradient), jax.tree.leaves(expected)):
        np.testing.assert_allclose(got, want, atol=1e-5 * largest)


def uniform(leaf, scale):
    """Whether a kernel is uniform with variance `scale` over the mean of fan-in and fan-out."""
    fan = math.prod(leaf.shape[:-2]) * (leaf.shape[-2] + leaf.shape[-1]) / 2
    unit = np.abs(leaf) / math.sqrt(3 * scale / fan)
    # The mean of |u| is 1/2, with a deviation of 1/sqrt(12).
    return unit.max() <= 1 + 1e-6 and abs(unit.mean() - 0.5) < 5 / math.sqrt(12 * leaf.size)


def test_fresh_unet_blocks():
    """They halve the variance of their input: the second branch is zero. Kernels are uniform."""
    x, cond = jax.random.normal(jax.random.key(0), (2, 4, 4, 32)), jnp.ones((2, 64))
    for block, args in (
        (ResBlock(32, 4, jnp.float32), (cond,)),
        (PixelAttention(1, 4, jnp.float32, "xla"), ()),
    ):
        output, variables = compiled(block.init_with_output)(jax.random.key(1), x, *args)
        params = variables["params"]
        np.testing.assert_allclose(output, x / math.sqrt(2), rtol=1e-6)
        for name, module in params.items():
            if "norm" in name:
                continue
            np.testing.assert_array_equal(module["bias"], 0)
            if name in ("conv_2", "out"):
                np.testing.assert_array_equal(module["kernel"], 0)
            else:
                assert uniform(module["kernel"], 0.1 if name in ("query", "key", "value") else 1)
    for resample, side in (("shrink", 2), ("enlarge", 8)):
        block = ResBlock(32, 4, jnp.float32, resample=resample)
        output, variables = jax.eval_shape(block.init_with_output, jax.random.key(1), x, cond)
        assert output.shape == (2, side, side, 32)
        assert variables["params"]["shortcut"]["kernel"].shape == (32, 32)


def test_fresh_encoder_block():
    """Deviations of the initial weights: one over the root of the fan-in, less for queries."""
    block = EncoderBlock(4, jnp.float32)
    init = compiled(lambda key: block.init(key, jnp.ones((1, 3, 32)), jnp.zeros((4, 3, 3))))
    for path, leaf in flax.traverse_util.flatten_dict(init(jax.random.key(0))["params"]).items():
        if path[-1] == "kernel":
            unit = np.std(leaf) * math.sqrt(leaf.shape[0] * (8 if "query" in path else 1))
            # Within 5 standard errors.
            np.testing.assert_allclose(unit, 1, atol=5 / math.sqrt(2 * leaf.size))


def test_relative_buckets():
    """By hand for 8 buckets up to 16: 0, 1 alone, then from 2 and from 2 x 8^(1/2) = 5.7."""
    half = [0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    buckets = relative_buckets(20, 8, 16)
    np.testing.assert_array_equal(buckets[:, 0], half)
    np.testing.assert_array_equal(buckets[0], [0] + [4 + n for n in half[1:]])
    # T5's own: from 8 on by 2^(1/2), so 8, 11.3, 16, 22.6, 32, 45.3, 64 and 90.5.
    buckets = relative_buckets(300, BUCKETS, MAX_DISTANCE)
    starts = [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]
    for bucket, (start, stop) in enumerate(zip(starts, [*starts[1:], 300])):
        np.testing.assert_array_equal(buckets[start:stop, 0], bucket)
        np.testing.assert_array_equal(buckets[0, max(start, 1) : stop], bucket + 16)
    # It depends on the distance only.
    np.testing.assert_array_equal(buckets[1:, 1:], buckets[:-1, :-1])


def test_relative_bias():
    """Of positions attention knows the distances alone."""
    net = make("t5_encoder")
    params = random_params(net)
    x = jax.random.normal(jax.random.key(0), (1, 6, 8))
    table = jnp.asarray(params["relative_bias"])

    @compiled
    def encode(x, table):
        bias = table[relative_buckets(6, BUCKETS, MAX_DISTANCE)].transpose(2, 0, 1)
        block = EncoderBlock(net.num_heads, jnp.float32)
        return block.apply({"params": params["blocks_0"]}, x, bias)

    order = np.array([3, 0, 5, 1, 4, 2])
    plain = encode(x, table)
    assert np.abs(encode(x[:, order], table) - plain[:, order]).max() > 1e-3
    # A constant cancels in the softmax; without a bias any order will do.
    np.testing.assert_allclose(encode(x, table + 3), plain, atol=1e-5)
    flat = jnp.ones_like(table)
    np.testing.assert_allclose(encode(x[:, order], flat), encode(x, flat)[:, order], atol=1e-5)
    # Read backwards, keys before are keys after; bucket 0 is the query itself.
    swapped = jnp.concatenate([table[:1], table[17:], table[:1], table[1:16]])
    np.testing.assert_allclose(encode(x[:, ::-1], swapped)[:, ::-1], plain, atol=1e-5)


def test_distributions_and_ids():
    """A distribution that is sure of its token is that token."""
    ids, real = make("t5_encoder", NetworkSpec((5,), 4, 4)), make("t5_encoder")
    z_t, t, _ = inputs(ids)
    params = random_params(ids)
    assert abstract_params(real) == abstract_params(ids)
    output = apply(real, params, jax.nn.one_hot(z_t, 4), t)
    np.testing.assert_allclose(output[..., 0], apply(ids, params, z_t, t), atol=1e-5)


def test_time_and_class_are_one_token():
    """Sines and cosines of the time, and the class's vector, are added to each other."""
    spec = NetworkSpec((5,), 4, 1, num_classes=2)
    net = make("t5_encoder", spec)
    timeless = make("t5_encoder", dataclasses.replace(spec, has_time=False))
    z_t, t, label = inputs(net)
    params = random_params(net)
    token = time_embedding(t, 8) + params["class_embedding"]["embedding"][label]
    other = params | {"class_embedding": {"embedding": token}}
    output = apply(timeless, other, z_t, None, jnp.arange(2))
    np.testing.assert_allclose(output, apply(net, params, z_t, t, label), atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_kernels_spread_over_devices(name):
    """Pairs of layers that open and close a width have names that say so; nothing else has."""
    net = make(name, dataclasses.replace(IDS[name], **BOTH))
    paths = flax.traverse_util.flatten_dict(abstract_params(net), sep="/")
    spread = {path for path in paths if any(p.search(path) for p, _ in TENSOR_RULES)}
    spread = {re.sub(r"^.*_attention|^blocks_\d/attention", "attention", path) for path in spread}
    modules = {re.sub(r"^blocks_\d/", "", path).rsplit("/", 1)[0] for path in spread}
    attention = {f"attention/{layer}" for layer in ("query", "key", "value", "out")}
    expected = {
        "mlp": {"class_embedding", "head"},
        "ncsnpp": {"head", *attention, "input/embedding"}
        | {f"conditioning_mlp/{layer}" for layer in ("up", "down", "class_embedding")},
        "t5_encoder": {"head", "embedding", "class_embedding", *attention}
        | {"feed_forward/up", "feed_forward/down"},
    }
    assert modules == expected[name]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"attention": "cudnn"}, r"\.attention = 'cudnn' should be 'xla', the default: MLP"),
        ("ncsnpp", {"spec": TEXT}, r": NCSNpp needs data of shape \(height, width, channels\)"),
        ("ncsnpp", {"feature_dim": 6, "norm_groups": 3}, r"\.feature_dim = 6 .* a multiple of 4,"),
        ("ncsnpp", {"scan_layers": True}, r"\.scan_layers = True should be False: NCSNpp's blocks"),
        ("ncsnpp", {"spec": MATRIX}, r": NCSNpp puts out numbers at each .* for \(3,\): choose"),
        ("t5_encoder", {"spec": MATRIX}, r": T5Encoder puts out numbers at each position"),
        ("t5_encoder", {"spec": NetworkSpec((5, 4), 4, 1)}, r": .* ids of shape \(length,\), got"),
        ("t5_encoder", {"spec": IMAGE}, r": T5Encoder needs real values of shape \(length,\) or "),
        ("t5_encoder", {"attention": "cudnn", "dtype": "bfloat16"}, r"\.attention = .* a learned"),
    ],
)
def test_check(name, options, message):
    with pytest.raises(UserError, match=r"^config\.network" + message) as error:
        make(name, **options)
    assert "\n" not in str(error.value)


def test_output_shape():
    """A process may ask for numbers without positions; only the MLP gives them."""
    assert SIMPLEX.output_shape == (3, 1) and MATRIX.output_shape == (3,)
    takes = {name for name in NETWORKS if NETWORKS[name].takes_any_shape}
    assert takes == {"mlp"}
