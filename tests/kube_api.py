"""The verbs of a Kubernetes API: what a request does to the objects, and what it is answered."""

from __future__ import annotations

import base64
import copy
import json
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from kube_deletion import WARNING, delete
from kube_discovery import discovered
from kube_faults import Request
from kube_http import Answer, nothing_here
from kube_logs import SECOND
from kube_patch import patched
from kube_rules import replaced
from kube_selectors import Test, selector
from kube_status import RESOURCES, Refused, Resource, bad_request, expired, forbidden, not_found
from kube_store import Change, Object, seconds

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


def answer(cluster: Cluster, request: Request, body: Any, kind: str) -> Answer:
    """Do what a request asks for; raises Refused."""
    if request.path in ("/healthz", "/livez", "/readyz"):
        return Answer(text=b"ok", kind="text/plain; charset=utf-8")
    about = discovered(request.path)
    if about is not None and request.method == "GET":
        return Answer(object=about)
    if request.path.endswith("/selfsubjectaccessreviews") and request.method == "POST":
        return Answer(201, cluster.review(body))
    target = _target(request.path)
    if target is None:
        return nothing_here()
    verb = _verb(request, target)
    cluster.authorize(verb, target.resource, target.namespace, target.name, target.part)
    if target.part == "log" and target.resource.plural == "pods" and verb == "get":
        return _log(cluster, target, request.query)
    if target.part not in ("", "status") or verb == "":
        return nothing_here()
    if verb == "list":
        return _list(cluster, target, request.query)
    if verb == "watch":
        return _watch(cluster, target, request.query)
    if verb == "get":
        return Answer(object=cluster.store.get(*_key(target)))
    if verb == "create":
        return _create(cluster, target, body, request.query)
    if verb == "delete":
        return _delete(cluster, target, body, request.query)
    if verb == "deletecollection":
        return _delete_all(cluster, target, body, request.query)
    return _change(cluster, target, body, kind if verb == "patch" else "")


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
        return "delete" if target.name else "deletecollection"
    if request.method == "POST":
        return "" if target.name else "create"
    return {"PUT": "update", "PATCH": "patch"}[request.method] if target.name else ""


def _key(target: Target) -> tuple[str, str, str]:
    return target.resource.plural, target.namespace, target.name


def _create(cluster: Cluster, target: Target, body: Any, query: dict[str, str]) -> Answer:
    warnings = cluster.check(target.resource, body, query.get("fieldValidation", "Warn"))
    made = cluster.create(target.resource.plural, body, target.namespace,
                          dry="dryRun" in query)  # fmt: skip
    return Answer(201, made, warnings=warnings)


def _change(cluster: Cluster, target: Target, body: Any, kind: str) -> Answer:
    resource = target.resource

    def change(object: Object) -> None:
        before = copy.deepcopy(object)
        if kind:
            after = patched(object, body, kind.partition(";")[0].strip())
        elif isinstance(body, dict):
            after = copy.deepcopy(body)
        else:
            raise bad_request("the object provided is unrecognized (must be of type object)")
        if target.part == "status":
            object["status"] = after.get("status") or {}
            return
        if resource.plural in ("jobs", "pods"):
            after["status"] = before["status"]
        after.setdefault("metadata", {})
        replaced(resource, before, after)
        object.clear()
        object.update(after)

    with cluster.store.changed:
        if not kind and isinstance(body, dict):
            cluster.check(resource, body, "Warn")
        return Answer(object=cluster.store.update(*_key(target), change))


