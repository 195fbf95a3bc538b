"""Tokenizers: text and back, who they are, and GPT-2's published encoding."""

import json
from pathlib import Path

import numpy as np
import pytest
from prepare_tools import tiny_gpt2

from md4jax.data import tokenizers
from md4jax.data.tokenizers import Bytes, Characters, Gpt2, Tokenizer, load
from md4jax.options import UserError

SHARED = Path(__file__).parents[2] / "../shared/data/gpt2_bpe"
TRICKY = [
    "I'll say we've won, it's John's; they'd've. I'M 'RE",
    "  two  leading, three   within, and at the end   ",
    "\n\n\ttabs\r\n and lines \n\n\n",
    "1234567890 3.14 ½ ٣ 一二三",
    "Grüße, Ελλάδα, Привет, 你好, مرحبا, नमस्ते",
    "😀👩‍👩‍👧 é e\u0301 \u00a0 \u3000 \u200b \x00\x7f",
    "f(x)=[a]{b}->c; // ***!!!??? <|endoftext|> #hash @at",
    "",
    " ",
]


@pytest.fixture
def gpt2(tmp_path, monkeypatch):
    yield Gpt2(str(tiny_gpt2(tmp_path, monkeypatch).parent))
    tokenizers._gpt2.cache_clear()


SIMPLE = [Characters("ab \n█é"), Characters("ab \n█é", has_end=True), Bytes(), Bytes(has_end=True)]


@pytest.mark.parametrize("tokenizer", SIMPLE)
def test_round_trips(tokenizer, tmp_path):
    assert isinstance(tokenizer, Tokenizer)
    text = "ab ba\n\né█" * 3
    ids = tokenizer.encode(text, "a test")
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.min_scalar_type(tokenizer.vocab_size - 1)
    assert tokenizer.encode("", "a test").shape == (0,) and tokenizer.decode(ids[:0]) == ""
    assert load(json.loads(json.dumps(tokenizer.identity())), tmp_path) == tokenizer


@pytest.mark.parametrize("tokenizer", SIMPLE)
def test_the_end_is_one_id_more(tokenizer):
    without = 6 if isinstance(tokenizer, Characters) else 256
    if not tokenizer.has_end:
        assert tokenizer.end_of_text is None and tokenizer.vocab_size == without
        assert tokenizer.decode(np.array([without])) == "█"
        return
    assert tokenizer.end_of_text == without == tokenizer.vocab_size - 1
    assert tokenizer.decode(np.array([without])) == "<|endoftext|>"
    mask = tokenizer.decode(np.array([without + 1, -1]))
    assert mask == "██"


def test_who_they_are():
    names = {json.dumps(t.identity()) for t in (*SIMPLE, Characters("ba"), Gpt2("x"))}
    assert len(names) == 6


def test_characters_outside_the_alphabet():
    with pytest.raises(UserError, match="a test: character 'c' at position 2 is not in the"):
        Characters("ab").encode("abc", "a test")


def test_broken_utf8_is_shown():
    ids = Bytes().encode("é", "a test")
    assert Bytes().decode(ids[:1]) == "\ufffd"
    assert Bytes().decode(Bytes().encode("a\ud800b\ud83d\ude00", "a test")) == "a\ufffdb😀"


def test_gpt2_merges_in_order(gpt2):
    assert isinstance(gpt2, Tokenizer)
    ids = gpt2.encode("the the<|endoftext|>", "a test")
    assert ids.dtype == np.uint16
    symbols = list(json.loads(gpt2.file.read_text()))
    assert [symbols[i] for i in ids] == ["t", "he", "\u0120the", *"<|endoftext|>"]
    assert gpt2.decode(np.array([256, 257, 259, 260, 261, 258])) == " the<|endoftext|>██ the"
    assert gpt2.decode(np.zeros(0, int)) == ""


@pytest.mark.parametrize("text", TRICKY)
def test_gpt2_loses_nothing(gpt2, text):
    assert gpt2.decode(gpt2.encode(text, "a test")) == text


def test_gpt2_files_that_are_wrong(gpt2, tmp_path):
    (tmp_path / "encoder.json").rename(tmp_path / "vocab.json")
    assert gpt2.file == tmp_path / "vocab.json"
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"vocab.json is not GPT-2's published encoder.json: its"):
        gpt2.encode("the", "a test")
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(UserError, match=r"has no encoder.json or vocab.json, which GPT-2's"):
        gpt2.file  # noqa: B018


@pytest.mark.skipif(not SHARED.is_dir(), reason="GPT-2's vocabulary is not here")
def test_gpt2_as_published():
    """Against tiktoken's own reader of both published files, and its own rule."""
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    files = str(SHARED / "vocab.bpe"), str(SHARED / "encoder.json")
    ranks = data_gym_to_mergeable_bpe_ranks(*files)
    theirs = tiktoken.Encoding(
        "theirs",
        pat_str=r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 50256},
    )
    ours = Gpt2(str(SHARED))
    for text in [*TRICKY, "".join(TRICKY), "\n".join(TRICKY)]:
        ids = ours.encode(text, "a test")
        assert ids.tolist() == theirs.encode_ordinary(text)
        assert ours.decode(ids) == text
    # Of the paper's released code.
    assert ours.encode("Hello world", "a test").tolist() == [15496, 995]
    assert ours.decode(np.array([50256, 50257])) == "<|endoftext|>█"
