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

    @property
    def qualified_kind(self) -> str:
        """Return the kind that messages about its content have, such as ``Job.batch``."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


ALL_VERBS = (
    "create", "delete", "get", "list", "patch", "watch",
)  # fmt: skip

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

    def __init__(
        self, code: int, reason: str, message: str, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            **({"reason": reason} if reason else {}),
            **({"details": details} if details else {}),
            "code": code,
        }


def _named(resource: Resource, name: str) -> dict[str, Any]:
    group = {"group": resource.group} if resource.group else {}
    return {**({"name": name} if name else {}), **group, "kind": resource.plural}


def not_found(resource: Resource, name: str) -> Refused:
    text = f'{resource.qualified} "{name}" not found'
    return Refused(404, "NotFound", text, _named(resource, name))


def no_such_path() -> Refused:
    return Refused(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> Refused:
    text = f'{resource.qualified} "{name}" already exists'
    return Refused(409, "AlreadyExists", text, _named(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> Refused:
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try "
        "again"
    )
    text = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return Refused(409, "Conflict", text, _named(resource, name))


def forbidden(resource: Resource, name: str, why: str) -> Refused:
    thing = f'{resource.qualified} "{name}"' if name else resource.qualified
    return Refused(403, "Forbidden", f"{thing} is forbidden: {why}", _named(resource, name))


def unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def expired(message: str) -> Refused:
    return Refused(410, "Expired", message)


def invalid(resource: Resource, name: str, causes: Sequence[str]) -> Refused:
    text = f'{resource.qualified_kind} "{name}" is invalid: {", ".join(causes)}'
    return Refused(422, "Invalid", text, {**_named(resource, name), "kind": resource.kind})
