"""Few-step finetuning: its two gradients against exact ones, in parts and whole, and its memory."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import md4jax
from md4jax import rng
from md4jax.config import load_config, make_config
from md4jax.evaluation.distances import Polynomial, squared_mmd
from md4jax.finetuning import mmd
from md4jax.model import assemble
from md4jax.modes import restore
from md4jax.options import UserError
from md4jax.processes.base import DataSpec
from md4jax.processes.gaussian import Gaussian
from md4jax.processes.masked import Masked
from md4jax.processes.star.beta import StarBeta
from md4jax.processes.vdm import VDM
from md4jax.samplers.base import Ancestral, path
from md4jax.samplers.gaussian import DDIM
from md4jax.training import workdir as workdir_lib

KERNEL = Polynomial()


def keys_of(n, seed=0):
    return rng.example_keys(rng.stream(seed, "finetune"), jnp.arange(n))


def flat(images):
    return images.reshape(len(images), -1)


# Two tokens of two kinds in two steps: 4 samples, 25 paths.
TOKENS, STEP = DataSpec((2,), 2, unit="token"), Ancestral(num_steps=2)
PARAMS = {
    "bias": jnp.array([[0.3, -0.2], [0.1, 0.4]]),
    "other": jnp.array([0.5, -0.5, -0.3, 0.2, 0.1, 0, 0.2, 0.1, 0, 0.3, 0.4, -0.1]).reshape(
        2, 3, 2
    ),
}
DATA = jnp.array([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])


def bind_tokens(params, label):
    """A model whose logits at a position depend on what is at the other."""

    def denoise(z_t, t):
        return params["bias"] + jnp.take_along_axis(
            params["other"][None], z_t[:, ::-1, None, None], axis=2
        )[:, :, 0]  # fmt: skip

    return Masked(vocab_size=2), denoise


def path_law(params):
    """All paths `[p, 3, 2]`, and the log probability of each."""
    process, denoise = bind_tokens(params, None)
    states = list(itertools.product((0, 1, 2), repeat=2))
    follows = lambda a, b: all(x in (2, y) for x, y in zip(a, b))
    paths = [((2, 2), b, c) for b in states for c in states if follows(b, c)]
    paths, times = jnp.array(paths), STEP.times(process)
    total = jnp.zeros(len(paths))
    for i in range(2):
        t, s = (jnp.full(len(paths), x, jnp.float32) for x in times[i : i + 2])
        z_t, z_s = paths[:, i], paths[:, i + 1]
        total += process.reverse_log_prob(z_t, z_s, denoise(z_t, t), t, s)
    return paths, total


def exact_mmd(params):
    """The loss for infinitely many samples, of those whose tokens are all unmasked."""
    paths, log_p = path_law(params)
    p, y = jnp.exp(log_p), paths[:, -1].astype(jnp.float32)
    p = jnp.where((paths[:, -1] < 2).all(axis=1), p, 0)
    return p @ KERNEL(y, y) @ p - 2 * p @ KERNEL(y, DATA).mean(axis=1)


def test_steps_of_masked_processes_tell_their_law():
    paths, log_p = path_law(PARAMS)
    assert len(paths) == 25
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, atol=1e-5)
    # And it is what they draw: the counts' chi-squared with 24 degrees of freedom, rate 1e-4.
    process, denoise = bind_tokens(PARAMS, None)
    draw = jax.jit(lambda k: path(process, denoise, STEP, k, (2,), remember=lambda z: z))
    z, before = draw(keys_of(20_000))
    drawn = np.concatenate([before, z[None]])  # [3, n, 2]
    code = lambda z: np.asarray(z).reshape(len(z), -1) @ 3 ** np.arange(6)
    counts = np.array([(code(drawn.swapaxes(0, 1)) == c).sum() for c in code(paths)])
    expected = 20_000 * np.exp(np.asarray(log_p, np.float64))
    often = expected > 5  # Masks are left with a probability of 1e-4.
    assert ((counts - expected)[often] ** 2 / expected[often]).sum() < 60
    assert counts.sum() == 20_000


@pytest.mark.parametrize("n", [3, 8])
def test_score_function_has_no_bias(n):
    """4,000 batches of n samples, against the exact gradient; 5 standard errors, 12 numbers."""
    forward = mmd.by_score(bind_tokens, STEP, TOKENS, flat, rematerialise=True)
    blame = functools.partial(mmd.blame_by_score, kernel=KERNEL)
    one = lambda keys: mmd.whole(forward, blame, PARAMS, DATA, {"keys": keys, "label": None})[1]
    estimates = jax.jit(jax.vmap(one))(keys_of(4000 * n).reshape(4000, n))
    for name, exact in jax.grad(exact_mmd)(PARAMS).items():
        found = np.asarray(estimates[name], np.float64)
        error = found.std(axis=0) / np.sqrt(len(found))
        # What is left masked changes a path's probability by 1e-4.
        assert (np.abs(found.mean(axis=0) - exact) < 5 * error + 1e-3).all(), name


def test_advantages_are_those_of_each_sample_left_out():
    """By the definition, one sample at a time, in float64."""
    x, y = (np.random.default_rng(i).normal(size=(n, 3)) for i, n in enumerate((5, 6)))
    gram, cross = np.array(KERNEL(y, y), np.float64), np.array(KERNEL(x, y), np.float64).mean(0)
    others = lambda *out: [j for j in range(6) if j not in out]
    value = lambda i, *out: 2 * (gram[i, others(i, *out)].mean() - cross[i])
    expected = [value(i) - np.mean([value(j, i) for j in others(i)]) for i in range(6)]
    found = mmd.advantages(jnp.asarray(x), jnp.asarray(y), KERNEL)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# Images of 2 x 2 pixels, whose x0 is a linear function of z.
IMAGES = DataSpec((2, 2, 1), 5)
WEIGHTS = {"w": 0.5 * jnp.eye(4) + 0.1, "b": jnp.array([0.2, -0.1, 0.0, 0.3])}


def bind_images(params, label):
    process = Gaussian(num_timesteps=10, target="x0").bind(IMAGES)

    def denoise(z_t, t):
        x0 = (flat(z_t) @ params["w"] + params["b"]).reshape(z_t.shape)
        return process.predict(jnp.tanh(x0)[..., None], z_t, t)

    return process, denoise


@pytest.fixture(scope="module")
def gradients():
    """Of 12 samples: whole, in parts taken together and apart, and the mean of the parts' own."""
    forward = mmd.smooth(bind_images, DDIM(num_steps=4), IMAGES, flat, rematerialise=False)
    x = jax.random.uniform(jax.random.key(0), (12, 4))
    part = {"keys": keys_of(12), "label": None}
    x3, parts = x.reshape(3, 4, 4), {"keys": part["keys"].reshape(3, 4), "label": None}
    blame = functools.partial(mmd.blame_smooth, kernel=KERNEL)

    def all_of(params):
        whole = lambda x, part: mmd.whole(forward, blame, params, x, part)
        return {
            "whole": whole(x, part),
            "own": jax.tree.map(lambda g: g.mean(axis=0), jax.vmap(whole)(x3, parts)),
        } | {
            name: mmd.in_parts(forward, functools.partial(of, blame), params, x3, parts)
            for name, of in mmd.ACCUMULATE.items()
        }

    return jax.jit(all_of)(WEIGHTS)


