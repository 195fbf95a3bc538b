"""What a model's samples are worth: draws them, and measures what `config.eval.metrics` names."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from md4jax.console import Interrupted
from md4jax.evaluation import image_features
from md4jax.evaluation.metrics import METRICS
from md4jax.evaluation.metrics.base import KINDS, Images, Points, Setting, Texts, kind_of
from md4jax.evaluation.nearest_neighbour_kl import coordinates
from md4jax.options import UserError
from md4jax.samplers import STEPS
from md4jax.samplers.generate import Generator
from md4jax.typing import PyTree

if TYPE_CHECKING:
    from md4jax.model import Model

ShouldStop = Callable[[], bool]


class _OfImages:
    """Sets of images, by their features; the reference may be a file."""

    def __init__(self, model: Model, workdir: pathlib.Path | None, probabilities: bool):
        self._model, self._workdir = model, workdir
        self._features = image_features.ImageFeatures(model, probabilities)
        self._name = model.experiment.eval.reference
        self._of_file = None
        if self._name.endswith(".npz"):
            path = pathlib.Path(self._name)
            self._of_file = image_features.read_checked(path, self._features.of_weights)
        self.setting = Setting(
            model.experiment.eval, model.dataset,
            dim=self._features.features.dim, num_classes=self._features.features.num_classes,
        )  # fmt: skip
        self.words = {
            "features": self._features.of_weights["features"],
            "features_rule": self._features.of_weights["rule"],
            "features_weights": self._features.of_weights["weights"],
        }

    def count(self, samples: int) -> int:
        if self._of_file is not None:
            return len(self._of_file)
        return reference_count(self._model, samples)

    def set_of(self, samples: np.ndarray, should_stop: ShouldStop) -> Images:
        return self._features(lambda index: samples[index], len(samples), should_stop)

    def reference(self, count: int, should_stop: ShouldStop) -> Images:
        if self._of_file is not None:
            return self._of_file
        return image_features.reference(
            self._features, self._name, count, self._workdir, should_stop
        )


class _Plain:
    """Sets that are the examples themselves."""

    def __init__(self, model: Model, workdir: pathlib.Path | None, probabilities: bool):
        self._model, self.words = model, {}
        self._split = model.split(model.experiment.eval.reference, "config.eval.reference")
        self.setting = Setting(model.experiment.eval, model.dataset)

    def count(self, samples: int) -> int:
        return reference_count(self._model, samples)

    def reference(self, count: int, should_stop: ShouldStop) -> Any:
        gather, count = image_features.examples(self._split, count)
        return self.set_of(gather(np.arange(count)), should_stop)


class _OfTexts(_Plain):
    def set_of(self, samples: np.ndarray, should_stop: ShouldStop) -> Texts:
        return Texts(samples, self._model.spec.vocab_size, self._model.dataset.to_text)


class _OfPoints(_Plain):
    def set_of(self, samples: np.ndarray, should_stop: ShouldStop) -> Points:
        return Points(coordinates(self._model.spec.domain or "real", samples))


_SETS = {Images: _OfImages, Texts: _OfTexts, Points: _OfPoints}


def reference_count(model: Model, samples: int) -> int:
    """How many examples of the split `config.eval.reference` samples are compared with.

    Raises:
      UserError: there is no such split, or it has not as many as are asked for.
    """
    options = model.experiment.eval
    there = len(model.split(options.reference, "config.eval.reference"))
    if options.reference_examples is None:
        return min(samples, there)
    if options.reference_examples > there:
        raise UserError(
            f"config.eval.reference_examples = {options.reference_examples}: "
            f"{options.reference} has {there}; use 0 for all"
        )
    return options.reference_examples or there


class SampleMetrics:
    """Measures the samples of a model, or any others; everything is checked before it compiles."""

    def __init__(
        self,
        model: Model,
        workdir: pathlib.Path | None = None,
        generator: Generator | None = None,
    ):
        """Loads weights of features; draws, compiles and writes nothing.

        Args:
          model: whose `config.eval` says what to measure.
          workdir: the run's folder, which keeps features of the reference; None keeps none.
          generator: what draws; one of the model's own if not given.

        Raises:
          UserError: a metric is for other data, has too few examples, or lacks weights, a library
            or a reference.
        """
        options, kind = model.experiment.eval, kind_of(model.dataset)
        classes = {name: METRICS[name] for name in options.metrics}
        for name, cls in classes.items():
            if cls.kind is not kind:
                raise UserError(_misfit(name, cls.kind, kind))
        self.model = model
        self.generator = Generator(model) if generator is None else generator
        probabilities = any(cls.uses_probabilities for cls in classes.values())
        self._sets = _SETS[kind](model, workdir, probabilities)
        self._metrics = [cls(self._sets.setting) for cls in classes.values()]
        self._uses_reference = any(cls.uses_reference for cls in classes.values())
        self._reference: tuple[int, Any] | None = None
        self._check(self.generator.step.num_samples)

    def __call__(
        self, params: PyTree, should_stop: ShouldStop = lambda: False, weights: str | None = None
    ) -> dict[str, float | int | str]:
        """Draws samples and measures them: values by name, and what they depend on.

        Args:
          params: weights of the model, as `state.eval_params` has them.
          should_stop: asked from time to time.
          weights: what to call the weights; else "averaged", if training averages, or "raw".

        Raises:
          Interrupted: `should_stop()` became true.
        """
        samples, _ = self.generator(params, should_stop)
        return self.from_samples(samples, should_stop) | self.drawn_by(weights)

    def drawn_by(self, weights: str | None = None) -> dict[str, float | int | str]:
        """How the generator draws, and how often the network was called for each last sample."""
        step = self.generator.step
        name = next((n for n in STEPS if STEPS[n] is type(step)), type(step).__name__)
        averaged = "averaged" if self.model.experiment.train.ema_decay else "raw"
        return {
            "sampler": name,
            "steps": self.generator.num_steps,
            "network_calls": self.generator.network_calls,
            "sampler_seed": step.seed,
            "guidance": step.guidance,
            "weights": weights or averaged,
        }

    def from_samples(
        self, samples: Shaped[np.ndarray, "n *s"], should_stop: ShouldStop = lambda: False
    ) -> dict[str, float | int | str]:
        """Measures any samples of the data's shape, integers or real as those are.

        Raises:
          UserError: there are too few.
          Interrupted: `should_stop()` became true.
        """
        self._check(len(samples))
        count = self._sets.count(len(samples))
        result: dict[str, float | int | str] = {"samples": len(samples)}
        if self._uses_reference:
            result |= {"reference": self.model.experiment.eval.reference}
            result |= {"reference_examples": count}
            if self._reference is None or self._reference[0] != count:
                self._reference = count, self._sets.reference(count, should_stop)
        drawn = self._sets.set_of(samples, should_stop)
        for metric in self._metrics:
            if should_stop():
                raise Interrupted
            result |= metric(drawn, self._reference[1] if metric.uses_reference else None)
            result |= metric.words
        return result | self._sets.words

    def _check(self, samples: int) -> None:
        """Raises UserError if so many samples are too few."""
        count = self._sets.count(samples)
        for metric in self._metrics:
            metric.check(samples, count)


# What a result says beside its values.
ABOUT = (
    "samples", "reference", "reference_examples", "features", "features_rule", "features_weights",
    "scorer", "scorer_weights",
    "sampler", "steps", "network_calls", "sampler_seed", "guidance", "weights",
)  # fmt: skip


def values_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a result of `SampleMetrics`, or of its line in `metrics/eval.jsonl`."""
    return {k: float(v) for k, v in result.items() if k not in (*ABOUT, "step", "source", "kind")}


