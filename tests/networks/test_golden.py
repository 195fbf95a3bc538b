"""Networks and layers against the published ones: `tests/golden/README.md` says where from.

The published parameters, with noise added to every one so that no layer is zero, are put under our
names; the logits must then agree. Tolerances are relative to max(1, |reference|).
"""

import dataclasses
import pathlib
import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md4jax.networks import NETWORKS
from md4jax.networks.attention import apply_rotary, rotary_angles
from md4jax.networks.dit import sincos_positions
from md4jax.networks.layers import time_embedding
from md4jax.processes.base import NetworkSpec

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"

# Published path -> ours: replaced one after the other.
RENAMES = [
    (r"^(Transformer_0|UNet5DWrapper_0/UNet_0)/", ""),
    (r"CondEmbedding_0/dense0", "conditioning_mlp/up"),
    (r"CondEmbedding_0/Dense_0", "conditioning_mlp/down"),
    (r"^Embed_0", "embedding"),
    # Transformers, also the DiT.
    (r"^DiT_0/", "dit/"),
    (r"TransformerBlock_", "blocks_"),
    (r"(blocks_\d+)/Dense_0", r"\1/modulation/dense"),
    (r"RMSNorm_0/scale", "norm_1/norm/scale"),
    (r"RMSNorm_1/scale", "norm_2/norm/scale"),
    (r"^norm_1/", "norm/"),
    (r"/mlp/fc1/", "/feed_forward/up/"),
    (r"/mlp/fc2/", "/feed_forward/down/"),
    (r"/attn/", "/attention/"),
    (r"feed_forward/w1/", "feed_forward/gate/"),
    (r"feed_forward/w2/", "feed_forward/down/"),
    (r"feed_forward/w3/", "feed_forward/up/"),
    (r"attention/wq/", "attention/query/"),
    (r"attention/wk/", "attention/key/"),
    (r"attention/wv/", "attention/value/"),
    (r"attention/wo/", "attention/out/"),
    (r"dit/pos_embed", "dit/positions"),
    (r"dit/x_embedder/proj", "dit/patches"),
    (r"dit/final_layer/Dense_0", "dit/modulation/dense"),
    (r"dit/final_layer/linear", "dit/unpatch"),
    # U-Nets.
    (r"^SelfAttention_0/GroupNorm_0", "middle_attention/norm"),
    (r"^SelfAttention_0/MultiHeadDotProductAttention_0", "middle_attention/attention"),
    (r"CondGroupNorm_0/Dense_0", "norm_1/modulation/dense"),
    (r"CondGroupNorm_1/Dense_0", "norm_2/modulation/dense"),
    (r"GroupNorm_0", "norm_1"),
    (r"GroupNorm_1", "norm_2"),
    (r"(ResBlock_\d+)/Conv_0", r"\1/conv_1"),
    (r"(ResBlock_\d+)/Conv_1", r"\1/conv_2"),
    (r"(ResBlock_\d+)/Dense_1", r"\1/shortcut"),
    (r"^norm_1/", "norm/"),
    (r"^Conv_0", "stem"),
    (r"^Conv_1", "head"),
]
IMAGE = {r"^embedding": "input/embedding"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A published network: our name and options for it, and the renames it alone needs."""

    network: str
    options: dict[str, Any]
    renames: dict[str, str]
    num_classes: int | None = None


def text(renames, **options):
    options = {"feature_dim": 8, "num_layers": 2, "num_heads": 4} | options
    return Case("transformer", options, {f"^{k}/": f"{v}/" for k, v in renames.items()})


def uvit(blocks, num_classes=None, **options):
    options = {"feature_dim": 32, "num_layers": 1, "dit_hidden": 16} | options
    # A block's only Dense is its shortcut: it has adaptive norms.
    renames = {r"(ResBlock_\d+)/Dense_0": r"\1/shortcut"}
    renames |= {f"^ResBlock_{i}/": f"{name}/" for i, name in enumerate(blocks.split())}
    return Case("uvit", options, IMAGE | renames, num_classes)


NARROW = {"Dense_0": "input", "Dense_1": "modulation/dense", "Dense_2": "head"}
CASES = {
    "text_cond_glu": text(NARROW, feed_forward="glu", narrow_embedding=True),
    "text_cond_swiglu": text(NARROW, feed_forward="swiglu", narrow_embedding=True),
    "text_cond_geglu": text(NARROW, feed_forward="geglu", narrow_embedding=True),
    "text_cond_inside_embed": text(
        {"Dense_0": "modulation/dense", "Dense_1": "head"}, feed_forward="glu", conditioning="adaln"
    ),
    "text_nocond": text({"Dense_0": "head"}, feed_forward="glu"),
    "image_unet": Case(
        "unet",
        {"feature_dim": 32, "num_layers": 1},
        IMAGE
        | {r"(ResBlock_\d+)/Dense_0": r"\1/cond"}
        | {
            f"^ResBlock_{i}/": f"{name}/"
            for i, name in enumerate(["down_0", "middle_1", "middle_2", "up_0", "up_1"])
        },
    ),
    "image_uvit": uvit(
        "down_0_0 shrink_0 down_1_0 up_1_0 up_1_1 enlarge_1 up_0_0 up_0_1",
        ch_mult=(1, 2),
        dit_layers=2,
        dit_heads=2,
    ),
    "image_uvit_classcond": uvit(
        "down_0_0 up_0_0 up_0_1", num_classes=2, ch_mult=(1,), dit_layers=1, dit_heads=2
    ),
}


def our_path(published, case):
    path = published
    for pattern, replacement in [*RENAMES, *case.renames.items()]:
        path = re.sub(pattern, replacement, path)
    return path


@pytest.mark.parametrize("tag", CASES)
def test_published_logits(tag):
    case = CASES[tag]
    golden = np.load(GOLDEN / f"md4_net_{tag}.npz")
    z, t, reference = jnp.asarray(golden["in/z"]), golden.get("in/t"), golden["out"]
    t = None if t is None else jnp.asarray(t)
    spec = NetworkSpec(
        shape=z.shape[1:],
        vocab_size=reference.shape[-1] + 1,
        out_features=reference.shape[-1],
        has_time=t is not None,
        num_classes=case.num_classes,
    )
    net = NETWORKS[case.network](spec=spec, **case.options)
    net.check()
    label = jnp.arange(len(z)) if case.num_classes else None

    published = {k.removeprefix("params/"): golden[k] for k in golden if k.startswith("params/")}
    given = {our_path(path, case): value for path, value in published.items()}
    assert len(given) == len(published)
    if case.num_classes:  # Published: the class's vector itself; ours: its row of a table.
        given["conditioning_mlp/class_embedding/embedding"] = golden["in/cond"]
    ours = jax.eval_shape(net.init, jax.random.key(0), z, t, label)["params"]
    ours = flax.traverse_util.flatten_dict(ours, sep="/")
    assert set(given) == set(ours)
    # The published attention has heads as an axis of its own: [f, 1, f] here is [f, f].
    params = {path: given[path].reshape(ours[path].shape) for path in ours}
    params = flax.traverse_util.unflatten_dict(params, sep="/")

    apply = jax.jit(net.apply, compiler_options={"xla_backend_optimization_level": 0})
    output = np.asarray(apply({"params": params}, z, t, label))
    error = np.abs(output - reference) / np.maximum(1, np.abs(reference))
    assert error.max() < (1e-4 if len(spec.shape) == 1 else 5e-4)


@pytest.fixture(scope="module")
def layers():
    return np.load(GOLDEN / "md4_layers.npz")


@pytest.mark.parametrize("width", [64, 65, 128])
def test_time_embedding(layers, width):
    embedding = time_embedding(jnp.asarray(layers["temb/t1000"] / 1000), width)
    # 1000 t is rounded twice, by up to 1e-7 of 1000.
    np.testing.assert_allclose(embedding, layers[f"temb/d{width}"], atol=2e-4)


def test_rotary(layers):
    cos, sin = rotary_angles(12, 16)
    np.testing.assert_allclose(cos, layers["rope/cos_hd16_L12"], atol=2e-6)
    np.testing.assert_allclose(sin, layers["rope/sin_hd16_L12"], atol=2e-6)
    for name in ("q", "k"):
        turned = apply_rotary(jnp.asarray(layers[f"rope/{name}"]))
        np.testing.assert_allclose(turned, layers[f"rope/{name}_out"], atol=1e-5)


def test_rotary_scores_depend_on_distance_only():
    """The reason for RoPE: q_l . k_m is a function of l - m."""
    q, k = (jnp.broadcast_to(x, (1, 9, 1, 8)) for x in np.random.default_rng(0).normal(size=(2, 8)))
    scores = np.einsum("blhd,bmhd->lm", apply_rotary(q), apply_rotary(k))
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], atol=1e-5)


def test_sincos_positions(layers):
    np.testing.assert_allclose(sincos_positions(4, 4, 32), layers["sincos2d/d32_g4"], atol=2e-6)