@pytest.mark.parametrize("name, same_as", [("together", "whole"), ("apart", "own")])
def test_parts(gradients, name, same_as):
    """Sums of a dozen float32 in another order."""
    for found, expected in zip(*(jax.tree.leaves(gradients[k]) for k in (name, same_as))):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    losses = [float(gradients[k][0]) for k in ("whole", "own")]
    assert abs(losses[0] - losses[1]) > 1e-4  # The mean of small MMDs is another number.


def test_smooth_gradient_is_the_derivative(gradients):
    """By central differences along a direction."""
    x = jax.random.uniform(jax.random.key(0), (12, 4))
    along = {"w": jnp.ones((4, 4)), "b": jnp.arange(4.0)}

    @jax.jit
    def loss(by):
        params = jax.tree.map(lambda p, a: p + by * a, WEIGHTS, along)
        process, denoise = bind_images(params, None)
        z, _ = path(process, denoise, DDIM(num_steps=4), keys_of(12), IMAGES.shape)
        return squared_mmd(x, flat(process.decode_smoothly(denoise, z)), KERNEL)

    h = 1e-2  # Rounding is 1e-6 / h, the third derivative's share h^2 / 6.
    expected = (loss(h) - loss(-h)) / (2 * h)
    found = sum(
        jax.tree.leaves(jax.tree.map(lambda g, a: jnp.sum(g * a), gradients["whole"][1], along))
    )
    np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.mark.parametrize("process", [Gaussian(num_timesteps=10), VDM(), StarBeta(num_timesteps=4)])
