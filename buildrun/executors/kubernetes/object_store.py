"""Staged files in the remote cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from buildrun.errors import BuildrunError, ExecutionError
from buildrun.executors.kubernetes import archive
from buildrun.executors.kubernetes import sign as goods_sign
from buildrun.store.remote import fs
from buildrun.store.remote.errors import explain, hide, is_absent, is_denied, shown
from buildrun.store.remote.fs import scheme_of
from buildrun.store.remote.transfer import (
    Changed,
    NoProgress,
    Refused,
    Stopped,
    Task,
    TransferPool,
)

Made = TypeVar("Made")

UNTRUSTED = "delete it there, and see who may write there"

_TRIES = 3
_BROKEN = frozenset(
    {"ServerDisconnectedError", "ClientPayloadError", "ClientOSError", "ConnectionClosedError"}
)


class Store:
    """A store that is connected to when it is first needed, by whatever thread.

    shown: its address without credentials. is_plain: whether it is an HTTP server without
    signatures. What is called within ``all`` raises what the library for the store raises.
    """

    def __init__(
        self,
        url: str,
        environ: Mapping[str, str],
        *,
        endpoint: str | None,
        seconds: int,
        patience: float,
    ) -> None:
        """Touch nothing yet; for the arguments see ``goods.Goods``."""
        self.shown = hide(shown(url), url, environ)
        self.is_plain = scheme_of(url) in ("http", "https")
        self._url, self._environ, self._endpoint = url, environ, endpoint
        self._seconds, self._patience = seconds, patience
        self._lock = threading.Lock()
        self._lane = self._new_lane()
        self._place: fs.RemoteStore | None = None
        self._filesystem: tuple[Any, str] | None = None
        self._signers: dict[str | None, goods_sign.Signer] = {}

    def all(self, works: Sequence[Callable[[Task[Any]], Made]], outcome: str) -> list[Made]:
        """Return what each work returns; raises ExecutionError, which says the outcome too.

        What breaks on the way is done again, a few times; what hangs is given up.
        """
        lane = self._lane
        tasks = [lane.start(_again(work)) for work in works]
        try:
            lane.wait(tasks)
        except BaseException as error:
            self._lane = self._new_lane()
            lane.stop()
            if isinstance(error, NoProgress):
                raise self._failure(error, outcome) from None
            raise
        for task in tasks:
            if task.error is not None:
                # The libraries' own texts may show addresses, so nothing of them is chained.
                raise self._failure(task.error, outcome) from None
        return [task.result for task in tasks]  # type: ignore[misc]

    def sign(self, names: Sequence[str], *, write: bool, here: bool = False) -> tuple[str, ...]:
        """Return addresses for pods, or, ``here``, for this machine; raises ExecutionError."""
        endpoint = None if here else self._endpoint

        def sign(_: Task[Any]) -> tuple[str, ...]:
            with self._lock:
                signer = self._signers.get(endpoint)
                if signer is None:
                    signer = goods_sign.connect(self._url, endpoint, self._seconds)
                    self._signers[endpoint] = signer
            return signer.sign(names, write=write)

        (made,) = self.all([sign], "no addresses for pods can be made")
        return made

    def place(self) -> fs.RemoteStore:
        """Return where objects are written and read; within ``all``."""
        with self._lock:
            if self._place is None:
                self._place = fs.connect(self._url, write=True)
            return self._place

    def small(self, task: Task[Any], name: str, limit: int) -> bytes | None:
        """Return an object of so many bytes at most, None where there is none; within ``all``."""
        try:
            return self.place().read_bytes(task, name, limit)
        except Exception as error:
            if is_absent(error) or is_denied(error):
                return None
            raise

    def names(self, above: str) -> list[str]:
        """Return the objects below a name; within ``all``, and not for a plain server."""
        filesystem, root = self._opened()
        # Pods have written there since, which a listing that was kept would not tell.
        filesystem.invalidate_cache()
        try:
            return [path[len(root) + 1 :] for path in filesystem.find(f"{root}/{above}")]
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        """Delete an object, if it is there; within ``all``, and not for a plain server."""
        filesystem, root = self._opened()
        try:
            filesystem.rm_file(f"{root}/{name}")
        except FileNotFoundError:
            pass

    def _opened(self) -> tuple[Any, str]:
        with self._lock:
            if self._filesystem is None:
                self._filesystem = goods_sign.open_filesystem(self._url)
            return self._filesystem

    def _new_lane(self) -> TransferPool:
        # What writes to servers without signatures holds a part or two in memory.
        width = 4 if self.is_plain else fs.width(self._url)
        return TransferPool(width, self._patience)

    def _failure(self, error: BaseException, outcome: str) -> BuildrunError:
        if isinstance(error, BuildrunError):
            return error
        if isinstance(error, Changed):
            return archive.changed(error)
        if isinstance(error, Refused):
            text = f"the remote cache `{self.shown}` holds what {error}; {outcome}"
            return ExecutionError(text, hint=UNTRUSTED)
        if isinstance(error, Stopped):  # since something else hung
            error = NoProgress()
        text, hint = explain(error, self._url, self._environ, outcome)
        return ExecutionError(text, hint=hint)


def _again(work: Callable[[Task[Any]], Made]) -> Callable[[Task[Any]], Made]:
    """Return the work, done again where a connection broke or a server was not well."""

    def run(task: Task[Any]) -> Made:
        for _ in range(_TRIES - 1):
            try:
                return work(task)
            except Exception as error:
                if not _may_pass(error):
                    raise
                task.heartbeat()
        return work(task)

    return run


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status == 429 or status >= 500
    return isinstance(error, ConnectionError) or type(error).__name__ in _BROKEN
