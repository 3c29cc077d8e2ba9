"""How objects go: by a request, after a grace period, with their owners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from kube_status import RESOURCES, Refused
from kube_store import Object, Store

KINDS = {resource.kind: resource.plural for resource in RESOURCES.values()}


def delete(
    store: Store, resource: str, namespace: str, name: str, seconds: int | None = None
) -> tuple[Object, bool]:
    """Delete an object, or mark it; return it, and whether it is gone.

    seconds: that a pod is given to end, instead of its own.
    """
    with store.changed:
        found = store.get(resource, namespace, name)
        grace = _grace(found, resource, seconds)
        before = found["metadata"].get("deletionGracePeriodSeconds")
        if not grace:
            return store.remove(resource, namespace, name), True

        def mark(object: Object) -> None:
            if before is None or grace < before:
                ends = datetime.now(timezone.utc) + timedelta(seconds=grace)
                object["metadata"].update(
                    deletionGracePeriodSeconds=grace,
                    deletionTimestamp=ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
                )

        marked = store.update(resource, namespace, name, mark)
        return marked, not there(store, marked)


def _grace(found: Object, resource: str, asked: int | None) -> int:
    if resource != "pods" or not found["spec"].get("nodeName"):
        return 0
    if found["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    return max(0, int(found["spec"]["terminationGracePeriodSeconds"] if asked is None else asked))


def there(store: Store, object: Object) -> bool:
    """Tell whether an object, this one and none of the same name, is still there."""
    meta = object["metadata"]
    try:
        found = store.get(KINDS[object["kind"]], meta.get("namespace", ""), meta["name"])
    except Refused:
        return False
    return bool(found["metadata"]["uid"] == meta["uid"])


def owners(object: Object) -> Iterable[Mapping[str, Any]]:
    return object["metadata"].get("ownerReferences") or ()


def collect(store: Store, object: Object) -> None:
    """Do what the garbage collector does when this object has changed, come or gone."""
    meta = object["metadata"]
    if there(store, object):
        _abandoned(store, object)
        return
    for resource in RESOURCES:
        for found in store.all(resource, meta.get("namespace", "")):
            if any(each["uid"] == meta["uid"] for each in owners(found)):
                _abandoned(store, found)


def _abandoned(store: Store, object: Object) -> None:
    """Delete an object whose owners have all gone."""
    meta = object["metadata"]
    namespace = meta.get("namespace", "")
    owned = [
        {"kind": each["kind"], "metadata": {**each, "namespace": namespace}}
        for each in owners(object)
        if each["kind"] in KINDS
    ]
    if not owned or "deletionTimestamp" in meta or not there(store, object):
        return
    if not any(there(store, owner) for owner in owned):
        delete(store, KINDS[object["kind"]], namespace, meta["name"])
