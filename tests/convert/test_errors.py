"""What does not fit or cannot be read is one line, before anything is written."""

import json
import sys
import zipfile

import numpy as np
import pytest
from published import CASES, make_arrays, make_config, write_text

import md4jax
from md4jax.convert import make_source
from md4jax.convert.files import read_file
from md4jax.convert.weights import convert_params
from md4jax.convert.workdir import convert
from md4jax.options import UserError


def without(arrays, *names):
    return {name: value for name, value in arrays.items() if name not in names}


def grown(arrays, name):
    return arrays | {name: np.concatenate([arrays[name]] * 2)}


# The case, what is done to its arrays, options of the network, and words of the error.
MISFITS = {
    "missing and extra names": (
        "ddpm",
        lambda arrays: (
            without(arrays, "conv_in.bias", "norm_out.bias") | {"other.bias": np.ones(3)}
        ),
        {},
        [
            "a file does not fit config.network.name = 'ddpm_unet'",
            "it has 1 array that the network has no place for (other.bias)",
            "2 arrays that the network wants are not in it (conv_in.bias; norm_out.bias)",
        ],
    ),
    "a shape": (
        "ddpm",
        lambda arrays: grown(arrays, "conv_in.weight"),
        {},
        [
            "1 array of another shape (conv_in.weight [64, 3, 3, 3], which here is [3, 3, 3, 64], "
            "for network/stem/kernel [3, 3, 3, 32])",
            "It seems to be of config.network.feature_dim = 64, not 32",
        ],
    ),
    "axes": (
        "ddpm",
        lambda arrays: arrays | {"conv_in.weight": np.ones((3, 2))},
        {},
        ["conv_in.weight [3, 2] for network/stem/kernel [3, 3, 3, 32]"],
    ),
    "numbers": (
        "ddpm",
        lambda arrays: arrays | {"conv_in.bias": np.full(32, np.nan)},
        {},
        ["a file: conv_in.bias holds numbers that are not finite"],
    ),
    "another DDPM": (
        "ddpm",
        dict,
        {"ch_mult": (1, 2, 2), "num_layers": 2, "attention_levels": (4,)},
        [
            "config.network.ch_mult = (1, 2), not (1, 2, 2)",
            "config.network.attention_levels = (2,), not (4,)",
            "config.network.num_layers = 1, not 2",
        ],
    ),
    "another Improved DDPM": (
        "improved_diffusion",
        dict,
        {"feature_dim": 64, "num_layers": 2, "attention_levels": (1,), "scale_shift": False},
        [
            "config.network.feature_dim = 32, not 64",
            "config.network.attention_levels = (2,), not (1,)",
            "config.network.num_layers = 1, not 2",
            "config.network.scale_shift = True, not False",
        ],
    ),
    "another NCSN++": (
        "ncsnpp",
        dict,
        {"ch_mult": (1, 2, 2), "num_layers": 1, "attention_levels": (1,)},
        [
            "config.network.ch_mult = (1, 2), not (1, 2, 2)",
            "config.network.attention_levels = (2,), not (1,)",
            "config.network.num_layers = 2, not 1",
        ],
    ),
    "another encoder": (
        "encoder",
        dict,
        {"num_layers": 1, "num_heads": 2},
        ["config.network.num_heads = 4, not 2", "config.network.num_layers = 2, not 1"],
    ),
    "another VDM": (
        "vdm",
        dict,
        {"wide_conditioning": False, "fourier_features": (), "num_layers": 3},
        [
            "config.network.num_layers = 2, not 3",
            "config.network.fourier_features = (6, 7), not ()",
            "config.network.wide_conditioning = True, not False",
        ],
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits(name, tmp_path):
    tag, changed, options, words = MISFITS[name]
    case = CASES[tag]
    config = make_config(case, tmp_path)
    config.network.update(options)
    arrays = changed(make_arrays(case))
    with pytest.raises(UserError) as error:
        convert_params(make_source(case.source), md4jax.assemble(config), arrays, "a file")
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_variances_and_schedules(tmp_path):
    """What the config says of the process shows in the arrays, too."""
    for tag, key, value, hint in (
        ("improved_diffusion", "variance", "fixed_large", "variance = 'learned_range', not 'fixed"),
        ("ddpm", "variance", "learned_range", "variance = 'fixed_large', not 'learned_range'"),
        ("vdm", "schedule", "linear", "schedule = 'learned_linear', not 'linear'"),
    ):
        case = CASES[tag]
        config = make_config(case, tmp_path)
        config.process[key] = value
        with pytest.raises(UserError, match=r"It seems to be of config\.process\." + hint):
            convert_params(
                make_source(case.source), md4jax.assemble(config), make_arrays(case), "a file"
            )


def test_what_the_published_code_has_nothing_like(tmp_path):
    """Is named as it is called here; and the other way round."""
    case = CASES["ddpm"]
    config = make_config(case, tmp_path)
    config.data.labels = True
    with pytest.raises(UserError) as error:
        convert_params(make_source("ddpm"), md4jax.assemble(config), make_arrays(case), "a file")
    words = "1 array that the network wants are not in it (network/conditioning_mlp/class_embedding"
    assert words in str(error.value)

    case = CASES["vdm"]
    config = make_config(case, tmp_path)
    arrays = without(make_arrays(case), "gamma/w", "gamma/b") | {"gamma/l1/kernel": np.ones((1, 1))}
    with pytest.raises(UserError) as error:
        convert_params(make_source("vdm"), md4jax.assemble(config), arrays, "a file")
    words = "1 array that the network has no place for (gamma/l1/kernel); 2 arrays that the network"
    assert words in str(error.value) and "seems" not in str(error.value)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A config, a file that fits it, and a folder."""
    folder = tmp_path_factory.mktemp("ready")
    case = CASES["encoder"]
    np.savez(folder / "model.npz", **make_arrays(case))
    return make_config(case, folder), folder


def fails(words, source, config, file, run):
    with pytest.raises(UserError) as error:
        convert(source, config, file, run)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_another_source(ready, tmp_path):
    config, folder = ready
    file, run = folder / "model.npz", tmp_path / "run"
    words = ["config.network.name = 't5_encoder'", "--from=ddpm has weights of ddpm_unet"]
    fails(words, "ddpm", config, file, run)
    fails(["--from=stable", "one of improved_diffusion, ddpm"], "stable", config, file, run)
    ddpm = make_config(CASES["ddpm"], tmp_path)
    fails(["does not fit", "It seems to be of --from=star_shaped"], "ddpm", ddpm, file, run)
    ddpm.process.target = "v"
    fails(["config.process.target = 'v' should be 'noise'"], "ddpm", ddpm, file, run)
    finetuned = make_config(CASES["ddpm"], tmp_path).to_dict() | {"finetune": {"name": "mmd"}}
    words = ["config.finetune.name = 'mmd': published weights are of trained models"]
    fails(words, "ddpm", md4jax.make_config(**finetuned), file, run)
    vdm = make_config(CASES["vdm"], tmp_path)
    vdm.network.add_input = False
    fails(["config.network.add_input = False should be True for --from=vdm"], "vdm", vdm, file, run)
    assert not run.exists()


def test_a_run_is_not_written_over(ready, tmp_path):
    config, folder = ready
    (tmp_path / "config.json").write_text("{}")
    words = [f"--to={tmp_path} holds a run already (config.json); give another folder"]
    fails(words, "star_shaped", config, folder / "model.npz", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_text_that_lacks_letters(ready, tmp_path):
    config, folder = ready
    config = config.copy_and_resolve_references()
    config.data.data_dir = str(tmp_path)
    write_text(tmp_path, "only some of them " * 40)
    words = ["config.data: only 11 of 27 tokens are in the training split"]
    fails(words, "star_shaped", config, folder / "model.npz", tmp_path / "run")


def test_damaged_files(tmp_path):
    """Each kind cut short, or something else."""
    np.savez(tmp_path / "whole.npz", a=np.arange(1000.0))
    whole = (tmp_path / "whole.npz").read_bytes()
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + b"\0" * 8
    packed = b"\x81\xa6params\x81\xa1a\xc7\x50\x01"
    for content, words in (
        (whole[: len(whole) // 2], "cannot be read: BadZipFile"),
        (b"", "is no file of PyTorch"),
        (b"hello, this is text", "is no file of PyTorch"),
        (tensors, "cannot be read: ValueError"),
        (packed, "cannot be read: "),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UserError) as error:
            read_file(tmp_path / "file")
        assert str(error.value).startswith(f"--checkpoint={tmp_path}/file ")
        assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="missing cannot be read: No such file"):
        read_file(tmp_path / "missing")


def test_files_that_hold_something_else():
    ddpm, vdm = make_source("ddpm"), make_source("vdm")
    for source, content, words in (
        (ddpm, [], "model.pt holds no arrays by name, but NoneType"),
        (ddpm, 3, "model.pt holds no arrays by name, but int"),
        (ddpm, {"state_dict": {"a": np.ones(1)}}, "'state_dict' is dict of 1"),
        (vdm, {}, "model.pt holds no arrays by name"),
    ):
        with pytest.raises(UserError) as error:
            source.states(content, "model.pt")
        assert words in str(error.value)


def test_pytorch_is_missing(tmp_path, monkeypatch):
    (tmp_path / "model.pt").write_bytes(b"\x80\x02}q\x00.")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install torch \(or, where it is, save the arrays"):
        read_file(tmp_path / "model.pt")


def test_damaged_files_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(1000)}, tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    for content in (whole[: len(whole) // 2], b"\x80\x02not a pickle", b"\x80\x02cos\nsystem\n."):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read|is damaged, or holds more") as error:
            read_file(tmp_path / "model.pt")
        assert "\n" not in str(error.value)


def test_archives_of_torchscript(tmp_path):
    """They are known by a file in them, and the message says how to get their arrays."""
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"")
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(UserError, match=r"TorchScript.*numpy\.savez\(FILE.*torch\.jit\.load"):
        read_file(tmp_path / "model.pt")
