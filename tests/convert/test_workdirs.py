"""Made checkpoints of each published code into folders, and what can be done with those."""

import json
import shlex
import string
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from flax.serialization import msgpack_serialize
from published import CASES, make_arrays, make_config

import md4jax
from md4jax import config as config_lib
from md4jax import modes
from md4jax.convert import SOURCES, make_source
from md4jax.convert.ddpm import DDPM
from md4jax.convert.files import read_file
from md4jax.convert.weights import as_is, convert_params, flat
from md4jax.convert.workdir import convert
from md4jax.training.workdir import open_checkpoints


def halved(arrays):
    return {name: value / 2 for name, value in arrays.items()}


def restored_state(config, workdir):
    model = md4jax.assemble(config)
    checkpoints = open_checkpoints(workdir, model)
    restored = checkpoints.restore(model.abstract_state(), move_aside=False)
    checkpoints.close()
    return restored.state, restored.meta


def same(ours, theirs):
    """That two trees have the same numbers, to the last bit."""
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), ours, theirs)))


def converted_params(name, folder, change=as_is, **options):
    """The network's arrays by path, of a case's arrays with their names changed."""
    case = CASES[name]
    config = make_config(case, folder)
    config.network.update(options)
    content = {change(path): value for path, value in make_arrays(case).items()}
    source = make_source(case.source)
    arrays = source.states(content, "model.npz").params
    return flat(convert_params(source, md4jax.assemble(config), arrays, "a file")["network"])


