"""The Python surface of notebooks: it does what `main.py` does, and shows it."""

import collections
import dataclasses
import functools
import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from interactive_tools import NETWORK, UVIT, built
from tiny import CONFIGS, tiny

import md4jax
from md4jax import console, diffusion, parts
from md4jax.config import load_config, to_dict

TWO = dict(num_steps=2, batch_size=4)


def tiny_config():
    """Four steps; all that is compiled other tests need too."""
    return tiny(load_config("configs/digits/masked.py"))


@pytest.fixture(scope="module")
def model():
    """Trained in two goes; and the losses."""
    model = md4jax.build(tiny_config())
    losses = np.concatenate([model.fit(2), model.fit()])
    return model, losses


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder begun by two steps in a notebook and gone on with by `md4jax.train`."""
    folder = tmp_path_factory.mktemp("run")
    model = md4jax.build(tiny_config())
    model.fit(2)
    model.save(folder)
    return folder, md4jax.train(tiny_config(), folder)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


def test_fit_is_the_training_of_main(run, model):
    """Bit for bit, however it is divided."""
    (folder, _), (model, losses) = run, model
    restored = md4jax.restore(folder)
    assert model.step == restored.step == 4 and losses.shape == (4,)
    assert_same(model.state, restored.state)
    lines = (folder / "metrics" / "train.jsonl").read_text().splitlines()
    assert losses[2:].tolist() == [json.loads(line)["loss"] for line in lines]
    with pytest.raises(md4jax.UserError, match="no folder of a run"):
        md4jax.restore(folder / "none")


def test_losses_of_means():
    """Of steps 3 to 8 where every third is logged: to the rounding of the means."""
    losses = np.random.default_rng(0).normal(size=9)
    means = np.concatenate([np.cumsum(x) / [1, 2, 3] for x in losses.reshape(3, 3)])
    found = diffusion._each(means[2:8], first=2, every=3, before=losses[0] + losses[1])
    np.testing.assert_allclose(found, losses[2:8], rtol=1e-12)


def test_sample_and_bound_are_those_of_main(run, model, capsys):
    (folder, result), (model, _) = run, model
    file = md4jax.sample(tiny_config(), folder)
    samples = model.sample()
    np.testing.assert_array_equal(samples, np.load(file)["samples"])
    np.testing.assert_array_equal(model.sample(2, batch_size=4), samples[:2])
    bound = model.bound()
    for name in ("bits_per_dim", "standard_error", "monte_carlo_error", "examples"):
        assert getattr(bound, name) == result[name]
    assert sum(bound.terms.values()) == pytest.approx(bound.bits_per_dim, rel=1e-12)
    assert repr(bound).startswith(f"test: {bound.bits_per_dim:.3f} ± ")
    assert model.bound("train", num_examples=3).examples == 3
    assert "left" not in capsys.readouterr().out


def test_a_config_of_objects_is_the_config_of_the_file():
    """Shipped configs, through their components and back."""
    for path in CONFIGS[::3]:
        config = to_dict(load_config(path))
        experiment, same = parts.experiment(config)
        assert same == config, path
        again = parts.of(experiment)
        assert parts.experiment(again)[1] == config, path


def test_objects_dicts_and_changes():
    """The same model by each; what a dict does not name stays."""
    by_objects = md4jax.build(
        process=md4jax.Masked(schedule="cosine"), network=UVIT, data=md4jax.Digits()
    )
    by_dicts = md4jax.build(
        process=dict(name="masked", schedule="cosine"), network=dict(name="uvit", **NETWORK),
        data=dict(name="digits"),
    )  # fmt: skip
    assert by_objects.config == by_dicts.config
    changed = md4jax.build(by_objects.config, {"train.seed": 3}, train=dict(batch_size=32))
    expected = by_objects.config["train"] | {"seed": 3, "batch_size": 32}
    assert changed.config == by_objects.config | {"train": expected}
    chain = md4jax.Masked(num_timesteps=4)
    sampler = md4jax.build(
        process=chain, network=UVIT, data=md4jax.Digits(), sampler=dict(batch_size=2)
    ).config["sampler"]
    assert (sampler["num_steps"], sampler["batch_size"]) == (4, 2)  # As many as the process has.
    assert "Masked + UViT" in repr(changed) and "1,500 examples of shape (8, 8, 1)" in repr(changed)


def test_data_of_arrays():
    grey = md4jax.dataset(np.ones((5, 3, 4), bool), levels=2)
    assert grey.spec == md4jax.DataSpec(shape=(3, 4, 1), vocab_size=2) and grey.levels == 2
    images = np.zeros((5, 3, 4, 3), np.uint8)
    labelled = md4jax.dataset(
        images, images[:2], levels=256, train_labels=[0, 1, 2, 0, 1], test_labels=[0, 1]
    )
    assert labelled.spec.num_classes == 3 and set(labelled.splits) == {"train", "test"}
    tokens = md4jax.dataset(np.arange(6).reshape(2, 3), levels=6)
    assert tokens.spec == md4jax.DataSpec(shape=(3,), vocab_size=6, unit="token")
    points = md4jax.dataset(np.ones((4, 2)) * 0.5, domain="simplex")
    assert points.spec.domain == "simplex" and points.splits["train"].shape == (2,)


def test_what_was_handed_out_stays(model):
    """Training goes on with arrays of its own; and its end is said."""
    mlp = functools.partial(md4jax.MLP, feature_dim=np.int64(4), num_layers=1)
    fresh = built(network=mlp, data=md4jax.dataset(np.eye(4, dtype=int), levels=2), train=TWO)
    before = fresh.params
    copies = jax.device_get(before)
    fresh.fit()
    assert_same(before, copies)
    assert fresh.config["eval"]["splits"] == []  # There is no test split.
    assert fresh.config["network"]["feature_dim"] == 4
    with pytest.raises(md4jax.UserError, match="all train.num_steps = 2 steps are taken; fit"):
        fresh.fit()


def programs(model):
    """How many were compiled, by sampler."""
    return {
        step: [f._cache_size() for f in (g._start, g._advance, g._decode)]
        for step, g in model._generators.items()
    }


def test_other_samples_are_drawn_by_the_same_programs(model, tmp_path):
    """Another seed, number and prompt compile nothing; a prompt is read anew each time."""
    model, _ = model
    file, examples = tmp_path / "prompt.npz", model.examples(2)

    def sample(prompt, seed):
        known = np.ones(prompt.shape, bool)
        np.savez(file, tokens=prompt, known=known)
        return model.sample(4, seed=seed, prompt=str(file), batch_size=4)

    np.testing.assert_array_equal(sample(examples[:1], 0), examples[[0] * 4])
    first = model.sample(4, batch_size=4)
    compiled = programs(model)
    np.testing.assert_array_equal(sample(examples[1:], 1), examples[[1] * 4])
    second = model.sample(8, seed=1, batch_size=4)
    assert len(second) == 8 and (second[:4] != first).any()
    assert programs(model) == compiled
    np.testing.assert_array_equal(model.sample(4, batch_size=4), first)


def test_bound_of_paths():
    mlp = functools.partial(md4jax.MLP, feature_dim=4, num_layers=1)
    simplex = md4jax.build(
        process=md4jax.StarDirichlet(num_timesteps=3), network=mlp,
        data=md4jax.SimplexMixture(),
    )  # fmt: skip
    bound = simplex.bound(num_examples=4, path_samples=2, time_points=2)
    assert set(bound.of_paths) == {"bits_per_dim", "standard_error"}
    assert "; of whole paths " in repr(bound)


def test_what_is_saved_stays(tmp_path):
    """No weights that are not finite, no earlier step, and the config of what is there."""
    model = built(network=functools.partial(md4jax.MLP, feature_dim=4, num_layers=1))
    model.fit(1)
    model.save(tmp_path)
    content = (tmp_path / "config.json").read_bytes()
    other = md4jax.build(model.config, {"sampler.num_steps": 7})
    other.step, other.state = 1, model.state
    with pytest.raises(md4jax.UserError, match="has step 1 already, and this model has taken 1"):
        other.save(tmp_path)
    other.step, other.state = 2, dataclasses.replace(model.state, first_bad_step=1)
    with pytest.raises(md4jax.UserError, match="not finite at step 2"):
        other.save(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == content


def test_finetuning_begins_with_the_weights_and_leaves_them(model):
    """A head is trained; the network's weights stay those of the model, which still works."""
    model, _ = model
    before = jax.device_get(model.params["network"])
    tuned = model.finetuning(md4jax.Remasker(), sampler=md4jax.RemaskErrors(num_steps=2))
    losses = tuned.fit(2)
    assert losses.shape == (2,) and np.isfinite(losses).all() and tuned.step == 2
    assert_same(jax.device_get(tuned.params["network"]), before)
    assert_same(jax.device_get(model.params["network"]), before)
    assert "remasker" in tuned.params and "remasker" not in model.params
    assert tuned.config["finetune"]["name"] == "remasker"


