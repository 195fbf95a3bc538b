"""Files from the network, of a server that stops in the middle, and from prepare_data.py itself."""

import contextlib
import errno
import hashlib
import http.server
import os
import signal
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from prepare_tools import Numbers, make, refused, tiny_gpt2, tokens
from tiny import start_main

from md4jax.data import tokenizers
from md4jax.data.prepare import download
from md4jax.data.prepare.documents import Documents
from md4jax.data.prepare.one_text import OneText
from md4jax.data.prepare.recipe import Download
from md4jax.data.tokens import Tokens

CONTENT = bytes(range(97, 123)) * 40_000  # 1,040,000 bytes: a to z.
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT`; the path says how it misbehaves, `asked` what was asked for."""

    asked: ClassVar[list] = []

    going: ClassVar[threading.Event] = threading.Event()

    def do_GET(self):
        first = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.asked.append((self.path, first))
        times = [path for path, _ in self.asked].count(self.path)
        if "missing" in self.path:
            return self.send_error(404)
        if first >= len(CONTENT):
            return self.send_error(416)
        first = 0 if "norange" in self.path else first
        content = b"" if "empty" in self.path else CONTENT[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if times == 1 and ("breaks" in self.path or "norange" in self.path):
            content = content[:300_000]
        if times == 1 and "stalls" in self.path:
            self.wfile.write(content[:300_000])
            return self.going.wait()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setattr(Server, "asked", [])
    Server.going.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    Server.going.set()
    server.shutdown()
    server.server_close()


def fetched(url, folder, sha256=SHA256):
    return download.fetch(Download(url, sha256), folder)


def refused_fetch(url, folder, **options):
    with pytest.raises(download.UserError) as error:
        fetched(url, folder, **options)
    assert "\n" not in str(error.value) and not (folder / url.split("/")[-1]).exists()
    return str(error.value)


def test_a_file_is_fetched_once(url, tmp_path):
    path = fetched(f"{url}some/a.txt?version=1", tmp_path / "new")
    assert path == tmp_path / "new/a.txt" and path.read_bytes() == CONTENT
    fetched(f"{url}some/a.txt?version=1", tmp_path / "new")
    assert len(Server.asked) == 1


@pytest.mark.parametrize(("how", "start"), [("breaks", 300_000), ("norange", 300_000)])
def test_the_rest_is_fetched(url, tmp_path, how, start):
    message = refused_fetch(url + how, tmp_path)
    assert f"it broke off at {start} of 1040000 bytes" in message and "goes on from" in message
    assert fetched(url + how, tmp_path).read_bytes() == CONTENT
    assert Server.asked == [(f"/{how}", 0), (f"/{how}", start)]
    assert [path.name for path in tmp_path.iterdir()] == [how]


def test_all_of_it_is_there_but_the_name(url, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert fetched(f"{url}a", tmp_path).read_bytes() == CONTENT
    assert Server.asked == [("/a", len(CONTENT))]


def test_what_cannot_be_fetched(url, tmp_path):
    assert "cannot be fetched (HTTP Error 404: Not Found)" in refused_fetch(
        f"{url}missing", tmp_path
    )
    assert "broke off at 0 of 0 bytes" in refused_fetch(f"{url}empty", tmp_path)
    assert "unknown url type: gs" in refused_fetch("gs://bucket/a", tmp_path)
    message = refused_fetch(f"{url}a", tmp_path, sha256="0" * 64)
    assert "a.part: is not the published file: its sha256 is" in message
    (tmp_path / "b").write_bytes(b"half")
    with pytest.raises(download.UserError, match="b: is not the published file.*; delete it"):
        fetched(f"{url}b", tmp_path)


def test_a_reset_connection_is_not_trouble_of_the_disk(url, tmp_path, monkeypatch):
    def reset(*args, **kwargs):
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    with monkeypatch.context() as patch:
        patch.setattr("http.client.HTTPResponse.read1", reset)
        message = refused_fetch(f"{url}a", tmp_path)
    assert "cannot be fetched" in message and "reset by peer" in message


def test_a_source_may_be_a_url(url, tmp_path):
    recipe = OneText(test_fraction=0.5)
    make(recipe, f"{url}one/a.txt", tmp_path)
    data = Tokens(dataset="made", data_dir=str(tmp_path), length=26).load()
    assert data.to_text(data.splits["test"].gather(np.array([3]))["x0"][0]) == CONTENT[:26].decode()
    make(recipe, f"{url}one/a.txt", tmp_path)
    make(recipe, f"{url}another/a.txt", tmp_path, name="other")
    assert [path for path, _ in Server.asked] == ["/one/a.txt", "/another/a.txt"]


def test_what_is_published_is_fetched(url, tmp_path, monkeypatch):
    about = Numbers.about
    downloads = (Download(f"{url}a"), Download(f"{url}b"))
    monkeypatch.setattr(Numbers, "about", type(about)(**vars(about) | {"downloads": downloads}))
    recipe = Numbers(log=str(tmp_path / "log"))
    make(recipe, None, tmp_path / "data")
    names = [p.name for p in (tmp_path / "data/downloads/made").iterdir()]
    assert sorted(names) == ["a", "b"]
    for path in (tmp_path / "data/downloads/made").iterdir():
        path.unlink()  # They take space, and are not needed any more.
    make(recipe, None, tmp_path / "data")
    assert len(Server.asked) == 2


# GPT-2's vocabulary.


@pytest.fixture
def vocabulary(tmp_path, monkeypatch):
    (tmp_path / "published").mkdir()
    yield tiny_gpt2(tmp_path / "published", monkeypatch)
    tokenizers._gpt2.cache_clear()


@pytest.fixture
def text(tmp_path):
    (tmp_path / "a.txt").write_text("the the<|endoftext|>the end")
    return tmp_path / "a.txt"


def test_the_vocabulary_is_fetched_and_kept(vocabulary, text, tmp_path, monkeypatch):
    monkeypatch.setattr("md4jax.data.prepare.run.GPT2_URL", vocabulary.as_uri())
    data, ids = tokens(Documents(test_every=2, row_length=2), text, tmp_path / "data")
    assert data.spec.vocab_size == 260 and ids["train"].dtype == np.uint16
    assert data.to_text(ids["train"]) == "the the<|endoftext|>"
    assert (tmp_path / "data/downloads/gpt2/encoder.json").is_file()
    kept = tmp_path / "data/made/1.0.0/encoder.json"
    assert kept.read_bytes() == vocabulary.read_bytes()
    tokenizers._gpt2.cache_clear()
    kept.unlink()
    with pytest.raises(download.UserError, match="has no encoder.json or vocab.json"):
        data = Tokens(dataset="made", data_dir=str(tmp_path / "data"), tokenizer="gpt2", length=1)
        data.load().to_text(ids["train"])


def test_the_vocabulary_that_is_wrong(vocabulary, text, tmp_path, monkeypatch):
    data = tmp_path / "data"
    message = refused(Documents(vocab=str(tmp_path)), text, data)
    assert f"{tmp_path} has no encoder.json or vocab.json" in message
    (tmp_path / "vocab.json").write_text("{}")
    assert "is not GPT-2's published encoder.json" in refused(
        Documents(vocab=str(tmp_path)), text, data
    )
    monkeypatch.setattr("md4jax.data.prepare.run.GPT2_URL", (tmp_path / "vocab.json").as_uri())
    assert "is not the published file" in refused(Documents(), text, data)
    make(Documents(vocab=str(vocabulary.parent), test_every=0), text, data)


# prepare_data.py itself.


def test_ctrl_c_and_then_the_same_command(url, tmp_path):
    command = ("--dataset=text", f"--source={url}stalls.txt", f"--data_dir={tmp_path}", "--name=a")
    for end, status in ((signal.SIGINT, 130), (None, 0)):
        process = start_main(*command, script="prepare_data.py")
        with contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            while end and not any(p.stat().st_size for p in tmp_path.rglob("*.part")):
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            if end:
                process.send_signal(end)
            out, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        if end:
            assert err == "interrupted: the same command goes on\n" and out == ""
    assert Server.asked == [("/stalls.txt", 0), ("/stalls.txt", 300_000)]
    assert out.splitlines()[0] == "train: 936,000 chars"
    data = Tokens(dataset="a", data_dir=str(tmp_path)).load()
    assert data.spec.vocab_size == 26 and len(data.splits["test"].tokens) == 104_000
