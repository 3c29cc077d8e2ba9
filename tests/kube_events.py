"""The warnings that controllers and kubelets tell."""

from __future__ import annotations

import secrets

from kube_store import Object, Store, now


def warn(store: Store, about: Object, reason: str, message: str) -> None:
    """Record a warning about an object."""
    meta = about["metadata"]
    store.create(
        "events",
        {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {
                "name": f"{meta['name'][:200]}.{secrets.token_hex(8)}",
                "namespace": meta["namespace"],
            },
            "involvedObject": {
                "kind": about["kind"],
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "reason": reason,
            "message": message,
            "lastTimestamp": now(),
            "type": "Warning",
        },
    )
