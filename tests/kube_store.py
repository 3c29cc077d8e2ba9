"""The objects of a Kubernetes stand-in, with one counter of versions and what has changed."""

from __future__ import annotations

import copy
import secrets
import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from kube_status import RESOURCES, already_exists, not_found

Object = dict[str, Any]
Test = Callable[[Object], bool]

# The letters of names that the server makes up.
LETTERS = "bcdfghjklmnpqrstvwxz2456789"


class Change(NamedTuple):
    """One version: before and after are None where the object was made or removed."""

    version: int
    resource: str
    before: Object | None
    after: Object | None

    @property
    def object(self) -> Object:
        """Return the object as it is now, or as it was last."""
        found = self.after if self.after is not None else self.before
        assert found is not None
        return found


def now() -> str:
    """Return the time as the API tells it, in whole seconds."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(stamp: str) -> float:
    """Return the seconds since 1970 of a time that `now` has told."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def suffix() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(5))


class Store:
    """Objects that are replaced, never changed; all of it under the lock of `changed`."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 1000
        self.compacted = 0  # the newest version that is no longer known
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._history: list[Change] = []

    def get(self, resource: str, namespace: str, name: str) -> Object:
        with self.changed:
            try:
                return self._objects[resource, namespace, name]
            except KeyError:
                raise not_found(RESOURCES[resource], name) from None

    def all(self, resource: str, namespace: str = "") -> list[Object]:
        """Return the objects of a kind, sorted; of all namespaces by default."""
        with self.changed:
            return [
                self._objects[key]
                for key in sorted(self._objects)
                if key[0] == resource and namespace in ("", key[1])
            ]

    def create(self, resource: str, object: Object) -> Object:
        """Add an object whose metadata has a name; return it with what the server adds."""
        made = copy.deepcopy(object)
        meta = made["metadata"]
        with self.changed:
            key = (resource, meta.get("namespace", ""), meta["name"])
            if key in self._objects:
                raise already_exists(RESOURCES[resource], meta["name"])
            meta.setdefault("uid", str(uuid.uuid4()))
            meta["creationTimestamp"] = now()
            return self._write(resource, key, None, made)

    def update(
        self, resource: str, namespace: str, name: str, change: Callable[[Object], None]
    ) -> Object:
        """Let a function change an object; nothing happens where it changes nothing."""
        with self.changed:
            before = self.get(resource, namespace, name)
            after = copy.deepcopy(before)
            change(after)
            after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
            if after == before:
                return before
            key = (resource, namespace, name)
            written = self._write(resource, key, before, after)
            if ready_to_go(resource, written):
                self.remove(resource, namespace, name)
            return written

    def remove(self, resource: str, namespace: str, name: str) -> Object:
        with self.changed:
            before = self.get(resource, namespace, name)
            del self._objects[resource, namespace, name]
            gone = copy.deepcopy(before)
            self.version += 1
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._history.append(Change(self.version, resource, gone, None))
            self.changed.notify_all()
            return gone

    def since(self, version: int) -> list[Change]:
        """Return what has changed after a version."""
        with self.changed:
            start = bisect_right(self._history, version, key=lambda change: change.version)
            return self._history[start:]

    def compact(self) -> None:
        """Have every watch that starts at a version of before told to start over."""
        with self.changed:
            self.compacted = self.version
            self.version += 1  # so that what is listed now is newer

    def wait(self, done: Callable[[], bool], limit: float) -> bool:
        """Wait until a function is true, looking after each change; limit: seconds."""
        deadline = time.monotonic() + limit
        with self.changed:
            while not done():
                if not self.changed.wait(deadline - time.monotonic()):
                    return done()
            return True

    def _write(
        self, resource: str, key: tuple[str, str, str], before: Object | None, after: Object
    ) -> Object:
        self.version += 1
        after["metadata"]["resourceVersion"] = str(self.version)
        self._objects[key] = after
        self._history.append(Change(self.version, resource, before, after))
        self.changed.notify_all()
        return after


def ready_to_go(resource: str, object: Object) -> bool:
    """Tell whether nothing keeps an object that is to be deleted."""
    meta = object["metadata"]
    is_going = "deletionTimestamp" in meta
    return is_going and (resource != "pods" or not meta.get("deletionGracePeriodSeconds"))


def selector(query: Mapping[str, str]) -> Test:
    """Return what tells whether an object has the labels and fields that a query asks for."""
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