def _options(body: Any, query: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = dict(body) if isinstance(body, dict) else {}
    if "propagationPolicy" in query:
        options.setdefault("propagationPolicy", query["propagationPolicy"])
    if "gracePeriodSeconds" in query:
        options.setdefault("gracePeriodSeconds", int(query["gracePeriodSeconds"]))
    way = options.get("propagationPolicy")
    if way not in (None, "", "Background", "Foreground", "Orphan"):
        text = (
            f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: '
            f'"{way}": supported values: "Foreground", "Background", "Orphan", "nil"'
        )
        raise Refused(422, "Invalid", text, {"group": "meta.k8s.io", "kind": "DeleteOptions"})
    return options


def _delete(cluster: Cluster, target: Target, body: Any, query: dict[str, str]) -> Answer:
    options = _options(body, query)
    said = options.get("propagationPolicy") or options.get("orphanDependents") is not None
    warnings = () if said or target.resource.plural != "jobs" else (WARNING,)
    object, gone = delete(cluster.store, *_key(target), options)
    if not gone or target.resource.plural == "pods":
        return Answer(object=object, warnings=warnings)
    group = {"group": target.resource.group} if target.resource.group else {}
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": target.name,
            **group,
            "kind": target.resource.plural,
            "uid": object["metadata"]["uid"],
        },
    }
    return Answer(object=status, warnings=warnings)


def _delete_all(cluster: Cluster, target: Target, body: Any, query: dict[str, str]) -> Answer:
    options = _options(body, query)
    asked = selector(target.resource.plural, query)
    deleted = []
    with cluster.store.changed:
        for object in cluster.store.all(target.resource.plural, target.namespace):
            if asked(object):
                meta = object["metadata"]
                name = (target.resource.plural, meta.get("namespace", ""), meta["name"])
                deleted.append(delete(cluster.store, *name, options)[0])
        return Answer(object=_listed(target.resource, deleted, str(cluster.store.version)))


def _listed(resource: Resource, objects: list[Object], version: str, **more: Any) -> Object:
    items = [
        {key: value for key, value in object.items() if key not in ("kind", "apiVersion")}
        for object in objects
    ]
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": {"resourceVersion": version, **more},
        "items": items,
    }


def _list(cluster: Cluster, target: Target, query: dict[str, str]) -> Answer:
    asked = selector(target.resource.plural, query)
    limit = int(query.get("limit") or 0)
    with cluster.store.changed:
        version, after = str(cluster.store.version), ("", "")
        if query.get("continue"):
            version, *rest = json.loads(base64.urlsafe_b64decode(query["continue"]))
            after = (rest[0], rest[1])
            if int(version) <= cluster.store.compacted:
                raise expired(
                    "The provided continue parameter is too old to display a consistent list "
                    "result. You can start a new list without the continue parameter, or use the "
                    "continue token in this response to retrieve the remainder of the results."
                )
        found = [
            object
            for object in cluster.store.all(target.resource.plural, target.namespace)
            if asked(object) and _place(object) > after
        ]
        more: dict[str, Any] = {}
        if 0 < limit < len(found):
            token = json.dumps([version, *_place(found[limit - 1])]).encode()
            more["continue"] = base64.urlsafe_b64encode(token).decode()
            more["remainingItemCount"] = len(found) - limit
            found = found[:limit]
        return Answer(object=_listed(target.resource, found, version, **more))


def _place(object: Object) -> tuple[str, str]:
    return object["metadata"].get("namespace", ""), object["metadata"]["name"]


def _watch(cluster: Cluster, target: Target, query: dict[str, str]) -> Answer:
    asked = selector(target.resource.plural, query)
    text = query.get("resourceVersion", "")
    if text and not text.isdigit():
        raise bad_request(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing '
                          f'"{text}": invalid syntax')  # fmt: skip
    version = int(text or 0)
    if version and version <= cluster.store.compacted:
        gone = expired(f"too old resource version: {version} ({cluster.store.compacted + 1})")
        if cluster.gone_as == "status":
            raise gone
        return Answer(stream=(each for each in (_event("ERROR", gone.status),)))
    return Answer(stream=_events(cluster, target, query, asked, version, cluster.bookmarks))


