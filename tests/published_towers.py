"""Published image networks in NumPy, float64: what arrays they have, and what comes out.

As the papers and the repositories named in `md4jax.networks.towers` have them, layer by layer and
with nothing of ours, so that they say whether ours are the same.
"""

import math
import zlib

import numpy as np


def draw(name, shape):
    """An array that follows from its name: kernels that keep the size of things, other numbers."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(("running_var", "bn.weight")):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) > 1:
        return rng.normal(size=shape) * math.sqrt(2 / math.prod(shape[1:]))
    return (name.endswith("weight") and "bn" not in name) + 0.1 * rng.normal(size=shape)


def no_numbers(name, shape):
    """An array of a shape that takes no room."""
    return np.broadcast_to(0.0, shape)


def windows(x, kernel, stride=1):
    """`[b, h, w, c]` to `[b, h2, w2, c, *kernel]`."""
    found = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return found[:, ::stride, ::stride]


def padded(x, rows, columns, value):
    return np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), constant_values=value)


def average(x):
    """3 x 3, of the pixels that there are."""
    return np.nanmean(windows(padded(x, 1, 1, np.nan), (3, 3)), axis=(-2, -1))


def largest(x, pad=0, stride=1):
    return windows(padded(x, pad, pad, -np.inf), (3, 3), stride).max(axis=(-2, -1))


class Inception:
    """FID's Inception-v3, with all channels divided; `arrays` are those that it has come by."""

    def __init__(self, divisor=1, draw=draw, shapes_only=False):
        self.divisor, self.draw, self.shapes_only, self.arrays = divisor, draw, shapes_only, {}

    def get(self, name, *shape):
        self.arrays[name] = self.draw(name, shape)
        return self.arrays[name]

    def layer(self, x, name, features, kernel=(1, 1), stride=1, pad=(0, 0)):
        features //= self.divisor
        weight = self.get(f"{name}.conv.weight", features, x.shape[-1], *kernel)
        scale, shift, mean, var = (
            self.get(f"{name}.bn.{part}", features)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        self.get(f"{name}.bn.num_batches_tracked")
        patches = windows(padded(x, *pad, 0.0), kernel, stride)
        if self.shapes_only:
            return np.broadcast_to(0.0, (*patches.shape[:3], features))
        y = np.einsum("bhwcij,dcij->bhwd", patches, weight, optimize=True)
        return np.maximum((y - mean) / np.sqrt(var + 0.001) * scale + shift, 0)

    def pool(self, function, x, **how):
        if not self.shapes_only:
            return function(x, **how)
        h, w = x.shape[1:3]
        return x if how.get("stride", 1) == 1 else x[:, : (h - 1) // 2, : (w - 1) // 2]

    def block_a(self, x, name, pool_features):
        one = self.layer(x, f"{name}.branch1x1", 64)
        five = self.layer(x, f"{name}.branch5x5_1", 48)
        five = self.layer(five, f"{name}.branch5x5_2", 64, (5, 5), pad=(2, 2))
        three = self.layer(x, f"{name}.branch3x3dbl_1", 64)
        three = self.layer(three, f"{name}.branch3x3dbl_2", 96, (3, 3), pad=(1, 1))
        three = self.layer(three, f"{name}.branch3x3dbl_3", 96, (3, 3), pad=(1, 1))
        pooled = self.layer(self.pool(average, x), f"{name}.branch_pool", pool_features)
        return np.concatenate([one, five, three, pooled], -1)

    def block_b(self, x, name):
        three = self.layer(x, f"{name}.branch3x3", 384, (3, 3), 2)
        double = self.layer(x, f"{name}.branch3x3dbl_1", 64)
        double = self.layer(double, f"{name}.branch3x3dbl_2", 96, (3, 3), pad=(1, 1))
        double = self.layer(double, f"{name}.branch3x3dbl_3", 96, (3, 3), 2)
        return np.concatenate([three, double, self.pool(largest, x, stride=2)], -1)

    def block_c(self, x, name, features):
        wide, tall = dict(kernel=(1, 7), pad=(0, 3)), dict(kernel=(7, 1), pad=(3, 0))
        one = self.layer(x, f"{name}.branch1x1", 192)
        seven = self.layer(x, f"{name}.branch7x7_1", features)
        seven = self.layer(seven, f"{name}.branch7x7_2", features, **wide)
        seven = self.layer(seven, f"{name}.branch7x7_3", 192, **tall)
        double = self.layer(x, f"{name}.branch7x7dbl_1", features)
        for i, (width, how) in enumerate([(features, tall), (features, wide), (features, tall),
                                          (192, wide)]):  # fmt: skip
            double = self.layer(double, f"{name}.branch7x7dbl_{i + 2}", width, **how)
        pooled = self.layer(self.pool(average, x), f"{name}.branch_pool", 192)
        return np.concatenate([one, seven, double, pooled], -1)

    def block_d(self, x, name):
        three = self.layer(x, f"{name}.branch3x3_1", 192)
        three = self.layer(three, f"{name}.branch3x3_2", 320, (3, 3), 2)
        seven = self.layer(x, f"{name}.branch7x7x3_1", 192)
        seven = self.layer(seven, f"{name}.branch7x7x3_2", 192, (1, 7), pad=(0, 3))
        seven = self.layer(seven, f"{name}.branch7x7x3_3", 192, (7, 1), pad=(3, 0))
        seven = self.layer(seven, f"{name}.branch7x7x3_4", 192, (3, 3), 2)
        return np.concatenate([three, seven, self.pool(largest, x, stride=2)], -1)

    def block_e(self, x, name, pooled):
        def both(h, layer):
            wide = self.layer(h, f"{name}.{layer}a", 384, (1, 3), pad=(0, 1))
            return [wide, self.layer(h, f"{name}.{layer}b", 384, (3, 1), pad=(1, 0))]

        one = self.layer(x, f"{name}.branch1x1", 320)
        three = both(self.layer(x, f"{name}.branch3x3_1", 384), "branch3x3_2")
        double = self.layer(x, f"{name}.branch3x3dbl_1", 448)
        double = self.layer(double, f"{name}.branch3x3dbl_2", 384, (3, 3), pad=(1, 1))
        double = both(double, "branch3x3dbl_3")
        pooled = self.layer(pooled, f"{name}.branch_pool", 192)
        return np.concatenate([one, *three, *double, pooled], -1)

    def __call__(self, x):
        """Images in [-1, 1] to features, and logits without the bias."""
        x = self.layer(x, "Conv2d_1a_3x3", 32, (3, 3), 2)
        x = self.layer(x, "Conv2d_2a_3x3", 32, (3, 3))
        x = self.layer(x, "Conv2d_2b_3x3", 64, (3, 3), pad=(1, 1))
        x = self.layer(self.pool(largest, x, stride=2), "Conv2d_3b_1x1", 80)
        x = self.layer(x, "Conv2d_4a_3x3", 192, (3, 3))
        x = self.pool(largest, x, stride=2)
        for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = self.block_a(x, name, width)
        x = self.block_b(x, "Mixed_6a")
        for name, width in zip(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
                               (128, 160, 160, 192)):  # fmt: skip
            x = self.block_c(x, name, width)
        x = self.block_d(x, "Mixed_7a")
        x = self.block_e(x, "Mixed_7b", self.pool(average, x))
        x = self.block_e(x, "Mixed_7c", self.pool(largest, x, pad=1))
        features = x.mean(axis=(1, 2))
        self.get("fc.bias", 1008)
        return features, features @ self.get("fc.weight", 1008, features.shape[-1]).T


class Clip:
    """CLIP's image tower; `arrays` under OpenAI's names."""

    def __init__(self, width=768, layers=12, heads=12, patch=32, size=224, features=512, draw=draw):
        self.layers, self.heads, self.patch = layers, heads, patch
        shapes = {
            "class_embedding": (width,),
            "positional_embedding": ((size // patch) ** 2 + 1, width),
            "conv1.weight": (width, 3, patch, patch),
            "proj": (width, features),
        }
        norms = ["ln_pre", "ln_post"]
        for i in range(layers):
            block = f"transformer.resblocks.{i}"
            norms += [f"{block}.ln_1", f"{block}.ln_2"]
            for name, shape in (
                ("attn.in_proj_weight", (3 * width, width)),
                ("attn.in_proj_bias", (3 * width,)),
                ("attn.out_proj.weight", (width, width)),
                ("attn.out_proj.bias", (width,)),
                ("mlp.c_fc.weight", (4 * width, width)),
                ("mlp.c_fc.bias", (4 * width,)),
                ("mlp.c_proj.weight", (width, 4 * width)),
                ("mlp.c_proj.bias", (width,)),
            ):
                shapes[f"{block}.{name}"] = shape
        shapes |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
        self.arrays = {f"visual.{n}": draw(f"visual.{n}", shape) for n, shape in shapes.items()}

    def norm(self, x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.arrays[f"visual.{name}.weight"] + self.arrays[f"visual.{name}.bias"]

    def linear(self, x, name, separator="."):
        weight, bias = (
            self.arrays[f"visual.{name}{separator}{part}"] for part in ("weight", "bias")
        )
        return x @ weight.T + bias

    def attention(self, x, name):
        query, key, value = np.split(self.linear(x, f"{name}.in_proj", "_"), 3, axis=-1)
        heads = lambda h: h.reshape(*h.shape[:2], self.heads, -1)
        query, key, value = heads(query), heads(key), heads(value)
        scores = np.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        h = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        return self.linear(h, f"{name}.out_proj")

    def __call__(self, x):
        """Normalised images to features."""
        b, h, w, _ = x.shape
        p, weight = self.patch, self.arrays["visual.conv1.weight"]
        x = x.reshape(b, h // p, p, w // p, p, 3)
        x = np.einsum("bhiwjc,dcij->bhwd", x, weight).reshape(b, -1, len(weight))
        first = np.broadcast_to(self.arrays["visual.class_embedding"], (b, 1, len(weight)))
        x = np.concatenate([first, x], axis=1) + self.arrays["visual.positional_embedding"]
        x = self.norm(x, "ln_pre")
        for i in range(self.layers):
            block = f"transformer.resblocks.{i}"
            x = x + self.attention(self.norm(x, f"{block}.ln_1"), f"{block}.attn")
            h = self.linear(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            x = x + self.linear(h / (1 + np.exp(-1.702 * h)), f"{block}.mlp.c_proj")
        return self.norm(x[:, 0], "ln_post") @ self.arrays["visual.proj"]
