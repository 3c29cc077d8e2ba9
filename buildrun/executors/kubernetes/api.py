"""The Kubernetes API: requests, retries, and errors explained."""

from __future__ import annotations

import io
import json
import random
import shlex
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from buildrun.console import printable
from buildrun.errors import ExecutionError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from buildrun.executors.kubernetes.auth import Connection

Found = TypeVar("Found")

# Paths of the kinds that buildrun speaks of, below a namespace's.
_GROUPS = {"jobs": "/apis/batch/v1", "pods": "/api/v1", "secrets": "/api/v1", "events": "/api/v1"}

_PASSING = frozenset({429, 500, 502, 503, 504})

# Seconds: for a connection; for an answer; between tries at most; for all tries.
_CONNECT = 10.0
_ANSWER = 30.0
_LONGEST_PAUSE = 5.0
PATIENCE = 60.0
# Seconds for all tries with a server that has never answered yet.
_FIRST = 10.0

# Bytes that are read at once of what goes on; and of a chunk's first line at most.
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

    patience: seconds after which a server that does not answer is given up.
    """

    def __init__(self, connection: Connection, *, patience: float = PATIENCE) -> None:
        """Prepare; nothing is asked yet."""
        self.connection = connection
        self.patience = patience
        self._answered = False
        self._mutex = threading.Lock()
        self._warnings: list[str] = []

    def get(self, target: Target, **query: str) -> dict[str, Any]:
        """Return an object, or the list of a kind; raises Refusal, ExecutionError."""
        return self._json("GET", target, query)

    def create(self, target: Target, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object; raises Refusal, such as 409 where one of its name is there.

        A try whose answer was lost may have made it: then the next one is refused with 409.
        """
        return self._json("POST", target, {}, body)

    def warnings(self) -> list[str]:
        """Return what the server has warned of since it was asked for last."""
        with self._mutex:
            found, self._warnings = self._warnings, []
        return found

    def patch(self, target: Target, body: Mapping[str, Any]) -> dict[str, Any]:
        """Merge into an object; raises Refusal, ExecutionError."""
        return self._json("PATCH", target, {}, body)

    def delete(self, target: Target, *, grace: int | None = None) -> bool:
        """Delete an object and, in the background, what belongs to it; False if it is not there.

        batch/v1 would leave a Job's pods alone if it were not told. grace: seconds for its
        processes, None for what the pod says.
        """
        body: dict[str, Any] = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
        }
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            self._json("DELETE", target, {}, body)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def text(self, target: Target, **query: str) -> bytes:
        """Return what the server sends as it is; raises Refusal, ExecutionError."""

        def read() -> bytes:
            answer = self._once("GET", target, query, None, _ANSWER)
            try:
                return bytes(answer.data)
            finally:
                answer.release_conn()

        return self._persist(target, read)

    def stream(self, target: Target, query: Mapping[str, str], *, silence: float) -> Stream:
        """Open what the server goes on sending; raises Refusal, ExecutionError.

        silence: seconds without a byte after which the connection is taken for dead.
        """
        answer = self._ask("GET", target, query, None, silence)
        return Stream(answer)

    def _json(
        self,
        method: str,
        target: Target,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            answer = self._once(method, target, query, body, _ANSWER)
            try:
                value = json.loads(answer.data)
            except ValueError:
                raise ValueError("it answers with something else than JSON") from None
            finally:
                answer.release_conn()
            if not isinstance(value, dict):
                raise ValueError("it answers with something else than an object")
            return value

        return self._persist(target, read)

    def _ask(
        self,
        method: str,
        target: Target,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        seconds: float,
    ) -> BaseHTTPResponse:
        return self._persist(target, lambda: self._once(method, target, query, body, seconds))

    def _persist(self, target: Target, attempt: Callable[[], Found]) -> Found:
        """Return what the attempt gives, tried again while its trouble may pass."""
        import urllib3

        began = time.monotonic()
        tries = 0

        def end() -> float:
            return began + (self.patience if self._answered else min(_FIRST, self.patience))

        while True:
            wait = 0.0
            try:
                found = attempt()
                self._answered = True
                return found
            except ApiError as error:
                self._answered = True
                if error.status not in _PASSING or time.monotonic() >= end():
                    raise
                wait = error.retry_after
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                if time.monotonic() >= end() or _is_final(error):
                    raise unreachable(self.connection.host, error, target.kind) from None
            tries += 1
            pause = random.uniform(0, min(_LONGEST_PAUSE, 0.1 * 2**tries))  # noqa: S311
            time.sleep(min(max(wait, pause), max(0.0, end() - time.monotonic())))

    def _once(
        self,
        method: str,
        target: Target,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        seconds: float,
    ) -> BaseHTTPResponse:
        from urllib.parse import urlencode

        import urllib3

        headers = {"Accept": "application/json", "User-Agent": "buildrun"}
        data = None
        if body is not None:
            merge = "application/merge-patch+json"
            headers["Content-Type"] = merge if method == "PATCH" else "application/json"
            data = json.dumps(body).encode()
        headers.update(self.connection.headers())
        url = self.connection.host.rstrip("/") + target.path
        answer = self.connection.pool.request(
            method,
            url + (f"?{urlencode(query)}" if query else ""),
            body=data,
            headers=headers,
            timeout=urllib3.Timeout(connect=_CONNECT, read=seconds),
            retries=False,
            preload_content=False,
            redirect=False,
        )
        if answer.status >= 300:
            try:
                verb = "WATCH" if "watch" in query else method
                raise refusal(verb, target, answer.status, answer.headers, answer.data)
            finally:
                answer.release_conn()
        for warning in answer.headers.getlist("Warning"):
            with self._mutex:
                self._warnings.append(_words(warning))
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
        import urllib3

        rest: list[bytes] = []
        try:
            for data in self._parts():
                cut = data.rfind(b"\n") + 1
                if cut:
                    yield b"".join((*rest, data[:cut]))
                    rest.clear()
                rest.append(data[cut:])
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
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


def _words(warning: str) -> str:
    """Return the text of a Warning header: a code, an agent, and the quoted text."""
    _, _, text = warning.partition('"')
    return text.rpartition('"')[0].replace('\\"', '"') or warning


def _is_final(error: Exception) -> bool:
    """Return whether trying again cannot help: the server's name or certificate is wrong."""
    text = str(error)
    return "CERTIFICATE_VERIFY_FAILED" in text or "Name or service not known" in text


_ROLE = "docs/kubernetes.md has the role that suffices"

# A 403 with these words does not come from missing rights.
_ADMISSION = (
    "exceeded quota",
    "admission webhook",
    "violates PodSecurity",
    "is forbidden: maximum",
)


class ApiError(ExecutionError):
    """An answer that is not what was asked for.

    status: of HTTP. reason: as in the API's Status, such as ``AlreadyExists``. words: the server's.
    retry_after: seconds that the server asks to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        reason: str = "",
        words: str = "",
        retry_after: float = 0.0,
        hint: str | None = None,
    ) -> None:
        """Keep what tells one refusal from another."""
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason
        self.words = words
        self.retry_after = retry_after


def refusal(
    method: str, target: Target, status: int, headers: Mapping[str, str], data: bytes
) -> ApiError:
    """Return what an answer with an error's status means."""
    body = _status(data)
    words = printable(str(body.get("message") or data[:300].decode(errors="replace").strip()))
    reason = str(body.get("reason") or "")
    message, hint = _explain(method, target, status, reason, words)
    return ApiError(
        message,
        status=status,
        reason=reason,
        words=words,
        retry_after=_seconds(headers.get("Retry-After", "")),
        hint=hint,
    )


def unreachable(host: str, error: Exception, kind: str) -> ExecutionError:
    """Return the error for a server that gives no answer."""
    reason = getattr(error, "reason", None) or error
    words = printable(str(reason).rpartition(": ")[2] or type(reason).__name__)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        words = "its certificate is not that of the kubeconfig's authority"
    return ExecutionError(
        f"the cluster at {host} does not answer: {words}",
        hint=f"`kubectl get {kind}` must work with the same context",
    )


def _explain(
    method: str, target: Target, status: int, reason: str, words: str
) -> tuple[str, str | None]:
    if status == 401:
        return (
            f"the cluster does not accept the credentials: {words}",
            "log in anew; `kubectl get jobs` must work with the same context",
        )
    if status == 403 and not any(mark in words for mark in _ADMISSION):
        return _missing_right(_verb(method, target), target, words)
    if status == 404 and f'namespaces "{target.namespace}" not found' in words:
        return (
            f"there is no namespace `{target.namespace}`",
            f"make it: `kubectl create namespace {target.namespace}`; or name another in the "
            "backend config or the Job template",
        )
    if status in (400, 403, 422):
        what = f"the cluster refuses the {target.kind[:-1]}"
        return f"{what}: {words}", decides(words)
    if status == 429 or status >= 500:
        return f"the cluster is in trouble ({status}): {words or reason}", "try again later"
    return f"the cluster answers {status} to {method} {target.kind}: {words or reason}", None


def kubectl(namespace: str, context: str | None, kubeconfig: str = "") -> str:
    """Return how the user calls kubectl for the same cluster and namespace.

    kubeconfig: where it is not that of the caller's variable.
    """
    words = ["kubectl", *(["--context", context] if context else []), "-n", namespace]
    head = f"KUBECONFIG={shlex.quote(kubeconfig)} " if kubeconfig else ""
    return head + shlex.join(words)


def decides(words: str) -> str:
    """Return the remedy for what an admission of the cluster refuses with these words."""
    if "PodSecurity" in words or "security context constraint" in words:
        return (
            "set what it names under `securityContext` in the Job template, of the pod and of its "
            "containers; docs/kubernetes.md shows it under `Pods without root`"
        )
    return "the Job template or the backend config decides that"


def _missing_right(verb: str, target: Target, words: str) -> tuple[str, str]:
    kind = f"{target.kind}/{target.sub}" if target.sub else target.kind
    return (
        f"the right to `{verb}` `{kind}` in the namespace `{target.namespace}` is missing: {words}",
        f"have a Role with the verb `{verb}` on `{kind}` bound; {_ROLE}",
    )


def _verb(method: str, target: Target) -> str:
    """Return the verb that RBAC has for a request."""
    if method == "GET":
        return "get" if target.name else "list"
    verbs = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
    return verbs.get(method, method.lower())


def _status(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _seconds(text: str) -> float:
    try:
        return min(30.0, max(0.0, float(text)))
    except ValueError:
        return 0.0
