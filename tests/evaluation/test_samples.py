"""evaluation/samples.py: what is measured of which samples, kept, refused, and done once."""

import contextlib
import dataclasses
import hashlib
import json
import sys
import types

import jax
import numpy as np
import pytest
import tiny

import md4jax
from md4jax.config import load_config, make_config
from md4jax.evaluation import image_features
from md4jax.evaluation.distances import frechet_distance
from md4jax.evaluation.features import FEATURES
from md4jax.evaluation.metrics import scored_texts
from md4jax.evaluation.precision_recall import precision_recall
from md4jax.evaluation.samples import SampleMetrics, values_of
from md4jax.evaluation.trigram import fit
from md4jax.options import UserError
from md4jax.samplers.generate import Generator

DIGITS, TEXT = "configs/digits/masked.py", "configs/text8/small.py"


def changed(model, **options):
    """The model with other options of `config.eval`, or a number of samples."""
    count = options.pop("num_samples", None)
    experiment = model.experiment
    if count is not None:
        sampler = dataclasses.replace(experiment.sampler, num_samples=count)
        experiment = dataclasses.replace(experiment, sampler=sampler)
    evaluation = dataclasses.replace(experiment.eval, **options)
    return dataclasses.replace(model, experiment=dataclasses.replace(experiment, eval=evaluation))


@pytest.fixture(scope="module")
def digits():
    return md4jax.assemble(tiny.tiny(load_config(tiny.ROOT / DIGITS)))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    config = tiny.tiny(load_config(tiny.ROOT / TEXT))
    return md4jax.assemble(tiny.with_data(config, tmp_path_factory.mktemp("text")))


