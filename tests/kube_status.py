"""What a Kubernetes API server says when it refuses, in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Resource(NamedTuple):
    """A kind of objects as the API names it."""

    group: str
    version: str
    plural: str
    kind: str
    verbs: tuple[str, ...]
    namespaced: bool = True

    @property
    def qualified(self) -> str:
        """Return the name that messages have, such as ``jobs.batch``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """Return what objects have as their apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version


ALL_VERBS = ("create", "delete", "get", "list", "patch", "watch")

RESOURCES = {
    resource.plural: resource
    for resource in (
        Resource("batch", "v1", "jobs", "Job", ALL_VERBS),
        Resource("", "v1", "pods", "Pod", ALL_VERBS),
        Resource("", "v1", "secrets", "Secret", ALL_VERBS),
        Resource("", "v1", "configmaps", "ConfigMap", ALL_VERBS),
        Resource("", "v1", "events", "Event", ALL_VERBS),
        Resource("", "v1", "namespaces", "Namespace", ALL_VERBS, namespaced=False),
    )
}


class Refused(Exception):
    """A request that is answered with a Status of failure."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            **({"reason": reason} if reason else {}),
            "code": code,
        }


def not_found(resource: Resource, name: str) -> Refused:
    return Refused(404, "NotFound", f'{resource.qualified} "{name}" not found')


def no_such_path() -> Refused:
    return Refused(404, "NotFound", "the server could not find the requested resource")


def already_exists(resource: Resource, name: str) -> Refused:
    return Refused(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists')


def forbidden(resource: Resource, name: str, why: str) -> Refused:
    thing = f'{resource.qualified} "{name}"' if name else resource.qualified
    return Refused(403, "Forbidden", f"{thing} is forbidden: {why}")


def unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def expired(message: str) -> Refused:
    return Refused(410, "Expired", message)


def invalid(resource: Resource, name: str, causes: Sequence[str]) -> Refused:
    return Refused(422, "Invalid", f'{resource.kind} "{name}" is invalid: {", ".join(causes)}')
