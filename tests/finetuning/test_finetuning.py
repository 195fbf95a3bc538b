"""What all finetunes have in common: what they begin with, resuming, and what is refused."""

import json

import jax
import numpy as np
import pytest
import tiny

import md4jax
from md4jax.config import load_config, make_config
from md4jax.model import assemble
from md4jax.modes import restore
from md4jax.options import UserError
from md4jax.training.checkpoints import Checkpoints

PATH = "configs/own/text.py"


def finetuning(config, name, **options):
    """The config with another `finetune` section."""
    return make_config(**config.to_dict() | {"finetune": {"name": name, **options}})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A config and the folder it was trained in for two steps, before there were finetunes."""
    folder = tmp_path_factory.mktemp("start")
    config = tiny.tiny(load_config(tiny.ROOT / PATH))
    config = tiny.with_data(config, folder)
    config.train.num_steps, config.train.eval_every, config.train.sample_every = 2, 4, 4
    md4jax.train(config, folder / "run")
    file = folder / "run" / "config.json"
    saved = json.loads(file.read_text())
    assert saved["config"].pop("finetune") == {"name": "none"}
    file.write_text(json.dumps(saved))
    return config, folder / "run"


def arrays(tree):
    return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree.leaves_with_path(tree)}


def same(ours, theirs):
    """Bit for bit, with the same names."""
    ours, theirs = arrays(ours), arrays(theirs)
    return {k: x.tobytes() for k, x in ours.items()} == {k: x.tobytes() for k, x in theirs.items()}


def last_state(config, workdir):
    checkpoints = Checkpoints(workdir / "checkpoints", max_to_keep=9)
    restored = checkpoints.restore(assemble(config).abstract_state(), move_aside=False)
    checkpoints.close()
    return restored.state


def test_it_begins_with_the_averaged_weights(start, tmp_path):
    """With a learning rate of 0 it ends with them too."""
    config, folder = start
    still = finetuning(config, "continued", start=str(folder))
    still.optimizer.learning_rate = 0.0
    md4jax.finetune(still, tmp_path)
    ours, theirs = last_state(still, tmp_path), last_state(config, folder)
    assert same(ours.params, theirs.ema_params) and same(ours.ema_params, theirs.ema_params)
    assert not same(theirs.params, theirs.ema_params)


def test_a_finetuned_folder_is_one_like_any_other(start, tmp_path):
    """It resumes bit for bit, without its start; it is evaluated and sampled; it is not trained."""
    config, folder = start
    moved = folder.with_name("moved")
    folder.rename(moved)
    tuned = finetuning(config, "continued", start=str(moved))
    tuned.train.num_steps, tuned.train.checkpoint_every = 4, 2
    md4jax.finetune(tuned, tmp_path / "straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(md4jax, "train", md4jax.finetune, raising=False)
        tiny.train_until_saved(tuned, tmp_path / "stopped")
    moved.rename(folder)
    assert md4jax.finetune(tuned, tmp_path / "stopped")["step"] == 4
    states = [last_state(tuned, tmp_path / run) for run in ("straight", "stopped")]
    assert same(*states)
    assert not same(states[0].params, last_state(config, folder).ema_params)
    assert restore(tuned, tmp_path / "straight")[2] == 4
    with pytest.raises(UserError, match="finetune.name: 'continued' -> 'none'"):
        md4jax.train(config, tmp_path / "straight")
    with pytest.raises(UserError, match="config.finetune.name = 'continued': --mode=train trains"):
        md4jax.train(tuned, tmp_path / "straight")


def test_older_runs_are_as_if_nothing_was_finetuned(start):
    config, folder = start
    assert restore(config, folder)[2] == 2


def test_what_is_refused(start, tmp_path):
    """In one line, before anything is made."""
    config, folder = start

    def refused(change, words, **options):
        options = {"start": str(folder)} | options
        given = finetuning(config, "continued", **options)
        with pytest.raises(UserError) as error:
            md4jax.finetune(change(given), tmp_path / "run")
        assert all(word in str(error.value) for word in words), error.value
        assert "\n" not in str(error.value) and not (tmp_path / "run").exists()

    def other(key, value):
        return lambda given: tiny.override(given, **{key: value})

    as_it_is = lambda given: given
    nowhere = str(tmp_path / "nowhere")
    refused(as_it_is, ["config.finetune.start = ''", "has no trained model"], start="")
    refused(as_it_is, [f"start = '{nowhere}'", "has no trained model"], start=nowhere)
    words = [str(folder), "another model", "network.feature_dim: 8 -> 16"]
    refused(other("network__feature_dim", 16), words)
    refused(other("process__schedule", "cosine"), ["process.schedule: 'linear' -> 'cosine'"])
    refused(lambda given: finetuning(given, "none"), ["config.finetune.name = 'none'", "continued"])