def images(model, split, count):
    """Evenly spaced ones, and their pixels."""
    split = model.split(split)
    x = split.gather(np.arange(count) * len(split) // count)["x0"]
    return x, (x / np.float32(16)).reshape(count, -1)


def test_images(digits):
    """Each once, though batches of 32 do not divide 70; the reference is as many, evenly spaced."""
    model = changed(digits, metrics=("fid", "precision_recall"), batch_size=32, num_samples=70)
    samples, x = images(model, "test", 70)
    result = SampleMetrics(model).from_samples(samples)
    _, y = images(model, "train", 70)
    assert result["fid"] == pytest.approx(frechet_distance(x, y), rel=1e-6)
    assert (result["precision"], result["recall"]) == precision_recall(y, x)
    about = {"samples": 70, "reference": "train", "reference_examples": 70, "features": "pixels"}
    assert {key: result[key] for key in about} == about
    assert result["features_rule"] == FEATURES["pixels"].load(None, model.spec).rule
    # All of the split, and none of it for metrics that look at samples alone.
    result = SampleMetrics(changed(model, reference_examples=0)).from_samples(samples)
    assert result["reference_examples"] == len(model.split("train"))


def test_the_reference_is_kept(digits, tmp_path, monkeypatch):
    """It is read again where all is the same, made anew where not, and goes to other runs."""
    model = changed(digits, metrics=("kid",), num_samples=9, batch_size=9)
    samples, _ = images(model, "test", 9)
    counts = []
    extract = image_features.ImageFeatures.__call__

    def counting(self, read, count, should_stop):
        counts.append(count)
        return extract(self, read, count, should_stop)

    monkeypatch.setattr(image_features.ImageFeatures, "__call__", counting)
    first = SampleMetrics(model, tmp_path).from_samples(samples)
    assert counts == [9, 9]
    (file,) = (tmp_path / "metrics").iterdir()
    assert SampleMetrics(model, tmp_path).from_samples(samples) == first
    assert counts == [9, 9, 9]
    other = changed(model, reference_examples=8)
    SampleMetrics(other, tmp_path).from_samples(samples)
    assert counts[3:] == [8, 9] and len(list((tmp_path / "metrics").iterdir())) == 2

    elsewhere = changed(model, reference=str(file))
    again = SampleMetrics(elsewhere).from_samples(samples)
    assert counts[5:] == [9]
    assert again == first | {"reference": str(file)}

    monkeypatch.setattr(FEATURES["pixels"], "rule", "to 299")
    with pytest.raises(UserError, match="rule: '.*' there, 'to 299' here"):
        SampleMetrics(elsewhere)
    SampleMetrics(model, tmp_path).from_samples(samples)
    assert len(list((tmp_path / "metrics").iterdir())) == 3


def test_damaged_references(digits, tmp_path, capsys):
    """One that is named is refused; the run's own is made anew, and is whole again."""
    model = changed(digits, metrics=("kid",), num_samples=9, batch_size=9)
    samples, _ = images(model, "test", 9)
    first = SampleMetrics(model, tmp_path).from_samples(samples)
    (file,) = (tmp_path / "metrics").iterdir()
    whole = file.read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 1
    for damaged in (b"", b"no", whole[: len(whole) // 2], bytes(middle)):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"reference_.*\.npz' is no file of reference features"):
            SampleMetrics(changed(model, reference=str(file)))
        assert SampleMetrics(model, tmp_path).from_samples(samples) == first
        assert f"{file} is damaged and made anew" in capsys.readouterr().out
        assert image_features.read(file)[0].shape == (9, 64)
    assert list((tmp_path / "metrics").iterdir()) == [file]


# Of images: options, words of the one line.
REFUSED = {
    "of another kind": (
        dict(metrics=("fid", "trigram")),
        ["config.eval.metrics has 'trigram'", "for texts", "data are images", "fid, kid"],
    ),
    "singular covariances": (
        dict(metrics=("fid",), num_samples=64),
        ["'fid': 64 samples and 64 reference", "at least 65", "64 features"],
    ),
    "too few for the reference": (
        dict(metrics=("fid",), num_samples=70, reference_examples=64),
        ["'fid': 70 samples and 64 reference", "config.eval.reference_examples"],
    ),
    "no neighbours": (
        dict(metrics=("density_coverage",), num_samples=5),
        ["'density_coverage': 5 samples", "at least 6"],
    ),
    "no classes": (
        dict(metrics=("inception_score",)),
        ["'inception_score'", "config.eval.features = 'pixels'", "no classes"],
    ),
    "no split": (
        dict(metrics=("kid",), reference="valid"),
        ["config.eval.reference has 'valid'", "train, test"],
    ),
    "more than there are": (
        dict(metrics=("kid",), reference_examples=10**6),
        ["config.eval.reference_examples = 1000000", "use 0 for all"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(digits, case):
    options, words = REFUSED[case]
    with pytest.raises(UserError) as error:
        SampleMetrics(changed(digits, **options))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_names_are_checked_with_the_config():
    values = load_config(tiny.ROOT / DIGITS).to_dict()
    with pytest.raises(UserError, match=r"config\.eval\.metrics = .*should be one of fid, kid"):
        make_config(**values | {"eval": dict(metrics=("fidd",))})


def test_texts(text):
    """Ids alone; the trigram model is of all of the training text, each window once."""
    model = changed(text, metrics=("token_entropy", "distinct_n", "trigram"))
    samples = model.split("test").gather(np.arange(3))["x0"]
    result = SampleMetrics(model).from_samples(samples)
    train = model.split("train")
    tokens = train.tokens[: len(train.tokens) // 12 * 12]
    expected = fit(np.asarray(tokens), model.spec.vocab_size).bits(samples)
    assert result["trigram_bits_per_token"] == pytest.approx(expected, rel=1e-12)
    assert 2 < result["unigram_entropy_bits"] < np.log2(12) + 1e-9
    assert 0 < result["distinct_1"] < result["distinct_3"] <= 1
    assert "reference" not in result and "features" not in result


def test_texts_refused(text, tmp_path, monkeypatch):
    def refused(*words, model=text, metric="generative_perplexity", **options):
        with pytest.raises(UserError) as error:
            SampleMetrics(changed(model, metrics=(metric,), **options))
        assert all(word in str(error.value) for word in words), error.value

    monkeypatch.setattr(scored_texts.GenerativePerplexity, "libraries", ("json", "no_such_thing"))
    refused("'generative_perplexity': no_such_thing not found", "md4jax[scored_texts]")
    monkeypatch.setattr(scored_texts.GenerativePerplexity, "libraries", ("json",))
    refused("'generative_perplexity': config.eval.scorer = None should be")
    refused(f"config.eval.scorer = '{tmp_path}' should be a folder with", scorer=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    refused("should be a folder with", "and weights", scorer=str(tmp_path))
    dataset = dataclasses.replace(text.dataset, to_text=None)
    refused("nobody knows the words", model=dataclasses.replace(text, dataset=dataset))
    refused("data are texts", "token_entropy, distinct_n", metric="knn_kl")
    spec = dataclasses.replace(text.spec, vocab_size=300)
    dataset = dataclasses.replace(text.dataset, spec=spec)
    model = dataclasses.replace(text, dataset=dataset)
    refused("metrics has 'trigram': a trigram model of 300 ids", model=model, metric="trigram")


class FakeLibrary:
    """As much of torch and transformers as a scorer asks before it reads a text."""

    def __init__(self, failure=None, end=0, **config):
        self.failure, self.end, self.config = failure, end, types.SimpleNamespace(**config)
        self.AutoConfig = self.AutoTokenizer = self.AutoModelForCausalLM = self

    def device(self, name):
        return contextlib.nullcontext()

    def from_config(self, config):
        if self.failure is not None:
            raise self.failure

    def from_pretrained(self, folder, local_files_only):
        assert local_files_only
        return types.SimpleNamespace(eos_token_id=self.end, **vars(self.config))


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (FakeLibrary(OSError("no tokenizer\nin it")), "cannot be loaded .*OSError: no tokenizer"),
        (FakeLibrary(KeyError("model_type")), "cannot be loaded .*KeyError: 'model_type'"),
        (FakeLibrary(max_position_embeddings=1023), "reads 1023 tokens at once; .* at least 1024"),
        (FakeLibrary(end=None, max_position_embeddings=1024), "should be .* end-of-text token"),
    ],
)
def test_scorers_are_refused_before_there_are_samples(library, words, text, tmp_path, monkeypatch):
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, library)
    monkeypatch.setattr(scored_texts.GenerativePerplexity, "libraries", ())
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    model = changed(text, metrics=("generative_perplexity",), scorer=str(tmp_path))
    with pytest.raises(UserError, match=rf"config\.eval\.scorer = '{tmp_path}' {words}") as error:
        SampleMetrics(model)
    assert "\n" not in str(error.value)


class FakeScorer:
    """Each letter of two."""

    end = 0

    def __init__(self, folder):
        assert folder

    def encode(self, text):
        return [*text.encode()]

    def log_probs(self, ids):
        return np.full(len(ids) - 1, -np.log(2))


def test_perplexity_by_a_scorer(text, tmp_path, monkeypatch):
    monkeypatch.setattr(scored_texts.GenerativePerplexity, "libraries", ())
    monkeypatch.setattr(scored_texts, "PretrainedScorer", FakeScorer)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("weights")
    model = changed(text, metrics=("generative_perplexity",), scorer=str(tmp_path))
    result = SampleMetrics(model).from_samples(model.split("test").gather(np.arange(3))["x0"])
    assert result["generative_perplexity"] == pytest.approx(2)
    assert result["generative_perplexity_tokens"] == 3 * 11
    # Which model it was is said, and is no metric.
    assert set(values_of(result)) == {"generative_perplexity", "generative_perplexity_tokens"}
    assert result["scorer"] == tmp_path.name
    assert result["scorer_weights"] == hashlib.sha256(b"{}weights").hexdigest()[:16]
    (tmp_path / "model.safetensors").write_text("finetuned")
    assert scored_texts.fingerprint(tmp_path) != result["scorer_weights"]


def test_other_texts_are_splits(text, tmp_path):
    """In the model's own ids, cut into disjoint windows."""
    file = tmp_path / "other.txt"
    file.write_text("abcdefghijklmnopqrstuvwxyz " * 2)
    config = md4jax.make_config(
        **text.config | {"eval": text.config["eval"] | {"texts": (str(file),), "splits": ()}}
    )
    model = md4jax.assemble(config)
    assert model.eval_splits == (str(file),)
    windows = model.split(str(file)).gather(np.arange(4))["x0"]
    assert len(model.split(str(file))) == 4
    assert "".join(map(model.dataset.to_text, windows)) == file.read_text()[:48]
    assert model.dataset.fingerprint == text.dataset.fingerprint

    def refused(path, match, base=config):
        with pytest.raises(UserError, match=match):
            md4jax.assemble(tiny.override(base, eval__texts=(str(path),)))

    refused(tmp_path / "none", "config.eval.texts has '.*none', which cannot be read as UTF-8")
    file.write_text("abc")
    refused(file, "3 chars, and one window is 12")
    file.write_text("A" * 20)
    refused(file, "character 'A' at position 0 is not in the alphabet")
    refused("train", "has 'train', which is a split of the data.*; a file of .* is './train'")
    refused(file, "the data that the model is of are no text", load_config(tiny.ROOT / DIGITS))


@pytest.fixture(scope="module")
def points():
    return make_config(
        process=dict(name="gaussian", num_timesteps=4, target="x0", variance="fixed_small",
                     clip="none"),
        network=dict(name="mlp", feature_dim=8, num_layers=1),
        data=dict(name="simplex_mixture", num_train=60, num_test=20),
        sampler=dict(name="ancestral", num_steps=4, num_samples=30, batch_size=20),
        optimizer=dict(name="adamw", learning_rate=1e-2),
        train=dict(num_steps=4, batch_size=16, eval_every=2, sample_every=2, ema_decay=0.0),
        eval=dict(splits=(), metrics=("knn_kl",), batch_size=16),
    )  # fmt: skip


def test_while_training(points, tmp_path, monkeypatch, capsys):
    """A line at every evaluation, of samples drawn once; none is written again."""
    drawn = []
    draw = Generator.__call__
    monkeypatch.setattr(
        Generator, "__call__", lambda *args, **kwargs: drawn.append(1) or draw(*args, **kwargs)
    )
    lines = lambda: [
        json.loads(x) for x in (tmp_path / "metrics/eval.jsonl").read_text().splitlines()
    ]
    last = md4jax.train(points, tmp_path)
    assert len(drawn) == 2  # At steps 2 and 4, for the drawing and the metric.
    found = lines()
    assert [(x["step"], x["source"], x["kind"]) for x in found] == [
        (2, "train", "samples"), (4, "train", "samples")
    ]  # fmt: skip
    assert last == found[-1]
    assert np.isfinite(last["knn_kl_nats"])
    about = {
        "samples": 30, "reference": "train", "reference_examples": 30, "sampler": "ancestral",
        "steps": 4, "network_calls": 4.0, "sampler_seed": 0, "weights": "raw",
    }  # fmt: skip
    assert {key: last[key] for key in about} == about
    assert f"samples: knn_kl_nats {last['knn_kl_nats']:.4g}" in capsys.readouterr().out

    assert md4jax.train(points, tmp_path) == last
    assert len(drawn) == 2 and lines() == found
    (evaluated,) = md4jax.evaluate(points, tmp_path)
    assert evaluated == {k: v for k, v in last.items() if k != "step"} | {"source": "evaluate"}
    out = capsys.readouterr().out
    assert "30 samples by ancestral, 4 steps, 4 network calls each, raw weights; against 30" in out
    with pytest.raises(UserError, match="'kid', which is for images"):
        md4jax.train(tiny.override(points, eval__metrics=("kid",)), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="nothing to evaluate"):
        md4jax.evaluate(tiny.override(points, eval__metrics=()), tmp_path)


def test_a_stop_is_seen(digits):
    from md4jax.console import Interrupted

    model = changed(digits, metrics=("kid",), num_samples=9)
    samples = images(model, "test", 9)[0]
    with pytest.raises(Interrupted):
        SampleMetrics(model).from_samples(samples, lambda: True)
    # Between metrics as well: asked once for each set's one batch, and then before each metric.
    answers = iter([False, False, False, True])
    metrics = SampleMetrics(changed(model, metrics=("kid", "mmd_rbf"), batch_size=9))
    with pytest.raises(Interrupted):
        metrics.from_samples(samples, lambda: next(answers))
    assert not list(answers)
    assert jax.device_count() == 1
