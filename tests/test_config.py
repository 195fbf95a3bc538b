"""config.py and options.py: what is filled in, what is refused, and with which words."""

import dataclasses
import json

import pytest

from md4jax.config import (
    SECTIONS,
    build,
    describe,
    differences,
    make_config,
    note_names,
    to_dict,
)
from md4jax.options import Table, UserError, option, options_of


def sections(**changes):
    return {
        "process": {"name": "masked"},
        "network": {"name": "unet"},
        "data": {"name": "digits"},
        "sampler": {"name": "ancestral"},
        "optimizer": {"name": "adamw"},
        "train": {"num_steps": 3, "batch_size": 4},
        **changes,
    }


def test_every_field_is_there_to_be_overridden():
    config = make_config(**sections())
    assert set(config) == set(SECTIONS)
    assert config.process.eps == 1e-4 and config.train.seed == 0
    config.process.num_timesteps = 8  # None in the file: a placeholder, which takes an int.
    config.eval.num_examples = 5
    assert build(config).process.num_timesteps == 8
    with pytest.raises(TypeError):
        config.process.num_timesteps = "many"
    with pytest.raises((AttributeError, KeyError)):
        config.process.nope = 1


@pytest.mark.parametrize(
    "change,words",
    [
        ({"proces": {}}, "config.proces: the sections are process"),
        ({"process": {}}, "config.process.name is missing; it is one of masked"),
        ({"process": {"name": "gausian"}}, "'gausian' should be one of masked"),
        ({"process": {"name": "masked", "epz": 1.0}}, "config.process.epz = 1.0: Masked has no"),
        ({"process": {"name": "masked", "eps": 0.7}}, "above 0 and below 0.5"),
        ({"process": {"name": "masked", "eps": "small"}}, "'small' should be float"),
        ({"train": {"batch_size": 4}}, "config.train.num_steps is missing: Optimizer steps"),
        ({"train": {"num_steps": -1, "batch_size": 4}}, "num_steps = -1 should be at least 1"),
        ({"train": {"num_steps": True, "batch_size": 4}}, "num_steps = True should be int"),
        ({"train": {"num_steps": 1.5, "batch_size": 4}}, "num_steps = 1.5 should be int"),
        ({"eval": {"splits": ("test", 3)}}, "should be a tuple of str"),
        ({"sampler": {"name": "ancestral", "grid": "log"}}, "should be one of uniform, cosine"),
    ],
)
def test_a_mistake_names_the_field_the_value_and_what_is_right(change, words):
    with pytest.raises(UserError) as error:
        make_config(**sections(**change))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_overrides_are_checked_when_built():
    config = make_config(**sections())
    config.sampler.num_steps = 0
    with pytest.raises(UserError, match="config.sampler.num_steps = 0 should be at least 1"):
        build(config)
    config = make_config(**sections())
    config.eval.time_points = 3
    with pytest.raises(UserError, match="time_points = 3 should be even"):
        build(config)


def test_a_config_survives_json():
    config = make_config(**sections(network={"name": "uvit", "ch_mult": (1, 2)}))
    again = json.loads(json.dumps(to_dict(config)))
    assert to_dict(again) == to_dict(config)
    assert build(again).network_options["ch_mult"] == (1, 2)


def test_another_component_can_be_named_on_the_command_line():
    """It has its own keys, to be overridden too, and keeps those it shares with the file's one."""
    try:
        note_names(["main.py", "--config.sampler.name=heun", "--config.sampler.churn=1"])
        config = make_config(**sections(sampler={"name": "mean", "num_steps": 7}))
    finally:
        note_names([])
    assert config.sampler.name == "heun"
    assert config.sampler.num_steps == 7
    assert config.sampler.churn == 0 and "temperature" not in config.sampler


def test_differences_are_of_what_makes_a_run_another_run():
    saved = to_dict(make_config(**sections()))
    given = make_config(
        **sections(
            process={"name": "masked", "schedule": "cosine"},
            sampler={"name": "joint", "num_steps": 7},
            train={"num_steps": 9, "batch_size": 8, "checkpoint_every": 5},
            eval={"batch_size": 3},
        )
    )
    assert differences(saved, given) == [
        "process.schedule: 'linear' -> 'cosine'",
        "train.batch_size: 4 -> 8",
    ]
    assert differences(saved, saved) == []
    # A key that is newer than the saved run: the run is as if it had the default.
    del saved["train"]["random_flip"]
    given = make_config(**sections())
    assert differences(saved, given) == []
    given.train.random_flip = True
    assert differences(saved, given) == ["train.random_flip: None -> True"]


def test_describe_lists_every_field_of_every_component():
    text = describe()
    for section, entry in SECTIONS.items():
        classes = [entry[name] for name in entry] if isinstance(entry, Table) else [entry]
        assert f"config.{section}" in text
        for cls in classes:
            for name, field in options_of(cls).items():
                assert f"    {name}: " in text
                assert field.metadata["option"].doc in text
    assert "ch_mult" in describe("network.uvit") and "ch_mult" not in describe("network.unet")
    with pytest.raises(UserError, match="no config section 'nets'"):
        describe("nets")
    with pytest.raises(UserError, match="'resnet' should be one of ddpm_unet"):
        describe("network.resnet")


def test_options_are_fields_with_words():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Part:
        """A part."""

        width: int = option("Channels.", at_least=1)
        names: tuple[str, ...] = option("Names.", ("a",), one_of=("a", "b"))
        bound: int = 0  # Not an option: not a config key.

    assert list(options_of(Part)) == ["width", "names"]
    limits = options_of(Part)["names"].metadata["option"]
    assert limits.accepts(("a", "b")) and not limits.accepts(("c",))