def test_smooth_samples_are_samples_before_rounding(process):
    process = process.bind(IMAGES)
    z = jax.random.uniform(jax.random.key(0), (50, *IMAGES.shape))
    denoise = lambda z_t, t: z_t
    smooth = process.decode_smoothly(denoise, z)
    np.testing.assert_array_equal(np.rint(smooth * 4), process.decode(denoise, z))


def test_twenty_steps_take_the_memory_of_a_few():
    """By XLA's own account of temporary memory, with and without computing steps again."""

    def memory(steps, again=True):
        def loss(weights):
            def denoise(z_t, t):
                h = flat(z_t)
                for w in weights:  # Ten layers to keep.
                    h = jnp.tanh(h @ w)
                return process.predict(h.reshape(*z_t.shape, 1), z_t, t)

            process = Gaussian(num_timesteps=20, target="x0").bind(IMAGES)
            step, keys = DDIM(num_steps=steps), keys_of(5000)
            z, _ = path(process, denoise, step, keys, IMAGES.shape, rematerialise=again)
            return jnp.sum(process.decode_smoothly(denoise, z) ** 3)

        compiled = jax.jit(jax.grad(loss)).lower([jnp.eye(4)] * 10).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many, kept = memory(2), memory(20), memory(20, again=False)
    # A step keeps 10 layers of its own, or, computed again, z alone: a tenth of what it kept.
    assert many < 3 * few
    assert kept > 4 * many


@pytest.mark.parametrize("name, parts", [("gaussian", 1), ("beta", 1), ("masked", 2)])
def test_gradients_of_the_shipped_configs(name, parts):
    """That they can be traced, whole or in parts, and are of the parameters' shapes."""
    config = tiny.tiny(load_config(tiny.ROOT / f"configs/mmd/digits_{name}.py"))
    config.finetune.features, config.finetune.weights = "pixels", None
    config.train.batch_size, config.train.microbatches = 6, parts
    model = assemble(config)
    state, finetune = model.abstract_state(), model.experiment.finetune
    arguments = (state.params, state.fixed, model.abstract_batch(), state.step)
    weights = jax.eval_shape(lambda: finetune.constants(model))
    gradient, (metrics, *_) = jax.eval_shape(finetune.gradient(model), *arguments, *weights)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(gradient) == shapes(state.params)
    assert list(metrics) == ["loss"]


