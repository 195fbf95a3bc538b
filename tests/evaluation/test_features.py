"""evaluation/features: published networks against NumPy, float64; resizing; what is refused."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import published_towers
import pytest
from published import check_output

from md4jax.convert.weights import flat, pieces
from md4jax.evaluation.features import FEATURES
from md4jax.evaluation.features import clip as clip_lib
from md4jax.evaluation.features import inception as inception_lib
from md4jax.evaluation.features.base import ClassFeatures, Features
from md4jax.evaluation.features.resize import resize, resize_weights
from md4jax.networks.towers.clip import ImageTower
from md4jax.networks.towers.inception import InceptionV3
from md4jax.options import UserError
from md4jax.processes.base import DataSpec

COLOUR, GREY = DataSpec((9, 7, 3), 256), DataSpec((8, 8, 1), 17)
# Wide enough that blocks of 11, 5 and 2 pixels a side follow: kernels of 7 go over both edges.
DIVISOR, INCEPTION_SIZE = 16, 107
CLIP_SIZES = dict(width=16, layers=2, heads=2, patch=4, features=5)
CLIP_SIZE = 12
TOWER = ImageTower(width=16, num_layers=2, num_heads=2, patch=4, features=5)


def images(spec, count=2):
    return np.random.default_rng(0).random((count, *spec.shape), np.float32)


# Resizing.


def at(x, place, kernel):
    """One output of a row, from the rule: neighbours over the edge are the edge's."""
    clamp = lambda i: x[min(max(i, 0), len(x) - 1)]
    left = math.floor(place)
    t = place - left
    if kernel == "bilinear":
        return (1 - t) * clamp(left) + t * clamp(left + 1)
    # The four weights of cubic convolution as polynomials of t (R. Keys 1981), a = -3/4.
    a = -0.75
    weights = (
        a * t * (1 - t) ** 2,
        (a + 2) * t**3 - (a + 3) * t**2 + 1,
        (a + 2) * (1 - t) ** 3 - (a + 3) * (1 - t) ** 2 + 1,
        a * (1 - t) * t**2,
    )
    return sum(w * clamp(left + i - 1) for i, w in enumerate(weights))


def resized(x, size, kernel):
    """`[b, h, w, c]`, pixel by pixel."""

    def along(x):
        n = len(x)
        return np.stack([at(x, (i + 0.5) * n / size - 0.5, kernel) for i in range(size)])

    x = np.moveaxis(along(np.moveaxis(np.asarray(x, np.float64), 1, 0)), 0, 1)
    return np.moveaxis(along(np.moveaxis(x, 2, 0)), 0, 2)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_resizing(kernel):
    """Up, down and one pixel; float32 sums of at most 16 products of numbers of about 1."""
    x = images(COLOUR)
    for size in (1, 4, 7, 23):
        ours = resize(jnp.asarray(x), size, kernel)
        np.testing.assert_allclose(ours, resized(x, size, kernel), rtol=0, atol=1e-5 / 4)
    assert (resize_weights(7, 7, kernel) == np.eye(7)).all()


def test_resizing_as_pytorch_does():
    """Golden: `torch.nn.functional.interpolate` of PyTorch 2.15 in float64, align_corners=False."""
    for kernel, size, golden in (
        ("bilinear", 3, [1 / 3, 3.0, 4.0]),
        ("bilinear", 8, [0.0, 0.4375, 1.125, 2.375, 2.6875, 2.0625, 3.6875, 5.0]),
        ("bicubic", 3, [0.20370370370370305, 3.0, 4.0]),
        (
            "bicubic",
            8,
            [-0.09283447265625, 0.268310546875, 1.143310546875, 2.576416015625, 2.77813720703125,
             1.93157958984375, 3.62982177734375, 5.27850341796875],
        ),
    ):  # fmt: skip
        ours = resize_weights(5, size, kernel) @ np.array([0.0, 1, 3, 2, 5])
        np.testing.assert_allclose(ours, golden, rtol=1e-6, atol=1e-6)


