"""What every network promises, the options they share, and their checks.

A network is one Linen module, `NETWORKS[name](spec=network_spec, **config fields)`. It maps

    net.apply({"params": params}, z_t, t, label, train=False, rngs={"dropout": key})

to `[b, *spec.output_shape]`, which is `[b, *spec.shape, spec.out_features]` unless the process says
otherwise. `z_t` `[b, *spec.shape]` holds ids in `[0, spec.vocab_size)`, or real values if that is
None; `t` `[b]` is what the process's `network_time` gives, and None exactly if `spec.has_time` is
False; `label` `[b]` is None exactly if `spec.num_classes` is None. A network with `takes_segments`
may also be given `segment` `[b, length]`, the number of each token's document, and then attends
within documents alone. One with `gives_positions` may be given `positions` `[b, k]` of a sequence
and puts out `[b, k, spec.out_features]`, at these alone: what its output layer would do elsewhere
is saved. One with `gives_features`, asked for `features=True`, returns what its output layer is
given, `[b, *places, features]`, of the places it has: tokens, or pixels. The output layer starts at
zero, so a fresh network predicts zeros (or z_t, where that is added). `train=True` turns dropout on
and needs a "dropout" key if `dropout_rate` is above 0.

Parameters are float32. `dtype` is what matrix products and convolutions compute in, and what is
returned; norms, the softmax of attention and the conditioning vector are float32 whatever it is.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from md4jax.options import UserError, check_options, option, options_of
from md4jax.processes.base import NetworkSpec


class Network(nn.Module, kw_only=True):
    """The fields all networks have; see the module's docstring.

    Attributes:
      spec: what the process gives and asks for.
      takes_any_shape: a class attribute: whether `spec.out_shape` may be set.
      takes_segments: a class attribute: whether it attends within documents alone if told of them.
      gives_positions: a class attribute: whether it can put out chosen positions alone.
      gives_features: a class attribute: whether it can return its last features.
    """

    takes_any_shape = False
    takes_segments = False
    gives_positions = False
    gives_features = False

    spec: NetworkSpec
    dropout_rate: float = option("Probability of dropping an activation.", 0.0, at_least=0, below=1)
    dtype: str = option("What the network computes in; parameters stay float32.", "float32",
                        one_of=("float32", "bfloat16"))  # fmt: skip
    attention: str = option("Attention's kernel; cudnn needs a GPU and bfloat16.", "xla",
                            one_of=("xla", "cudnn"), changeable=True)  # fmt: skip
    scan_layers: bool = option("One compiled layer in a loop: compiles faster, stacks parameters.",
                               False)  # fmt: skip
    remat: bool = option("Recompute layers in the backward pass: less memory, more time.", False,
                         changeable=True)  # fmt: skip

    @nn.nowrap
    def check(self) -> None:
        """Whether the options fit each other and the data.

        Raises:
          UserError: in one line, the key, its value and what would be right.
        """
        values = {name: getattr(self, name) for name in options_of(type(self))}
        check_options(type(self), values, "config.network.")
        if self.spec.out_shape is not None and not self.takes_any_shape:
            raise UserError(
                f"config.network: {type(self).__name__} puts out numbers at each position of data "
                f"of shape {self.spec.shape}, but this process asks for {self.spec.out_shape}: "
                "choose config.network.name = 'mlp'"
            )

    @nn.nowrap
    def check_inputs(self, t: object, label: object) -> None:
        """Raises ValueError if time or label are given and not wanted, or the other way round."""
        for name, value, wanted in (
            ("t", t, self.spec.has_time),
            ("label", label, self.spec.num_classes is not None),
        ):
            if (value is not None) != wanted:
                raise ValueError(
                    f"{type(self).__name__} was made {'with' if wanted else 'without'} {name}, "
                    f"but got {'none' if value is None else 'one'}"
                )

    @property
    def compute_dtype(self) -> jnp.dtype:
        """`dtype` as JAX knows it."""
        return jnp.dtype(self.dtype)


def check_head_dim(network: Network, head_dim: int, source: str) -> None:
    """Checks that the attention kernel takes heads of this width.

    Args:
      source: how the width comes about, for the message.

    Raises:
      UserError: cuDNN was chosen, and does not run here.
    """
    if network.attention != "cudnn":
        return
    key = "config.network.attention = 'cudnn'"
    if network.dtype != "bfloat16":
        raise UserError(
            f"{key} needs config.network.dtype = 'bfloat16', which is {network.dtype!r}"
        )
    if head_dim % 8 or head_dim > 128:
        raise UserError(
            f"{key} needs heads whose width is a multiple of 8 and at most 128; "
            f"{source} makes {head_dim}"
        )
    if jax.default_backend() != "gpu":
        raise UserError(f"{key} needs a GPU; this is {jax.default_backend()}: choose 'xla'")


def check_image(network: Network, groups: int, factor: int = 1) -> None:
    """Checks that a U-Net fits the data and its own norm groups.

    Args:
      groups: of the group norms.
      factor: by which height and width shrink.

    Raises:
      UserError: they do not fit.
    """
    shape, width = network.spec.shape, network.feature_dim
    name = type(network).__name__
    if len(shape) != 3:
        raise UserError(
            f"config.network: {name} needs data of shape (height, width, channels), got {shape}"
        )
    if width % groups:
        raise UserError(
            f"config.network.feature_dim = {width} should be a multiple of {groups} because each "
            f"norm has config.network.norm_groups = {groups} groups"
        )
    if shape[0] % factor or shape[1] % factor:
        raise UserError(
            f"config.network: {name} shrinks images {factor}-fold, so height and width should be "
            f"multiples of {factor}, got data of shape {shape}"
        )


FOURIER_FEATURES = (
    "Real-valued input also as sin and cos of 2^k 2 pi z, with these k: a wave should be about as "
    "long as two neighbouring levels are apart (VDM: 6 and 7 for 256 levels)."
)


def check_fourier_features(network: Network) -> None:
    """Raises UserError if `fourier_features` are asked for of ids."""
    if network.fourier_features and network.spec.vocab_size is not None:
        raise UserError(
            f"config.network.fourier_features = {network.fourier_features} should be (): they are "
            "of real values, as Gaussian processes have, and this process gives ids"
        )


def output_size(spec: NetworkSpec) -> int:
    """Numbers an image network puts out a pixel: channels times features."""
    return math.prod(spec.shape[2:]) * spec.out_features
