"""What Databricks' refusals mean, and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun import http
from buildrun.console import printable, redact
from buildrun.errors import ExecutionError

if TYPE_CHECKING:
    from buildrun.executors.databricks.auth import Connection
    from buildrun.http import Answer

# Databricks' names for what was refused without one, or with a number in its place.
_CODES = {
    401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_ALREADY_EXISTS", 413: "REQUEST_TOO_LARGE", 429: "RESOURCE_EXHAUSTED",
    503: "TEMPORARILY_UNAVAILABLE",
}  # fmt: skip


class ApiError(ExecutionError):
    """A refusal. status: of HTTP. code: Databricks' name for the reason, such as INVALID_STATE.

    retry_after: seconds that the server asks to wait.
    """

    def __init__(
        self,
        message: str,
        place: str,
        hint: str | None,
        status: int,
        code: str,
        retry_after: float = 0.0,
    ) -> None:
        """Keep what tells one refusal from another."""
        super().__init__(message, place=place, hint=hint)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class NoAnswer(ExecutionError):
    """Databricks does not answer, or what answers is no Databricks."""


def refusal(
    connection: Connection, method: str, path: str, answer: Answer, body: Mapping[str, Any]
) -> ApiError:
    """Return what an answer with an error's status means; body: the object that is in it."""
    status, source = answer.status, connection.source
    code = str(body.get("error_code") or "")
    if not code or code.isdigit():
        code = _CODES.get(status, "UNKNOWN")
    words = connection.hide(str(body.get("message") or "").strip())
    words = f": {words}" if words else ""
    hint: str | None = None
    if status == 401:
        message = f"Databricks does not accept {source} (401){words}"
        hint = "it may have expired, or be of another workspace: make a new one, or sign in"
    elif status == 403:
        message = f"Databricks does not allow `{method} {path}` ({code}){words}"
        hint = f"whom {source} stands for needs the right; an administrator can give it"
    elif status == 429 or status >= 500:
        message = f"Databricks is in trouble ({status} {code}){words}"
        hint = "try again later; https://status.databricks.com tells of outages"
    else:
        message = f"Databricks refuses `{method} {path}` ({status} {code}){words}"
        hint = _remedy(words)
    after = answer.headers.get("Retry-After", "").strip()
    asked = float(after) if after.isascii() and after.isdigit() else 0.0
    return ApiError(message, connection.host, hint, status, code, asked)


def _remedy(words: str) -> str | None:
    """Return what to do about something of the backend config that is not there."""
    if not words.endswith(("does not exist", "does not exist.")):
        return None
    if words.startswith(": Volume "):
        return "correct `volume` in the backend config, or make it first, in SQL: `CREATE VOLUME …`"
    if words.startswith(": Cluster "):
        return (
            "correct `existing_cluster_id` in the backend config; it is in the address of its page"
        )
    return None


def no_workspace(connection: Connection, answer: Answer) -> NoAnswer:
    """Return what is raised for an answer that no Databricks would give."""
    there = printable(redact(answer.headers.get("Location", "")))
    if 300 <= answer.status < 400 and there:
        what = f"it sends us to `{there.partition('?')[0]}`"
    elif is_page(answer.kind):
        what = "it answers with a page for people"
    elif not answer.content:
        what = "its answer is empty"
    else:
        what = f"it answers with {printable(answer.kind) or 'something else'}"
    return NoAnswer(
        f"this is no Databricks workspace: {what} ({answer.status})",
        place=connection.host,
        hint=f"set {connection.origin} to the workspace's own address; what is behind a "
        "private link is only reached from its network",
    )


def no_answer(connection: Connection, path: str, error: Exception) -> NoAnswer:
    """Return what is raised where there is no sound answer; error: one of http.TROUBLE."""
    words = connection.hide(http.reason(error))
    hint = f"check the host of {connection.origin}, the network, `https_proxy` and `no_proxy`"
    if "certificate" in words.lower():
        hint = "REQUESTS_CA_BUNDLE names the file of the authority that signs its certificate"
    elif "name" in words:
        hint = f"check the host of {connection.origin}"
    fact = f"Databricks does not answer to `{path}`: {words}"
    return NoAnswer(fact, place=connection.host, hint=hint)


def is_page(kind: str) -> bool:
    """Return whether a content type is of what people look at."""
    return kind.partition(";")[0].strip().lower() == "text/html"
