"""The verbs of a Kubernetes API: what a request does to the objects, and what it is answered."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from kube_deletion import delete
from kube_faults import Request
from kube_http import Answer, nothing_here
from kube_logs import SECOND
from kube_status import RESOURCES, Refused, Resource, bad_request, expired, forbidden, not_found
from kube_store import Change, Object, Test, seconds, selector

if TYPE_CHECKING:
    from kube_cluster import Cluster

PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>[a-z]+))?"
)

# Seconds for which a watch is quiet before it looks whether its client is still there.
QUIET = 1.0


class Target(NamedTuple):
    """What a path leads to; namespace, name and part are empty where it has none."""

    resource: Resource
    namespace: str
    name: str
    part: str


def answer(cluster: Cluster, request: Request, body: Any) -> Answer:
    """Do what a request asks for; raises Refused."""
    target = _target(request.path)
    if target is None:
        return nothing_here()
    verb = _verb(request, target)
    cluster.authorize(verb, target.resource, target.namespace, target.name, target.part)
    if target.part == "log" and target.resource.plural == "pods" and verb == "get":
        return _log(cluster, target, request.query)
    if target.part or verb == "":
        return nothing_here()
    if verb == "list":
        return _list(cluster, target, request.query)
    if verb == "watch":
        return _watch(cluster, target, request.query)
    if verb == "get":
        return Answer(object=cluster.store.get(*_key(target)))
    if verb == "create":
        return _create(cluster, target, body)
    if verb == "delete":
        return _delete(cluster, target, {**request.query, **(body or {})})
    return Answer(object=cluster.store.update(*_key(target), lambda found: _merge(found, body)))


def _target(path: str) -> Target | None:
    found = PATH.fullmatch(path.rstrip("/"))
    if found is None and (alone := re.fullmatch(r"/api/v1/namespaces(?:/([^/]+))?", path)):
        return Target(RESOURCES["namespaces"], "", alone[1] or "", "")
    if found is None or found["resource"] not in RESOURCES:
        return None
    resource = RESOURCES[found["resource"]]
    if path.startswith("/apis/") != bool(resource.group):
        return None
    if resource.plural == "namespaces":
        return Target(resource, "", found["name"] or "", found["part"] or "")
    return Target(resource, found["namespace"] or "", found["name"] or "", found["part"] or "")


def _verb(request: Request, target: Target) -> str:
    if request.method in ("GET", "HEAD"):
        if target.name:
            return "get"
        return "watch" if request.query.get("watch") in ("1", "true", "True") else "list"
    if request.method == "DELETE":
        return "delete" if target.name else ""
    if request.method == "POST":
        return "" if target.name else "create"
    return "patch" if request.method == "PATCH" and target.name else ""


def _key(target: Target) -> tuple[str, str, str]:
    return target.resource.plural, target.namespace, target.name


def _create(cluster: Cluster, target: Target, body: Any) -> Answer:
    warnings = cluster.warnings_of(target.resource, body)
    made = cluster.create(target.resource.plural, body, target.namespace)
    return Answer(201, made, warnings=warnings)


def _merge(object: Object, patch: Object) -> None:
    """Merge as `application/merge-patch+json` asks for."""
    for key, value in patch.items():
        if value is None:
            object.pop(key, None)
        elif isinstance(value, dict) and isinstance(object.get(key), dict):
            _merge(object[key], value)
        else:
            object[key] = value


def _delete(cluster: Cluster, target: Target, options: Object) -> Answer:
    if target.resource.plural == "jobs" and options.get("propagationPolicy") != "Background":
        raise bad_request("without `propagationPolicy: Background` the Job's pods would stay")
    object, gone = delete(cluster.store, *_key(target), options.get("gracePeriodSeconds"))
    if not gone or target.resource.plural == "pods":
        return Answer(object=object)
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return Answer(object=status)


def _listed(resource: Resource, objects: list[Object], version: str) -> Object:
    items = [
        {key: value for key, value in object.items() if key not in ("kind", "apiVersion")}
        for object in objects
    ]
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": {"resourceVersion": version},
        "items": items,
    }


def _list(cluster: Cluster, target: Target, query: dict[str, str]) -> Answer:
    asked = selector(query)
    with cluster.store.changed:
        found = filter(asked, cluster.store.all(target.resource.plural, target.namespace))
        return Answer(object=_listed(target.resource, list(found), str(cluster.store.version)))


def _watch(cluster: Cluster, target: Target, query: dict[str, str]) -> Answer:
    asked = selector(query)
    version = int(query.get("resourceVersion") or 0)
    if version and version <= cluster.store.compacted:
        gone = expired(f"too old resource version: {version} ({cluster.store.compacted + 1})")
        if cluster.gone_as == "status":
            raise gone
        return Answer(stream=(each for each in (_event("ERROR", gone.status),)))
    return Answer(stream=_events(cluster, target, query, asked, version))


def _events(
    cluster: Cluster, target: Target, query: dict[str, str], asked: Test, version: int
) -> Iterator[bytes]:
    store, resource = cluster.store, target.resource
    wants_marks = query.get("allowWatchBookmarks") in ("1", "true", "True")
    deadline = time.monotonic() + float(query.get("timeoutSeconds") or 3600)
    first = b""
    if not version:
        with store.changed:
            version = store.version
            found = filter(asked, store.all(resource.plural, target.namespace))
            first = b"".join(_event("ADDED", object) for object in found)
    yield first
    while True:
        with store.changed:
            if store.version <= version:
                store.changed.wait(max(0.0, min(QUIET, deadline - time.monotonic())))
            changes = store.since(version)
            version = max(version, store.version)
        data = b"".join(
            _told(change, asked)
            for change in changes
            if change.resource == resource.plural
            and target.namespace in ("", change.object["metadata"].get("namespace", ""))
        )
        over = time.monotonic() >= deadline
        if wants_marks and over:
            data += _bookmark(resource, version)
        yield data
        if over:
            return


def _told(change: Change, asked: Test) -> bytes:
    if not asked(change.object):
        return b""
    if change.after is None:
        return _event("DELETED", change.object)
    return _event("ADDED" if change.before is None else "MODIFIED", change.after)


def _event(kind: str, object: Object) -> bytes:
    return json.dumps({"type": kind, "object": object}).encode() + b"\n"


def _bookmark(resource: Resource, version: int) -> bytes:
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    return _event("BOOKMARK", {"kind": resource.kind, "metadata": metadata})


def _log(cluster: Cluster, target: Target, query: dict[str, str]) -> Answer:
    plain = "text/plain"
    object = cluster.store.get(*_key(target))
    # Benchmarks follow pods of one container without naming it.
    container = query.get("container") or object["spec"]["containers"][0]["name"]
    pod = cluster.pod(object["metadata"]["uid"])
    if pod is None or not object["spec"].get("nodeName"):
        return Answer(text=b"", kind=plain)  # as the real server says of a pod without a node
    previous = query.get("previous") in ("true", "1", "True")
    logs = pod.logs.get(container, [])
    _log_ready(object, container, previous=previous, any_log=bool(logs))
    if len(logs) < (2 if previous else 1):
        return Answer(text=b"", kind=plain)
    log = logs[-2 if previous else -1]
    since = _since(query)
    follow = query.get("follow") in ("true", "1", "True")
    stamped = query.get("timestamps") in ("true", "1", "True")
    tail = int(query["tailLines"]) if query.get("tailLines") else None

    def stream() -> Iterator[bytes]:
        for entries in log.read(follow=follow, since=since, tail=tail):
            yield b"".join(entry.text(timestamps=stamped) for entry in entries)

    return Answer(stream=stream(), kind=plain)


def _since(query: dict[str, str]) -> int:
    # The server hands it on to the kubelet in whole seconds.
    text = re.sub(r"\.\d+", "", query.get("sinceTime", ""))
    return int(seconds(text)) * SECOND if text else 0


def _log_ready(pod: Object, container: str, *, previous: bool, any_log: bool) -> None:
    """Raise what the kubelet says of a container that has no log."""
    name, status = pod["metadata"]["name"], pod["status"]
    for each in (*(status.get("initContainerStatuses") or ()), *status["containerStatuses"]):
        if each["name"] != container:
            continue
        if previous and not each.get("lastState"):
            raise bad_request(
                f'previous terminated container "{container}" in pod "{name}" not found'
            )
        waiting = each["state"].get("waiting")
        if waiting and not each.get("lastState") and not any_log:
            why = waiting.get("reason", "")
            raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: {why}')


def refuse_creation(resource: Resource, name: str, why: str, *, plain: bool) -> Refused:
    """Return what a quota or an admission webhook answers; plain: in its own words alone."""
    if plain:
        return Refused(403, "Forbidden", why)
    return forbidden(resource, name, why)


def namespace_missing(name: str) -> Refused:
    return not_found(RESOURCES["namespaces"], name)