def test_what_is_drawn_of_images(model):
    """Tiles of 64 pixels with a line of 2 around; films with a column a frame."""
    model, _ = model
    images = model.examples(6)
    np.testing.assert_array_equal(images, model.data.splits["test"].examples[:6])
    figure = model.draw(images)
    assert tuple(figure.get_size_inches() * 100) == (3 * 66 + 2, 2 * 66 + 2)
    assert figure._repr_png_()[:4] == b"\x89PNG"
    both = model.draw({"left": images, "right": images[:4]}, columns=2)
    assert [axes.get_title() for axes in both.axes] == ["left", "right"]
    table = model.draw({"left": images[:3], "right": images[3:]}, titles=["a", "b", "c"])
    assert [label.get_text() for label in table.axes[0].get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in table.axes[0].get_yticklabels()] == ["left", "right"]
    film = model.film(frames=3, num_samples=2)
    columns = [[label.get_text() for label in axes.get_xticklabels()] for axes in film.axes]
    assert columns[0][0] == "t = 1.00" and columns[0][-1] == "sample" and columns[1][0] == "data"
    assert [len(axes.get_yticklabels()) for axes in film.axes] == [4, 2]


def test_what_is_drawn_of_texts_and_points():
    mlp = functools.partial(md4jax.MLP, feature_dim=8, num_layers=1)
    rng, options = np.random.default_rng(0), dict(eval=dict(splits=()), mesh=md4jax.Mesh())
    tokens = md4jax.dataset(rng.integers(5, size=(8, 4)), levels=5)
    transformer = functools.partial(md4jax.Transformer, feature_dim=8, num_layers=1, num_heads=2)
    model = built(data=tokens, network=transformer, **options)
    texts = model.draw({"data": model.examples(2, "train")})
    first = " ".join(map(str, tokens.splits["train"].examples[0]))
    assert texts[0] == first and "── data 1 ─" in repr(texts) and first in repr(texts)
    film = model.film(frames=2, num_samples=1, num_steps=2)
    assert [title.split(": ")[1] for title in film.titles[:2]] == ["t = 1.00", "sample"]
    assert film[0].split() == ["5"] * 4 and "5" not in film[1]  # Five tokens, and MASK.

    points = md4jax.dataset(rng.normal(size=(64, 2)), domain="real")
    process = md4jax.Gaussian(num_timesteps=4)
    model = built(process=process, data=points, network=mlp, **options)
    assert model.draw(model.examples(8, "train")).get_size_inches()[0] > 5
    with pytest.raises(md4jax.UserError, match="examples has 'test': the data have train"):
        model.examples(8)


