"""prepare_data.py from a shell: what it prints, and one line of error whatever is wrong."""

import subprocess

import pytest
from tiny import ROOT, run_main

from md4jax.data.describe import load_dataset
from md4jax.data.prepare import RECIPES
from md4jax.data.prepare.recipe import Recipe
from md4jax.data.prepare.run import listing
from md4jax.options import describe_options


def command(*flags: str) -> subprocess.CompletedProcess:
    return run_main(*flags, script="prepare_data.py")


def test_it_makes_data_that_load(tmp_path):
    (tmp_path / "a.txt").write_text("some words " * 50)
    flags = (f"--source={tmp_path / 'a.txt'}", f"--data_dir={tmp_path / 'data'}")
    done = command("--dataset", "text", *flags, "--name=mine", "--test_fraction=0.5", "--workers=2")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:2] == ["train: 275 chars", "test: 275 chars"]
    assert lines[2].startswith(f"done: {tmp_path}/data/mine/1.0.0 (")
    assert lines[3].startswith("train: python main.py --config=configs/own/text.py --config.data.")
    values = dict(dataset="mine", data_dir=str(tmp_path / "data"), length=5)
    assert len(load_dataset({"name": "tokens"} | values).splits["test"]) == 55


def test_the_list():
    done = command("--list")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == listing(RECIPES) + "\n"
    paragraphs = done.stdout.split("\n    source: ")
    assert len(paragraphs) == len(RECIPES) + 1
    assert "mnist\n    handwritten digits" in done.stdout and "fetched (170 MB)" in done.stdout


def test_the_options():
    done = command("--dataset=text", "--describe")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:2] == ["--dataset=text", "  One text of your own."]
    assert "    tokenizer: str, default 'chars'; one of chars, bytes, gpt2" in lines


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_tells_of_itself(name):
    recipe = RECIPES[name]
    assert issubclass(recipe, Recipe)
    assert len(describe_options(name, recipe)) > 1
    about = recipe.about
    assert all((about.what, about.licence, about.home, about.source, about.gigabytes))
    assert about.train.startswith("--config=configs/") and "{" not in about.train
    assert (ROOT / about.train.split()[0].partition("=")[2]).is_file()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset=cifar"], "--dataset = 'cifar' should be one of mnist, cifar10, "),
        (["--dataset=text", "--describe", "--size=3"], "Unknown command line flag 'size'"),
        (["--dataset=lsun_church", "--size=abc"], "--size = 'abc' should be int: Height and"),
        (["--dataset=text", "--test_fraction=1"], "--test_fraction = 1.0 should be above 0 and"),
        (["--dataset=text", "--name=a/b"], "--name=a/b should be of letters, digits and _"),
        (["--dataset=celeba64"], "--source is missing: celeba64 is not offered for download"),
    ],
    ids=["dataset", "flag", "type", "range", "name", "source"],
)
def test_errors_are_one_line(tmp_path, flags, words):
    done = command(*flags, f"--data_dir={tmp_path / 'data'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {words}") and done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
