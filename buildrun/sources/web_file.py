"""A file of a web server, kept in the store; the server is asked once a run whether it is newer."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPMessage, IncompleteRead
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, build_opener

from buildrun.store import locks
from buildrun.store.files import publish

Tell = Callable[[int, int | None], None]

# What tells this content from a later one, and how a server is asked with it.
_MARKS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
# Seconds within which a file may change again and keep its time, which counts seconds.
_YOUNG = 2.0
_RECORD, _PARTIAL = ".marks", ".partial-"


def held(directory: str) -> str | None:
    """Return the path of the copy that is there, or None."""
    try:
        names = [name for name in os.listdir(directory) if not name.startswith(".")]
    except OSError:
        return None
    return os.path.join(directory, names[0]) if names else None


def fetch(url: str, directory: str, patience: float, tell: Tell) -> str:
    """Return the path of a current copy below the directory, which is the URL's own.

    patience: seconds for which the server may say nothing. tell: is given the bytes so far and
    in all. Raises OSError, of which urllib's errors are kinds, and http.client's errors.
    """
    os.makedirs(directory, exist_ok=True)
    with locks.exclusive(directory + ".lock"):
        os.utime(directory)  # the last use, for collection by age
        return _fetch(url, directory, patience, tell)


def _fetch(url: str, directory: str, patience: float, tell: Tell) -> str:
    old = held(directory)
    for name in os.listdir(directory):
        if name.startswith(_PARTIAL):  # of a killed fetch
            _unlink(os.path.join(directory, name))
    request = _request(url, _load(directory) if old else {})
    try:
        with build_opener().open(request, timeout=patience) as answer:
            return _keep(answer, url, directory, tell)
    except HTTPError as error:
        with error:
            if error.code == 304 and old is not None:
                return old
        raise


def reason_of(error: BaseException) -> str | None:
    """Return why it could not be fetched, for people, or None where the error is not known."""
    if isinstance(error, HTTPError):
        known = {401: "you may not read it", 403: "you may not read it", 404: "it is not there"}
        return f"{known.get(error.code, 'the server refused it')} (HTTP {error.code})"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return "it does not answer"
    if isinstance(cause, IncompleteRead):
        return "the connection ended before the file did"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return None


def _request(url: str, marks: Mapping[str, str]) -> Request:
    parts = urlsplit(url)
    userinfo, _, host = parts.netloc.rpartition("@")
    request = Request(urlunsplit(parts._replace(netloc=host, fragment="")))  # noqa: S310
    request.add_header("User-Agent", "buildrun")
    for name, header in _MARKS.items():
        if name in marks:
            request.add_header(header, marks[name])
    if userinfo:
        user, _, password = userinfo.partition(":")
        text = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {text}")
    return request


def _keep(answer: Any, url: str, directory: str, tell: Tell) -> str:
    headers: HTTPMessage = answer.headers
    length = headers.get("Content-Length", "")
    total = int(length) if length.isascii() and length.isdigit() else None
    descriptor, arriving = tempfile.mkstemp(prefix=_PARTIAL, dir=directory)
    try:
        with open(descriptor, "wb") as sink:
            done = _copy(answer, sink, total, tell)
        if total is not None and done != total:
            raise IncompleteRead(b"", total - done)
        target = os.path.join(directory, _name(url))
        # Without its marks a copy is fetched again, so they are never those of another one.
        _forget(directory)
        os.replace(arriving, target)
        publish(os.path.join(directory, _RECORD), json.dumps(_marks(headers)).encode())
        return target
    except BaseException:
        _unlink(arriving)
        raise


def _marks(headers: HTTPMessage) -> dict[str, str]:
    """Return what tells this content from a later one; a time that is too young does not."""
    found = {name: headers[name] for name in _MARKS if headers.get(name)}
    try:
        sent = parsedate_to_datetime(headers["Date"])
        if (sent - parsedate_to_datetime(found["Last-Modified"])).total_seconds() < _YOUNG:
            del found["Last-Modified"]
    except (KeyError, TypeError, ValueError):
        found.pop("Last-Modified", None)
    return found


def _copy(answer: Any, sink: IO[bytes], total: int | None, tell: Tell) -> int:
    done = 0
    while chunk := answer.read(1 << 20):
        sink.write(chunk)
        done += len(chunk)
        tell(done, total)
    return done


def _name(url: str) -> str:
    name = unquote(os.path.basename(urlsplit(url).path)).replace(os.sep, "_").replace("\0", "_")
    return name.lstrip(".")[-100:] or "archive"


def _load(directory: str) -> dict[str, str]:
    try:
        with open(os.path.join(directory, _RECORD), "rb") as file:
            value = json.loads(file.read())
        return {str(name): str(text) for name, text in value.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _forget(directory: str) -> None:
    _unlink(os.path.join(directory, _RECORD))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
