"""Each shipped config, shrunk, through all that is done with one; and the choices no config makes.

Two steps, a stop, evaluation, samples, then on to four steps, by what people call.
"""

import math

import jax
import numpy as np
import pytest
import test_every_star
import tiny
from walking import check_samples, read_lines, walk

import md4jax
from md4jax.config import build, load_config, make_config, to_dict
from md4jax.model import assemble
from md4jax.options import UserError, options_of
from md4jax.processes.base import DataSpec
from md4jax.samplers import STEPS
from md4jax.samplers.base import GRIDS
from md4jax.time_sampling import LossSecondMoment
from md4jax.training.checkpoints import Checkpoints
from md4jax.training.state import init_params

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

# The data that the counts in the docstrings are for.
CIFAR10 = DataSpec((32, 32, 3), 256)
IMAGENET64 = DataSpec((64, 64, 3), 256)
IMAGENET64_CLASSES = DataSpec((64, 64, 3), 256, num_classes=1000)
LSUN = DataSpec((256, 256, 3), 256)
SPECS = {
    "configs/ddpm/celeba.py": IMAGENET64,
    "configs/ddpm/cifar10.py": CIFAR10,
    "configs/ddpm/lsun_bedroom.py": LSUN,
    "configs/ddpm/lsun_church.py": LSUN,
    "configs/digits/beta.py": DataSpec((8, 8, 1), 17),
    "configs/digits/gaussian.py": DataSpec((8, 8, 1), 17),
    "configs/digits/masked.py": DataSpec((8, 8, 1), 17),
    "configs/digits/masked_remasker.py": DataSpec((8, 8, 1), 17),
    "configs/genmd4/digits.py": DataSpec((8, 8, 1), 17),
    "configs/genmd4/openwebtext.py": DataSpec((1024,), 50257),
    "configs/genmd4/text8.py": DataSpec((256,), 27),
    "configs/iddpm/cifar10_hybrid.py": CIFAR10,
    "configs/iddpm/cifar10_vlb.py": CIFAR10,
    "configs/iddpm/imagenet64_class_conditional.py": IMAGENET64_CLASSES,
    "configs/iddpm/imagenet64_hybrid.py": IMAGENET64,
    "configs/iddpm/imagenet64_vlb.py": IMAGENET64,
    "configs/iddpm/lsun_bedroom.py": LSUN,
    "configs/md4/cifar10.py": CIFAR10,
    "configs/md4/fineweb_edu.py": DataSpec((1024,), 50257),
    "configs/md4/imagenet64.py": IMAGENET64,
    "configs/md4/imagenet64_class_conditional.py": IMAGENET64_CLASSES,
    "configs/md4/imagenet64_samples.py": IMAGENET64,
    "configs/md4/openwebtext.py": DataSpec((1024,), 50257),
    "configs/md4/openwebtext_medium.py": DataSpec((1024,), 50257),
    "configs/md4/text8.py": DataSpec((256,), 27),
    "configs/mmd/celeba.py": IMAGENET64,
    "configs/mmd/cifar10.py": CIFAR10,
    "configs/mmd/digits_beta.py": DataSpec((8, 8, 1), 17),
    "configs/mmd/digits_gaussian.py": DataSpec((8, 8, 1), 17),
    "configs/mmd/digits_masked.py": DataSpec((8, 8, 1), 17),
    "configs/mmd/lsun_church.py": LSUN,
    "configs/mnist/masked.py": DataSpec((28, 28, 1), 256),
    "configs/own/images.py": IMAGENET64,
    "configs/own/text.py": DataSpec((128,), 96),
    "configs/python_docs/masked.py": DataSpec((128,), 96),
    "configs/star_shaped/cifar10_beta.py": CIFAR10,
    "configs/star_shaped/cifar10_gaussian.py": CIFAR10,
    "configs/star_shaped/earth_vmf.py": DataSpec((3,), None, domain="sphere"),
    "configs/star_shaped/simplex_ddpm.py": DataSpec((3,), None, domain="simplex"),
    "configs/star_shaped/simplex_dirichlet.py": DataSpec((3,), None, domain="simplex"),
    "configs/star_shaped/spd_ddpm.py": DataSpec((2, 2), None, domain="spd"),
    "configs/star_shaped/spd_wishart.py": DataSpec((2, 2), None, domain="spd"),
    "configs/star_shaped/text8_categorical.py": DataSpec((256,), 27, unit="char"),
    "configs/text8/small.py": DataSpec((128,), 27),
    "configs/vdm/cifar10.py": CIFAR10,
}
# Variants that docstrings count as well.
VARIANTS = [
    ("configs/md4/text8.py", {"process__time_features": "none"}, None),
    ("configs/md4/openwebtext.py", {"process__time_features": "none"}, None),
]


