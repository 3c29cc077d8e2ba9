"""Requests to a cluster's API, tried again while their trouble may pass, and its streams."""

from __future__ import annotations

import io
import json
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from buildrun.executors.kubernetes.errors import ApiError, NoAnswer, refusal

# `runs` imports this for all its verbs, so heavy modules are imported late.
if TYPE_CHECKING:
    from concurrent.futures import Future

    from urllib3 import BaseHTTPResponse

    from buildrun.executors.kubernetes.auth import Connection

Found = TypeVar("Found")

# Paths of the kinds that buildrun speaks of, below a namespace's.
_GROUPS = {"jobs": "/apis/batch/v1", "pods": "/api/v1", "secrets": "/api/v1", "events": "/api/v1"}

_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}

_PASSING = frozenset({429, 500, 502, 503, 504})

# Seconds: for a connection; for an answer; between tries at most; for all tries.
_CONNECT = 10.0
_ANSWER = 30.0
_LONGEST_PAUSE = 5.0
PATIENCE = 60.0
# Seconds for all tries with a server that has never answered yet; and in a hurry.
_FIRST = 10.0
HURRY = 3.0

# Bytes that are read at once of a stream; and of a chunk's first line at most.
_BLOCK = 1 << 18
_HEAD = 1 << 12


class Target(NamedTuple):
    """What a request is about; name: "" for all of the kind. sub: such as ``log``."""

    kind: str
    namespace: str
    name: str = ""
    sub: str = ""

    @property
    def path(self) -> str:
        """Return its path on the server."""
        from urllib.parse import quote

        parts = [_GROUPS[self.kind], "namespaces", quote(self.namespace, safe=""), self.kind]
        parts += [quote(part, safe="") for part in (self.name, self.sub) if part]
        return "/".join(parts)