def _events(
    cluster: Cluster, target: Target, query: dict[str, str], asked: Test, version: int, marks: int
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
        if query.get("sendInitialEvents") == "true":
            first += _bookmark(resource, version, {"k8s.io/initial-events-end": "true"})
    yield first
    while True:
        with store.changed:
            if store.version <= version and marks == cluster.bookmarks:
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
        if wants_marks and (marks != cluster.bookmarks or over):
            marks = cluster.bookmarks
            data += _bookmark(resource, version)
        yield data
        if over:
            return


def _told(change: Change, asked: Test) -> bytes:
    before = change.before is not None and asked(change.before)
    after = change.after is not None and asked(change.after)
    if after:
        assert change.after is not None
        return _event("MODIFIED" if before else "ADDED", change.after)
    if not before:
        return b""
    assert change.before is not None
    last = change.before
    if change.after is not None:  # it no longer is what was asked for
        version = change.after["metadata"]["resourceVersion"]
        last = {**last, "metadata": {**last["metadata"], "resourceVersion": version}}
    return _event("DELETED", last)


def _event(kind: str, object: Object) -> bytes:
    return json.dumps({"type": kind, "object": object}).encode() + b"\n"


def _bookmark(resource: Resource, version: int, notes: dict[str, str] | None = None) -> bytes:
    metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if notes:
        metadata["annotations"] = notes
    return _event(
        "BOOKMARK",
        {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata},
    )


def _log(cluster: Cluster, target: Target, query: dict[str, str]) -> Answer:
    plain = "text/plain"
    object = cluster.store.get(*_key(target))
    container = _log_container(object, query.get("container", ""))
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
    limit = int(query["limitBytes"]) if query.get("limitBytes") else None

    def stream() -> Iterator[bytes]:
        left = limit
        for entries in log.read(follow=follow, since=since, tail=tail):
            data = b"".join(entry.text(timestamps=stamped) for entry in entries)
            if left is not None:
                data, left = data[:left], left - len(data)
            yield data
            if left is not None and left <= 0:
                return

    return Answer(stream=stream(), kind=plain)


def _since(query: dict[str, str]) -> int:
    if query.get("sinceSeconds"):
        return time.time_ns() - int(query["sinceSeconds"]) * SECOND
    if not query.get("sinceTime"):
        return 0
    try:  # the server hands it on to the kubelet in whole seconds
        return int(seconds(re.sub(r"\.\d+", "", query["sinceTime"]))) * SECOND
    except ValueError:
        raise bad_request(f'parsing time "{query["sinceTime"]}" as "2006-01-02T15:04:05Z07:00": '
                          f'cannot parse "{query["sinceTime"]}"') from None  # fmt: skip


def _log_container(pod: Object, asked: str) -> str:
    name = pod["metadata"]["name"]
    containers = [each["name"] for each in pod["spec"]["containers"]]
    inits = [each["name"] for each in pod["spec"].get("initContainers") or ()]
    if asked:
        if asked not in (*containers, *inits):
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(containers) > 1:
        text = f"a container name must be specified for pod {name}, choose one of: "
        text += f"[{' '.join(containers)}]"
        raise bad_request(
            text + (f" or one of the init containers: [{' '.join(inits)}]" if inits else "")
        )
    return str(containers[0])


def _log_ready(pod: Object, container: str, *, previous: bool, any_log: bool) -> None:
    name = pod["metadata"]["name"]
    statuses = [
        *(pod["status"].get("initContainerStatuses") or ()),
        *(pod["status"].get("containerStatuses") or ()),
    ]
    for each in statuses:
        if each["name"] != container:
            continue
        if previous and not each.get("lastState"):
            raise bad_request(
                f'previous terminated container "{container}" in pod "{name}" not found'
            )
        waiting = each["state"].get("waiting")
        if waiting and not each.get("lastState") and not any_log:
            why = waiting.get("reason", "")
            if why in ("ErrImagePull", "ImagePullBackOff"):
                why = "trying and failing to pull image"
            raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: {why}')


def refuse_creation(resource: Resource, name: str, why: str, *, plain: bool) -> Refused:
    """Return what a quota or an admission webhook answers; plain: in its own words alone."""
    if plain:
        return Refused(403, "Forbidden", why, {})
    return forbidden(resource, name, why)


def namespace_missing(name: str) -> Refused:
    return not_found(RESOURCES["namespaces"], name)
