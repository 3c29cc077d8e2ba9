"""How objects go: by a request, after a grace period, with their owners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from kube_status import RESOURCES, Refused, conflict
from kube_store import Object, Store

KINDS = {resource.kind: resource.plural for resource in RESOURCES.values()}


def delete(
    store: Store, resource: str, namespace: str, name: str, options: Mapping[str, Any]
) -> tuple[Object, bool]:
    """Delete an object, or mark it; return it, and whether it is gone."""
    with store.changed:
        found = store.get(resource, namespace, name)
        _preconditions(found, resource, options.get("preconditions") or {})
        grace = _grace(found, resource, options)
        before = found["metadata"].get("deletionGracePeriodSeconds")

        def mark(object: Object) -> None:
            meta = object["metadata"]
            if before is None or grace < before:
                meta["deletionGracePeriodSeconds"] = grace
                ends = datetime.now(timezone.utc) + timedelta(seconds=grace)
                meta["deletionTimestamp"] = ends.strftime("%Y-%m-%dT%H:%M:%SZ")

        if not grace and not found["metadata"].get("finalizers"):
            return store.remove(resource, namespace, name), True
        marked = store.update(resource, namespace, name, mark)
        return marked, not there(store, marked)


def _preconditions(found: Object, resource: str, wanted: Mapping[str, Any]) -> None:
    meta = found["metadata"]
    for key, text in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(key) and wanted[key] != meta[key]:
            raise conflict(
                RESOURCES[resource], meta["name"],
                f"Precondition failed: {text} in precondition: {wanted[key]}, {text} in object "
                f"meta: {meta[key]}",
            )  # fmt: skip


def _grace(found: Object, resource: str, options: Mapping[str, Any]) -> int:
    if resource != "pods" or not found["spec"].get("nodeName"):
        return 0
    if found["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    asked = options.get("gracePeriodSeconds")
    return max(0, int(found["spec"]["terminationGracePeriodSeconds"] if asked is None else asked))


def there(store: Store, object: Object) -> bool:
    """Tell whether an object, this one and none of the same name, is still there."""
    meta = object["metadata"]
    try:
        found = store.get(KINDS[object["kind"]], meta.get("namespace", ""), meta["name"])
    except Refused:
        return False
    return bool(found["metadata"]["uid"] == meta["uid"])


def dependents(store: Store, owner: Object) -> list[Object]:
    meta = owner["metadata"]
    return [
        object
        for resource in RESOURCES
        for object in store.all(resource, meta.get("namespace", ""))
        if any(each["uid"] == meta["uid"] for each in owners(object))
    ]


def owners(object: Object) -> Iterable[Mapping[str, Any]]:
    return object["metadata"].get("ownerReferences") or ()


def collect(store: Store, object: Object) -> None:
    """Do what the garbage collector does when this object has changed, come or gone."""
    if not there(store, object):
        for dependent in dependents(store, object):
            _abandoned(store, dependent)
    elif "deletionTimestamp" not in object["metadata"]:
        _abandoned(store, object)


def _abandoned(store: Store, object: Object) -> None:
    references = [each for each in owners(object) if each["kind"] in KINDS]
    if not references or not there(store, object):
        return
    namespace = object["metadata"].get("namespace", "")
    gone = {
        each["uid"]
        for each in references
        if not there(store, {"kind": each["kind"], "metadata": {**each, "namespace": namespace}})
    }
    if len(gone) == len(references) and "deletionTimestamp" not in object["metadata"]:
        _remove(store, object)


def _remove(store: Store, object: Object) -> None:
    meta = object["metadata"]
    options = {"preconditions": {"uid": meta["uid"]}}
    try:
        delete(store, KINDS[object["kind"]], meta.get("namespace", ""), meta["name"], options)
    except Refused:
        pass  # it went in the meantime
