"""How objects go: by a request, after a grace period, with their owners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from kube_status import RESOURCES, Refused, conflict
from kube_store import Object, Store

KINDS = {resource.kind: resource.plural for resource in RESOURCES.values()}
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"

WARNING = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background "
    "to remove them or set propagationPolicy=Orphan to suppress this warning"
)


def policy(resource: str, options: Mapping[str, Any]) -> str:
    """Return how far a deletion reaches; batch/v1 leaves the pods of Jobs unless told."""
    if options.get("propagationPolicy"):
        return str(options["propagationPolicy"])
    if options.get("orphanDependents") is not None:
        return "Orphan" if options["orphanDependents"] else "Background"
    return "Orphan" if resource == "jobs" else "Background"


def delete(
    store: Store, resource: str, namespace: str, name: str, options: Mapping[str, Any]
) -> tuple[Object, bool]:
    """Delete an object, or mark it; return it, and whether it is gone."""
    with store.changed:
        found = store.get(resource, namespace, name)
        _preconditions(found, resource, options.get("preconditions") or {})
        grace = _grace(found, resource, options)
        way = policy(resource, options)
        before = found["metadata"].get("deletionGracePeriodSeconds")

        def mark(object: Object) -> None:
            meta = object["metadata"]
            finalizers = [each for each in meta.get("finalizers") or ()
                          if each not in (FOREGROUND, ORPHAN)]  # fmt: skip
            finalizers += {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(way, [])
            if finalizers:
                meta["finalizers"] = finalizers
            else:
                meta.pop("finalizers", None)
            if before is None or grace < before:
                meta["deletionGracePeriodSeconds"] = grace
                ends = datetime.now(timezone.utc) + timedelta(seconds=grace)
                meta["deletionTimestamp"] = ends.strftime("%Y-%m-%dT%H:%M:%SZ")

        if not grace and way == "Background" and not found["metadata"].get("finalizers"):
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


def _owning(store: Store, object: Object) -> list[Object]:
    namespace = object["metadata"].get("namespace", "")
    uids = {each["uid"] for each in owners(object)}
    kinds = {KINDS[each["kind"]] for each in owners(object) if each["kind"] in KINDS}
    found = [each for kind in kinds for each in store.all(kind, namespace)]
    return [each for each in found if each["metadata"]["uid"] in uids]


def collect(store: Store, object: Object) -> None:
    """Do what the garbage collector does when this object has changed or come."""
    if not there(store, object):
        for dependent in dependents(store, object):
            _abandoned(store, dependent)
        for owner in _owning(store, object):
            collect(store, owner)  # it may have waited for this one
        return
    finalizers = object["metadata"].get("finalizers") or ()
    if "deletionTimestamp" in object["metadata"]:
        if ORPHAN in finalizers:
            for dependent in dependents(store, object):
                _disown(store, dependent, {object["metadata"]["uid"]})
            _finalized(store, object, ORPHAN)
        if FOREGROUND in finalizers:
            blocking = dependents(store, object)
            for dependent in blocking:
                if "deletionTimestamp" not in dependent["metadata"]:
                    _remove(store, dependent)
            if not any(there(store, dependent) for dependent in blocking):
                _finalized(store, object, FOREGROUND)
    else:
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
    if len(gone) < len(references):
        if gone:
            _disown(store, object, gone)
    elif "deletionTimestamp" not in object["metadata"]:
        _remove(store, object)


def _remove(store: Store, object: Object) -> None:
    meta = object["metadata"]
    options = {"propagationPolicy": "Background", "preconditions": {"uid": meta["uid"]}}
    try:
        delete(store, KINDS[object["kind"]], meta.get("namespace", ""), meta["name"], options)
    except Refused:
        pass  # it went in the meantime


def _disown(store: Store, object: Object, uids: set[str]) -> None:
    meta = object["metadata"]

    def change(object: Object) -> None:
        left = [each for each in owners(object) if each["uid"] not in uids]
        object["metadata"]["ownerReferences"] = left
        if not left:
            del object["metadata"]["ownerReferences"]

    store.update(KINDS[object["kind"]], meta.get("namespace", ""), meta["name"], change)


def _finalized(store: Store, object: Object, finalizer: str) -> None:
    meta = object["metadata"]

    def change(object: Object) -> None:
        left = [each for each in object["metadata"].get("finalizers") or () if each != finalizer]
        object["metadata"]["finalizers"] = left
        if not left:
            del object["metadata"]["finalizers"]

    store.update(KINDS[object["kind"]], meta.get("namespace", ""), meta["name"], change)
