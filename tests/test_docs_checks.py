"""What looks at the documents finds mistakes: each kind once, beside what is right."""

import sys

import docs_pages
import docs_programs
import numpy as np
import PIL.Image
import pytest
from docs_reader import Reader

from md4jax.samplers import STEPS

PAGE = """# One `two`, three!

See [there](other.md#part-1), [here](#one-two-three) and ![it](a.png).
`[no link](nowhere.md)`

- a list:
  ```sh
  run() { python main.py --config=a.py "$@"; }  # of a model
  X=1 run --mode=sample \\
      --config.eval.metrics="('kid', 'fid')" > log && cd b
  ssh host --command="cd a && python main.py --distributed"
  srun -n 2 .venv/bin/python main.py
  ```
"""


@pytest.fixture
def page(tmp_path):
    (tmp_path / "other.md").write_text("## Part\n\n## Part\n")
    PIL.Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "README.md").write_text(PAGE)
    return tmp_path / "README.md"


def test_words_of_commands():
    of_function = ["python", "main.py", "--config=a.py", "--mode=sample"]
    assert docs_pages.commands(PAGE) == [
        [*of_function, "--config.eval.metrics=('kid', 'fid')"],
        ["cd", "b"],
        ["ssh", "host", "--command=cd a && python main.py --distributed"],
        ["python", "main.py", "--distributed"],
        ["srun", "-n", "2"],
        [".venv/bin/python", "main.py"],
    ]


def test_blocks():
    (fence,) = docs_pages.fences(PAGE)
    assert fence.language == "sh" and fence.line == 8
    assert fence.text.startswith("run() {") and fence.text.endswith("python main.py\n")
    assert docs_pages.fence_problems(PAGE) == []
    (problem,) = docs_pages.fence_problems(PAGE.replace("```sh", "```shell"))
    assert problem.startswith("line 8: ```shell should be one of")
    assert docs_pages.fence_problems(PAGE + "```sh\n") == ["``` is not closed"]


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("other.md#part-1", "another.md#part-1", "another.md#part-1: there is no such file"),
        ("other.md#part-1", "../../x.md", "../../x.md: there is no such file"),
        ("#part-1", "#part-2", "other.md#part-2: other.md has no such heading"),
        ("#one-two-three", "#One-two", "#One-two: README.md has no such heading"),
        ("a.png", "b.png", "b.png: there is no such file"),
    ],
)
def test_links(page, right, wrong, problem):
    assert docs_pages.link_problems(page, page.parent) == []
    page.write_text(PAGE.replace(right, wrong))
    assert docs_pages.link_problems(page, page.parent) == [problem]


def test_a_picture_that_is_none(page):
    (page.parent / "a.png").write_text("version https://git-lfs")
    assert docs_pages.link_problems(page, page.parent) == ["a.png: is no picture"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("config.train.num_steps = 5", "config.train.num_step = 5"),
        ("--config.sampler.name=joint", "--config.samplers.name=joint"),
        ("the section `config.mesh`", "the section `config.meshes`"),
        ("`sampler.grid=strided`", "`sampler.gird=strided`"),
        ("`--describe=network.unet`", "`--describe=network.u_net`"),
        (
            "`config.json`, config.to_dict(), `data.load()`, `eval.jsonl`",
            "`config.classifier.widths`",
        ),
        ("`--config.section.key=value`", "`--config.sections.key=value`"),
    ],
)
def test_keys(right, wrong):
    assert docs_pages.key_problems(right) == []
    assert len(docs_pages.key_problems(wrong)) == 1


