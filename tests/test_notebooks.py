"""Notebooks: their sources run, and what is committed of them is what the sources give."""

import base64
import json
import os
import pathlib
import runpy
import sys

import matplotlib
import pytest

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]_*.py"))
LARGEST = 2**20


@pytest.fixture
def small(monkeypatch):
    """Small, without windows, and from another folder, where nothing may be left."""
    import matplotlib.pyplot as plt

    monkeypatch.setenv("MD4JAX_SMALL", "1")
    monkeypatch.setattr(sys, "argv", ["notebook"])
    with matplotlib.rc_context(), matplotlib.style.context("default"):
        plt.switch_backend("agg")
        yield
        plt.close("all")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_source_runs(path, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert not os.listdir(tmp_path)


def cells_of(source):
    """`(kind, text)` of each cell of a py:percent source."""
    _, *cells = source.split("\n# %%")
    for cell in cells:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            lines = (line.removeprefix("#").removeprefix(" ") for line in body.splitlines())
            yield "markdown", "\n".join(lines).strip()
        else:
            yield "code", body.strip()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_executed_notebook_is_of_the_source(path):
    """The same cells; run from the first to the last, without an error; with pictures."""
    file = path.with_suffix(".ipynb")
    assert file.stat().st_size < LARGEST
    cells = json.loads(file.read_text())["cells"]
    found = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells]
    assert found == list(cells_of(path.read_text())), "run notebooks/build.py"
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "display_data", "execute_result", "stream",
    }  # fmt: skip
    assert not [output for output in outputs if output.get("name") == "stderr"]
    pictures = [
        output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3
    assert all(base64.b64decode(picture)[:4] == b"\x89PNG" for picture in pictures)
    texts = [
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        for output in outputs
    ]
    assert not [
        text
        for text in texts
        if any(path in text for path in ("/tmp/", "/home/", "/root/", "cached in"))
    ]


def test_first_cells_install_from_the_same_place():
    """And each notebook says how long it takes and what for a machine it wants."""
    firsts = []
    for path in SOURCES:
        (_, intro), (_, install), *_ = cells_of(path.read_text())
        assert "*Runtime: " in intro and "minutes" in intro, path
        firsts.append(install)
    assert len(set(firsts)) == 1
