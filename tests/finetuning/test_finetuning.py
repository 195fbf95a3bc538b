"""A finetuned folder: what it begins with, what stays, resuming, and what is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

import md4jax
from md4jax.config import build, load_config, make_config
from md4jax.model import assemble
from md4jax.options import UserError
from md4jax.training import workdir as workdir_lib
from md4jax.training.checkpoints import Checkpoints

PATH = "configs/own/text.py"


def finetuning(config, **options):
    """The config with another `finetune` section, and the sampler it is for."""
    finetune = {"name": "remasker", **options}
    sampler = {"name": "remask_errors", "num_steps": 3, "num_samples": 4, "batch_size": 4}
    return make_config(**config.to_dict() | {"finetune": finetune, "sampler": sampler})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A config and its folder, as of a run of two steps before there were finetunes."""
    folder = tmp_path_factory.mktemp("start")
    config = tiny.with_data(tiny.tiny(load_config(tiny.ROOT / PATH)), folder)
    config.train.eval_every, config.train.sample_every = 0, 0
    config.optimizer.weight_decay = 0.1
    model, rng = assemble(config), np.random.default_rng(0)
    noise = lambda x: jax.device_put(np.float32(0.1 * rng.standard_normal(x.shape)), x.sharding)
    state = model.init_state()
    params, averaged = (jax.tree.map(noise, state.params) for _ in range(2))
    state = dataclasses.replace(
        state, params=params, ema_params=averaged, step=jax.device_put(np.int32(2))
    )
    checkpoints = workdir_lib.open_checkpoints(folder / "run", model)
    checkpoints.save(2, state, workdir_lib.checkpoint_meta(model, 2, 0.0))
    checkpoints.close()
    workdir_lib.prepare(folder / "run", model)
    file = folder / "run" / "config.json"
    saved = json.loads(file.read_text())
    assert saved["config"].pop("finetune") == {"name": "none"}
    file.write_text(json.dumps(saved))
    return config, folder / "run"


def arrays(tree):
    """The bits of each array, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves}


def last_state(config, workdir):
    checkpoints = Checkpoints(workdir / "checkpoints", max_to_keep=9)
    restored = checkpoints.restore(assemble(config).abstract_state(), move_aside=False)
    checkpoints.close()
    return restored.state


def test_a_finetuned_folder(start, tmp_path):
    """All but the head is bit for bit what the start averaged, with weight decay.

    It resumes bit for bit, without its start; it is sampled; it is not trained.
    """
    config, folder = start
    tuned = finetuning(config, start=str(folder))
    tuned.train.num_steps, tuned.train.checkpoint_every = 4, 2
    assert md4jax.finetune(tuned, tmp_path)["step"] == 4
    straight, trained = last_state(tuned, tmp_path), last_state(config, folder)
    for params in (straight.params, straight.ema_params):
        assert arrays(params["network"]) == arrays(trained.ema_params["network"])
    head = straight.params["remasker"]
    assert np.abs(head["kernel"]).min() > 0 and head["kernel"].shape[1:] == (1,)
    assert not any("network" in name for name in arrays(straight.opt_state))

    shutil.rmtree(tmp_path / "checkpoints" / "4")
    tuned.finetune.start = "/gone"
    md4jax.finetune(tuned, tmp_path)
    resumed = last_state(tuned, tmp_path)
    assert resumed.step == 4 and arrays(resumed) == arrays(straight)

    with np.load(md4jax.sample(tuned, tmp_path)) as samples:
        assert samples["samples"].shape == (4, 12) and samples["samples"].max() < 96
    with pytest.raises(UserError, match="finetune.name: 'remasker' -> 'none'"):
        md4jax.train(config, tmp_path)
    with pytest.raises(UserError, match="config.finetune.name = 'remasker': --mode=train trains"):
        md4jax.train(tuned, tmp_path)


def other(key, value):
    """Sets a key."""
    return lambda config: tiny.override(config, **{key: value})


def section(of, **values):
    """Takes another component."""
    return lambda config: make_config(**config.to_dict() | {of: values})


# What is changed, and words of the error.
REFUSED = {
    "no start": (other("finetune__start", ""), ["config.finetune.start = ''", "no trained model"]),
    "nothing there": (other("finetune__start", "/nowhere"), ["start = '/nowhere'", "--mode=train"]),
    "another network": (
        other("network__feature_dim", 16), ["another model", "network.feature_dim: 8 -> 16"]),
    "another process": (
        other("process__schedule", "cosine"), ["process.schedule: 'linear' -> 'cosine'"]),
    "nothing to do": (
        lambda config: section("finetune", name="none")(
            section("sampler", name="ancestral")(config)),
        ["config.finetune.name = 'none'", "choose one of mmd, remasker"]),
    "a network whose features are not shown": (
        section("network", name="t5_encoder", feature_dim=8, num_layers=1, num_heads=2),
        ["config.finetune.name = 'remasker'", "T5Encoder does not show"]),
    "answers used again": (
        section("sampler", name="remask_errors", reuse=True), ["config.sampler.reuse = True"]),
    "no head to ask": (
        section("finetune", name="none"), ["config.sampler.name = 'remask_errors'", "remasker"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(start, case, tmp_path):
    """In one line, before anything is made."""
    config, folder = start
    change, words = REFUSED[case]
    with pytest.raises(UserError) as error:
        md4jax.finetune(change(finetuning(config, start=str(folder))), tmp_path / "run")
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_process_that_hides_nothing_has_no_remasker(start, tmp_path):
    config, folder = start
    change = section("process", name="uniform_state", num_timesteps=4)
    other_process = section("sampler", name="ancestral", num_steps=3)(
        change(finetuning(config, start=str(folder)))
    )
    build(other_process)
    with pytest.raises(UserError, match="only masked models .* and this is UniformState"):
        md4jax.finetune(other_process, tmp_path / "run")
