"""Metric files: exact, whole after a kill, cut on resume without losing a line."""

import io
import json
import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from md4jax.options import UserError
from md4jax.training.writers import MetricWriter


def lines(path, name):
    return [json.loads(line) for line in (path / "metrics" / f"{name}.jsonl").open()]


def events(path):
    """All events in the event files: TFRecords, each `length crc data crc`."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(path.glob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += length + 16
    return found


def shown(path, tag):
    """`(step, value)` of a tag as TensorBoard shows it: a START event takes later steps out."""
    kept = []
    for event in events(path):
        if event.session_log.status == event.session_log.START:
            kept = [x for x in kept if x[0] < event.step]
        kept += [(event.step, v) for v in event.summary.value if v.tag == tag]
    return kept


def test_numbers_read_back_bit_for_bit(tmp_path):
    writer = MetricWriter(tmp_path)
    rng = np.random.default_rng(0)
    doubles = [struct.unpack("d", rng.bytes(8))[0] for _ in range(200)]
    doubles += [0.1 + 0.2, 5e-324, -0.0]
    singles = rng.integers(0, 2**31, 200).astype(np.uint32).view(np.float32)
    writer.scalars(1, {str(i): x for i, x in enumerate(doubles)})
    writer.scalars(2, {str(i): x for i, x in enumerate(singles)})
    writer.scalars(3, {"jax": jnp.float32(0.1), "half": jnp.bfloat16(0.1), "int": np.int64(2**60)})
    first, second, third = lines(tmp_path, "train")
    assert first.pop("step") == 1 and second.pop("step") == 2
    same = lambda a, b: struct.pack("d", a) == struct.pack("d", b) or (a != a and b != b)
    assert all(same(float(v), x) for v, x in zip(first.values(), doubles))
    assert all(same(float(v), float(x)) for v, x in zip(second.values(), singles))
    assert third == {"step": 3, "jax": float(np.float32(0.1)), "half": 0.10009765625, "int": 2**60}
    writer.close()


def test_values_json_has_no_word_for(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.scalars(7, {"a": math.nan, "b": np.float32("inf"), "c": -math.inf, "d": None})
    raw = (tmp_path / "metrics" / "train.jsonl").read_text()
    assert json.loads(raw, parse_constant=pytest.fail)["b"] == "inf"
    values = lines(tmp_path, "train")[0]
    assert math.isnan(float(values["a"])) and float(values["c"]) == -math.inf
    assert values["d"] is None
    writer.close()


def test_tensorboard_has_the_same(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2):
        writer.scalars(step, {"loss": np.float32(step / 3), "note": "no number"})
    writer.evaluation(2, {"source": "train", "split": "test", "bits_per_dim": 1.5, "ok": True})
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    writer.image(2, "samples", picture)
    writer.image(2, "grey", picture[..., :1])
    writer.text(2, "texts", "one\ntwo *stars*")
    writer.close()
    tags = {v.tag for e in events(tmp_path) for v in e.summary.value}
    numbers = {"train/loss", "test/bits_per_dim"}
    assert tags == numbers | {"samples", "grey", "texts/text_summary"}
    losses = [(step, v.simple_value) for step, v in shown(tmp_path, "train/loss")]
    assert losses == [(1, np.float32(1 / 3)), (2, np.float32(2 / 3))]
    for tag, expected in (("samples", picture), ("grey", picture[..., :1].repeat(3, axis=2))):
        ((_, value),) = shown(tmp_path, tag)
        decoded = Image.open(io.BytesIO(value.image.encoded_image_string))
        np.testing.assert_array_equal(np.asarray(decoded), expected)
    ((_, value),) = shown(tmp_path, "texts/text_summary")
    assert value.tensor.string_val[0] == b"    one\n    two *stars*"


def write_run(path, steps):
    writer = MetricWriter(path)
    for step in steps:
        writer.scalars(step, {"loss": step / 7})
    writer.evaluation(20, {"source": "train", "split": "test", "x": 1.0})
    writer.evaluation(30, {"source": "train", "split": "test", "x": 2.0})
    writer.evaluation(30, {"source": "evaluate", "split": "test", "x": 3.0})
    writer.close()


def test_truncate_moves_what_will_be_written_again(tmp_path):
    write_run(tmp_path, range(10, 50, 10))
    before = (tmp_path / "metrics" / "train.jsonl").read_bytes()
    writer = MetricWriter(tmp_path)
    writer.truncate(20)
    writer.scalars(30, {"loss": 0.5})
    writer.close()
    after = (tmp_path / "metrics" / "train.jsonl").read_bytes()
    assert after.startswith(b"".join(before.splitlines(keepends=True)[:2]))
    assert [(x["step"], x["loss"]) for x in lines(tmp_path, "train")] == [
        (10, 10 / 7),
        (20, 20 / 7),
        (30, 0.5),
    ]
    assert [(x["step"], x["source"]) for x in lines(tmp_path, "eval")] == [
        (20, "train"),
        (30, "evaluate"),
    ]
    assert lines(tmp_path, "superseded") == [
        {"file": "train.jsonl", "resumed_at": 20, "line": {"step": 30, "loss": 30 / 7}},
        {"file": "train.jsonl", "resumed_at": 20, "line": {"step": 40, "loss": 40 / 7}},
        {
            "file": "eval.jsonl",
            "resumed_at": 20,
            "line": {"step": 30, "source": "train", "split": "test", "x": 2.0},
        },
    ]
    assert [step for step, _ in shown(tmp_path, "train/loss")] == [10, 20, 30]
    assert not list((tmp_path / "metrics").glob("*.tmp"))


def test_truncate_without_anything_to_do(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.truncate(5)
    assert not (tmp_path / "metrics").exists()
    write_run(tmp_path, [1, 2])
    before = (tmp_path / "metrics" / "train.jsonl").stat()
    writer.truncate(30)
    after = (tmp_path / "metrics" / "train.jsonl").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert not (tmp_path / "metrics" / "superseded.jsonl").exists()


@pytest.mark.parametrize("torn", [b'{"step": 30, "lo', '{"step": 30, "é'.encode()[:-1], b"30"])
def test_half_written_line(tmp_path, torn):
    write_run(tmp_path, [10, 20])
    file = tmp_path / "metrics" / "train.jsonl"
    with file.open("ab") as f:
        f.write(torn)
    writer = MetricWriter(tmp_path)
    writer.scalars(25, {"loss": 1.0})  # Without a truncate, as after an evaluation.
    writer.truncate(40)
    writer.scalars(40, {"loss": 1.0})
    writer.close()
    assert [x["step"] for x in lines(tmp_path, "train")] == [10, 20, 25, 40]
    (moved,) = lines(tmp_path, "superseded")
    assert str(moved["line"])[:14] == torn.decode(errors="replace")[:14]


def test_superseded_lines_add_up(tmp_path):
    for start in (0, 20, 10):
        writer = MetricWriter(tmp_path)
        writer.truncate(start)
        for step in range(start + 10, 50, 10):
            writer.scalars(step, {"run": start})
        writer.close()
    assert [x["step"] for x in lines(tmp_path, "train")] == [10, 20, 30, 40]
    assert [x["line"]["step"] for x in lines(tmp_path, "superseded")] == [30, 40, 20, 30, 40]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write_run(tmp_path, [10])
    writer = MetricWriter(tmp_path)
    writer.truncate(0)
    writer.image(1, "x", np.zeros((2, 2, 3), np.uint8))
    writer.text(1, "x", "x")
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "metrics").touch()
    with pytest.raises(UserError, match=r"metrics/train.jsonl cannot be written: (Not|File)"):
        MetricWriter(tmp_path).scalars(1, {"loss": 1.0})