def count_parameters(config, data: DataSpec) -> int:
    """Of the network that a config makes for this data, without making it."""
    experiment = build(config)
    process = experiment.process.bind(data)
    spec = process.network_spec(data)
    network = experiment.network_class(spec=spec, **experiment.network_options)
    network.check()
    params = jax.eval_shape(lambda: init_params(process, network, data, seed=0))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def docstring(path: str) -> str:
    return (tiny.ROOT / path).read_text().split('"""')[1]


@pytest.mark.parametrize("path", tiny.CONFIGS)
def test_a_config_says_what_it_is(path):
    """Its command, its expected number, and a count of parameters that is right."""
    words = docstring(path)
    assert f"python main.py --config={path} " in words
    assert "Expected:" in words
    assert f"{count_parameters(load_config(tiny.ROOT / path), SPECS[path]):,} parameters" in words


def test_the_table_of_configs_is_whole():
    """`configs/README.md` has a row for each, with the number of parameters its docstring has."""
    rows = (tiny.ROOT / "configs" / "README.md").read_text().splitlines()
    cells = [row.split("|")[1:-1] for row in rows if row.startswith("| `")]
    table = {f"configs/{c[0].strip(' `')}": c[2].strip() for c in cells}
    assert sorted(table) == tiny.FILES
    for path, count in table.items():
        assert f"{count} parameters" in docstring(path), path


@pytest.mark.parametrize(("path", "values", "data"), VARIANTS)
def test_variants_are_counted_rightly(path, values, data):
    config = tiny.override(load_config(tiny.ROOT / path), **values)
    assert f"{count_parameters(config, data or SPECS[path]):,}" in docstring(path)


def tiny_of(path, **values):
    return tiny.override(tiny.tiny(load_config(tiny.ROOT / path)), **values)


# What no shipped config chooses. Choices are tried together, not in a product: each is in one.
CHOICES = {
    "guided classes, cosine schedule, uniform grid, levels of the U-ViT": (
        "configs/digits/masked.py",
        dict(
            data__labels=True,
            train__label_dropout=0.5,
            sampler__guidance=2.0,
            process__schedule="cosine",
            sampler__grid="uniform",
            network__ch_mult=(1, 2),
        ),
    ),
    "a network without time, microbatches, uniform times, no averaging": (
        "configs/text8/small.py",
        dict(
            process__time_features="none",
            train__microbatches=2,
            train__time_sampling="uniform",
            train__ema_decay=0.0,
        ),
    ),
    "bfloat16, remat, stacked layers, classes of images, clipping, decay of kernels": (
        "configs/md4/cifar10.py",
        dict(
            network__dtype="bfloat16",
            network__remat=True,
            network__scan_layers=True,
            data__labels=True,
            optimizer__clip_norm=1.0,
            optimizer__decay_mask="kernels",
            optimizer__schedule="constant",
            train__ema_warmup=True,
        ),
    ),
    "Gaussian: guided classes, fewer steps, a film, another loss and prediction": (
        "configs/digits/gaussian.py",
        dict(
            data__labels=True,
            train__label_dropout=0.5,
            sampler__guidance=2.0,
            sampler__frames=3,
            process__respacing="3",
            process__target="v",
            process__variance="fixed_small",
            process__loss="huber",
            process__weighting="min_snr",
        ),
    ),
    "Gaussian: a learned schedule": ("configs/vdm/cifar10.py", dict(process__schedule="learned")),
}


def names_of(path):
    """The process and the network of a config."""
    values = to_dict(load_config(tiny.ROOT / path))
    return {values["process"]["name"], values["network"]["name"]}


