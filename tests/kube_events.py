"""The events that controllers and kubelets tell."""

from __future__ import annotations

import secrets

from kube_store import Object, Store, now


def tell(
    store: Store,
    about: Object,
    reason: str,
    message: str,
    *,
    kind: str = "Normal",
    component: str = "job-controller",
    path: str = "",
) -> None:
    """Record an event, or count it once more; kind: Normal or Warning."""
    meta = about["metadata"]
    namespace = meta.get("namespace", "default")
    with store.changed:
        for event in store.all("events", namespace):
            said = (event["reason"], event["message"], event["type"])
            if event["involvedObject"].get("uid") == meta["uid"] and said == (
                reason, message, kind
            ):  # fmt: skip
                _again(store, event)
                return
        involved = {
            "kind": about["kind"],
            "namespace": namespace,
            "name": meta["name"],
            "uid": meta["uid"],
            "apiVersion": about["apiVersion"],
            "resourceVersion": meta["resourceVersion"],
            **({"fieldPath": path} if path else {}),
        }
        event = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {
                "name": f"{meta['name'][:200]}.{secrets.token_hex(8)}",
                "namespace": namespace,
            },
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "source": {"component": component},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
            "type": kind,
            "eventTime": None,
            "reportingComponent": component,
            "reportingInstance": "",
        }
        store.create("events", event)


def _again(store: Store, event: Object) -> None:
    def change(event: Object) -> None:
        event["count"] += 1
        event["lastTimestamp"] = now()

    store.update("events", event["metadata"]["namespace"], event["metadata"]["name"], change)
