"""`streamdac download`: official weights into the user's cache, resumed where a download was cut."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from streamdac._version import __version__
from streamdac.config import preset
from streamdac.errors import BadDataError, OutputError, UnavailableError
from streamdac.models import LATEST, official_path, official_url

from .official_options import named_model, type_options
from .options import force_option, progress, quiet_option

_READ = 1 << 18  # bytes
_TIMEOUT = 30.0  # seconds without a byte
_MAX_BYTES = 4 << 30  # the official files have 0.3 GB


@click.command(short_help="Official weights into the user's cache.")
@type_options
@force_option
@quiet_option
def download(
    model_type: str | None, model_bitrate: str | None, model_tag: str | None, force: bool, quiet: bool
) -> None:
    """Fetch the weights of an official model and print where they are.

    A file that is there already is used as it is, also one that the official tool fetched; -f fetches it again. A download that
    was cut goes on where it stopped. STREAMDAC_DOWNLOAD_URL names a mirror of the official releases.
    """
    name, tag = named_model(model_type, model_bitrate), model_tag or LATEST
    path = official_path(name, tag)
    if force or not path.is_file():
        fetch(official_url(name, tag), path, name, quiet=quiet)
    click.echo(path)


def fetch(url: str, path: Path, name: str, *, quiet: bool = True) -> None:
    """The official model `name` from `url` to `path`: whole and sound, or not at all.

    Raises:
        UnavailableError: no network, no such file, cut short, or not the weights of that model.
        OutputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file, _alone(file, path):
            try:
                _fill(url, file, path.name, quiet=quiet)
            except BaseException:
                if not file.tell():
                    part.unlink()
                raise
        _check(part, url, name)
        part.replace(path)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise UnavailableError(f"cannot download {url}: {_reason(error)}") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _alone(file: BinaryIO, path: Path) -> Iterator[None]:
    """Keep a second download out of the file."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UnavailableError(f"{path.name} is being downloaded by another process") from error
    except OSError:  # a file system without locks
        pass
    yield


def _fill(url: str, file: BinaryIO, label: str, *, quiet: bool) -> None:
    """What `file` lacks of the resource."""
    have = file.seek(0, 2)
    with _open(url, have) as response:
        start, total = _range(response, have)
        if start == total:
            return  # nothing is missing
        if total is not None and total > _MAX_BYTES:
            raise UnavailableError(f"{url} has {total} bytes, weights have at most {_MAX_BYTES}")
        if start != have:
            file.truncate(start)
            have = file.seek(start)
        with progress(total, label, quiet=quiet, unit="B") as bar:
            bar.update(have)
            while data := _read(response, min(_READ, _MAX_BYTES - have)):
                file.write(data)
                have += len(data)
                bar.update(len(data))
    if total is not None and have < total:
        raise UnavailableError(f"{url}: {have} of {total} bytes arrived; the same command goes on from there")


def _open(url: str, have: int) -> Any:
    headers = {"User-Agent": f"streamdac/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if not have or error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return error  # all of it is there; a response as well
        return _open(url, 0)


def _read(response: Any, count: int) -> bytes:
    """Up to `count` bytes off the net: trouble there is none with the disk."""
    try:
        data: bytes = response.read(count)
    except OSError as error:
        raise urllib.error.URLError(error) from error
    return data


def _range(response: Any, have: int) -> tuple[int, int | None]:
    """Where the answer begins and the size of the whole, if it is known."""
    length = response.headers.get("Content-Length", "")
    given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        return have, have
    if response.status == http.client.PARTIAL_CONTENT and given and int(given[1]) <= have:
        return int(given[1]), int(given[2])
    return 0, int(length) if length.isdecimal() else None


def _check(part: Path, url: str, name: str) -> None:
    """Refuse, and remove, what is not the model: a mirror may send anything."""
    from streamdac.weights import load_weights

    wanted = preset(name)
    try:
        weights = load_weights(part)
        weights.network()
        found = weights.config
        if (found.sample_rate, found.hop_length, found.n_codebooks) != (
            wanted.sample_rate, wanted.hop_length, wanted.n_codebooks
        ):  # fmt: skip
            raise BadDataError(
                f"it is a model of {found.sample_rate} Hz, hop {found.hop_length} and {found.n_codebooks} codebooks, "
                f"need {wanted.sample_rate} Hz, {wanted.hop_length} and {wanted.n_codebooks}"
            )
    except BadDataError as error:
        part.unlink()
        raise UnavailableError(f"{url} is not the weights of {name}: {error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or inner or type(error).__name__)
