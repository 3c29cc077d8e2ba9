"""Copies of files and directories from any address; a copy that is current is used again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any

from buildrun.console import printable, redact, size
from buildrun.errors import BuildrunError, ParameterError, ProjectError
from buildrun.sources import address as addresses
from buildrun.store import locks
from buildrun.store.files import publish
from buildrun.workspace.move import delete

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.sources.base import SourceRequest

# Schemes that only MLflow can resolve: they name what a tracking server holds.
_MLFLOW_SCHEMES = ("runs:", "models:", "mlflow-artifacts:")
# What tells a file of a web server from a later one, and how the server is asked with it.
_CONDITIONS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
# Seconds within which a file may change again and keep its time, which counts seconds.
_YOUNG = 2.0
# Seconds for which a web server may say nothing.
_PATIENCE = 120.0
_ABSENT = "there is nothing at this address"
_PARTIAL, _VERSION = ".partial-", ".version"

# Is told a label, the bytes so far, and the bytes in all or None.
Progress = Callable[[str, int, int | None], None]
# What tells a content from a later one; nothing where that cannot be told.
Version = Mapping[str, str]


def fetch(name: str, uri: str, directory: str, progress: Progress) -> str:
    """Return the path of a copy, below the directory, of a `path` parameter's file or directory.

    Raises ParameterError; then nothing of the copy is left.
    """
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise ParameterError(
            f"cannot write into the storage directory: {error.strerror}",
            place=directory,
            hint="choose another one with `--storage-dir`",
        ) from None
    fact = printable(f"parameter `{name}`: could not download `{redact(uri)}`")
    with _explained(ParameterError, fact, uri):
        if uri.startswith(_MLFLOW_SCHEMES):
            return _from_mlflow(name, uri, directory)
        return download(uri, directory, progress)


@contextmanager
def fetching(uri: str, request: SourceRequest) -> Iterator[Progress]:
    """Show the progress of a project's download; what fails in the block is a ProjectError."""

    with (
        _explained(ProjectError, f"could not fetch `{addresses.shown(uri)}`", uri),
        showing(request.console, "fetching") as progress,
    ):
        yield progress


@contextmanager
def showing(console: Console, verb: str) -> Iterator[Progress]:
    """Show the progress of what is fetched in the block."""

    def progress(label: str, done: int, total: int | None) -> None:
        of = f" of {size(total)}" if total else ""
        console.progress(f"{verb} {addresses.shown(label)}: {size(done)}{of}")

    try:
        yield progress
    finally:
        console.done()


def download(uri: str, directory: str, progress: Progress, patience: float = _PATIENCE) -> str:
    """Return the path of a current copy below the directory; raises errors of any library."""
    slot = _slot(uri, directory)
    os.makedirs(slot, exist_ok=True)
    with locks.exclusive(os.path.join(slot, ".lock")):
        os.utime(slot)  # the last use, for collection by age
        for name in os.listdir(slot):
            if name.startswith(_PARTIAL):  # of a killed download
                delete(os.path.join(slot, name))
        old = cached_copy(uri, directory)
        staging = tempfile.mkdtemp(prefix=_PARTIAL, dir=slot)
        try:
            known = _read_version(slot) if old else {}
            if uri.lower().startswith(("http://", "https://")):
                found = _from_web(uri, staging, known, progress, patience)
            else:
                found = _from_fsspec(uri, staging, known, progress)
            if old is not None and found is None:
                return old
            return _replace(slot, staging, old, found or {})
        finally:
            delete(staging)
            if cached_copy(uri, directory) is None:
                delete(slot)


def cached_copy(uri: str, directory: str) -> str | None:
    """Return the path of the copy that is there, current or not, or None."""
    slot = _slot(uri, directory)
    names = os.listdir(slot) if os.path.isdir(slot) else []
    return next((os.path.join(slot, name) for name in names if not name.startswith(".")), None)


def download_tree(uri: str, target: str, progress: Progress) -> bool:
    """Copy the directory at an address to a new one; False where it is a file."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    info = filesystem.info(path)
    if info.get("type") != "directory":
        return False
    _copy_tree(filesystem, path, target, uri, progress)
    return True


def _slot(uri: str, directory: str) -> str:
    """Return the directory that holds the copy, its version and its lock."""
    digest = sha256(uri.encode(errors="surrogateescape")).hexdigest()
    return os.path.join(directory, digest[:16])


def _replace(slot: str, staging: str, old: str | None, version: Version) -> str:
    """Put what has arrived in the place of the old copy; returns its path."""
    (name,) = os.listdir(staging)
    target = os.path.join(slot, name)
    # Without a version a copy is fetched again, so it is never taken for another one.
    delete(os.path.join(slot, _VERSION))
    if old is not None and os.path.isdir(old):
        os.rename(old, os.path.join(staging, ".old"))
    os.replace(os.path.join(staging, name), target)
    publish(os.path.join(slot, _VERSION), json.dumps(version).encode())
    return target


def _read_version(slot: str) -> Version:
    try:
        with open(os.path.join(slot, _VERSION), "rb") as file:
            return {str(key): str(value) for key, value in json.load(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}


# Over urllib: fsspec's http asks twice for what one conditional request tells, knows no time of
# the answer to judge Last-Modified by, uses no proxies, and imports aiohttp, five times as slow.
def _from_web(
    uri: str, staging: str, known: Version, progress: Progress, patience: float
) -> Version | None:
    """Download a file of a web server; None where the known version is current."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(_request(uri, known), timeout=patience) as answer:  # noqa: S310
            target = os.path.join(staging, _safe_name(uri))
            _copy(answer, target, answer.length, uri, progress)
            return _web_version(answer.headers)
    except HTTPError as error:
        error.close()
        if error.code == 304 and known:
            return None
        raise


