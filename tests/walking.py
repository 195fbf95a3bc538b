"""All that is done with a config, and a look at all that is left behind."""

import json

import numpy as np
import pytest
import tiny

import md4jax
from md4jax.config import build, to_dict
from md4jax.processes.domains import DOMAINS


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_finite(lines):
    for line in lines:
        numbers = [v for v in line.values() if isinstance(v, (int, float))]
        assert np.isfinite(numbers).all(), line


def check_samples(file, config):
    """Whole samples: ids of the vocabulary alone, so no MASK, or points of the data's domain.

    Returns the ending of the drawing beside them.
    """
    dataset = build(config).data.load()
    with np.load(file) as arrays:
        samples = arrays["samples"]
        labels = arrays.get("labels")
    assert samples.shape == (config.sampler.num_samples, *dataset.spec.shape)
    if dataset.spec.vocab_size is None:
        assert samples.dtype == np.float32
        assert DOMAINS[dataset.spec.domain].problem(samples) is None
    else:
        assert np.issubdtype(samples.dtype, np.integer)
        assert samples.min() >= 0 and samples.max() < dataset.spec.vocab_size
    assert (labels is None) == (dataset.spec.num_classes is None)
    if labels is not None:
        assert labels.tolist() == [i % dataset.spec.num_classes for i in range(len(samples))]
    return "png" if dataset.levels or dataset.spec.domain else "txt"


def walk(config, workdir):
    """Train, stop, resume, evaluate, sample; looks at all that is left behind."""
    config = tiny.override(config, train__eval_every=0, train__sample_every=0)  # After the last.
    splits = list(config.eval.splits)
    tiny.train_until_saved(config, workdir)
    result = md4jax.train(config, workdir)
    evaluated = md4jax.evaluate(config, workdir)
    file = md4jax.sample(config, workdir)

    saved = json.loads((workdir / "config.json").read_text())["config"]
    assert saved == to_dict(config)
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"2", "4"}
    train = read_lines(workdir / "metrics" / "train.jsonl")
    assert [line["step"] for line in train] == [1, 2, 3, 4]
    assert_finite(train)
    evals = read_lines(workdir / "metrics" / "eval.jsonl")
    expected = [(4, s, source) for source in ("train", "evaluate") for s in splits]
    assert [(e["step"], e["split"], e["source"]) for e in evals] == expected
    assert_finite(evals)
    for line in (*evals, *evaluated, result):
        # Means of float64 numbers: rounding is of 1e-16.
        parts = [v for k, v in line.items() if k.endswith("_bits_per_dim")]
        assert sum(parts) == pytest.approx(line["bits_per_dim"], rel=1e-12)
        if "perplexity" in line:
            assert np.log2(line["perplexity"]) == pytest.approx(line["bits_per_dim"], rel=1e-12)
    # The same program with the same weights, times and noise.
    assert [e["bits_per_dim"] for e in evaluated] == [
        e["bits_per_dim"] for e in evals[: len(splits)]
    ]
    kind = check_samples(file, config)
    drawings = [file.with_suffix(f".{kind}"), workdir / "samples" / f"step_00000004.{kind}"]
    if config.sampler.frames:
        for name in ("film", "forward"):
            drawings.append(file.with_name(f"{file.stem}_{name}.{kind}"))
            drawings.append(workdir / "samples" / f"step_00000004_{name}.{kind}")
    for drawing in drawings:
        assert drawing.stat().st_size > 0
