"""Watches of Jobs, pods and events."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.executors.kubernetes.api import Api, Stream, Target
from buildrun.executors.kubernetes.errors import ApiError

if TYPE_CHECKING:
    from buildrun.errors import BuildrunError

Object = dict[str, Any]

# Seconds after which the server ends a watch, and without a byte of it until it is taken for dead.
_TURN = 240
_SILENCE = 300.0

# Seconds between watches that end as soon as they begin, at most.
_PAUSE = 5.0

# On pods, the Job that they are of; the first is for clusters before 1.27.
_OF_JOB = ("job-name", "batch.kubernetes.io/job-name")


class View(NamedTuple):
    """A Job and its pods as they were seen last.

    job: None before it is seen, and once it is gone. pods: the oldest first. gone: the Job was
    there and is not any more. revision: grows with every change. last: the latest pod that ended
    before anybody deleted it, since another client may delete both at once.
    """

    job: Object | None
    pods: tuple[Object, ...]
    gone: bool
    revision: int
    last: Object | None = None

    @property
    def pod(self) -> Object | None:
        """Return the latest pod."""
        return self.pods[-1] if self.pods else None

    @property
    def is_there(self) -> bool:
        """Return whether anything of it is left."""
        return self.job is not None or bool(self.pods)


class Watcher:
    """Follows what bears a label in a namespace, from entry to exit."""

    def __init__(self, api: Api, namespace: str, selector: str) -> None:
        """Take what to follow; nothing is asked before entry."""
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._mutex = threading.Lock()
        # For each Job one of its own, since what happens to one does not concern a hundred others.
        self._changed: dict[str, threading.Condition] = {}
        # By kind, by the name of the Job, by its own name.
        self._objects: dict[str, dict[str, dict[str, Object]]] = {"jobs": {}, "pods": {}}
        self._learned: dict[str, float] = {}
        self._revisions: dict[str, int] = {}
        self._seen: set[str] = set()
        self._ended: dict[str, Object] = {}
        self._failure: BuildrunError | None = None
        self._closed = threading.Event()
        self._streams: dict[str, Stream] = {}

    def __enter__(self) -> Watcher:
        """Start to follow."""
        for kind in self._objects:
            threading.Thread(target=self._follow, args=(kind,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Follow no more."""
        self._closed.set()
        for stream in list(self._streams.values()):
            stream.close()

    def look(self, name: str) -> View:
        """Return a Job as it is now; raises what has ended the watch."""
        with self._mutex:
            return self._look(name)

    def wait(self, name: str, after: int, seconds: float | None) -> View:
        """Return a Job when it is not as it was in the revision any more, or the time is over.

        Raises what has ended the watch.
        """
        with self._mutex:
            changed = self._changed.setdefault(name, threading.Condition(self._mutex))
            changed.wait_for(lambda: self._failure or self._revisions.get(name, 0) > after, seconds)
            return self._look(name)

    def stir(self, name: str) -> None:
        """Have whoever waits for the Job look again."""
        with self._mutex:
            self._touch([name])

    def learn(self, job: Object) -> None:
        """Take note of a Job that was just made or read."""
        with self._mutex:
            name = job["metadata"]["name"]
            if name not in self._objects["jobs"]:
                self._learned[name] = time.monotonic()
                self._put("jobs", job)
                self._touch([name])

    def _look(self, name: str) -> View:
        if self._failure is not None:
            raise self._failure
        job = self._objects["jobs"].get(name, {}).get(name)
        pods = by_age(self._objects["pods"].get(name, {}).values())
        gone = job is None and name in self._seen
        return View(job, pods, gone, self._revisions.get(name, 0), self._ended.get(name))

    def _follow(self, kind: str) -> None:
        """Keep what is known of a kind, until the exit or a trouble that does not pass."""
        version, began = "", 0.0
        try:
            while not self._closed.is_set():
                # A server that ends each watch at once is not to be asked without a pause.
                early = _PAUSE - (time.monotonic() - began) if began else 0.0
                self._closed.wait(random.uniform(0, max(0.0, early)) * 0.2)  # noqa: S311
                try:
                    version = version or self._list(kind)
                    began = time.monotonic()
                    version = self._watch(kind, version)
                except ApiError as error:
                    if error.status != 410:
                        raise
                    version = ""
        except BaseException as error:
            self._fail(error)

    def _list(self, kind: str) -> str:
        target, began = Target(kind, self._namespace), time.monotonic()
        found = self._api.get(target, labelSelector=self._selector)
        with self._mutex:
            before = self._objects[kind]
            # The list may be from before a Job was made that is known by now.
            self._objects[kind] = {
                name: of_job
                for name, of_job in before.items()
                if kind == "jobs" and self._learned.get(name, 0.0) > began
            }
            for item in found.get("items") or ():
                self._put(kind, item)
            self._touch({*before, *self._objects[kind]})
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, kind: str, version: str) -> str:
        """Follow until the connection ends; return from where to go on, "" for anew."""
        query = {
            "watch": "1",
            "labelSelector": self._selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_TURN),
        }
        stream = self._api.stream(Target(kind, self._namespace), query, silence=_SILENCE)
        self._streams[kind] = stream
        try:
            for line in stream.lines():
                if self._closed.is_set():
                    break
                event = _event(line)
                if event is None:
                    continue
                if event["type"] == "ERROR":
                    return ""
                item = event["object"]
                version = str(item["metadata"]["resourceVersion"])
                if event["type"] != "BOOKMARK":
                    self._note(kind, event["type"], item)
        finally:
            stream.close()
        return version

    def _note(self, kind: str, what: str, item: Object) -> None:
        job = _job_of(item)
        with self._mutex:
            if what == "DELETED":
                of_job = self._objects[kind].get(job, {})
                of_job.pop(item["metadata"]["name"], None)
                if not of_job:
                    self._objects[kind].pop(job, None)
            else:
                self._put(kind, item)
            self._touch([job])

    def _put(self, kind: str, item: Object) -> None:
        item["metadata"].pop("managedFields", None)
        name, job = item["metadata"]["name"], _job_of(item)
        self._objects[kind].setdefault(job, {})[name] = item
        if kind == "jobs":
            self._seen.add(name)
        elif _has_ended(item) and not item["metadata"].get("deletionTimestamp"):
            self._ended[job] = item

    def _touch(self, names: Iterable[str]) -> None:
        for name in names:
            self._revisions[name] = self._revisions.get(name, 0) + 1
            if name in self._changed:
                self._changed[name].notify_all()

    def _fail(self, error: BaseException) -> None:
        from buildrun.errors import BuildrunError, ExecutionError

        with self._mutex:
            if not isinstance(error, BuildrunError):
                error = ExecutionError(f"the cluster cannot be followed: {error!r}")
            self._failure = error
            for changed in self._changed.values():
                changed.notify_all()