@pytest.mark.parametrize(
    "wrong, words",
    [
        (
            {"train.batch_size": 1},
            "config.train.batch_size = 1, in 1 parts: .* at least 2 examples",
        ),
        (
            {"train.microbatches": 4, "finetune.accumulate": "apart"},
            "config.train.batch_size = 4, in 4 parts: .* at least 2 examples",
        ),
        ({"sampler.num_steps": 5}, "config.sampler.num_steps = 5: the process has 4 steps"),
        ({"sampler.reuse": True}, "config.sampler.reuse = True"),
        ({"finetune.weights": "x.npz"}, "config.finetune.weights = 'x.npz' should be None"),
        (
            {"finetune.features": "clip"},
            "config.finetune.weights is missing: it should be .*[Cc][Ll][Ii][Pp]",
        ),
    ],
)
def test_bad_input(wrong, words, tmp_path):
    """One line, before anything compiles or is written."""
    config = tiny.tiny(load_config(tiny.ROOT / "configs/mmd/digits_gaussian.py"))
    for key, value in wrong.items():
        section, key = key.split(".")
        config[section][key] = value
    with pytest.raises(UserError, match=words):
        md4jax.finetune(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tokens_are_drawn_by_a_step_that_tells_its_law(tmp_path):
    config = tiny.tiny(load_config(tiny.ROOT / "configs/mmd/digits_masked.py")).to_dict()
    config["sampler"]["name"] = "mean"
    with pytest.raises(UserError, match="Mean does not say with what probability"):
        assemble(make_config(**config))


def untrained(config, folder):
    """A folder as training leaves it, without the training."""
    model = assemble(config)
    workdir_lib.prepare(folder, model)
    checkpoints = workdir_lib.open_checkpoints(folder, model)
    checkpoints.save(1, model.init_state(), workdir_lib.checkpoint_meta(model, 1, 0.0))
    checkpoints.close()


def test_finetuned_workdir(tmp_path, capsys):
    """Metrics and samples before and after, and a folder that knows its steps."""
    untrained(tiny.tiny(load_config(tiny.ROOT / "configs/digits/gaussian.py")), tmp_path / "start")
    config = tiny.tiny(load_config(tiny.ROOT / "configs/mmd/digits_gaussian.py"))
    config.finetune.start, config.train.num_steps = str(tmp_path / "start"), 2
    config.eval.metrics, config.eval.features = ("kid",), "pixels"
    config.eval.weights = None
    md4jax.finetune(config, tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run/metrics/eval.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2]
    assert all(np.isfinite(line["kid"]) for line in lines)
    assert lines[0]["kid"] != lines[1]["kid"]
    grids = sorted(p.name for p in (tmp_path / "run/samples").glob("*.png"))
    assert grids == ["step_00000000.png", "step_00000002.png"]
    capsys.readouterr()
    restore(config, tmp_path / "run")
    assert "another sampler" not in capsys.readouterr().out
    config.sampler.num_steps = 4
    restore(config, tmp_path / "run")
    assert "finetuned for another sampler: config.sampler.num_steps = 4, not 3" in (
        capsys.readouterr().out
    )


def test_a_run_goes_on_for_its_sampler_and_its_features_alone(tmp_path):
    """Refused before anything is written, and said by other modes; how many samples may change."""
    path, folder = "configs/mmd/digits_gaussian.py", tmp_path / "run"
    config = tiny.tiny(load_config(tiny.ROOT / path))
    config.finetune.features, config.finetune.weights = "pixels", None
    config.eval.metrics, config.train.num_steps = (), 1
    untrained(config, folder)
    before = (folder / "config.json").read_text()
    config.sampler.num_steps, config.sampler.num_samples = 4, 5
    with pytest.raises(UserError, match=r"another sampler: config.sampler.num_steps = 4, not 3$"):
        md4jax.finetune(config, folder)
    assert (folder / "config.json").read_text() == before
    config.sampler.num_steps = 3
    (folder / "config.json").write_text(before.replace('"constants": ""', '"constants": "abc"'))
    with pytest.raises(UserError, match="was begun with other weights of its features"):
        md4jax.finetune(config, folder)


def test_points_are_finetuned_too(tmp_path):
    """By their coordinates: a gradient of the simplex's Dirichlets can be traced."""
    config = tiny.tiny(load_config(tiny.ROOT / "configs/star_shaped/simplex_dirichlet.py"))
    model = assemble(make_config(**config.to_dict() | {"finetune": {"name": "mmd"}}))
    state, gradient = model.abstract_state(), model.experiment.finetune.gradient(model)
    arguments = (state.params, state.fixed, model.abstract_batch(), state.step, {})
    found, _ = jax.eval_shape(gradient, *arguments)
    assert jax.tree.structure(found) == jax.tree.structure(state.params)


def test_processes_whose_steps_tell_no_law_are_refused():
    config = tiny.tiny(load_config(tiny.ROOT / "configs/genmd4/digits.py"))
    with pytest.raises(UserError, match="samples of GenMD4 have neither derivatives nor a law"):
        assemble(make_config(**config.to_dict() | {"finetune": {"name": "mmd"}}))
