"""prepare_data.py from a shell: a page of text, or one line of error."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from md4jax.data.describe import describe, load_dataset
from md4jax.options import UserError

ROOT = Path(__file__).parents[2]
CONFIG = """
import ml_collections
from ml_collections import config_dict
def get_config(which="digits"):
    none = config_dict.placeholder(str)
    data = {
        "digits": dict(name="digits", labels=False),
        "tokens": dict(
            name="token_file", train_path="x.npy", test_path=none, vocab_size=7, length=5
        ),
        "text": dict(name="text_file", path="none.txt", length=5, tokens="chars"),
    }
    if which not in data:
        from md4jax.options import UserError
        raise UserError("no such thing")
    return ml_collections.ConfigDict({"data": data[which]})
"""


@pytest.fixture
def prepare(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)

    def run(which: str, *flags: str):
        command = [sys.executable, str(ROOT / "prepare_data.py")]
        command += [f"--config={tmp_path / 'config.py'}:{which}", *flags]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_digits_page(prepare):
    done = prepare("digits")
    assert done.returncode == 0, done.stderr
    for words in ("8 x 8 x 1", "1,500 examples", "297 examples", "2.4132 bits/dim", "fingerprint"):
        assert words in done.stdout


def test_override_and_placeholder(prepare, tmp_path):
    np.save(tmp_path / "y.npy", np.arange(33) % 7)
    done = prepare("tokens", "--config.data.train_path=y.npy")
    assert done.returncode == 0, done.stderr
    assert "6 examples from 33 tokens, one every 5, 3 left out" in done.stdout
    done = prepare("tokens", "--config.data.train_path=y.npy", "--config.data.test_path=y.npy")
    assert "unigram_cross" in done.stdout


@pytest.mark.parametrize(
    ("which", "flags", "message"),
    [
        ("text", [], "error: config.data.path = 'none.txt': no such file"),
        ("text", ["--config.data.length=0"], "error: config.data.length = 0 should be at least 1"),
        ("digits", ["--config.data.name=digit"], "error: config.data.name = 'digit' should be one"),
        ("digits", ["more"], "error: unexpected argument 'more'"),
        ("nothing", [], "error: no such thing"),
    ],
)
def test_errors_are_one_line(prepare, which, flags, message):
    done = prepare(which, *flags)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_load_dataset_errors():
    with pytest.raises(UserError, match=r"config.data.name is missing"):
        load_dataset({})
    with pytest.raises(UserError, match=r"config.data.label = True: Digits has no such field"):
        load_dataset({"name": "digits", "label": True})


def test_describe_shows_an_example():
    digits = describe(load_dataset({"name": "digits"}), "digits")
    assert "@@" in digits and "none" in digits
    docs = describe(load_dataset({"name": "python_docs", "length": 64}), "python_docs")
    assert 'The "assert" statement' in docs and "bits/char" in docs
