"""What is wrong is said in one line that names it, before anything is written over."""

import json

import jax
import numpy as np
import pytest
import tiny

import md4jax
from md4jax import cli
from md4jax.config import build, load_config, make_config
from md4jax.options import UserError
from md4jax.training.checkpoints import Checkpoints

DIGITS, TEXT = "configs/digits/masked.py", "configs/text8/small.py"
GAUSSIAN, VDM = "configs/digits/gaussian.py", "configs/vdm/cifar10.py"


def sections(path=TEXT, **changes):
    """A tiny config as plain dicts, with keys or sections set, or left out where it is `...`."""
    values = tiny.tiny(load_config(tiny.ROOT / path)).to_dict()
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if not key:
            values[section] = value
        elif value is ...:
            del values[section][key]
        else:
            values[section][key] = value
    return values


# What is changed, and words of the error: the key, the value, what would be right.
BAD_CONFIGS = {
    "misspelled field": (
        dict(network__num_layer=3),
        ["config.network.num_layer = 3", "Transformer has no such field", "num_layers"],
    ),
    "field of another component": (
        dict(optimizer__name="sgd"),
        ["config.optimizer.", "SGD has no such field"],
    ),
    "unknown component": (
        dict(network__name="transfomer"),
        ["config.network.name = 'transfomer'", "transformer, unet, uvit"],
    ),
    "no component": (dict(network__name=...), ["config.network.name is missing", "unet"]),
    "missing field": (dict(train__batch_size=...), ["config.train.batch_size is missing"]),
    "negative steps": (dict(train__num_steps=-1), ["config.train.num_steps = -1", "at least 1"]),
    "wrong type": (dict(train__num_steps="10"), ["config.train.num_steps = '10'", "int"]),
    "fraction of a step": (dict(train__num_steps=1.5), ["config.train.num_steps = 1.5", "int"]),
    "unknown word": (dict(sampler__grid="log"), ["config.sampler.grid", "uniform, cosine"]),
    "no power": (
        dict(process__schedule="polynomial"),
        ["config.process.power = None", "needs a power"],
    ),
    "odd number of times": (dict(eval__time_points=3), ["config.eval.time_points = 3", "even"]),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_config(case):
    changes, words = BAD_CONFIGS[case]
    with pytest.raises(UserError) as error:
        build(make_config(**sections(**changes)))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


# The same for Gaussian processes, and for what is theirs: the config, changes, words.
BAD_GAUSSIAN = {
    "unknown schedule": (
        GAUSSIAN,
        dict(process__schedule="polynomial"),
        ["config.process.schedule = 'polynomial'", "one of linear, cosine"],
    ),
    "unknown schedule of continuous time": (
        VDM,
        dict(process__schedule="sigmoid"),
        ["config.process.schedule = 'sigmoid'", "one of linear, cosine, learned"],
    ),
    "steps that no stride makes": (
        GAUSSIAN,
        dict(process__respacing="ddim3"),
        ["config.process.respacing = 'ddim3'", "no stride through 4 steps", "3 spaces them evenly"],
    ),
    "more steps than there are": (
        GAUSSIAN,
        dict(process__respacing="2,3"),
        ["config.process.respacing = '2,3'", "section 2 of 4 steps has 2, not 3"],
    ),
    "no notation for steps": (
        GAUSSIAN,
        dict(sampler__respacing="ten"),
        ["config.sampler.respacing = 'ten'", "should be 'ddim50', '50' or"],
    ),
    "more steps than there are, sampling": (
        GAUSSIAN,
        dict(sampler__respacing="5"),
        ["config.sampler.respacing = '5'", "of 4 steps has 4, not 5"],
    ),
    "a chain's steps without a chain": (
        VDM,
        dict(sampler__respacing="3"),
        ["config.sampler.respacing = '3'", "no chain of steps", "num_steps and grid"],
    ),
    "more sampling steps than the chain": (
        GAUSSIAN,
        dict(sampler__num_steps=5),
        ["config.sampler.num_steps = 5", "has 4 steps", "at most as many"],
    ),
    "times by the loss without steps": (
        TEXT,
        dict(train__time_sampling="loss_second_moment"),
        ["config.train.time_sampling = 'loss_second_moment'", "T steps", "use 'antithetic'"],
    ),
    "noise levels of a masked process": (
        DIGITS,
        dict(sampler__grid="karras"),
        ["config.sampler.grid = 'karras'", "Gaussian process", "use 'uniform'"],
    ),
    "a masked process's step": (
        GAUSSIAN,
        dict(sampler__name="joint"),
        ["config.sampler.name", "for masked processes, not Gaussian", "use 'ancestral'"],
    ),
    "a Gaussian process's step": (
        TEXT,
        dict(sampler__name="ddim"),
        ["config.sampler.name", "for Gaussian processes, not Masked", "use 'ancestral'"],
    ),
}


@pytest.mark.parametrize("case", BAD_GAUSSIAN)
def test_gaussian_config(case):
    path, changes, words = BAD_GAUSSIAN[case]
    with pytest.raises(UserError) as error:
        build(make_config(**sections(path, **changes)))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def other_network(name):
    network = {"name": name, "feature_dim": 8}
    return network | ({} if name == "transformer" else {"norm_groups": 4})


# Found when the parts are put together: before a folder is made, before anything compiles.
MISFITS = {
    "no data": (
        TEXT,
        dict(data__data_dir="nowhere"),
        ["nothing is prepared in 'nowhere/text8", "python prepare_data.py --dataset=text8"],
    ),
    "sequences for images": (DIGITS, "transformer", ["Transformer needs", "(8, 8, 1)"]),
    "images for sequences": (TEXT, "unet", ["UNet needs", "(12,)"]),
    "microbatches": (
        TEXT,
        dict(train__microbatches=3),
        ["config.train.batch_size = 4", "multiple of 3", "3 microbatches"],
    ),
    "devices": (TEXT, dict(mesh__fsdp=3), ["config.mesh", "fsdp 3", "does not fit 1 devices"]),
    "split": (TEXT, dict(eval__splits=("exam",)), ["config.eval.splits", "train, valid, test"]),
    "class": (
        DIGITS,
        dict(data__labels=True, sampler__label=10),
        ["config.sampler.label = 10", "classes 0 to 9"],
    ),
    "class without classes": (
        DIGITS,
        dict(sampler__label=0),
        ["config.sampler.label = 0", "no classes"],
    ),
    "guidance by what was not learned": (
        GAUSSIAN,
        dict(data__labels=True, sampler__guidance=2.0),
        ["config.sampler.guidance = 2.0", "without config.train.label_dropout", "use 1"],
    ),
    "guidance without classes": (
        GAUSSIAN,
        dict(sampler__guidance=2.0),
        ["config.sampler.guidance = 2.0", "without classes", "use 1"],
    ),
    "dropping labels without classes": (
        GAUSSIAN,
        dict(train__label_dropout=0.1),
        ["config.train.label_dropout = 0.1", "no classes to drop", "use 0"],
    ),
    "noise on text": (
        TEXT,
        dict(process={"name": "gaussian"}, sampler__num_steps=3),
        ["config.process.name", "'gaussian'", "levels", "are chars", "use 'masked'"],
    ),
    "waves of ids": (
        "configs/md4/cifar10.py",
        dict(network__fourier_features=(6, 7)),
        ["config.network.fourier_features = (6, 7)", "should be ()", "ids"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_parts_that_do_not_fit(case, tmp_path):
    path, changes, words = MISFITS[case]
    values = sections(path, **(changes if isinstance(changes, dict) else {}))
    if not isinstance(changes, dict):
        values["network"] = other_network(changes)
    config = make_config(**values)
    if case != "no data":
        config = tiny.with_data(config, tmp_path)
    with pytest.raises(UserError) as error:
        md4jax.train(config, tmp_path / "run")
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_data_out_of_the_vocabulary(tmp_path):
    """Ids the network has no row for would read another id's."""
    np.save(tmp_path / "ids.npy", np.arange(100, dtype=np.uint16))
    ids = dict(name="token_file", train_path=str(tmp_path / "ids.npy"), vocab_size=40, length=12)
    config = make_config(**sections("configs/md4/openwebtext.py") | {"data": ids})
    with pytest.raises(UserError, match="ids from 0 to 99.*vocab_size = 40 asks for 0 to 39"):
        md4jax.train(config, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config and the folder of its finished run."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny.with_data(tiny.tiny(load_config(tiny.ROOT / TEXT)), folder)
    md4jax.train(config, folder / "run")
    return config, folder / "run"


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", [md4jax.train, md4jax.evaluate, md4jax.sample])
def test_folder_of_another_run(trained, mode):
    config, workdir = trained
    before = snapshot(workdir)
    other = tiny.override(config, network__num_layers=2, train__seed=3, train__num_steps=9)
    with pytest.raises(UserError) as error:
        mode(other, workdir)
    for words in ("network.num_layers: 1 -> 2", "train.seed: 0 -> 3", "another --workdir"):
        assert words in str(error.value)
    assert "num_steps" not in str(error.value)  # A run may be made longer.
    assert snapshot(workdir) == before


def test_other_data_in_the_same_place(trained, tmp_path):
    config, workdir = trained
    before = snapshot(workdir)
    other = tiny.with_data(tiny.override(config), tmp_path, seed=1)
    with pytest.raises(UserError, match="other content"):
        md4jax.train(other, workdir)
    assert snapshot(workdir) == before


@pytest.mark.parametrize("mode", [md4jax.evaluate, md4jax.sample])
def test_nothing_trained_yet(trained, mode, tmp_path):
    config, _ = trained
    with pytest.raises(UserError, match="has no checkpoint; train it"):
        mode(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_folder_that_cannot_be_made(trained, tmp_path):
    config, _ = trained
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        md4jax.train(config, tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


def damage(checkpoint):
    """Flips a bit in the middle of each file of the arrays."""
    for file in (checkpoint / "state").rglob("*"):
        if file.is_file() and (content := bytearray(file.read_bytes())):
            content[len(content) // 2] ^= 1
            file.write_bytes(content)


def test_damaged_checkpoints(tmp_path, caplog, capsys):
    """The newest is moved aside and the one before it taken; if none is whole, nothing is done."""
    config = tiny.with_data(tiny.tiny(load_config(tiny.ROOT / TEXT)), tmp_path)
    workdir = tmp_path / "run"
    md4jax.train(config, workdir)
    evaluations = (workdir / "metrics" / "eval.jsonl").read_text()
    damage(workdir / "checkpoints" / "4")
    md4jax.train(config, workdir)
    assert "resuming at step 2 of 4" in capsys.readouterr().out
    assert any("checkpoints/4 is damaged" in message for message in caplog.messages)
    assert (workdir / "damaged_checkpoints" / "4" / "state").is_dir()
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"2", "4"}
    # What was lost is made again, the same.
    assert (workdir / "metrics" / "eval.jsonl").read_text() == evaluations

    for step in ("2", "4"):
        damage(workdir / "checkpoints" / step)
    before = snapshot(workdir)
    for mode in (md4jax.train, md4jax.evaluate):
        with pytest.raises(UserError, match="holds no whole checkpoint.*Nothing was changed"):
            mode(config, workdir)
    assert snapshot(workdir) == before


def one_error(*arguments, devices=1):
    """The one line on stderr that begins with `error: `, from main.py; nothing else went wrong."""
    done = tiny.run_main(*arguments, devices=devices)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.stderr.rstrip().endswith(errors[0])
    return errors[0]


def test_at_the_shell(tmp_path):
    """The same errors, and those of the flags, as a person sees them."""
    digits = (f"--config={DIGITS}", f"--workdir={tmp_path / 'run'}")
    for arguments, words in (
        ([], "--config is missing"),
        (digits[:1], "--workdir is missing"),
        (["--config=configs/none.py", digits[1]], "configs/none.py"),
        ([*digits, "--mode=play"], "play"),
        ([*digits, "--config.train.num_stepz=3"], "no key 'num_stepz'; --describe=train"),
        ([*digits, "--config.sampler.prompt=none.png"], "config.sampler.prompt = 'none.png'"),
        ([*digits, "--config.train.num_steps=ten"], "num_steps=ten: should be an integer"),
        ([*digits, "--config.train.random_flip=maybe"], "should be True or False"),
        ([*digits, "--config.process.schedule=polynomial"], "config.process.power"),
        (["--describe=network.vnet"], "vnet"),
    ):
        assert words in one_error(*arguments)
    assert "multiple of 4" in one_error(*digits, "--config.train.batch_size=6", devices=4)
    assert not (tmp_path / "run").exists()


def test_no_device_of_the_kind_asked_for(monkeypatch):
    """What jax raises then is an AssertionError without a word."""

    def devices():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match="^JAX_PLATFORMS=cuda: jax finds no such device"):
        cli.require_devices()


def test_loss_that_is_not_finite(trained, tmp_path):
    """The run ends with the step and the last checkpoint from before, which is whole."""
    config, _ = trained
    shipped = load_config(tiny.ROOT / TEXT)
    wild = tiny.override(
        config,
        optimizer__learning_rate=1e38,
        optimizer__warmup_steps=6,  # The first step's rate is 0.
        train__num_steps=30,
        train__checkpoint_every=1,
        train__eval_every=0,
        train__sample_every=0,
    )
    error = one_error(f"--config={TEXT}", f"--workdir={tmp_path}", *tiny.flags(wild, shipped))
    assert "not finite at step" in error
    bad = int(error.split("not finite at step ")[1].split(";")[0])
    good = int(error.split(f"{tmp_path}/checkpoints/")[1].split(".")[0])
    assert 1 <= good < bad
    checkpoints = Checkpoints(tmp_path / "checkpoints", max_to_keep=1)
    restored = checkpoints.restore(md4jax.assemble(wild).abstract_state(), move_aside=False)
    checkpoints.close()
    assert restored.step == good and not restored.skipped
    assert int(restored.state.first_bad_step) == -1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(restored.state))
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "metrics" / "train.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, bad))
