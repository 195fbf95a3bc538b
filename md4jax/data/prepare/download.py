"""Files from the network: resumed where they broke off, checked, and never half there."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
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
    try:
        _transfer(download.url, partial)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None and not isinstance(
            error, urllib.error.URLError
        ):
            raise  # Of the disk, not of the network.
        raise UserError(
            f"{download.url} cannot be fetched ({error}); the same command goes on from "
            f"{partial}, or fetch it yourself and give it as --source"
        ) from error
    _check(partial, download)
    os.replace(partial, target)
    return target


def _transfer(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "md4jax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: there is no more than what is there.
            raise
        return
    with response:
        goes_on = getattr(response, "status", 200) == 206
        start = have if goes_on else 0
        total = start + int(response.headers.get("Content-Length") or 0)
        progress = Progress(f"fetching {url} (MB)", max(1, total // 10**6))
        with partial.open("ab" if goes_on else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress.update(file.tell() // 10**6)
        if total > start and partial.stat().st_size < total:
            raise HTTPException(f"it broke off at {partial.stat().st_size} of {total} bytes")


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