# Inception.


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A narrow one from a file of published names, and what NumPy makes of it."""
    reference = published_towers.Inception(DIVISOR)
    outputs = reference(2 * resized(images(COLOUR), INCEPTION_SIZE, "bilinear") - 1)
    path = tmp_path_factory.mktemp("inception") / "pt_inception.npz"
    np.savez(path, **reference.arrays)
    return str(path), outputs


def load_inception(path, spec):
    tower = InceptionV3(DIVISOR)
    return inception_lib.Inception.load(path, spec, tower=tower, size=INCEPTION_SIZE)


def test_inception(inception):
    """Features, and logarithms of probabilities, in one compiled pass."""
    path, (features, logits) = inception
    ours = load_inception(path, COLOUR)
    assert isinstance(ours, ClassFeatures) and ours.dim == features.shape[-1] == 128
    assert ours.fingerprint and "grey" not in ours.rule
    x = jnp.asarray(images(COLOUR))

    @jax.jit
    def both(params):
        log_probabilities = jnp.log(ours.probabilities(params, x))
        return jnp.concatenate([ours(params, x), log_probabilities], axis=1)

    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    check_output(both, ours.params, np.concatenate([features, log_probabilities], axis=1))


def test_inception_has_the_published_arrays():
    """All names and shapes, in full size, and how many numbers there are.

    torchvision gives 27,161,264 parameters for its network of 1,000 classes with a second head;
    the head, not in FID's, has 3,326,696, and there are 8 classes more, of 2,049 numbers.
    """
    reference = published_towers.Inception(1, published_towers.no_numbers, shapes_only=True)
    assert reference(np.broadcast_to(0.0, (1, 299, 299, 3)))[0].shape == (1, 2048)
    arrays = reference.arrays
    assert len(arrays) == 94 * 6 + 2
    learned = [x for n, x in arrays.items() if n.endswith(("weight", "bias"))]
    second_head = 768 * 128 + 128 * 768 * 25 + 2 * (128 + 768) + 769 * 1000
    assert sum(x.size for x in learned) == 27_161_264 - second_head + 8 * 2049 == 23_850_960

    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    key = jax.random.key(0)
    (features, logits), ours = jax.eval_shape(inception_lib.PUBLISHED.init_with_output, key, x)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    fitted = pieces(inception_lib.origins(ours), ours, ".")
    # All but the counts of batches and the bias that is not used.
    unused = {n for n in arrays if n.endswith("num_batches_tracked")} | {"fc.bias"}
    assert {piece.name for piece in fitted.values()} == set(arrays) - unused
    for path, leaf in flat(ours).items():
        assert fitted[path].layout(arrays[fitted[path].name]).shape == leaf.shape, path


# CLIP.


def to_hugging_face(arrays):
    """OpenAI's arrays as Hugging Face names them."""
    found = {}
    for name, x in arrays.items():
        name = name.removeprefix("visual.").replace("transformer.resblocks", "encoder.layers")
        for ours, theirs in (
            ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("c_fc", "fc1"), ("c_proj", "fc2"),
            ("attn", "self_attn"), ("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm"),
            ("class_embedding", "embeddings.class_embedding"),
            ("positional_embedding", "embeddings.position_embedding.weight"),
            ("conv1", "embeddings.patch_embedding"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        if "in_proj_" in name:
            for part, piece in zip("qkv", np.split(x, 3)):
                found[f"vision_model.{name.replace('in_proj_', f'{part}_proj.')}"] = piece
        elif name == "proj":
            found["visual_projection.weight"] = x.T
        else:
            found[f"vision_model.{name}"] = x
    return found


def write_safetensors(path, arrays):
    header, content = {}, b""
    for name, x in arrays.items():
        raw = x.astype("<f4").tobytes()
        place = [len(content), len(content) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": place}
        content += raw
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + content)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Files of both names, with arrays of the text's half; and the network in NumPy."""
    folder = tmp_path_factory.mktemp("clip")
    reference = published_towers.Clip(size=CLIP_SIZE, **CLIP_SIZES)
    other = {"logit_scale": np.ones(()), "positional_embedding": np.ones((3, 2))}
    np.savez(folder / "openai.npz", **reference.arrays, **other)
    other = {"text_model.final_layer_norm.bias": np.ones(2), "logit_scale": np.ones(())}
    other |= {"vision_model.embeddings.position_ids": np.arange(3)[None]}
    write_safetensors(folder / "model.safetensors", to_hugging_face(reference.arrays) | other)
    return folder, reference


def load_clip(path, spec):
    return clip_lib.Clip.load(str(path), spec, tower=TOWER, size=CLIP_SIZE)


def clip_reference(reference, x):
    """In [0, 1], of any shape."""
    x = resized(np.broadcast_to(x, (*x.shape[:3], 3)), CLIP_SIZE, "bicubic")
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    return reference((x - mean) / deviation)


def test_clip(clip):
    """Both files are one network; its output; its derivative, by central differences."""
    folder, reference = clip
    ours = load_clip(folder / "openai.npz", COLOUR)
    same = load_clip(folder / "model.safetensors", COLOUR)
    assert isinstance(ours, Features) and not isinstance(ours, ClassFeatures)
    assert (ours.dim, ours.num_classes) == (5, None)
    assert same.fingerprint == ours.fingerprint and same.rule == ours.rule
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), ours.params, same.params)))

    x = images(COLOUR)
    way = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    moved = jax.jit(
        lambda params: jax.jvp(lambda z: ours(params, z), (jnp.asarray(x),), (jnp.asarray(way),))
    )
    check_output(lambda params: moved(params)[0], ours.params, clip_reference(reference, x))
    h = 1e-5  # float64: the difference is right to about h^2.
    ends = [clip_reference(reference, x.astype(np.float64) + s * h * way) for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * h)
    check_output(lambda params: moved(params)[1], ours.params, slope)