def figures(result: Mapping[str, Any]) -> str:
    """The metrics on one line, their errors left out."""
    shown = {k: v for k, v in values_of(result).items() if not k.endswith("_standard_error")}
    return ", ".join(f"{k} {v:.4g}" for k, v in shown.items())


def table(result: Mapping[str, Any]) -> str:
    """A result as a person reads it."""
    lines = [
        f"{result['samples']} samples by {result['sampler']}, {result['steps']} steps, "
        f"{result['network_calls']:g} network calls each, {result['weights']} weights"
    ]
    if "reference" in result:
        lines[0] += f"; against {result['reference_examples']} examples of {result['reference']}"
    if "features" in result:
        lines.append(f"features: {result['features']} ({result['features_rule']})")
    if "scorer" in result:
        lines.append(f"texts read by: {result['scorer']} ({result['scorer_weights']})")
    values = values_of(result)
    width = max(map(len, values))
    return "\n".join([*lines, *(f"{name:<{width}}  {v:.6g}" for name, v in values.items())])


def _misfit(name: str, wanted: type, given: type) -> str:
    words = {kind: word for word, kind in KINDS.items()}
    fitting = [other for other in METRICS if METRICS[other].kind is given]
    return (
        f"config.eval.metrics has {name!r}, which is for {words[wanted]}, and the data are "
        f"{words[given]}: use some of {', '.join(fitting)}"
    )