def test_losses_are_drawn():
    losses = np.linspace(3, 1, 100)
    figure = md4jax.draw_losses({"a": losses, "b": losses + 1}, window=10)
    means = [line.get_ydata() for line in figure.axes[0].lines[1::2]]
    np.testing.assert_allclose(means[0], [losses[i : i + 10].mean() for i in range(91)])
    np.testing.assert_allclose(means[1], means[0] + 1)
    assert len(md4jax.draw_losses(losses[:1]).axes[0].lines) == 2
    apart = md4jax.draw_losses({"a": losses, "b": 100 * losses}, panels=True).axes
    assert [axes.get_title() for axes in apart] == ["a", "b"]
    assert apart[0].get_ylim()[1] < 3.2 < 90 < apart[1].get_ylim()[0]


def untrained(first_bad_step=-1):
    """A model whose steps do nothing."""
    model = built(network=functools.partial(md4jax.UViT, feature_dim=64), train=dict(seed=1))
    state = collections.namedtuple("State", "metric_sums first_bad_step")
    model.state = state({"loss": 0.0}, first_bad_step)
    model._train_step = lambda state, batch: (state, {"loss": 1.0})
    return model


def test_a_loss_that_is_not_finite():
    with pytest.raises(md4jax.UserError, match="not finite at step 2; build it again"):
        untrained(first_bad_step=1).fit(3)


