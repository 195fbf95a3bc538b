"""A small convolutional classifier of images, whose layer before the last gives features.

Group norms (Y. Wu, K. He, arXiv:1803.08494) see one image at a time, so that its features do not
depend on others. Numbered equations:

  (1)  level:  x <- swish(norm(conv(x))),  twice,  then means of 2 x 2 pixels
  (2)  features: swish(W m + b), m the means of x over all pixels;  logits: W' features + b'
"""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

NORM_GROUPS = 8


class SmallClassifier(nn.Module):
    """Images in [-1, 1] to features and logits.

    Attributes:
      width: channels of the first level, a multiple of `NORM_GROUPS`; each level has twice as many.
      num_layers: levels; each halves the sides, rounded down.
      features: d, entries of the features.
      num_classes: k.
    """

    width: int
    num_layers: int
    features: int
    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
        """Equations (1) and (2)."""
        for level in range(self.num_layers):
            for _ in range(2):
                x = nn.Conv(self.width * 2**level, (3, 3), use_bias=False)(x)
                x = nn.swish(nn.GroupNorm(NORM_GROUPS)(x))
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        features = nn.swish(nn.Dense(self.features, name="features")(x.mean(axis=(1, 2))))
        return features, nn.Dense(self.num_classes, name="head")(features)