def different_configs():
    """So many configs that each process and each network of one is walked.

    The others differ in pairs, data, options and sizes; options are walked by `test_choice`, data
    sets read by `tests/data`, and that the parts fit is seen by `test_configs_fit_together`. What
    the choices here and in `test_every_star.py` are variants of is walked there, as are the
    families on the MLP; the two U-Nets of levels are one.
    """
    seen = {"star_dirichlet", "star_wishart", "star_von_mises_fisher", "mlp", "improved_unet"}
    for path, _ in (*CHOICES.values(), *test_every_star.CHOICES.values()):
        seen |= names_of(path)
    chosen = []
    for new in (2, 1):  # First those that bring both a process and a network.
        for path in tiny.CONFIGS:
            if len(names_of(path) - seen) >= new:
                chosen.append(path)
                seen |= names_of(path)
    return chosen


@pytest.mark.parametrize("path", different_configs())
def test_config(path, tmp_path):
    config = tiny.with_data(tiny.tiny(load_config(tiny.ROOT / path)), tmp_path)
    walk(config, tmp_path / "run")


@pytest.mark.parametrize("path", sorted(set(tiny.CONFIGS) - set(different_configs())))
def test_configs_fit_together(path, tmp_path):
    """All that happens before anything compiles, for those that are not walked."""
    config = tiny.with_data(tiny.tiny(load_config(tiny.ROOT / path)), tmp_path)
    model = assemble(config)
    assert model.abstract_state().step.shape == ()
    assert len(model.experiment.sampler.times(model.process)) > 1


@pytest.mark.parametrize("choice", CHOICES)
def test_choice(choice, tmp_path):
    path, values = CHOICES[choice]
    walk(tiny.with_data(tiny_of(path, **values), tmp_path), tmp_path / "run")


def test_text_of_your_own(tmp_path):
    """A data set, a bound of T steps, network options and components no shipped config has."""
    config = make_config(
        process=dict(name="masked", schedule="polynomial", power=2.0, num_timesteps=4),
        network=dict(name="transformer", feed_forward="swiglu", conditioning="adaln",
                     depth_scaled_init=False, scan_layers=True),
        data=dict(name="text_file", tokens="bytes"),
        sampler=dict(name="joint", gumbel="high", num_steps=4),
        optimizer=dict(name="sgd"),
        train=dict(num_steps=4, batch_size=4),
    )  # fmt: skip
    walk(tiny.with_data(tiny.tiny(config), tmp_path), tmp_path / "run")


def test_tokens_that_are_replaced_instead_of_hidden(tmp_path):
    """The process that no shipped config has."""
    config = make_config(
        process=dict(name="uniform_state", num_timesteps=4),
        network=dict(name="transformer", narrow_embedding=True),
        data=dict(name="text_file"),
        sampler=dict(name="ancestral", num_steps=4),
        optimizer=dict(name="adamw"),
        train=dict(num_steps=4, batch_size=4),
    )  # fmt: skip
    walk(tiny.with_data(tiny.tiny(config), tmp_path), tmp_path / "run")


