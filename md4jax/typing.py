"""Names for the shapes that go through md4jax, in jaxtyping's notation.

`b` is the batch (examples), `*s` the shape of one example (`length` for text, `height width
channels` for images), `v` the number of classes of a categorical prediction. The annotations are
checked at run time in the tests and cost nothing elsewhere.
"""

from typing import Any

from jaxtyping import Array, Bool, Float, Int, Key

PyTree = Any

Keys = Key[Array, "b"]  # one key an example
Time = Float[Array, "b"]  # in [0, 1]; 0 is data, 1 is the prior
Nats = Float[Array, "b"]  # one value an example
Tokens = Int[Array, "b *s"]
TokenMask = Bool[Array, "b *s"]
Logits = Float[Array, "b *s v"]
Data = Array  # [b, *s], integer tokens or real values
