"""Executes a notebook's source into the .ipynb beside it.

python notebooks/build.py                                # all
python notebooks/build.py notebooks/2_gaussian.py        # one

Needs `pip install -e ".[notebooks]"`. Nothing but sources and results is kept: no times, no
versions, no ids that change.
"""

from __future__ import annotations

import base64
import io
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent
SOURCES = sorted(FOLDER.glob("[0-9]_*.py"))
LARGEST = 2**20  # Bytes.
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def execute(source: pathlib.Path) -> pathlib.Path:
    """Writes and returns the .ipynb. Raises what a cell raises; nothing is written then."""
    import jupytext
    import nbclient
    import nbformat

    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
    nbclient.NotebookClient(
        notebook, timeout=3600, record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()  # fmt: skip
    notebook.metadata = nbformat.from_dict(KERNEL)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in map(kept, cell.outputs) if out]
    text = nbformat.writes(notebook)
    if len(text.encode()) >= LARGEST:
        raise SystemExit(f"{source}: {len(text.encode()):,} bytes; fewer or smaller pictures")
    target = source.with_suffix(".ipynb")
    target.write_text(text + "\n")
    return target


def in_few_colours(picture):
    """A PNG in base64 with 256 colours, which are enough for charts, at less than half the size."""
    from PIL import Image

    found = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    image.convert("RGB").quantize(256).save(found, format="png", optimize=True)
    return base64.b64encode(found.getvalue()).decode()


def kept(output):
    """An output as it is kept: of a picture not also its text; None of a line taken away again."""
    data = output.get("data", {})
    if "image/png" in data:
        data.pop("text/plain", None)
        data["image/png"] = in_few_colours(data["image/png"])
    output.pop("transient", None)
    return None if data == {"text/plain": ""} else output


if __name__ == "__main__":
    for path in map(pathlib.Path, sys.argv[1:] or SOURCES):
        print(execute(path))