def test_improved_diffusion(tmp_path):
    """With classes and a learned variance."""
    arrays = make_arrays(CASES["improved_diffusion"])
    ours = converted_params("improved_diffusion", tmp_path)
    kernel = arrays["input_blocks.1.0.in_layers.2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(ours["down_0_0/conv_1/kernel"], kernel)
    table = arrays["label_emb.weight"]
    np.testing.assert_array_equal(ours["conditioning_mlp/class_embedding/embedding"], table)


def test_ddpm(tmp_path):
    """Of a model that was trained on several devices."""
    query = make_arrays(CASES["ddpm"])["mid.attn_1.q.weight"][:, :, 0, 0].T
    ours = converted_params("ddpm", tmp_path, "module.{}".format)
    np.testing.assert_array_equal(ours["middle_attention/query/kernel"], query)


def test_ncsnpp(tmp_path):
    query = make_arrays(CASES["ncsnpp"])["all_modules.7.NIN_0.W"]
    ours = converted_params("ncsnpp", tmp_path)
    np.testing.assert_array_equal(ours["down_1_0_attention/query/kernel"], query)


def test_stacked_layers(tmp_path):
    """A config with `scan_layers` has the same arrays, one on top of the other."""
    arrays, ours = make_arrays(CASES["vdm"]), converted_params("vdm", tmp_path, scan_layers=True)
    for i in range(2):
        theirs = arrays[f"score_model/down.block_{i}/conv1/kernel"]
        np.testing.assert_array_equal(ours["down/conv_1/kernel"][i], theirs)


def test_vdm(tmp_path):
    """A train state of Flax: averages, the step, the schedule's ends."""
    case = CASES["vdm"]
    config, arrays = make_config(case, tmp_path), make_arrays(case)
    states = {}
    for name, values in (("params", arrays), ("ema_params", halved(arrays))):
        states[name] = {}
        for path, value in values.items():
            *modules, last = path.split("/")
            branch = states[name]
            for module in modules:
                branch = branch.setdefault(module, {})
            branch[last] = value
    file = tmp_path / "ckpt-1.flax"
    file.write_bytes(msgpack_serialize(states | {"step": 3, "opt_state": {"0": {"count": 3}}}))
    assert convert(case.source, config, file, tmp_path / "run") == 3

    model, params, step = modes.restore(config, tmp_path / "run")
    assert step == 3
    schedule = {name: arrays[f"gamma/{name}"][0] / 2 for name in ("w", "b")}
    assert same(params["process"], schedule)
    process = model.process.with_params(params["process"])
    ends = process.gamma(jax.numpy.array([0.0, 1.0]))
    np.testing.assert_allclose(ends, [schedule["b"], schedule["b"] + schedule["w"]], rtol=1e-6)


def test_encoder(tmp_path, capsys):
    """Two files; then samples, and two steps of training, the first of a warm-up."""
    case = CASES["encoder"]
    config, arrays = make_config(case, tmp_path), make_arrays(case)
    config.train.update(num_steps=9, checkpoint_every=5, eval_every=0, sample_every=0)
    np.savez(tmp_path / "model.npz", **arrays)
    np.savez(tmp_path / "ema.npz", **halved(arrays))
    files = tmp_path / "model.npz", tmp_path / "run", tmp_path / "ema.npz"
    assert convert(case.source, config, *files, step=3) == 3
    out = capsys.readouterr().out
    assert f"results: {tmp_path}/run/checkpoints/3: " in out
    assert "parameters, and their averages\nnote: the schedules here are solved for anew" in out
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["config"] == config_lib.to_dict(config) and saved["data_fingerprint"]

    state, meta = restored_state(config, tmp_path / "run")
    assert (meta["step"], meta["next_batch"], int(state.step)) == (3, 3, 3)
    assert same(jax.tree.map(lambda x: x / 2, state.params), state.ema_params)
    assert not any(x.any() for x in jax.tree.leaves(state.opt_state))
    assert np.isfinite(state.statistics["log_prior"]).all()
    with np.load(md4jax.sample(config, tmp_path / "run")) as samples:
        assert samples["samples"].shape == (4, 40)
    tiny.train_until_saved(config, tmp_path / "run")
    trained, _ = restored_state(config, tmp_path / "run")
    assert int(trained.step) == 5 and not same(trained.params, state.params)


def test_a_config_without_averages(tmp_path):
    """It has the weights that are to be used: the averaged ones."""
    case = CASES["encoder"]
    config, arrays = make_config(case, tmp_path), make_arrays(case)
    config.train.ema_decay = 0.0
    for name, values in (("model", arrays), ("ema", halved(arrays))):
        np.savez(tmp_path / f"{name}.npz", **values)
    convert(case.source, config, tmp_path / "model.npz", tmp_path / "run", tmp_path / "ema.npz")
    state, _ = restored_state(config, tmp_path / "run")
    assert state.ema_params is None
    bias = arrays["t5_encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    np.testing.assert_array_equal(state.params["network"]["relative_bias"], bias / 2)


def test_order_of_tokens(tmp_path):
    """They are renumbered from the order in which the text first has them."""
    arrays = make_arrays(CASES["encoder"])
    ours = converted_params("encoder", tmp_path)
    text, alphabet = (tmp_path / "text").read_text()[:300], string.ascii_lowercase + " "
    assert len(set(text)) == 27
    for number, character in enumerate(dict.fromkeys(text)):
        place = alphabet.index(character)
        embedded = arrays["embed.weight"][number]
        np.testing.assert_array_equal(ours["embedding/embedding"][place], embedded)
        column = arrays["linear_proj.weight"][number]
        np.testing.assert_array_equal(ours["head/kernel"][:, place], column)
        assert ours["head/bias"][place] == arrays["linear_proj.bias"][number]


def test_lists_of_ddim():
    """The model's arrays, its optimizer, the epoch, the step, and averages if it kept any."""
    arrays = {"conv_in.weight": np.ones(2)}
    parallel = {f"module.{name}": value for name, value in arrays.items()}
    for ema in ([], [halved(arrays)]):
        weights = DDPM().states([parallel, {"state": {}}, 7, 5000, *ema], "ckpt.pth")
        assert same(weights.params, arrays) and weights.step == 5000
        assert (weights.ema is None) if not ema else same(weights.ema, *ema)


@pytest.mark.parametrize(
    ("source", "file", "step"),
    [
        ("improved_diffusion", "model500000.pt", 500_000),
        ("improved_diffusion", "ema_0.9999_500000.pt", 500_000),
        ("improved_diffusion", "cifar10_uncond_50M_500K.pt", 500_000),
        ("improved_diffusion", "model.npz", None),
        ("ddpm", "model-790000.ckpt", 790_000),
        ("ddpm", "ddpm_cifar10.pt", None),
        ("star_shaped", "NCSNpp_episode0_epoch1050_model.pt", None),
    ],
)
def test_steps_in_names(source, file, step):
    assert make_source(source).states({"a": np.ones(1)}, file).step == step


def test_files_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {"module.a": torch.arange(6.0).reshape(2, 3).half(), "b": torch.ones(2)}
    torch.save([arrays, {"state": {0: {"step": torch.tensor(3)}}}, 1, 20], tmp_path / "ckpt.pth")
    content = read_file(tmp_path / "ckpt.pth")
    np.testing.assert_array_equal(content[0]["module.a"], np.arange(6.0).reshape(2, 3))
    assert DDPM().states(content, "ckpt.pth").step == 20


def test_files_of_safetensors(tmp_path):
    """By the format's description: a length, a JSON header, the bytes."""
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
    header, content = {"__metadata__": {"format": "pt"}}, b""
    for (name, array), kind in zip(arrays.items(), ("F32", "F16")):
        offsets = [len(content), len(content) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        content += array.tobytes()
    head = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + content)
    read = read_file(tmp_path / "a.safetensors")
    assert read.keys() == arrays.keys()
    assert all(read[k].dtype == x.dtype and (read[k] == x).all() for k, x in arrays.items())


def test_every_source_has_a_case():
    """And its class says what it is."""
    assert {case.source for case in CASES.values()} | {"ddim"} == set(SOURCES)
    for name in SOURCES:
        assert make_source(name).__doc__ and make_source(name).networks


def test_the_command(tmp_path):
    """As a person starts it; then the command that it prints for evaluation."""
    case = CASES["encoder"]
    config = make_config(case, tmp_path)
    np.savez(tmp_path / "model.npz", **make_arrays(case))
    overrides = tiny.flags(config, md4jax.load_config(tiny.ROOT / case.config))
    command = [sys.executable, "-m", "md4jax.convert", f"--from={case.source}", "--step=5",
               f"--config={case.config}", f"--checkpoint={tmp_path / 'model.npz'}",
               f"--to={tmp_path / 'run'}", *overrides]  # fmt: skip
    options = dict(capture_output=True, text=True, cwd=tiny.ROOT, env=tiny.environment())
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["results"].startswith(f"{tmp_path}/run/checkpoints/5")
    assert lines["sample"].startswith(f"python main.py --config={case.config}")
    assert lines["sample"].endswith("--mode=sample")
    evaluated = tiny.run_main(*shlex.split(lines["evaluate"])[2:])
    assert evaluated.returncode == 0, evaluated.stderr
    assert "checkpoint of step 5; bound in bits/char" in evaluated.stdout
    many = [*command[:-1], "--checkpoint=a,b,c"]
    failed = subprocess.run(many, **options)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "error: --checkpoint=a,b,c should be FILE or FILE,FILE_OF_AVERAGES" in failed.stderr
