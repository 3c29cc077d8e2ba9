"""What the API's refusals mean, and what to do about them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from buildrun.console import printable
from buildrun.errors import ExecutionError

_ROLE = "docs/kubernetes.md has the role that suffices"

# A 403 with these words does not come from missing rights.
_ADMISSION = (
    "exceeded quota",
    "admission webhook",
    "violates PodSecurity",
    "is forbidden: maximum",
)


class ApiError(ExecutionError):
    """An answer with an error's status.

    status: of HTTP. retry_after: seconds that the server asks to wait.
    """

    def __init__(self, message: str, hint: str | None, status: int, retry_after: float) -> None:
        """Keep what tells one refusal from another."""
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after = retry_after


class NoAnswer(ExecutionError):
    """The server does not answer."""

    def __init__(self, host: str, error: Exception, kind: str) -> None:
        """Say why; kind: what was asked for, such as ``jobs``."""
        reason = getattr(error, "reason", None) or error
        words = printable(str(reason).rpartition(": ")[2] or type(reason).__name__)
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            words = "its certificate is not that of the kubeconfig's authority"
        super().__init__(
            f"the cluster at {host} does not answer: {words}",
            hint=f"`kubectl get {kind}` must work with the same context",
        )


def refusal(
    verb: str, kind: str, namespace: str, status: int, headers: Mapping[str, str], data: bytes
) -> ApiError:
    """Return what an answer with an error's status means.

    verb, kind: of the request as RBAC has them, such as ``get`` and ``pods/log``.
    """
    body = _object(data)
    words = printable(str(body.get("message") or data[:300].decode(errors="replace").strip()))
    said = words or str(body.get("reason") or "")
    hint: str | None = None
    if status == 401:
        message = f"the cluster does not accept the credentials: {words}"
        hint = "log in anew; `kubectl get jobs` must work with the same context"
    elif status == 403 and not any(mark in words for mark in _ADMISSION):
        right = f"the right to `{verb}` `{kind}` in the namespace `{namespace}`"
        message = f"{right} is missing: {words}"
        hint = f"have a Role with the verb `{verb}` on `{kind}` bound; {_ROLE}"
    elif status == 404 and f'namespaces "{namespace}" not found' in words:
        message = f"there is no namespace `{namespace}`"
        hint = (
            f"make it: `kubectl create namespace {namespace}`; or name another in the backend "
            "config or the Job template"
        )
    elif status in (400, 403, 422):
        message = f"the cluster refuses the {kind.partition('/')[0][:-1]}: {words}"
        hint = admission_hint(words)
    elif status == 429 or status >= 500:
        message, hint = f"the cluster is in trouble ({status}): {said}", "try again later"
    else:
        message = f"the cluster answers {status} to `{verb}` `{kind}`: {said}"
    return ApiError(message, hint, status, _seconds(headers.get("Retry-After", "")))


def admission_hint(words: str) -> str:
    """Return the remedy for what an admission of the cluster refuses with these words."""
    if "PodSecurity" in words or "security context constraint" in words:
        return (
            "set what it names under `securityContext` in the Job template, of the pod and of its "
            "containers; docs/kubernetes.md shows it under `Pods without root`"
        )
    return "the Job template or the backend config decides that"


def kubectl(namespace: str, context: str | None, kubeconfig: str = "") -> str:
    """Return how the user calls kubectl for the same cluster and namespace.

    kubeconfig: where it is not that of the caller's variable.
    """
    words = ["kubectl", *(["--context", context] if context else []), "-n", namespace]
    head = f"KUBECONFIG={shlex.quote(kubeconfig)} " if kubeconfig else ""
    return head + shlex.join(words)


def _object(data: bytes) -> dict[str, Any]:
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
