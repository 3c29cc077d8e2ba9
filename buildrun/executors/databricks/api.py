"""Requests to Databricks' REST API, tried again while their trouble may pass."""

from __future__ import annotations

import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPResponse
from math import inf
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import quote, urlencode

from buildrun import http
from buildrun.errors import ExecutionError
from buildrun.executors.databricks import errors
from buildrun.executors.databricks.auth import AGENT
from buildrun.executors.databricks.errors import ApiError, NoAnswer
from buildrun.http import Answer, HttpClient

if TYPE_CHECKING:
    from buildrun.executors.databricks.auth import Connection

Found = TypeVar("Found")

# Seconds, from the first failure on: Databricks advises to repeat for ten minutes; a server that
# has never answered, or that a Ctrl-C does not wait for, has less; between tries at most.
_PATIENCE = 600.0
_FIRST = 10.0
HURRY = 3.0
_LONGEST_PAUSE = 10.0
# So many failures, in about two seconds, are told.
_TOLD = 4

_BUSY = (429, 503)
_PASSING = (429, 500, 502, 503, 504)


class Api:
    """The REST API of a workspace; used by several threads.

    All methods raise ApiError for a refusal, NoAnswer, and ExecutionError for credentials that
    cannot be had. Paths are of the API, not quoted, such as ``/api/2.2/jobs/runs/get``.
    """

    def __init__(
        self,
        connection: Connection,
        environ: Mapping[str, str],
        *,
        patience: float = _PATIENCE,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare; nothing is sent yet.

        patience: seconds of trouble after which a request is given up. tell: is told, by any
        thread, when trouble takes long.
        """
        self.connection = connection
        self._environ = environ
        self._patience = patience
        self._tell = tell
        self._answered = False
        self._changed = threading.Condition()
        self._hurried: float | None = None
        self._idle: list[HttpClient] = []

    def call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None
    ) -> Any:
        """Return the JSON value that is answered, {} where nothing is.

        It may be done twice when an answer is lost, but a run without a token of its own is not
        submitted again.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        once = path.endswith("/runs/submit") and "idempotency_token" not in (body or {})

        def attempt(client: HttpClient, given: Mapping[str, str]) -> Any:
            if once:
                client.close()  # else it is sent anew where the connection was dropped meanwhile
            answer = client.request(method, _target(path, query), {**given, **headers}, content)
            return self._value(method, path, answer)

        return self._persist(attempt, path, once=once)

    def upload(
        self, path: str, file: BinaryIO, size: int, *, query: Mapping[str, str] | None = None
    ) -> None:
        """Send so many bytes of a file from where it is now by PUT, also when it is repeated."""
        start = file.tell()
        headers = {"Content-Type": "application/octet-stream"}

        def attempt(client: HttpClient, given: Mapping[str, str]) -> None:
            file.seek(start)
            answer = client.send("PUT", _target(path, query), {**given, **headers}, file, size)
            self._value("PUT", path, answer)

        self._persist(attempt, path)

    def read(self, path: str, limit: int) -> bytes:
        """Return a file of so many bytes at most, of a larger one the first of them."""

        def attempt(_: HttpClient, given: Mapping[str, str]) -> bytes:
            with self._open(path, given) as response:
                data = response.read(limit)
                if response.length and len(data) < limit:
                    raise HTTPException
                return data

        return self._persist(attempt, path)

    def download(self, path: str) -> HTTPResponse:
        """Return the content of a file as it comes, to be closed.

        Reading raises what is in http.TROUBLE; what was cut off has a ``length`` that is left.
        """
        return self._persist(lambda _, given: self._open(path, given), path)

    def deadline(self, path: str) -> Callable[[], None]:
        """Return what raises NoAnswer, in a hurry, when a download that begins now takes long."""
        started = time.monotonic()

        def check() -> None:
            end = self._end(started)
            if end is not None and time.monotonic() >= end:
                raise errors.no_answer(self.connection, path, TimeoutError())

        return check

    def exists(self, path: str) -> bool:
        """Return whether there is a file or directory, by HEAD."""

        def attempt(client: HttpClient, given: Mapping[str, str]) -> bool:
            answer = client.request("HEAD", _target(path), given)
            if answer.status == 404 and not errors.is_page(answer.kind):
                return False
            self._value("HEAD", path, answer)
            return True

        return self._persist(attempt, path)

    def hurry(self) -> None:
        """Give requests a few seconds from now on, those on their way included."""
        with self._changed:
            if self._hurried is None:
                self._hurried = time.monotonic()
            self._changed.notify_all()

    def close(self) -> None:
        """Hang up; a later request connects again."""
        with self._changed:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _open(self, path: str, given: Mapping[str, str]) -> HTTPResponse:
        client = HttpClient(self.connection.server, self._environ)
        response = client.open("GET", _target(path), given)
        is_page = errors.is_page(response.headers.get("Content-Type", ""))
        if response.status == 200 and not is_page:
            return response
        with response:
            answer = client.whole(response)
        self._value("GET", path, answer)
        raise errors.no_workspace(self.connection, answer)

    def _persist(
        self,
        attempt: Callable[[HttpClient, Mapping[str, str]], Found],
        path: str,
        *,
        once: bool = False,
    ) -> Found:
        """Return what an attempt gives, made again while its trouble may pass.

        once: not where it may have been done.
        """
        started, tries, renewed = time.monotonic(), 0, False
        failed = 0.0  # when it did first
        while True:
            client = self._take()
            trouble: ExecutionError
            try:
                found = self._in_time(client, attempt, started)
                self._answered = True
                return found
            except ApiError as error:
                self._answered = True
                if error.status == 401 and not renewed and self.connection.renew():
                    renewed = True
                    continue
                if error.status not in (_BUSY if once else _PASSING):
                    raise
                trouble, asked = error, error.retry_after
            except http.TROUBLE as error:
                trouble = self._lost(error, path, may_be_done=once and client.sent)
                asked = 0.0
            failed = failed or time.monotonic()
            left = self._left(started, failed)
            if left <= asked:
                raise trouble from None
            tries += 1
            if tries == _TOLD or (tries == 1 and asked >= _LONGEST_PAUSE):
                self._tell(f"{trouble.message}; it is tried again for {left:.0f} s")
            pause = random.uniform(0, min(_LONGEST_PAUSE, 0.1 * 2**tries))  # noqa: S311
            self._pause(max(asked, min(pause, left)))

    def _lost(self, error: Exception, path: str, *, may_be_done: bool) -> NoAnswer:
        """Return what a request has met that is worth another one; raises it where none is."""
        trouble = errors.no_answer(self.connection, path, error)
        if may_be_done:
            trouble.hint = "it may have been done: look at the workspace's job runs first"
            raise trouble from None
        if _is_final(error, answered=self._answered):
            raise trouble from None
        return trouble

    def _take(self) -> HttpClient:
        with self._changed:
            if self._idle:
                client = self._idle.pop()
                client.sent = False
                return client
        return HttpClient(self.connection.server, self._environ)

    def _in_time(
        self,
        client: HttpClient,
        attempt: Callable[[HttpClient, Mapping[str, str]], Found],
        started: float,
    ) -> Found:
        """Return what an attempt gives; in a hurry, one that takes too long is left behind."""
        found: list[Found] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                found.append(attempt(client, {**AGENT, **self.connection.headers()}))
            except BaseException as error:
                failed.append(error)
            with self._changed:
                self._changed.notify_all()

        threading.Thread(target=run, daemon=True).start()
        with self._changed:
            while not (found or failed):
                end = self._end(started)
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError  # the client stays with who still uses it
                self._changed.wait(left)
            self._idle.append(client)
        if failed:
            raise failed[0]
        return found[0]

    def _end(self, started: float) -> float | None:
        """Return when a request must have ended that was started at a time, None for no limit."""
        return None if self._hurried is None else max(self._hurried, started) + HURRY

    def _left(self, started: float, failed: float) -> float:
        """Return the seconds that are left to a request that failed first at a time."""
        patience = self._patience if self._answered else min(_FIRST, self._patience)
        ends = [failed + patience, self._end(started) or inf]
        return min(ends) - time.monotonic()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            if self._hurried is None:
                self._changed.wait_for(lambda: self._hurried is not None, seconds)
                return
        time.sleep(min(seconds, HURRY))  # the hurry may have begun after they were counted

    def _value(self, method: str, path: str, answer: Answer) -> Any:
        """Return what is in an answer; raises ApiError and NoAnswer."""
        status = answer.status
        try:
            value = json.loads(answer.content) if answer.content else None
        except (ValueError, RecursionError):
            value = None
        if 200 <= status < 300:
            if isinstance(value, dict):
                return value
            may_be_empty = method not in ("GET", "POST") or status == 204
            if may_be_empty and not answer.content and not errors.is_page(answer.kind):
                return {}
            raise errors.no_workspace(self.connection, answer)
        body = value if isinstance(value, dict) else {}
        is_known = "error_code" in body or "message" in body
        is_known = is_known or (method == "HEAD" and status >= 400)
        if not (is_known or status in (401, 403, 413) or status in _PASSING):
            raise errors.no_workspace(self.connection, answer)
        raise errors.refusal(self.connection, method, path, answer, body)


def _target(path: str, query: Mapping[str, str] | None = None) -> str:
    return quote(path) + (f"?{urlencode(query)}" if query else "")


def _is_final(error: Exception, *, answered: bool) -> bool:
    """Return whether it cannot help to try again: a name, a certificate or a proxy is wrong."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    text = str(error)
    if "Tunnel connection failed: 4" in text:
        return True
    return not answered and isinstance(error, (socket.gaierror, UnicodeError))