def test_flags():
    right = (
        "`--mode=sample`, `--help`, `main --config.mesh.fsdp=2`, `--test_every`, `--samples`, --x"
    )
    assert docs_pages.flag_problems(right, ()) == []
    assert docs_pages.flag_problems("`main --modes=sample`", ()) == ["--modes: no program has it"]
    assert docs_pages.flag_problems("`--gpus-per-node`, `--gpus`", [r"gpus-per-\w+"]) == [
        "--gpus: no program has it"
    ]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("`configs/digits/masked.py`", "configs/digits/mask.py"),
        ("`configs/*/text8.py`, `star/beta.py`", "`configs/*/text9.py`"),
        ("`tests/tiny.py`, `processes/yours.py`", "`processes/mine.py`"),
    ],
)
def test_paths(right, wrong, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(right.replace("star/", "md4jax/processes/star/"))
    assert docs_pages.path_problems(page) == []
    page.write_text(wrong)
    assert len(docs_pages.path_problems(page)) == 1


def test_names():
    assert docs_pages.name_problems("`md4jax.DDIM(eta=0.0)`, `md4jax.processes.masked`") == []
    assert docs_pages.name_problems("`md4jax.DDIMs`") == ["md4jax.DDIMs: there is no such name"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("main.py --config=configs/digits/none.py --workdir=w", "configs/digits/none.py"),
        ("main.py --config=configs/digits/beta.py --workdir=w --mod=sample", "mod"),
        ("main.py --config=configs/digits/beta.py --workdir=w --mode=samples", "mode"),
        ("main.py --config=configs/digits/beta.py --workdir=w --config.eval.seeds=1", "seeds"),
        ("main.py --config=configs/digits/beta.py --workdir=w --config.eval.seed=-1", "eval.seed"),
        (
            "main.py --config=configs/digits/beta.py --workdir=w --config.sampler.name=ddim",
            "use 'ancestral'",
        ),
        ("main.py --config=configs/digits/beta.py", "--workdir is missing"),
        ("main.py --describe=networks", "networks"),
        ("prepare_data.py --dataset=cifar100", "cifar100"),
        ("prepare_data.py --dataset=text --train_stride=2", "train_stride"),
        ("-m md4jax.convert --from=edm", "edm"),
        ("benchmarks/tails.py --reps=2", "reps"),
        ("benchmarks/none.py", "none.py"),
    ],
)
def test_commands_that_are_refused(wrong, words, tmp_path, capsys):
    with pytest.raises((SystemExit, Exception)) as error:
        docs_programs.check(["python", *wrong.split()], docs_programs.ConfigChecks(tmp_path))
    assert words in f"{error.value} {capsys.readouterr().err}"


ADDED = """Put this in `md4jax/samplers/twice.py`:

```python
\"\"\"A step function.\"\"\"

from md4jax.samplers.base import Ancestral


class Twice(Ancestral):
    \"\"\"Nothing else.\"\"\"
```

In the table of `md4jax/samplers/__init__.py`:

```diff
         "joint": "md4jax.samplers.masked:Joint",
+        "twice": "md4jax.samplers.twice:Twice",
```

```python
import md4jax
from md4jax.samplers.twice import Twice

described = md4jax.describe("sampler.twice")
open("here.txt", "w").write(described)
```
"""


def test_a_page_that_adds_a_component(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        names = Reader(ADDED, tmp_path, patch).run_python()
        assert "name = 'twice'\n  Nothing else." in names["described"]
        assert docs_pages.key_problems("`sampler.twice`") == []
    assert (tmp_path / "here.txt").exists() and not (docs_pages.ROOT / "here.txt").exists()
    assert "twice" not in STEPS and "md4jax.samplers.twice" not in sys.modules
    assert len(docs_pages.key_problems("`sampler.twice`")) == 1


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("samplers/twice.py", "samplers/masked.py", "samplers/masked.py is not as on line 4"),
        (
            "masked:Joint",
            "masked:Join",
            "samplers/__init__.py has no such lines as those on line 1",
        ),
    ],
)
def test_a_page_that_shows_what_is_not(right, wrong, problem, tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match=problem):
        Reader(ADDED.replace(right, wrong), tmp_path, monkeypatch)


def test_python_that_fails(tmp_path, monkeypatch):
    page = "One:\n\n```python\nx = 1\n```\n\nTwo:\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as error:
        Reader(page, tmp_path, monkeypatch).run_python()
    assert error.traceback[-1].path == "line 10 of the page"
