"""Files from the network: resumed where they broke off, checked, and never half there."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from md4jax.console import Progress
from md4jax.data.prepare.recipe import Download
from md4jax.options import UserError

_CHUNK = 2**20
_SECONDS = 60


def is_url(source: str) -> bool:
    """Whether a source is to be fetched."""
    return "://" in source


def fetch(download: Download, folder: Path) -> Path:
    """The file in a folder; fetched if it is not there, or the rest of it if some is.

    Raises:
      UserError: it cannot be fetched, or is not what it should be.
    """
    name = Path(urllib.parse.urlparse(download.url).path).name or "download"
    target, partial = folder / name, folder / f"{name}.part"
    if target.exists():
        _check(target, download)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for chunk in _received(download.url, partial):
        with partial.open("ab") as file:
            file.write(chunk)
    _check(partial, download)
    os.replace(partial, target)
    return target


def _received(url: str, partial: Path) -> Iterator[bytes]:
    """What is to be added to a file; from its beginning, and it is removed, if the server says so.

    Raises:
      UserError: of the network, with what to do.
    """
    have = partial.stat().st_size if partial.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "md4jax"})
        if have:
            request.add_header("Range", f"bytes={have}-")
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            if have and getattr(response, "status", None) != 206:
                partial.unlink()
                have = 0
            total = have + int(response.headers.get("Content-Length") or 0)
            progress = Progress(f"fetching {url} (MB)", max(1, total // 10**6))
            while chunk := response.read1(_CHUNK):  # What is there, not all of it at once.
                yield chunk
                have += len(chunk)
                progress.update(have // 10**6)
        if have < total or not have:
            raise HTTPException(f"it broke off at {have} of {total} bytes")
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: there is no more than what is there.
            raise _not_fetched(url, partial, error) from error
    except (HTTPException, OSError, ValueError) as error:
        raise _not_fetched(url, partial, error) from error


def _not_fetched(url: str, partial: Path, error: Exception) -> UserError:
    return UserError(
        f"{url} cannot be fetched ({error}); the same command goes on from {partial}, or fetch it "
        "yourself and give its path"
    )


def _check(path: Path, download: Download) -> None:
    if download.sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != download.sha256:
        raise UserError(
            f"{path}: is not the published file: its sha256 is {found[:16]}..., not "
            f"{download.sha256[:16]}...; delete it, and the same command fetches it again"
        )
