"""Label and field selectors, such as ``job-name=a,buildrun/owner=b``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kube_store import Object

Test = Callable[[Object], bool]


def selector(query: Mapping[str, str]) -> Test:
    """Return what tells whether an object is asked for."""
    labels, fields = (
        [part.split("=", 1) for part in query.get(name, "").split(",") if part]
        for name in ("labelSelector", "fieldSelector")
    )
    return lambda object: (
        all((object["metadata"].get("labels") or {}).get(key) == value for key, value in labels)
        and all(_field(object, key) == value for key, value in fields)
    )


def _field(object: Object, path: str) -> Any:
    at: Any = object
    for name in path.split("."):
        at = at.get(name, {})
    return at
