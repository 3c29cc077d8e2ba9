"""What a cluster refuses, in the user's words: the fact, the right that is missing, the remedy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun.errors import ExecutionError
from buildrun.printable import printable

if TYPE_CHECKING:
    from buildrun.kubernetes.api import Target

_ROLE = "docs/kubernetes.md has the role that suffices"

# A 403 with these words does not come from missing rights.
_ADMISSION = (
    "exceeded quota",
    "admission webhook",
    "violates PodSecurity",
    "is forbidden: maximum",
)


class Refusal(ExecutionError):
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
) -> Refusal:
    """Return what an answer with an error's status means."""
    body = _status(data)
    words = printable(str(body.get("message") or data[:300].decode(errors="replace").strip()))
    reason = str(body.get("reason") or "")
    message, hint = _explain(method, target, status, reason, words)
    return Refusal(
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