class Api:
    """A cluster's API; used by several threads.

    All methods raise ApiError for a refusal, and NoAnswer. patience: seconds after which a server
    that does not answer is given up.
    """

    def __init__(self, connection: Connection, *, patience: float = PATIENCE) -> None:
        """Prepare; nothing is asked yet."""
        from concurrent.futures import Future

        self._connection = connection
        self._patience = patience
        self._answered = False
        self._hurry: Future[float] = Future()
        self._mutex = threading.Lock()
        self._warnings: list[str] = []

    def hurry(self) -> None:
        """Give requests a few seconds from now on, those on their way included."""
        if not self._hurry.done():
            self._hurry.set_result(time.monotonic())

    def get(self, target: Target, **query: str) -> dict[str, Any]:
        """Return an object, or the list of a kind."""
        return self._json("GET", target, query)

    def create(self, target: Target, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object; it is refused with 409 where one of its name is there.

        A try whose answer was lost may have made it: then the next one is refused so.
        """
        return self._json("POST", target, {}, body)

    def patch(self, target: Target, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merge into an object."""
        return self._json("PATCH", target, {}, body)

    def delete(self, target: Target) -> None:
        """Delete an object, if it is there, and in the background what belongs to it."""
        # batch/v1 would leave a Job's pods alone if it were not told.
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        try:
            self._json("DELETE", target, {}, options)
        except ApiError as error:
            if error.status != 404:
                raise

    def text(self, target: Target, **query: str) -> bytes:
        """Return what the server sends as it is."""
        return self._persist(target, lambda: self._content("GET", target, query, None))

    def stream(self, target: Target, query: Mapping[str, str], *, silence: float) -> Stream:
        """Open what the server goes on sending.

        silence: seconds without a byte after which the connection is taken for dead.
        """
        return Stream(
            self._persist(target, lambda: self._request("GET", target, query, None, silence))
        )

    def warnings(self) -> list[str]:
        """Return what the server has warned of since it was asked for last."""
        with self._mutex:
            found, self._warnings = self._warnings, []
        return found

    def _json(
        self,
        method: str,
        target: Target,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return self._persist(target, lambda: _object(self._content(method, target, query, body)))

    def _content(
        self,
        method: str,
        target: Target,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
    ) -> bytes:
        answer = self._request(method, target, query, body, _ANSWER)
        try:
            return bytes(answer.data)
        finally:
            answer.release_conn()

    def _persist(self, target: Target, attempt: Callable[[], Found]) -> Found:
        """Return what the attempt gives, tried again while its trouble may pass."""
        from concurrent.futures import wait

        from urllib3.exceptions import HTTPError

        began, tries = time.monotonic(), 0
        while True:
            asked = 0.0
            try:
                found = self._in_time(attempt, began)
                self._answered = True
                return found
            except ApiError as error:
                self._answered = True
                if error.status not in _PASSING or self._left(began) <= 0:
                    raise
                asked = error.retry_after
            except (HTTPError, OSError, ValueError) as error:
                if self._left(began) <= 0 or _is_final(error):
                    raise NoAnswer(self._connection.host, error, target.kind) from None
            tries += 1
            pause = random.uniform(0, min(_LONGEST_PAUSE, 0.1 * 2**tries))  # noqa: S311
            pause = min(max(asked, pause), max(0.0, self._left(began)))
            if self._hurry.done():
                time.sleep(pause)
            else:
                wait((self._hurry,), pause)

    def _in_time(self, attempt: Callable[[], Found], began: float) -> Found:
        """Return what an attempt gives; in a hurry, one that takes too long is left behind."""
        from concurrent.futures import FIRST_COMPLETED, Future, wait

        answer: Future[Found] = Future()

        def run() -> None:
            try:
                answer.set_result(attempt())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        either: tuple[Future[Any], ...] = (answer, self._hurry)
        wait(either, return_when=FIRST_COMPLETED)
        if not answer.done():
            wait((answer,), max(0.0, self._left(began)))
        if not answer.done():
            raise TimeoutError("it takes too long")
        return answer.result()

    def _left(self, began: float) -> float:
        """Return the seconds that a request has left which began at a time."""
        seconds = self._patience if self._answered else min(_FIRST, self._patience)
        end = began + seconds
        if self._hurry.done():
            end = min(end, max(began, self._hurry.result()) + HURRY)
        return end - time.monotonic()

    def _request(
        self,
        method: str,
        target: Target,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        seconds: float,
    ) -> BaseHTTPResponse:
        from urllib.parse import urlencode

        import urllib3

        # The methods of the client differ between its versions, and know no `sinceTime`.
        headers = {"Accept": "application/json", "User-Agent": "buildrun"}
        if body is not None:
            merge = "application/merge-patch+json"
            headers["Content-Type"] = merge if method == "PATCH" else "application/json"
        answer = self._connection.pool.request(
            method,
            self._connection.host + target.path + (f"?{urlencode(query)}" if query else ""),
            body=None if body is None else json.dumps(body).encode(),
            headers={**headers, **self._connection.headers()},
            timeout=urllib3.Timeout(connect=_CONNECT, read=seconds),
            retries=False,
            preload_content=False,
            redirect=False,
        )
        if answer.status >= 300:
            verb = _VERBS.get(method) or ("get" if target.name else "list")
            verb = "watch" if "watch" in query else verb
            kind = f"{target.kind}/{target.sub}" if target.sub else target.kind
            try:
                data = answer.data
            finally:
                answer.release_conn()
            raise refusal(verb, kind, target.namespace, answer.status, answer.headers, data)
        with self._mutex:
            self._warnings += map(_warning, answer.headers.getlist("Warning"))
        return answer


class Stream:
    """What a server goes on sending; ``close`` may be called from another thread.

    whole: whether the server has said that there is no more.
    """

    def __init__(self, answer: BaseHTTPResponse) -> None:
        """Take the answer over."""
        self._answer = answer
        self.whole = False

    def lines(self) -> Iterator[bytes]:
        """Yield lines with their ends; the last may lack it. Ends where the connection does."""
        for block in self.blocks():
            yield from lines_of(block)

    def blocks(self) -> Iterator[bytes]:
        """Yield whole lines as they come, many at once where many do; the last may lack its end."""
        from urllib3.exceptions import HTTPError

        rest: list[bytes] = []
        try:
            for data in self._parts():
                cut = data.rfind(b"\n") + 1
                if cut:
                    yield b"".join((*rest, data[:cut]))
                    rest.clear()
                rest.append(data[cut:])
        except (HTTPError, OSError, ValueError, AttributeError):
            pass  # what was cut off comes again with the next connection
        if last := b"".join(rest):
            yield last

    def _parts(self) -> Iterator[bytes]:
        """Yield what is sent, as much as has come by then.

        urllib3 would take its time over each chunk, and a kubelet sends one for each line.
        """
        http: Any = getattr(self._answer, "_fp")  # noqa: B009
        if http.chunked:
            self.whole = yield from _unchunked(http.fp)
            return
        while data := http.read1(_BLOCK):
            yield data
        self.whole = not http.length

    def close(self) -> None:
        """Let go of the connection; whoever reads sees its end."""
        import socket

        connection = getattr(self._answer, "_connection", None)
        raw = getattr(connection, "sock", None)
        if raw is not None:
            try:
                raw.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._answer.close()


def lines_of(block: bytes) -> Iterator[bytes]:
    """Yield lines with their ends, which a carriage return is none of."""
    return iter(io.BytesIO(block))


def _unchunked(file: BinaryIO) -> Generator[bytes, None, bool]:
    """Yield what the chunks of an answer hold; return whether they came to their end."""
    rest, left = b"\r\n", 0  # what no part was made of yet; what is to come of a chunk
    while read := file.read1(_BLOCK):  # type: ignore[attr-defined]
        data, at = rest + read, 0
        parts: list[bytes] = []
        while True:
            if not left:
                # The end of the line before comes first.
                end = data.find(b"\n", at + 2)
                if end < 0:
                    break
                left = int(data[at:end].partition(b";")[0], 16)
                if not left:
                    yield b"".join(parts)
                    return True
                at = end + 1
            part = data[at : at + left]
            parts.append(part)
            at += len(part)
            left -= len(part)
            if left:
                break
        rest = data[at:]
        if len(rest) > _HEAD:
            raise ValueError("a chunk does not begin")
        yield b"".join(parts)
    return False


def _object(data: bytes) -> dict[str, Any]:
    """Return the object of an answer; raises ValueError."""
    try:
        value = json.loads(data)
    except ValueError:
        raise ValueError("it answers with something else than JSON") from None
    if not isinstance(value, dict):
        raise ValueError("it answers with something else than an object")
    return value


def _warning(header: str) -> str:
    """Return the text of a Warning header: a code, an agent, and the quoted text."""
    _, _, text = header.partition('"')
    return text.rpartition('"')[0].replace('\\"', '"') or header


def _is_final(error: Exception) -> bool:
    """Return whether trying again cannot help: the server's name or certificate is wrong."""
    text = str(error)
    return "CERTIFICATE_VERIFY_FAILED" in text or "Name or service not known" in text
