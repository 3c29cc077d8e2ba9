"""What a cluster warns of, asked for once in a while however many Jobs wait for a word."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun.kubernetes.api import Api, Target
from buildrun.kubernetes.trouble import Refusal

# So many objects are asked about one by one, each time; for more of them, all events are read, and
# hold for these seconds.
_FEW = 4
_FRESH = 4.0

# Seconds for which an object counts as one that is asked about.
_RECENT = 10.0


class Event(NamedTuple):
    """What the cluster says of an object."""

    reason: str
    words: str


class Events:
    """The warnings in a namespace; used by several threads."""

    def __init__(self, api: Api, namespace: str) -> None:
        """Take the place; nothing is asked yet."""
        self._api = api
        self._target = Target("events", namespace)
        self._mutex = threading.Lock()
        self._wanted: dict[str, float] = {}
        self._known: dict[str, tuple[float, Mapping[str, Event]]] = {}

    def last(self, kind: str, uid: str) -> Event | None:
        """Return the last warning about an object; None where there is none, or no right to see.

        kind: such as ``Pod``. uid: since an earlier one of the same name may have had events, which
        stay for an hour. Raises ExecutionError.
        """
        with self._mutex:
            now = time.monotonic()
            self._wanted[uid] = now
            self._wanted = {key: then for key, then in self._wanted.items() if now - then < _RECENT}
            if len(self._wanted) > _FEW:
                # Whoever comes meanwhile waits for the same answer.
                return self._all(kind).get(uid)
        return self._ask(f"involvedObject.kind={kind},involvedObject.uid={uid}").get(uid)

    def _all(self, kind: str) -> Mapping[str, Event]:
        then, found = self._known.get(kind, (0.0, {}))
        if not then or time.monotonic() - then >= _FRESH:
            found = self._ask(f"involvedObject.kind={kind}")
            self._known[kind] = (time.monotonic(), found)
        return found

    def _ask(self, query: str) -> Mapping[str, Event]:
        """Return the last warnings, by the uids of their objects."""
        try:
            found = self._api.get(self._target, fieldSelector=f"{query},type=Warning")
        except Refusal:
            return {}
        return {
            str((item.get("involvedObject") or {}).get("uid") or ""): Event(
                str(item.get("reason") or ""), str(item.get("message") or "")
            )
            for item in sorted(found.get("items") or (), key=_time_of)
        }


def _time_of(event: Mapping[str, Any]) -> str:
    metadata = event.get("metadata") or {}
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or metadata.get("creationTimestamp")
        or ""
    )
