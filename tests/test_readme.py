"""What the README shows, run as it stands there."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_lines_without_a_config():
    """At most twelve, and what they make is what they say."""
    (lines,) = (b for b in blocks("python") if "training_loss" in b)
    assert sum(bool(line.strip()) for line in lines.splitlines()) <= 12
    names = {}
    exec(lines, names)
    # The untrained network says that the noise is 0, whose mean square is 1: 8 x 768 squares.
    assert abs(float(names["loss"]) - 1) < 5 * (2 / (8 * 768)) ** 0.5
    samples = np.asarray(names["samples"])
    assert samples.shape == (8, 16, 16, 3) and samples.dtype == np.int32
    assert samples.min() >= 0 and samples.max() <= 255


def test_the_family_that_the_docs_show():
    """All of its file, as it is."""
    root = README.parent
    (lines,) = re.findall(
        r"```python\n(.*?)```", (root / "docs" / "add_a_family.md").read_text(), re.DOTALL
    )
    assert lines == (root / "md4jax" / "processes" / "star" / "gamma.py").read_text()
