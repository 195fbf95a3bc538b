"""Features of CLIP's image tower ViT-B/32, which never saw ImageNet's classes.

A. Radford et al., arXiv:2103.00020; as features of samples: T. Kynkäänniemi et al.,
arXiv:2203.06026. The file is OpenAI's (https://github.com/openai/CLIP) or that of Hugging Face's
`openai/clip-vit-base-patch32`, with or without the text's half. Images in [0, 1] go to 224 x 224
bicubically without antialiasing, as in MMD finetuning of diffusion models (arXiv:2301.07969, its
code), and each channel is normalised by CLIP's mean and deviation. The 512 features are not.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from md4jax.convert.unets import parts
from md4jax.convert.weights import Arrays, Layout, Origin, Weight, as_is, dense_kernel
from md4jax.evaluation.features.base import (
    WEIGHTS,
    check_images,
    colour_rule,
    fingerprint,
    fit,
    in_colour,
    precise,
    read_arrays,
)
from md4jax.evaluation.features.resize import resize
from md4jax.networks.towers.clip import ImageTower
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.typing import PyTree

PUBLISHED = ImageTower()
SIZE = 224
MEAN = (0.48145466, 0.4578275, 0.40821073)  # Of OpenAI's code.
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
WANTED = (
    "weights of CLIP's ViT-B/32: model.safetensors of openai/clip-vit-base-patch32 at Hugging "
    "Face, or the arrays of OpenAI's ViT-B-32.pt (https://github.com/openai/CLIP)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """The 512 features that CLIP compares with a text's; see `Features`."""

    rule: str
    fingerprint: str
    params: PyTree
    tower: ImageTower = PUBLISHED
    size: int = SIZE
    num_classes: ClassVar[None] = None

    @property
    def dim(self) -> int:
        """d."""
        return self.tower.features

    @classmethod
    def load(
        cls,
        path: str | None,
        spec: DataSpec,
        key: str = WEIGHTS,
        tower: ImageTower = PUBLISHED,
        size: int = SIZE,
    ) -> Clip:
        """See `Features.load`; a tower may be given, of other sizes than the published."""
        check_images(spec)
        arrays, given = read_arrays(path, key, WANTED)
        origins, ignored = _names(arrays, tower, given)
        abstract = abstract_params(tower, size)
        params = fit(abstract, origins, arrays, ignored, given, "CLIP's image tower ViT-B/32")
        rule = (
            f"CLIP ViT-B/32: {colour_rule(spec)}bicubic (a = -0.75) to {size} x {size} without "
            f"antialiasing, CLIP's mean and deviation, {tower.features} features, not normalised"
        )
        return cls(rule, fingerprint(params), params, tower, size)

    @precise
    def __call__(
        self, params: PyTree, images: Float[Array, "b h w c"]
    ) -> Float[Array, "b {self.dim}"]:
        """See `Features`."""
        images = resize(in_colour(images), self.size, "bicubic")
        images = (images - jnp.asarray(MEAN)) / jnp.asarray(DEVIATION)
        return self.tower.apply({"params": params}, images)


def abstract_params(tower: ImageTower, size: int = SIZE) -> PyTree:
    """Shapes of the weights, for images of `size` pixels a side."""
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(tower.init, jax.random.key(0), images)["params"]


def _names(
    arrays: Arrays, tower: ImageTower, given: str
) -> tuple[dict[str, Origin], tuple[str, ...]]:
    """Where all is in OpenAI's file or Hugging Face's, and what of it is not of the image's half.

    Raises:
      UserError: it is neither.
    """
    for sign, origins, prefixes in (
        ("visual.class_embedding", openai_origins, ("visual",)),
        (
            "vision_model.embeddings.class_embedding",
            hugging_face_origins,
            ("vision_model", "visual_projection"),
        ),
    ):
        if sign in arrays:
            others = rf"(?!({'|'.join(prefixes)})\.).*"
            return origins(tower), (others, r"vision_model\.embeddings\.position_ids")
    raise UserError(
        f"{given} has neither visual.class_embedding nor vision_model.embeddings.class_embedding: "
        f"it should be {WANTED}"
    )


def openai_origins(tower: ImageTower) -> dict[str, Origin]:
    """By our names, where all is in OpenAI's arrays."""
    found = {
        "class_embedding": Origin("visual.class_embedding"),
        "positions": Origin("visual.positional_embedding"),
        "patch_embedding": Origin("visual.conv1"),
        "norm_before": Origin("visual.ln_pre"),
        "norm_after": Origin("visual.ln_post"),
        "projection/kernel": Origin("visual.proj"),
    }
    names = {"norm_1": "ln_1", "norm_2": "ln_2", "up": "mlp.c_fc", "down": "mlp.c_proj"}
    names |= {"attention/out": "attn.out_proj"}
    for i in range(tower.num_layers):
        block = f"visual.transformer.resblocks.{i}"
        found |= parts(f"block_{i}", block, names)
        for part, name in enumerate(("query", "key", "value")):
            found[f"block_{i}/attention/{name}"] = Origin(
                f"{block}.attn", _third(part), _JOINED
            )  # fmt: skip
    return found


def _third(part: int) -> Layout:
    """Query (part 0), key (1) or value (2) of one layer for all three, whose outputs lie so."""

    def change(x: Weight) -> Weight:
        return np.split(x, 3, axis=-1)[part]

    return change


_JOINED = {
    ("kernel", 2): ("in_proj_weight", dense_kernel),
    ("bias", 1): ("in_proj_bias", as_is),
}


def hugging_face_origins(tower: ImageTower) -> dict[str, Origin]:
    """By our names, where all is in Hugging Face's arrays."""
    found = {
        "class_embedding": Origin("vision_model.embeddings.class_embedding"),
        "positions": Origin("vision_model.embeddings.position_embedding.weight"),
        "patch_embedding": Origin("vision_model.embeddings.patch_embedding"),
        "norm_before": Origin("vision_model.pre_layrnorm"),  # Published so.
        "norm_after": Origin("vision_model.post_layernorm"),
        "projection": Origin("visual_projection"),
    }
    names = {"norm_1": "layer_norm1", "norm_2": "layer_norm2", "up": "mlp.fc1", "down": "mlp.fc2"}
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
        names[f"attention/{ours}"] = f"self_attn.{theirs}_proj"
    for i in range(tower.num_layers):
        found |= parts(f"block_{i}", f"vision_model.encoder.layers.{i}", names)
    return found
