"""Small published networks whose outputs are stored, and the parameters that they had.

The parameters follow a rule of their names and shapes, so only these are stored; the converter puts
them under our names.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import string
import zlib
from collections.abc import Callable, Iterable

import jax
import ml_collections
import numpy as np
import tiny

import md4jax
from md4jax.convert.weights import Origin, pieces
from md4jax.data.prepare.image_arrays import ImageArrays
from md4jax.data.prepare.one_text import OneText
from md4jax.data.prepare.run import prepare

GOLDEN = pathlib.Path(__file__).parent / "golden"
ALPHABET = string.ascii_lowercase + " "


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def torch_rule(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) > 1:
        return draw(name, shape) / math.sqrt(math.prod(shape[1:]))
    return name.endswith("weight") + 0.1 * draw(name, shape)


def flax_rule(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of VDM: with its schedule's first ends, -13.3 and 5."""
    if len(shape) > 1:
        return draw(name, shape) / math.sqrt(math.prod(shape[:-1]))
    center = {"gamma/w": 18.3, "gamma/b": -13.3}.get(name, name.endswith("scale"))
    return center + 0.1 * draw(name, shape)


def parameters(names: Iterable[str], rule: Callable = torch_rule) -> dict[str, np.ndarray]:
    """By name, float32; `names` are of the form name|shape."""
    found = {}
    for name, shape in (str(line).split("|") for line in names):
        value = rule(name, tuple(map(int, shape.split(","))))
        found[name] = value.astype(np.float32)
    return found


def converted(
    origins: dict[str, Origin], like: dict, arrays: dict[str, np.ndarray], separator: str = "."
) -> dict:
    """The arrays as our parameters; all of them have a place, and the shapes are right."""
    fitted = pieces(origins, like, separator)
    assert {piece.name for piece in fitted.values()} == set(arrays)
    leaves = [p.layout(arrays[p.name]) for p in fitted.values()]
    params = jax.tree.unflatten(jax.tree.structure(like), leaves)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, like)
    return params


def rms(x: np.ndarray) -> float:
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))


def check_output(function: Callable, params: dict, reference: np.ndarray) -> None:
    """The output is as close to the reference as two orders of float32 operations get.

    How far rounding alone moves the output is measured: each parameter is changed by half a last
    place, 2^-24 of itself, up or down. Published and ours each round once an operation, so they
    may differ by a few times that; 4 is allowed, where the wrong epsilon of a norm makes 16.
    """
    output = np.asarray(function(params))
    assert output.shape == reference.shape
    rng = np.random.default_rng(0)
    rounded = jax.tree.map(
        lambda p: (p * (1 + 2.0**-24 * rng.choice([-1, 1], size=p.shape))).astype(np.float32),
        params,
    )
    rounding = rms(np.asarray(function(rounded)) - output)
    assert 1e-8 < rounding < 2e-6 * rms(reference)
    assert rms(output - reference) < 4 * rounding


LEVELS = dict(feature_dim=32, num_layers=1, ch_mult=(1, 2), attention_levels=(2,))
NETWORK = LEVELS | dict(num_heads=1, norm_groups=32)


@dataclasses.dataclass(frozen=True)
class Case:
    """A small published network: the file and tag of its names, and a config that it fits."""

    golden: str
    tag: str
    source: str
    config: str
    changes: dict
    rule: Callable = torch_rule


CASES = {
    "improved_diffusion": Case(
        "gaussian_unets", "improved_ssn", "improved_diffusion",
        "configs/iddpm/imagenet64_class_conditional.py",
        {"network": NETWORK | dict(num_heads=4)},
    ),
    "ddpm": Case("gaussian_unets", "ddim", "ddpm", "configs/ddpm/cifar10.py", {"network": NETWORK}),
    "ncsnpp": Case(
        "star_networks", "ncsnpp", "star_shaped", "configs/star_shaped/cifar10_gaussian.py",
        {"network": NETWORK | dict(feature_dim=8, num_layers=2, norm_groups=8)},
    ),
    "encoder": Case(
        "star_networks", "t5_encoder", "star_shaped", "configs/star_shaped/text8_categorical.py",
        {
            "network": dict(feature_dim=4, num_layers=2, num_heads=4),
            "data": dict(length=40),
        },
    ),
    "vdm": Case(
        "vdm_network", "vdm", "vdm", "configs/vdm/cifar10.py",
        {
            "network": dict(feature_dim=32, num_layers=2, num_heads=1, norm_groups=32),
        },
        flax_rule,
    ),
}  # fmt: skip


def make_config(case: Case, folder: pathlib.Path) -> ml_collections.ConfigDict:
    """A tiny config of the published size, with data for it."""
    config = tiny.tiny(md4jax.load_config(tiny.ROOT / case.config))
    for section, values in case.changes.items():
        for key, value in values.items():
            config[section][key] = value
    config.data.data_dir = str(folder)
    rng = np.random.default_rng(0)
    if config.data.name == "tokens":
        write_text(folder, "".join(rng.permutation(list(ALPHABET) * 20)))
    else:
        tiny.write_images(folder / "images.npz", rng, 256, size=8, classes=10)
        recipe = ImageArrays(size=8, classes=True)
        source = str(folder / "images.npz")
        prepare(recipe, "image_arrays", folder, source, config.data.dataset, workers=1)
    return config


def write_text(folder: pathlib.Path, text: str) -> None:
    """Prepares a text in place of text8."""
    (folder / "text").write_text(text)
    recipe = OneText(alphabet=ALPHABET, valid_fraction=0.2, test_fraction=0.2)
    prepare(recipe, "text", folder, str(folder / "text"), "text8", workers=1)


def make_arrays(case: Case) -> dict[str, np.ndarray]:
    return parameters(np.load(GOLDEN / f"{case.golden}.npz")[f"{case.tag}/param_names"], case.rule)