def _job_of(item: Object) -> str:
    """Return the Job that a pod is of, or the Job's own name."""
    labels = item["metadata"].get("labels") or {}
    if item.get("kind") == "Job" or not any(name in labels for name in _OF_JOB):
        return str(item["metadata"]["name"])
    return str(next(labels[name] for name in _OF_JOB if name in labels))


def by_age(pods: Iterable[Object]) -> tuple[Object, ...]:
    """Return pods, the oldest first."""
    return tuple(sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))))


def pods_of(api: Api, namespace: str, job: str) -> tuple[Object, ...]:
    """Return the pods of a Job as the server has them, the oldest first."""
    found = api.get(Target("pods", namespace), labelSelector=f"job-name={job}")
    return by_age(found.get("items") or ())


def last_end(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how a container has ended last; it may have been started anew since."""
    for state in ("state", "lastState"):
        if ended := (status.get(state) or {}).get("terminated"):
            return dict(ended)
    return {}


def _has_ended(pod: Object) -> bool:
    """Return whether the command has ended, or an init container has failed."""
    status = pod.get("status") or {}
    inits = status.get("initContainerStatuses") or ()
    return any(map(last_end, status.get("containerStatuses") or ())) or any(
        last_end(item).get("exitCode") for item in inits
    )


def _event(line: bytes) -> Any:
    """Return the event, or None for a line that was cut off."""
    try:
        value = json.loads(line)
        value["type"], value["object"]
    except (ValueError, KeyError, TypeError):
        return None
    return value


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
        about = f"involvedObject.kind={kind}"
        with self._mutex:
            now = time.monotonic()
            self._wanted[uid] = now
            self._wanted = {key: then for key, then in self._wanted.items() if now - then < _RECENT}
            if len(self._wanted) > _FEW:
                # Whoever comes meanwhile waits for the same answer.
                then, known = self._known.get(kind, (0.0, {}))
                if not then or now - then >= _FRESH:
                    known = self._ask(about)
                    self._known[kind] = (time.monotonic(), known)
                return known.get(uid)
        return self._ask(f"{about},involvedObject.uid={uid}").get(uid)

    def _ask(self, query: str) -> Mapping[str, Event]:
        """Return the last warnings, by the uids of their objects."""
        try:
            found = self._api.get(self._target, fieldSelector=f"{query},type=Warning")
        except ApiError:
            return {}
        return {
            str((item.get("involvedObject") or {}).get("uid") or ""): Event(
                str(item.get("reason") or ""), str(item.get("message") or "")
            )
            for item in sorted(found.get("items") or (), key=_time_of)
        }


def _time_of(event: Mapping[str, Any]) -> str:
    made = (event.get("metadata") or {}).get("creationTimestamp")
    return str(event.get("lastTimestamp") or event.get("eventTime") or made or "")