class Notebook(types.ModuleType):
    """What of IPython there is in a kernel."""

    def __init__(self):
        super().__init__("IPython")
        self.shown = []
        self.display = types.SimpleNamespace(display=self.show)

    def get_ipython(self):
        return types.SimpleNamespace(kernel=None)

    def show(self, data, raw, display_id):
        assert raw and display_id
        self.shown.append([data["text/plain"]])
        return types.SimpleNamespace(
            update=lambda data, raw: self.shown[-1].append(data["text/plain"])
        )


def test_progress_in_a_notebook_is_one_line(monkeypatch, capsys):
    """Each piece of work has one place, where the next line replaces the last."""
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    clock = iter(range(1000))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    bar = console.Bar("training", 4)
    for step in (1, 2):
        bar.update(step, lambda: "loss 2.0")
    bar.end(4, "loss 1.0")
    progress = console.Progress("sampling", 2)
    progress.update(1)
    progress.end()
    console.Progress("unseen", 2).end()
    full = "█" * 30
    assert notebook.shown == [
        [
            f"training {full[:7]}{'░' * 23} 1/4  loss 2.0  0:00:06 left",
            f"training {full[:15]}{'░' * 15} 2/4  loss 2.0  0:00:04 left",
            f"training {full} 4/4  loss 1.0",
        ],
        ["sampling: 1/2, 0:00:01 left", ""],
    ]
    assert capsys.readouterr().out == ""


def test_progress_elsewhere(monkeypatch, capsys):
    """In a terminal one line that is written over; in a log a line every few seconds."""
    clock = iter(range(1000))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    log = console.Bar("training", 10)
    for step in range(1, 11):
        log.update(step, lambda: "loss 2.0")
    log.end(10, "loss 1.0")
    assert capsys.readouterr().out.count("\n") == 3  # After 5 and 10 of 10 seconds, and at the end.
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal = console.Bar("training", 10)
    for step in range(1, 11):
        terminal.update(step, lambda: "loss 2.0")
    terminal.end(10, "loss 1.0")
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.count("\r") == 11


def test_small(monkeypatch):
    """One variable makes what is built small, and each work a few steps."""
    monkeypatch.setenv("MD4JAX_SMALL", "1")
    model = untrained()
    assert model.config["network"]["name"] == "mlp" and model.config["network"]["feature_dim"] == 8
    assert model.config["train"]["batch_size"] == 8 and model.config["train"]["seed"] == 1
    assert len(model.fit(1000)) == 3
    with pytest.raises(md4jax.UserError, match="network.dit_layer = 2: UViT has no such field"):
        built(network=functools.partial(md4jax.UViT, dit_layer=2))
    generator = model._generator(50, None, {})
    assert generator.num_steps == 3 and generator.step.num_samples == 50


def test_importing_is_light_and_every_name_is_there():
    command = (
        "import sys, md4jax; "
        "assert not {'jax', 'numpy', 'matplotlib', 'flax'} & set(sys.modules), sys.modules; "
        "assert set(md4jax.__all__) <= set(dir(md4jax))"
    )
    subprocess.run([sys.executable, "-c", command], check=True)
    for name in md4jax.__all__:
        assert getattr(md4jax, name).__name__ in (name, "sample"), name
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        md4jax.nope  # noqa: B018
    assert dataclasses.is_dataclass(md4jax.Train)
