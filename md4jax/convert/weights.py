"""Arrays of a checkpoint as the parameters of a model, and what is said if they do not fit.

A source (one published code) says for each of our modules, or arrays, what it is called there; the
arrays of a module are then called as that code's framework calls them, and laid out as it has them:

             PyTorch                        ours
  linear     weight [out, in]               kernel [in, out]
  1 x 1 conv weight [out, in, 1, 1]         kernel [in, out]       (or [out, in, 1], over pixels)
  conv       weight [out, in, h, w]         kernel [h, w, in, out]
  norm       weight [c]                     scale [c]
  embedding  weight [ids, c]                embedding [ids, c]
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Shaped

from md4jax.convert import source_of
from md4jax.model import Model
from md4jax.options import UserError
from md4jax.training.checkpoints import first_few, named_leaves
from md4jax.training.state import init_params
from md4jax.typing import PyTree

Weight = Shaped[np.ndarray, "..."]
Arrays = Mapping[str, Weight]
Layout = Callable[[Weight], Weight]


def as_is(x: Weight) -> Weight:
    """The same array."""
    return x


def conv_kernel(x: Weight) -> Weight:
    """`[out, in, h, w]` to `[h, w, in, out]`."""
    return x.transpose(2, 3, 1, 0)


def dense_kernel(x: Weight) -> Weight:
    """`[out, in]`, `[out, in, 1]` or `[out, in, 1, 1]` to `[in, out]`."""
    return x.reshape(x.shape[:2]).T


# What an array is called, and its layout, by our name for it and its number of axes.
Suffixes = Mapping[tuple[str, int], tuple[str, Layout]]
TORCH: Suffixes = {
    ("kernel", 2): ("weight", dense_kernel),
    ("kernel", 4): ("weight", conv_kernel),
    ("bias", 1): ("bias", as_is),
    ("scale", 1): ("weight", as_is),
    ("embedding", 2): ("weight", as_is),
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where one of our modules, or a single array, is in a checkpoint.

    Attributes:
      name: of the module, or of the array.
      change: of each of its arrays, after its axes are in our order.
      suffixes: of the module's arrays; None if `name` is that of an array.
    """

    name: str
    change: Layout = as_is
    suffixes: Suffixes | None = dataclasses.field(default_factory=lambda: TORCH)


@dataclasses.dataclass(frozen=True)
class Piece:
    """One of our arrays: `layout` of the checkpoint's array `name`."""

    name: str
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
      params: the arrays by name.
      ema: averaged ones, if it holds them as well.
      step: the optimizer steps they were trained for, if that is known.
    """

    params: Arrays
    ema: Arrays | None = None
    step: int | None = None


class Source:
    """One published code. Its docstring says what can be had of it, and where from.

    Attributes:
      networks: values of config.network.name that its weights are for.
      signs: names by one of which its checkpoints are known.
      separator: between a module's name and that of its array.
      ignored: patterns of names that are no weights.
      required: config keys that have no weights and must have these values all the same.
      notes: what the user should know after converting; a line each.
    """

    networks: tuple[str, ...]
    signs: tuple[str, ...]
    separator = "."
    ignored: tuple[str, ...] = ()
    required: ClassVar[Mapping[str, Any]] = {}
    notes: tuple[str, ...] = ()

    def states(self, content: Any, file: str) -> Weights:
        """The arrays of a file's content: as read from it, and the file's name."""
        raise NotImplementedError

    def origins(self, model: Model) -> dict[str, Origin]:
        """By module, or by array: `network/stem`, `process/w`. Without stacked layers."""
        raise NotImplementedError

    def seen(self, shapes: Mapping[str, tuple[int, ...]], model: Model) -> dict[str, Any]:
        """Config keys (`network.feature_dim`) and the values that the weights seem to be of.

        May raise LookupError or ValueError, which say that nothing is known.
        """
        return {}


def flat(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, such as `network/stem/kernel`."""
    return named_leaves(tree, separator="/")


def _abstract_params(model: Model, scan_layers: bool) -> PyTree:
    """Shapes of the model's parameters, with layers stacked or not."""
    network = dataclasses.replace(model.network, scan_layers=scan_layers)
    return jax.eval_shape(lambda: init_params(model.process, network, model.spec, seed=0))


def pieces(origins: Mapping[str, Origin], abstract: PyTree, separator: str) -> dict[str, Piece]:
    """Where each of our arrays comes from, by path.

    What the published code has nothing like is to be found under our own name for it, as it is.

    Args:
      origins: see `Source.origins`.
      abstract: our parameters.
      separator: see `Source`.
    """
    found = {}
    for path, leaf in flat(abstract).items():
        if path in origins:
            found[path] = Piece(origins[path].name, origins[path].change)
            continue
        module, _, kind = path.rpartition("/")
        origin = origins.get(module)
        if origin is None:
            found[path] = Piece(path, as_is)
            continue
        suffix, layout = origin.suffixes[kind, len(leaf.shape)]
        found[path] = Piece(origin.name + separator + suffix, _then(layout, origin.change))
    return found


