"""Samples that keep a known part, and texts longer than the model: laws, files, errors."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image
from scipy.stats import chi2
from small_words import LAW, LENGTH, VOCAB, draw

import md4jax
from md4jax.config import load_config
from md4jax.data.base import Dataset
from md4jax.data.tokenizers import Bytes
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.gaussian import Gaussian
from md4jax.samplers import STEPS
from md4jax.samplers.base import Ancestral
from md4jax.samplers.prompts import load

# What asks for errors is in `test_masked_steps.py`, where there is who tells them.
OTHERS = ("ddim", "heun", "dpm_solver", "remask_errors")
MASKED = [name for name in STEPS if name not in OTHERS]


def draw_known(step, n):
    """With the middle letter known to be 1."""
    where = jnp.broadcast_to(jnp.array([False, True, False]), (n, LENGTH))
    return draw(step, n, known=(jnp.full((n, LENGTH), 1), where))


@pytest.mark.parametrize("name", MASKED)
def test_every_step_keeps_what_is_known(name):
    samples = draw_known(STEPS[name](num_steps=12), 200)
    assert (samples[:, 1] == 1).all() and samples.max() < VOCAB
    assert len(np.unique(samples[:, 0])) > 1


def test_the_rest_has_the_law_given_what_is_known():
    """Chi-squared over the nine words with that letter, n = 5,000; false alarm 1e-4."""
    samples = draw_known(Ancestral(num_steps=200), 5_000)
    counts = np.bincount(samples[:, 0] * 3 + samples[:, 2], minlength=9)
    given = np.asarray(LAW).reshape(3, 3, 3)[:, 1].reshape(-1).astype(np.float64)
    expected = 5_000 * given / given.sum()
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 8) > 1e-4


# Files.

TEXT = Dataset(DataSpec((8,), 256, unit="byte"), {}, "", Bytes().decode, encode=Bytes().encode)
IMAGES = Dataset(DataSpec((2, 3, 1), 17), {}, "", levels=17)


def test_a_text_with_gaps(tmp_path):
    (tmp_path / "a.txt").write_text("ab█d██\n")
    tokens, known = load(str(tmp_path / "a.txt"), TEXT)
    assert known.tolist() == [[True, True, False, True, False, False, False, False]]
    assert bytes(tokens[known].tolist()) == b"abd"


def test_an_image_with_a_hole(tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = 255, 255
    pixels[0, 0, :3] = 0
    pixels[1, 2, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tokens, known = load(str(tmp_path / "a.png"), IMAGES)
    assert tokens[0, ..., 0].tolist() == [[0, 16, 16], [16, 16, 0]]
    assert known[0, ..., 0].tolist() == [[True] * 3, [True, True, False]]


def test_arrays(tmp_path):
    tokens = np.arange(16).reshape(2, 8)
    np.savez(tmp_path / "a.npz", tokens=tokens.astype(np.uint8), known=tokens % 2 == 0)
    found, known = load(str(tmp_path / "a.npz"), TEXT)
    np.testing.assert_array_equal(found[known], tokens[tokens % 2 == 0])


def wrong_files(folder):
    (folder / "long.txt").write_text("123456789")
    (folder / "a.txt").write_text("a")
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    np.savez(folder / "range.npz", tokens=np.full((1, 8), 256), known=np.ones((1, 8), bool))
    np.savez(folder / "kind.npz", tokens=np.zeros((1, 8)), known=np.ones((1, 8), bool))
    np.savez(folder / "half.npz", tokens=np.zeros((1, 8), int))
    (folder / "cut.npz").write_bytes((folder / "half.npz").read_bytes()[:40])
    np.savez(folder / "empty.npz", tokens=np.zeros((0, 8), int), known=np.zeros((0, 8), bool))
    (folder / "a.jpg").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("long.txt", TEXT, "has 9 tokens, and examples have 8"),
        ("a.txt", IMAGES, "the data are no text; give .npz"),
        ("a.png", TEXT, "the data are no images"),
        ("a.png", IMAGES, r"has shape \(4, 4, 1\).* and examples have \(2, 3, 1\)"),
        ("range.npz", TEXT, "has values from 256 to 256, and data 0 to 255"),
        ("kind.npz", TEXT, "tokens should be integers and known bool"),
        ("half.npz", TEXT, "cannot be read: .*known"),
        ("a.jpg", TEXT, "should end in one of .txt, .png, .npz"),
        ("cut.npz", TEXT, "cannot be read: .*zip"),
        ("empty.npz", TEXT, "has no prompt"),
        ("none.txt", TEXT, "cannot be read: .*No such file"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, name, data, message):
    wrong_files(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load(str(tmp_path / name), data)
    assert "config.sampler.prompt" in str(error.value) and "\n" not in str(error.value)


def test_only_masked_processes_can():
    for options in ({"prompt": "a.txt"}, {"windows": 2}, {"reuse": True}):
        with pytest.raises(UserError, match="only masked processes leave a"):
            Ancestral(num_steps=10, **options).check(Gaussian(num_timesteps=10))


# Through a trained folder.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    config = load_config(tiny.ROOT / "configs/own/text.py")
    config = tiny.override(tiny.tiny(config), train__num_steps=1, sampler__num_samples=5)
    config = tiny.with_data(config, folder)
    md4jax.train(config, folder / "run")
    return config, folder


def samples_of(config, folder, **values):
    with np.load(md4jax.sample(tiny.override(config, **values), folder / "run")) as arrays:
        return arrays["samples"]


def test_a_prompt_from_the_command(trained):
    config, folder = trained
    (folder / "begin.txt").write_text("the ██ end")
    samples = samples_of(config, folder, sampler__prompt=str(folder / "begin.txt"))
    plain = samples_of(config, folder)
    assert samples.shape == plain.shape == (5, 12)
    kept = np.array([0, 1, 2, 3, 6, 7, 8, 9])
    assert (samples[:, kept] == samples[:1, kept]).all() and (
        plain[:, kept] != samples[:, kept]
    ).any()


def test_windows_go_on_from_each_other(trained):
    """Three of 12 characters that share 4: 12 + 8 + 8, of which the first are as if alone."""
    config, folder = trained
    values = dict(sampler__windows=3, sampler__overlap=4)
    samples = samples_of(config, folder, **values)
    assert samples.shape == (5, 28)
    again = samples_of(config, folder, sampler__batch_size=2, **values)
    np.testing.assert_array_equal(samples, again)
    for wrong in (dict(sampler__overlap=4), dict(sampler__windows=2, sampler__overlap=12)):
        with pytest.raises(UserError, match=r"sampler.overlap = .* should be 0, or, with"):
            samples_of(config, folder, **wrong)
