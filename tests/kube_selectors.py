"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kube_status import bad_request
from kube_store import Object

FIELDS = {
    "pods": {
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    },
    "jobs": {"status.successful"},
    "events": {
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name",
        "involvedObject.uid", "involvedObject.apiVersion", "involvedObject.resourceVersion",
        "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type",
    },
    "secrets": {"type"},
}  # fmt: skip

Test = Callable[[Object], bool]


def selector(resource: str, query: Mapping[str, str]) -> Test:
    """Return what tells whether an object is asked for; raises Refused."""
    tests = [
        *map(_label, _split(query.get("labelSelector", ""))),
        *(_field(resource, part) for part in _split(query.get("fieldSelector", ""))),
    ]
    return lambda object: all(test(object) for test in tests)


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _label(part: str) -> Test:
    def labels(object: Object) -> Mapping[str, str]:
        return object["metadata"].get("labels") or {}

    if found := re.fullmatch(r"(\S+)\s+(in|notin)\s*\(([^)]*)\)", part):
        key, way, values = found[1], found[2], {each.strip() for each in found[3].split(",")}
        return lambda object: (labels(object).get(key) in values) == (way == "in")
    if found := re.fullmatch(r"([^\s!=]+)\s*(==|=|!=)\s*([^\s=!]*)", part):
        key, way, value = found[1], found[2], found[3]
        return lambda object: (labels(object).get(key) == value) == (way != "!=")
    if found := re.fullmatch(r"(!?)\s*([^\s!=()]+)", part):
        absent, key = found[1], found[2]
        return lambda object: (key in labels(object)) != bool(absent)
    raise bad_request(f"unable to parse requirement: found '{part}', expected: identifier")


def _field(resource: str, part: str) -> Test:
    found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part)
    if found is None:
        raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
    key, way, value = found[1], found[2], found[3]
    if key not in {"metadata.name", "metadata.namespace"} | FIELDS.get(resource, set()):
        raise bad_request(f"field label not supported: {key}")

    def matches(object: Object) -> bool:
        at: Any = object
        for name in key.split("."):
            at = at.get(name, "") if isinstance(at, dict) else ""
        if key == "source":
            at = at.get("component", "") if isinstance(at, dict) else ""
        return (str(at or "") == value) == (way != "!=")

    return matches