def test_clip_of_grey_images(clip):
    folder, reference = clip
    ours = load_clip(folder / "openai.npz", GREY)
    assert "grey as three equal channels" in ours.rule
    x, compiled = images(GREY), jax.jit(ours)
    check_output(lambda params: compiled(params, jnp.asarray(x)), ours.params,
                 clip_reference(reference, x))  # fmt: skip


def test_clip_has_the_published_arrays():
    """In full size: as OpenAI's and Hugging Face's names go, ours are the same numbers.

    OpenAI's ViT-B/32 has 151,277,313 parameters, of which 63,428,097 are the text's half.
    """
    arrays = published_towers.Clip(draw=published_towers.no_numbers).arrays
    assert sum(x.size for x in arrays.values()) == 151_277_313 - 63_428_097
    abstract = clip_lib.abstract_params(clip_lib.PUBLISHED)
    for named, origins in (
        (arrays, clip_lib.openai_origins),
        (to_hugging_face(arrays), clip_lib.hugging_face_origins),
    ):
        fitted = pieces(origins(clip_lib.PUBLISHED), abstract, ".")
        assert {piece.name for piece in fitted.values()} == set(named)
        for path, leaf in flat(abstract).items():
            assert fitted[path].layout(named[fitted[path].name]).shape == leaf.shape, path


def test_no_product_is_cut_short(clip):
    """Each matrix product and convolution asks for all bits of float32."""
    folder, _ = clip
    ours = load_clip(folder / "openai.npz", COLOUR)
    text = str(jax.make_jaxpr(ours)(ours.params, jnp.asarray(images(COLOUR))))
    products = text.count("dot_general[") + text.count("conv_general_dilated[")
    assert products > 10 and text.count("(Precision.HIGHEST, Precision.HIGHEST)") == products


# What there is no network for.


def test_pixels():
    pixels = FEATURES["pixels"].load(None, COLOUR)
    assert isinstance(pixels, Features) and (pixels.params, pixels.fingerprint) == ({}, "")
    x = jnp.asarray(images(COLOUR))
    assert (pixels(pixels.params, x) == x.reshape(2, -1)).all() and pixels.dim == 189


def other_network(arrays):
    return {f"visual.layer1.{i}": x for i, x in enumerate(arrays.values())} | {
        "visual.class_embedding": np.ones(16)
    }


@pytest.mark.parametrize(
    ("name", "path", "spec", "words"),
    [
        ("pixels", "a.npz", COLOUR, "config.eval.weights = 'a.npz' should be None"),
        ("inception", None, COLOUR, "config.eval.weights is missing: it should be pt_inception-"),
        ("clip", "none/a.npz", COLOUR, "'none/a.npz': there is no such file; it should be weights"),
        ("classifier", None, GREY, "python -m md4jax.evaluation.features.classifier"),
        ("clip", None, DataSpec((12,), 27), "config.data has integer data of shape (12,)"),
        ("pixels", None, DataSpec((3, 3, 2), 9), "integer data of shape (3, 3, 2)"),
        ("clip", None, DataSpec((3, 3, 1), None), "real data of shape (3, 3, 1)"),
    ],
)
def test_what_is_refused(name, path, spec, words):
    with pytest.raises(UserError) as error:
        FEATURES[name].load(path, spec)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_network(clip, inception, tmp_path):
    """One line says what is left over and what is missing, and names the key."""
    folder, reference = clip
    np.savez(tmp_path / "resnet.npz", **other_network(reference.arrays))
    for load, path, words in (
        (load_clip, inception[0], "has neither visual.class_embedding nor vision_model."),
        (load_clip, tmp_path / "resnet.npz", "32 arrays that the network has no place for"),
        (load_clip, tmp_path / "resnet.npz", "31 arrays that the network wants are not in it"),
        (load_inception, folder / "openai.npz", "does not fit Inception-v3 of pytorch-fid: it has"),
    ):
        with pytest.raises(UserError) as error:
            load(str(path), COLOUR)
        message = str(error.value)
        assert message.startswith(f"config.eval.weights = '{path}'")
        assert words in message and "\n" not in message
    with pytest.raises(UserError, match=r"^config\.finetune\.weights = .* of another shape"):
        path, key = str(folder / "openai.npz"), "config.finetune.weights"
        clip_lib.Clip.load(path, COLOUR, key, ImageTower(32, 2, 2, 4, 5), CLIP_SIZE)