def final_state(config, workdir, step):
    """All arrays of the last checkpoint, by name."""
    checkpoints = Checkpoints(workdir / "checkpoints", max_to_keep=2)
    restored = checkpoints.restore(assemble(config).abstract_state(), move_aside=False)
    checkpoints.close()
    assert restored.step == step
    leaves = jax.tree_util.tree_leaves_with_path(restored.state)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def test_losses_that_times_are_drawn_by(tmp_path):
    """Importance sampling goes on with its history, which is full when the run is stopped."""
    config = tiny_of(
        "configs/star_shaped/simplex_ddpm.py",
        process__loss="vlb",
        train__time_sampling="loss_second_moment",
        train__batch_size=20,  # Of 4 steps, so that two batches give each of them 10 losses.
        train__num_steps=8,
        train__checkpoint_every=4,
        train__eval_every=0,
        train__sample_every=0,
    )
    md4jax.train(config, tmp_path / "straight")
    tiny.train_until_saved(config, tmp_path / "stopped")
    stopped = final_state(config, tmp_path / "stopped", 4)
    history = {key: stopped[f".time_state['{key}']"] for key in ("losses", "count")}
    assert (history["count"] >= 10).all() and history["count"].sum() == 4 * 20
    p = LossSecondMoment.probabilities(history)
    assert p.max() > 1.2 * p.min()

    md4jax.train(config, tmp_path / "stopped")
    ours, theirs = (final_state(config, tmp_path / run, 8) for run in ("stopped", "straight"))
    assert ours.keys() == theirs.keys() == stopped.keys()
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []
    assert ours[".time_state['count']"].sum() == 8 * 20
    timing = "examples_per_second"
    logged = [
        [{k: v for k, v in line.items() if k != timing} for line in read_lines(file)]
        for file in (tmp_path / run / "metrics" / "train.jsonl" for run in ("stopped", "straight"))
    ]
    assert logged[0] == logged[1] and len(logged[0]) == 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config with classes, and a folder trained for a step."""
    config = tiny_of("configs/digits/masked.py", train__num_steps=1, data__labels=True)
    workdir = tmp_path_factory.mktemp("trained")
    md4jax.train(config, workdir)
    return config, workdir


def draw(config, workdir):
    with np.load(md4jax.sample(config, workdir)) as arrays:
        return arrays["samples"], arrays["labels"]


def choose_sampler(config, name, grid):
    """The config with another sampler, which keeps what options it shares; None if it cannot be."""
    kept = {k: v for k, v in config.sampler.items() if k in options_of(STEPS[name])}
    chosen = make_config(**config.to_dict() | {"sampler": kept | {"name": name, "grid": grid}})
    try:
        build(chosen)
    except UserError:
        return None
    return chosen


def test_every_sampler_and_grid(tmp_path):
    """All step functions and all grids draw from a trained folder; none overwrites another.

    Of the masked process and the Gaussian, each with what it takes; the rest is of the other. What
    needs a finetuned model draws in `tests/finetuning`.
    """
    tried, steps = set(), [name for name in STEPS if not STEPS[name].asks_for_errors]
    for path in ("configs/own/text.py", "configs/star_shaped/simplex_ddpm.py"):
        config = tiny.with_data(tiny_of(path, train__num_steps=1), tmp_path)
        workdir = tmp_path / config.process.name
        md4jax.train(config, workdir)
        chosen = {(s, g): choose_sampler(config, s, g) for s in steps for g in GRIDS}
        chosen = {key: value for key, value in chosen.items() if value is not None}
        tried |= set(chosen)
        # Each step and each grid, not in a product: first pairs of which neither was there.
        seen = set()
        for new in (2, 1):
            for pair in chosen:
                seen |= {pair} | set(pair) if len(set(pair) - seen) >= new else set()
        chosen = {pair: value for pair, value in chosen.items() if pair in seen}
        files = {md4jax.sample(one, workdir) for one in chosen.values()}
        assert len(files) == len(chosen)
        for file in files:
            check_samples(file, config)
    everything = {(s, g) for s in steps for g in GRIDS}
    others = set(steps) - {"ancestral", "ddim", "heun", "dpm_solver"}
    assert everything - tried == {(name, "karras") for name in others}


def test_samples_are_a_function_of_seed_and_index(trained):
    """They do not depend on the batch size; another seed or class draws others."""
    config, workdir = trained
    file = md4jax.sample(config, workdir)
    four, _ = draw(config, workdir)
    three, _ = draw(tiny.override(config, sampler__batch_size=2, sampler__num_samples=3), workdir)
    assert (three == four[:3]).all()
    with np.load(file) as kept:  # Not written over by the three, or twice by the four.
        assert (kept["samples"] == four).all()
    assert len(list(file.parent.glob(f"{file.stem}*.npz"))) == 2
    other, labels = draw(tiny.override(config, sampler__seed=1, sampler__label=7), workdir)
    assert (other != four).any()
    assert labels.tolist() == [7] * config.sampler.num_samples


def test_help_and_data():
    """The commands that train nothing; `test_docs.py` runs those that do."""
    helped = tiny.run_main("--help").stdout
    for flag in ("--config", "--workdir", "--mode", "--describe"):
        assert flag in helped
    page = tiny.run_main("--config=configs/python_docs/masked.py", script="prepare_data.py")
    assert page.returncode == 0, page.stderr
    assert "fingerprint" in page.stdout