def _request(uri: str, known: Version) -> Any:
    import base64
    from urllib.parse import quote, unquote, urlsplit, urlunsplit
    from urllib.request import Request

    parts = urlsplit(uri)
    userinfo, _, host = parts.netloc.rpartition("@")
    path, query = (quote(text, safe="%/:=&?~#+!$,;'@()*[]") for text in (parts.path, parts.query))
    request = Request(urlunsplit((parts.scheme, host, path, query, "")))  # noqa: S310
    request.add_header("User-Agent", "buildrun")
    for mark, header in _CONDITIONS.items():
        if mark in known:
            request.add_header(header, known[mark])
    if userinfo:
        user, _, password = userinfo.partition(":")
        text = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {text}")
    return request


def _web_version(headers: Mapping[str, str]) -> Version:
    """Return what the server tells of the version; a time that is too young tells nothing."""
    from email.utils import parsedate_to_datetime

    found = {mark: headers[mark] for mark in _CONDITIONS if headers.get(mark)}
    try:
        sent = parsedate_to_datetime(headers["Date"])
        age = sent - parsedate_to_datetime(found["Last-Modified"])
    except (KeyError, TypeError, ValueError):
        age = None
    if age is None or age.total_seconds() < _YOUNG:
        found.pop("Last-Modified", None)
    return found


def _from_fsspec(uri: str, staging: str, known: Version, progress: Progress) -> Version | None:
    """Copy a file or directory; None where the known version is current."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    info = filesystem.info(path)
    target = os.path.join(staging, _safe_name(path))
    if info.get("type") == "directory":
        _copy_tree(filesystem, path, target, uri, progress)
        return {}
    marks = ("ETag", "etag", "md5Hash", "md5", "mtime", "LastModified", "last_modified")
    version = {mark: str(info[mark]) for mark in marks if info.get(mark)}
    if version:
        version["size"] = str(info.get("size"))
        if version == known:
            return None
    with filesystem.open(path, "rb") as source:
        _copy(source, target, info.get("size"), uri, progress)
    return version


def _copy_tree(filesystem: Any, path: str, target: str, uri: str, progress: Progress) -> None:
    root = path.rstrip("/")
    os.makedirs(target)
    for remote, detail in sorted(filesystem.find(root, detail=True).items()):
        relative = os.path.normpath(remote[len(root) :].lstrip("/"))
        if relative.startswith("..") or os.path.isabs(relative):
            raise ValueError(f"it holds `{remote}`, which lies outside of it")
        local = os.path.join(target, relative)
        os.makedirs(os.path.dirname(local), exist_ok=True)
        with filesystem.open(remote, "rb") as source:
            _copy(source, local, detail.get("size"), f"{uri} {relative}", progress)


def _copy(
    source: IO[bytes], target: str, total: int | None, label: str, progress: Progress
) -> None:
    done = 0
    with open(target, "xb") as sink:
        while chunk := source.read(1 << 20):
            sink.write(chunk)
            done += len(chunk)
            progress(label, done, total)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _safe_name(path: str) -> str:
    name = os.path.basename(path.partition("?")[0].rstrip("/"))[-200:]
    return "data" if name.startswith(".") else name or "data"


def _from_mlflow(name: str, uri: str, directory: str) -> str:
    try:
        from mlflow.artifacts import download_artifacts  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise ParameterError(
            f"parameter `{name}`: `{uri}` names data of a tracking server, which needs mlflow",
            hint="install `mlflow` beside buildrun, or give the data's own URI",
        ) from None
    target = tempfile.mkdtemp(prefix="mlflow-", dir=directory)
    try:
        return str(download_artifacts(artifact_uri=uri, dst_path=target))
    except Exception:
        delete(target)
        raise


@contextmanager
def _explained(kind: type[BuildrunError], fact: str, uri: str) -> Iterator[None]:
    """Turn errors of fsspec, urllib and every library below them into buildrun's own."""
    try:
        yield
    except BuildrunError:
        raise
    except Exception as error:
        raise kind(f"{fact}: {_reason(error)}", hint=_remedy(uri, error)) from error


def _reason(error: BaseException) -> str:
    """Return why something could not be fetched, on one line and without secrets."""
    from http.client import IncompleteRead
    from urllib.error import HTTPError, URLError

    known = {401: "you may not read it", 403: "you may not read it", 404: _ABSENT}
    cause = error.reason if isinstance(error, URLError) else error
    reason = next(iter(str(error).splitlines()), "")
    if isinstance(error, HTTPError):
        reason = f"{known.get(error.code, 'the server refused it')} (HTTP {error.code})"
    elif isinstance(cause, FileNotFoundError):
        reason = _ABSENT
    elif isinstance(cause, TimeoutError):
        reason = "it does not answer"
    elif isinstance(cause, IncompleteRead):
        reason = "the connection ended before the file did"
    elif isinstance(cause, OSError) and cause.strerror:
        reason = cause.strerror
    elif not reason or ("://" in reason and "?" in reason):  # a query may bear secrets
        reason = type(error).__name__
    return printable(redact(reason))


def _remedy(uri: str, error: BaseException) -> str:
    """Return what the user can do about it."""
    scheme = uri.partition(":")[0].lower()
    extras = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "az": "azure"}
    if isinstance(error, ImportError):
        extra = extras.get(scheme)
        return f"pip install 'buildrun[{extra}]'" if extra else "install the library it names"
    if isinstance(error, ValueError) and "Protocol" in str(error):
        return "give a local path, or a URI that fsspec knows, such as s3://, gs:// or https://"
    return "check the address, your credentials and the network, then run again"