def _then(first: Layout, second: Layout) -> Layout:
    return lambda x: second(first(x))


def convert_params(source: Source, model: Model, arrays: Arrays, what: str) -> PyTree:
    """The model's parameters, float32, from the arrays of a checkpoint.

    Args:
      what: the file, for the message.

    Raises:
      UserError: names or shapes differ, or numbers are not finite.
    """
    abstract = _abstract_params(model, scan_layers=False)
    fitted = pieces(source.origins(model), abstract, source.separator)
    try:
        params = lay_out(fitted, abstract, arrays, source.ignored, what)
    except Misfit as error:
        name = model.config["network"]["name"]
        message = f"{what} does not fit config.network.name = {name!r}: {error}"
        if hints := _hints(source, model, {n: np.shape(x) for n, x in arrays.items()}):
            message += f". It seems to be of {hints}"
        raise UserError(message) from error
    if not model.network.scan_layers:
        return params
    return _stacked(params, _abstract_params(model, scan_layers=True))


class Misfit(Exception):
    """Arrays that are not a network's; the message says which are left over, missing or wrong."""


def lay_out(
    fitted: Mapping[str, Piece], abstract: PyTree, arrays: Arrays, ignored: Iterable[str], what: str
) -> PyTree:
    """Parameters, float32, from the arrays of a checkpoint.

    Args:
      fitted: see `pieces`.
      abstract: shapes of the parameters.
      arrays: of the checkpoint, by name.
      ignored: patterns of names that are no weights of this network.
      what: the file, for the message.

    Raises:
      Misfit: names or shapes differ.
      UserError: numbers are not finite.
    """
    wanted = {piece.name for piece in fitted.values()}
    patterns = [re.compile(pattern) for pattern in ignored]
    extra = [n for n in arrays if n not in wanted and not any(p.fullmatch(n) for p in patterns)]
    missing = sorted(wanted - set(arrays))
    values, misfits = {}, []
    for path, leaf in flat(abstract).items():
        piece = fitted[path]
        if piece.name in missing:
            continue
        values[path] = _laid_out(piece, arrays[piece.name])
        if values[path] is None or values[path].shape != leaf.shape:
            misfits.append(_misfit(piece, arrays[piece.name], values[path], path, leaf))
    if extra or missing or misfits:
        raise Misfit(_differences(extra, missing, misfits))
    for path, value in values.items():
        if not np.isfinite(value).all():
            raise UserError(f"{what}: {fitted[path].name} holds numbers that are not finite")
    return jax.tree.unflatten(jax.tree.structure(abstract), values.values())


def _laid_out(piece: Piece, array: Weight) -> Weight | None:
    """The array in our layout; None if it has not the axes for it."""
    try:
        return np.asarray(piece.layout(np.asarray(array)), np.float32, order="C")
    except (ValueError, IndexError):
        return None


def _misfit(piece: Piece, array: Weight, value: Weight | None, path: str, leaf: Any) -> str:
    """Both shapes; the checkpoint's in our layout too, so that they can be compared."""
    there = f"{piece.name} {list(array.shape)}"
    if value is not None and value.shape != array.shape:
        there += f", which here is {list(value.shape)},"
    return f"{there} for {path} {list(leaf.shape)}"


def _differences(extra: list[str], missing: list[str], misfits: list[str]) -> str:
    parts = []
    for words, found in (
        ("it has {} that the network has no place for", extra),
        ("{} that the network wants are not in it", missing),
        ("{} of another shape", misfits),
    ):
        if found:
            count = f"{len(found)} array{'s' if len(found) > 1 else ''}"
            parts.append(f"{words.format(count)} ({first_few(found, '; ')})")
    return "; ".join(parts)


def _hints(source: Source, model: Model, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Config keys that the weights seem to differ in, or the --from that they seem to be of."""
    if not any(sign in shapes for sign in source.signs):
        name = source_of(shapes)
        return f"--from={name}" if name else ""
    try:
        seen = source.seen(shapes, model)
    except (LookupError, ValueError):
        return ""
    differ = []
    for key, value in seen.items():
        section, _, field = key.partition(".")
        given = model.config[section].get(field)
        given = tuple(given) if isinstance(given, list) else given
        if given != value:
            differ.append(f"config.{key} = {value!r}, not {given!r}")
    return "; ".join(differ)


def _stacked(params: PyTree, abstract: PyTree) -> PyTree:
    """Parameters of `name_0`, `name_1`, ... as those of one `name` with a first axis of layers."""
    values, stacked = flat(params), {}
    for path in flat(abstract):
        if path in values:
            stacked[path] = values[path]
            continue
        section, module, rest = path.split("/", 2)
        layers = (f"{section}/{module}_{i}/{rest}" for i in itertools.count())
        stacked[path] = np.stack(
            [values[n] for n in itertools.takewhile(values.__contains__, layers)]
        )
    return jax.tree.unflatten(jax.tree.structure(abstract), stacked.values())
