"""The documents: every block is run or looked at, and what they name is there.

`docs_pages.py` finds blocks, commands, links and names; `docs_programs.py` starts the programs.
"""

import re

import docs_pages
import docs_programs
import numpy as np
import pytest
import tiny
from docs_pages import ROOT
from docs_reader import Reader

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

PAGES = {str(page.relative_to(ROOT)): page for page in docs_pages.pages()}

# Modes of main.py of which one command is run, with sizes shrunk: the first whose folder is there
# by then. All others, and those of the other programs here, are started up to their work: flags,
# config and overrides are parsed and checked by the program itself, lists and descriptions printed,
# and the parts of the shrunk config put together (`docs_programs.check`).
RUN = {
    "train": ("parameters on 1 data x 1 fsdp x 1 tensor", "done: 4 steps", "results: {}"),
    "evaluate": ("checkpoint of step 4", "bits/", "results: {}"),
    "sample": ("results: 4 samples in {}",),
}
# These do all that they do, which is to show something.
SHOW = r"python main.py --describe|python prepare_data.py (--list|--config|.*--describe)"
# Why that is all for the others.
ONLY_CHECKED = {
    r"python main.py": "one of its mode is run; each config and choice is, by test_every_path.py",
    r"python main.py .*--distributed": "needs several hosts; tests/test_hosts.py runs two",
    r"python prepare_data.py .*--dataset": "the sources are not here; tests/data/prepare runs each "
    "recipe on a small one",
    r"python -m md4jax.convert": "the weights are not here; tests/convert runs it on small ones",
    r"python -m md4jax.evaluation.features.classifier": "run by tests/evaluation",
}
# Commands that are not started at all, and why.
NOT_RUN = {
    r"(python3 -m venv|pip install|pre-commit install)": "installs; the tests run in what it makes",
    r"pip (download|wheel)|rsync": "needs a network, and another machine",
    r"srun|gcloud": "needs a cluster; what it starts is checked",
    r"python -m pytest": "runs these tests",
    r"jupyter|.*MD4JAX_SMALL=1|python notebooks/": "tests/test_notebooks.py runs them small",
    r"python -c": "shows which devices there are",
}
# Flags in the documents that are of other programs.
FOREIGN_FLAGS = {
    r"(nodes|ntasks-per-node|gpus-per-(node|task)|signal)": "Slurm",
    r"xla_\w+": "XLA, in XLA_FLAGS",
}


def text_of(page):
    return PAGES[page].read_text()


def commands_of(page):
    return docs_pages.commands(text_of(page))


def line_of(words):
    """A command as the tables above have it, wherever its programs are."""
    return " ".join([words[0].removeprefix(".venv/bin/"), *words[1:]])


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """One who has made the files of a page, where it tells to."""
    return lambda page: Reader(text_of(page), tmp_path, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_what_there_is(page, reader):
    """Blocks of known languages, links and anchors that lead somewhere, keys, flags and files."""
    text = reader(page).text
    problems = [
        *docs_pages.fence_problems(text),
        *docs_pages.link_problems(PAGES[page]),
        *docs_pages.key_problems(text),
        *docs_pages.flag_problems(text, FOREIGN_FLAGS),
        *docs_pages.path_problems(PAGES[page]),
        *docs_pages.name_problems(text),
    ]
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    return docs_programs.ConfigChecks(tmp_path_factory.mktemp("checks"))


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_commands_are_right(page, reader, checks, capsys):
    """Each is taken by its program, or its table entry says why it is not started."""
    reader(page)
    problems = []
    for words in commands_of(page):
        if any(re.match(pattern, line_of(words)) for pattern in NOT_RUN):
            continue
        if docs_programs.source(words) is None:
            problems.append(f"{line_of(words)}: is of no program here, and not in NOT_RUN")
            continue
        try:
            docs_programs.check(words, checks)
        except (Exception, SystemExit) as error:
            problems.append(f"{line_of(words)}: {error!r} {capsys.readouterr().err}")
    assert not problems, "\n".join(problems)


def test_each_entry_of_the_tables_is_of_something():
    lines = [line_of(words) for page in PAGES for words in commands_of(page)]
    flags = [flag for page in PAGES for flag in docs_pages.flags(text_of(page))]
    for pattern in (*ONLY_CHECKED, *NOT_RUN):
        assert any(re.match(pattern, line) for line in lines), pattern
    for pattern in FOREIGN_FLAGS:
        assert any(re.fullmatch(pattern, flag) for flag in flags), pattern
    for line in lines:
        assert any(re.match(pattern, line) for pattern in (SHOW, *ONLY_CHECKED, *NOT_RUN)), line


def test_a_command_of_each_mode_runs(tmp_path, capsys):
    made = set()
    lines = [words for page in PAGES for words in commands_of(page)]
    lines = [words for words in lines if docs_programs.source(words) == ROOT / "main.py"]
    for mode, said in RUN.items():
        for words in lines:
            given = dict(word.lstrip("-").partition("=")[::2] for word in words if "=" in word)
            folder = given.get("config.finetune.start", given.get("workdir"))
            if given.get("mode", "train") == mode and (mode == "train" or folder in made):
                break
        else:
            pytest.fail(f"no command has --mode={mode} and the folder of one before it")
        made.add(given["workdir"])
        config = docs_programs.config_of(words)
        moved = [word.replace("=/", f"={tmp_path}/") for word in words]
        docs_programs.run([*moved, *tiny.flags(tiny.tiny(config), config)])
        out = capsys.readouterr().out
        for part in said:
            assert part.format(f"{tmp_path}{given['workdir']}") in out


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of(page)])
def test_python_runs(page, reader):
    names = reader(page).run_python()
    if page == "README.md":
        # The untrained network says that the noise is 0, whose mean square is 1: 8 x 768 squares.
        assert abs(float(names["loss"]) - 1) < 5 * (2 / (8 * 768)) ** 0.5
        samples = np.asarray(names["samples"])
        assert samples.shape == (8, 16, 16, 3) and samples.dtype == np.int32
        assert samples.min() >= 0 and samples.max() <= 255


def test_the_reference_of_keys_is_current():
    """`python -m md4jax.reference > docs/config.md` after a change of options."""
    from md4jax.reference import markdown

    assert (ROOT / "docs" / "config.md").read_text() == markdown()
