"""Inception-v3 as the Frechet Inception distance has it, its modules named as in published weights.

C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the Inception Architecture for
Computer Vision", arXiv:1512.00567. The weights of M. Heusel et al. (arXiv:1706.08500) are those of
TensorFlow's `inception-2015-12-05`; https://github.com/mseitzer/pytorch-fid (Apache-2.0) has them
under torchvision's names. Three things differ from torchvision's network: average pools do not
count the padding, the last block has a max pool where others have an average, and there are 1,008
classes. The bias of the last layer is left out.

A block is branches side by side, each of steps one after another, and a pool; a step is layers side
by side on one input. Numbered equation:

  (1)  layer: relu(norm(conv(x))), norm by stored means and variances, epsilon 10^-3
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-3
FEATURES = 2048
CLASSES = 1008
SMALLEST = 75  # Pixels a side from which the last block has one.


class Layer(NamedTuple):
    """One convolution: its published name, channels put out, and height and width of the kernel."""

    name: str
    features: int
    height: int = 1
    width: int = 1


Step = tuple[Layer, ...]
Branch = tuple[Step, ...]


def _chain(*layers: Layer) -> Branch:
    return tuple((layer,) for layer in layers)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Means of 3 x 3 pixels, at the edges of those that there are."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The largest of 3 x 3 pixels."""
    return nn.max_pool(x, (3, 3), padding="SAME")


def shrink(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The largest of 3 x 3 pixels, at every second one."""
    return nn.max_pool(x, (3, 3), strides=(2, 2))


class Kind(NamedTuple):
    """What a block is made of.

    Attributes:
      branches: in the order in which their outputs are laid side by side, before the pool's.
      pool: of the block's input.
      pool_features: channels of the convolution after the pool; None is none.
      shrinks: the last step of each branch takes every second pixel, without padding.
    """

    branches: tuple[Branch, ...]
    pool: Callable
    pool_features: int | None = None
    shrinks: bool = False


def _a(pool_features: int) -> Kind:
    return Kind(
        (
            _chain(Layer("branch1x1", 64)),
            _chain(Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, 5, 5)),
            _chain(
                Layer("branch3x3dbl_1", 64),
                Layer("branch3x3dbl_2", 96, 3, 3),
                Layer("branch3x3dbl_3", 96, 3, 3),
            ),
        ),
        average_pool,
        pool_features,
    )


def _c(features: int) -> Kind:
    return Kind(
        (
            _chain(Layer("branch1x1", 192)),
            _chain(
                Layer("branch7x7_1", features),
                Layer("branch7x7_2", features, 1, 7),
                Layer("branch7x7_3", 192, 7, 1),
            ),
            _chain(
                Layer("branch7x7dbl_1", features),
                Layer("branch7x7dbl_2", features, 7, 1),
                Layer("branch7x7dbl_3", features, 1, 7),
                Layer("branch7x7dbl_4", features, 7, 1),
                Layer("branch7x7dbl_5", 192, 1, 7),
            ),
        ),
        average_pool,
        192,
    )


def _e(pool: Callable) -> Kind:
    def fork(name: str) -> Step:
        return Layer(f"{name}a", 384, 1, 3), Layer(f"{name}b", 384, 3, 1)

    return Kind(
        (
            _chain(Layer("branch1x1", 320)),
            (*_chain(Layer("branch3x3_1", 384)), fork("branch3x3_2")),
            (
                *_chain(Layer("branch3x3dbl_1", 448), Layer("branch3x3dbl_2", 384, 3, 3)),
                fork("branch3x3dbl_3"),
            ),
        ),
        pool,
        192,
    )


BLOCKS = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": Kind(
        (
            _chain(Layer("branch3x3", 384, 3, 3)),
            _chain(
                Layer("branch3x3dbl_1", 64),
                Layer("branch3x3dbl_2", 96, 3, 3),
                Layer("branch3x3dbl_3", 96, 3, 3),
            ),
        ),
        shrink,
        shrinks=True,
    ),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": Kind(
        (
            _chain(Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, 3, 3)),
            _chain(
                Layer("branch7x7x3_1", 192),
                Layer("branch7x7x3_2", 192, 1, 7),
                Layer("branch7x7x3_3", 192, 7, 1),
                Layer("branch7x7x3_4", 192, 3, 3),
            ),
        ),
        shrink,
        shrinks=True,
    ),
    "Mixed_7b": _e(average_pool),
    "Mixed_7c": _e(max_pool),
}


class ConvNorm(nn.Module):
    """Equation (1).

    Attributes:
      features: channels of the output.
      kernel: height and width of the convolution.
      stride: of the convolution.
      padding: "SAME" or "VALID".
    """

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        x = nn.Conv(
            self.features, self.kernel, self.stride, padding=self.padding, use_bias=False,
            name="conv",
        )(x)  # fmt: skip
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name="bn")(x))


class Block(nn.Module):
    """Branches and a pool, laid side by side.

    Attributes:
      kind: what of.
      divisor: of all numbers of channels.
    """

    kind: Kind
    divisor: int

    def run(self, layer: Layer, x: Array, shrinks: bool) -> Array:
        """A layer of the block."""
        how = {"stride": 2, "padding": "VALID"} if shrinks else {}
        kernel = layer.height, layer.width
        return ConvNorm(layer.features // self.divisor, kernel, name=layer.name, **how)(x)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        outputs = []
        for branch in self.kind.branches:
            h = x
            for step in branch:
                shrinks = self.kind.shrinks and step is branch[-1]
                h = jnp.concatenate([self.run(layer, h, shrinks) for layer in step], axis=-1)
            outputs.append(h)
        pooled = self.kind.pool(x)
        if self.kind.pool_features is not None:
            pooled = self.run(Layer("branch_pool", self.kind.pool_features), pooled, False)
        return jnp.concatenate([*outputs, pooled], axis=-1)


class InceptionV3(nn.Module):
    """Images in [-1, 1], of `SMALLEST` pixels a side or more (FID: 299), to features and logits.

    Attributes:
      divisor: of all numbers of channels, which are multiples of 16, for tests; 1 is as published.
    """

    divisor: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """The means over all pixels of the last block, and logits of them without a bias."""

        def conv(name, features, kernel, **how):
            return ConvNorm(features // self.divisor, (kernel, kernel), name=name, **how)(x)

        x = conv("Conv2d_1a_3x3", 32, 3, stride=2, padding="VALID")
        x = conv("Conv2d_2a_3x3", 32, 3, padding="VALID")
        x = shrink(conv("Conv2d_2b_3x3", 64, 3))
        x = conv("Conv2d_3b_1x1", 80, 1)
        x = shrink(conv("Conv2d_4a_3x3", 192, 3, padding="VALID"))
        for name, kind in BLOCKS.items():
            x = Block(kind, self.divisor, name=name)(x)
        features = x.mean(axis=(1, 2))
        return features, nn.Dense(CLASSES, use_bias=False, name="fc")(features)
