"""Files for pods and from them, by way of the remote cache's store; no credentials go along.

A pod gets and puts objects by presigned addresses, see ``carry``. Below the remote cache's own
address, ``v1/carried/sha256/<2>/<hex>`` are parts of the archives that are sent, each named by
its digest, and ``v1/carried/jobs/<job>/`` what a Job delivers: ``0``, ``1``, … and, last,
``done.json``. Whoever can write there may have written anything, so what is fetched is checked,
and what sends a wrong digest along is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from buildrun.errors import BuildrunError, ExecutionError
from buildrun.kubernetes import carry, goods_fetch, goods_sign, goods_tar
from buildrun.kubernetes.goods_tar import Archive, Largest, Slice
from buildrun.store import remote_place
from buildrun.store.remote_goods import Arriving, Changed, Refused
from buildrun.store.remote_lane import Lane, Stalled, Task
from buildrun.store.remote_place import scheme_of
from buildrun.store.remote_trouble import explain, hide, is_absent, is_denied, shown

Made = TypeVar("Made")

WORKDIR, EVERYWHERE = "workdir", "/"

# A part of a delivery: a pod keeps one at a time on its disk.
PART = 1 << 30
# Parts of what is sent: a Secret holds 1 MiB, and a signed address takes a KiB or two. Servers
# without signatures get small ones, since their library holds each in memory.
_SIGNED = Largest(256 << 20, 128)
_PLAIN = Largest(8 << 20, 2048)

_EMPTY = hashlib.sha256().hexdigest()
_LARGEST_RECORD = 1 << 16
_MOST_PARTS = 10_000
_JOB = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRIES = 3


class Parcel(NamedTuple):
    """An archive that a pod can get.

    urls: its parts, in order; credentials, so not to be shown. sha256: of it all, in hexadecimal.
    size: its bytes. root: where it is unpacked, ``workdir`` or ``/``.
    """

    urls: tuple[str, ...]
    sha256: str
    size: int
    root: str = WORKDIR


class Order(NamedTuple):
    """Where a Job delivers to: addresses for the parts of its outputs, and for the last word."""

    parts: tuple[str, ...]
    done: str


class Done(NamedTuple):
    """What a Job has delivered.

    parts: how many objects. size: bytes of the archive. sha256: its digest in hexadecimal.
    seconds: that the command took.
    """

    parts: int
    size: int
    sha256: str
    seconds: float


class Goods:
    """The way for files to pods and back; methods may be called from several threads.

    What hangs is given up after ``patience`` seconds without progress.
    """

    def __init__(
        self,
        url: str,
        environ: Mapping[str, str],
        *,
        endpoint: str | None = None,
        hours: float = 168,
        patience: float = 30.0,
        part: int | None = None,
    ) -> None:
        """Connect to nothing yet; raises ExecutionError for a place that pods cannot use.

        url: the remote cache's. environ: whose credentials no message may show.
        endpoint: the address of the store's service for pods, where they see it at another one.
        hours: how long addresses are good for, as far as the store allows; credentials that end
            earlier, such as those of a session, end them.
        part: bytes of a part of what is sent, by default what suits the store.
        """
        goods_sign.refuse_unreachable(url)
        self._url, self._environ, self._endpoint = url, environ, endpoint
        self._seconds = max(1, min(int(hours * 3600), goods_sign.LONGEST))
        self._patience = patience
        self._plain = scheme_of(url) in ("http", "https")
        usual = _PLAIN if self._plain else _SIGNED
        self._largest = usual if part is None else usual._replace(bytes=part)
        self._lock = threading.Lock()
        self._lane = self._new_lane()
        self._place: remote_place.Place | None = None
        self._signers: dict[str | None, goods_sign.Signer] = {}
        self._there: set[str] = set()
        self._web: carry.Web | None = None

    def send(self, root: str, paths: Sequence[str], *, as_absolute: bool = False) -> Parcel:
        """Have files, directories and links in the store, where they are not there already.

        paths: relative to the root; absent ones are passed over. as_absolute: they are to appear
        in pods under their full paths here. Raises ExecutionError, also for what changes
        meanwhile, and for links out of the project.
        """
        archive = goods_tar.archive(root, paths, as_absolute=as_absolute, largest=self._largest)
        missing = [part for part in archive.parts if _sent(part.sha256) not in self._there]
        self._all([self._sending(archive, part) for part in missing], "files cannot be sent there")
        urls = self._sign([_sent(part.sha256) for part in archive.parts], write=False)
        root_there = EVERYWHERE if as_absolute else WORKDIR
        return Parcel(urls, archive.sha256, archive.size, root_there)

    def order(self, name: str, parts: int = 64) -> Order:
        """Return where a Job of this name delivers to; raises ExecutionError."""
        names = [_delivered(name, number) for number in range(parts)]
        *urls, done = self._sign([*names, _delivered(name, "done.json")], write=True)
        return Order(tuple(urls), done)

    def arrived(self, name: str) -> Done | None:
        """Return what a Job has delivered, None where it has not; raises ExecutionError."""
        look = _again(lambda task: self._look(task, name))
        (done,) = self._all([look], "what a pod has delivered cannot be seen")
        return done

    def parcel(self, name: str, done: Done) -> Parcel:
        """Return what a Job has delivered for another one; raises ExecutionError."""
        urls = self._sign(_parts(name, done), write=False)
        return Parcel(urls, done.sha256, done.size)

    def fetch(self, name: str, done: Done, root: str, outputs: Sequence[str]) -> None:
        """Put the outputs that a Job has delivered into the project.

        outputs: as declared; those that were not delivered stay as they are. Raises
        ExecutionError; then nothing is half there.
        """
        urls = self._sign(_parts(name, done), write=False, here=True)
        parts = carry.Parts(self._here(), urls, f"what `{name}` has delivered")
        try:
            goods_fetch.fetch(parts, root, outputs, size=done.size, sha256=done.sha256)
        except carry.Trouble as error:
            raise ExecutionError(
                f"the outputs cannot be fetched from `{shown(self._url)}`: {error}",
                hint="run it again, and see who may write there",
            ) from None
        finally:
            parts.close()

    def discard(self, name: str) -> None:
        """Delete what a Job has delivered, as far as the store lets us; raises ExecutionError.

        A plain HTTP server may know no way to delete; then it stays.
        """
        if self._plain:
            self._discard_plainly(name)
        else:
            self._all([lambda task: self._delete(task, name)], "a delivery cannot be deleted")

    def _sending(self, archive: Archive, part: goods_tar.Part) -> Callable[[Task[Any]], None]:
        def send(task: Task[Any]) -> None:
            name = _sent(part.sha256)
            if not self._is_there(name, part.size):
                self._connected().write(task, name, Slice(archive, part))
            self._there.add(name)

        return _again(send)

    def _is_there(self, name: str, size: int) -> bool:
        try:
            return self._connected().size(name) in (None, size)
        except Exception as error:
            # Denied is what S3 calls the absent too, to those who may not list.
            if is_absent(error) or is_denied(error):
                return False
            raise

    def _look(self, task: Task[Any], name: str) -> Done | None:
        with TemporaryDirectory(prefix="buildrun-") as directory:
            into = Arriving(os.path.join(directory, "record"), _LARGEST_RECORD)
            try:
                self._connected().read(task, _delivered(name, "done.json"), into)
            except Exception as error:
                if is_absent(error) or is_denied(error):
                    return None
                raise
            finally:
                into.close()
            with open(into.path, "rb") as file:
                data = file.read()
        try:
            return _done(json.loads(data))
        except (ValueError, RecursionError):
            raise self._untrusted(name) from None

    def _sign(self, names: Sequence[str], *, write: bool, here: bool = False) -> tuple[str, ...]:
        endpoint = None if here else self._endpoint

        def sign(_: Task[Any]) -> tuple[str, ...]:
            with self._lock:
                signer = self._signers.get(endpoint)
                if signer is None:
                    signer = goods_sign.connect(self._url, endpoint, self._seconds)
                    self._signers[endpoint] = signer
            return signer.sign(names, write=write)

        (made,) = self._all([sign], "no addresses for pods can be made")
        return made

    def _delete(self, task: Task[Any], name: str) -> None:
        filesystem, root = goods_sign.open_filesystem(self._url)
        above = f"{root}/{_delivered(name, '')}".rstrip("/")
        last = f"{above}/done.json"
        try:
            names = filesystem.find(above)
        except FileNotFoundError:
            return
        except PermissionError:  # one may delete, but not list
            done = self._look(task, name)
            names = [last, *(f"{above}/{number}" for number in range(done.parts if done else 0))]
        # First what says that there is something.
        for path in sorted(names, key=lambda path: path != last):
            try:
                filesystem.rm_file(path)
            except FileNotFoundError:
                continue

    def _discard_plainly(self, name: str) -> None:
        done = self.arrived(name)
        if done is None:
            return
        names = [_delivered(name, "done.json"), *_parts(name, done)]
        for url in self._sign(names, write=True, here=True):
            self._here().delete(url)

    def _here(self) -> carry.Web:
        """Return the way to addresses from this machine."""
        with self._lock:
            if self._web is None:
                self._web = carry.Web()
            return self._web

    def _connected(self) -> remote_place.Place:
        with self._lock:
            if self._place is None:
                self._place = remote_place.connect(self._url, write=True)
            return self._place

    def _new_lane(self) -> Lane:
        # What writes to servers without signatures holds a part or two in memory.
        width = 4 if self._plain else remote_place.width(self._url)
        return Lane(width, self._patience)

    def _all(self, works: Sequence[Callable[[Task[Any]], Made]], outcome: str) -> list[Made]:
        """Return what each work returns; raises ExecutionError, which says the outcome too."""
        lane = self._lane
        tasks = [lane.start(work) for work in works]
        try:
            lane.wait(tasks)
        except Stalled as error:
            self._lane = self._new_lane()
            lane.stop()
            raise self._failure(error, outcome) from None
        except BaseException:
            for task in tasks:
                task.drop()
            raise
        for task in tasks:
            if task.error is not None:
                raise self._failure(task.error, outcome) from task.error
        return [task.result for task in tasks]  # type: ignore[misc]

    def _failure(self, error: BaseException, outcome: str) -> BuildrunError:
        if isinstance(error, BuildrunError):
            return error
        if isinstance(error, Changed):
            return goods_tar.changed(error)
        if isinstance(error, Refused):
            return ExecutionError(
                f"the remote cache `{shown(self._url)}` holds what {error}; {outcome}",
                hint="delete it there, and see who may write there",
            )
        text, hint = explain(error, self._url, self._environ, outcome)
        return ExecutionError(text, hint=hint)

    def _untrusted(self, name: str) -> ExecutionError:
        text = f"the remote cache `{shown(self._url)}` holds no sound delivery of `{name}`"
        return ExecutionError(
            hide(text, self._url, self._environ),
            hint="delete it there, and see who may write there",
        )


def task(
    argv: Sequence[str],
    workdir: str,
    inputs: Sequence[Parcel],
    outputs: Sequence[str],
    order: Order | None,
    *,
    part: int = PART,
) -> str:
    """Return what ``task.json`` of a Job says; it holds addresses, so it is a secret.

    order: None where nothing is to be delivered. part: bytes of a part of the delivery at most.
    """
    made = {
        "version": 1,
        "argv": list(argv),
        "workdir": workdir,
        "inputs": [
            {"urls": list(parcel.urls), "sha256": parcel.sha256, "root": parcel.root}
            for parcel in inputs
        ],
        "outputs": list(outputs),
        "deliver": list(order.parts) if order is not None else [],
        "done": order.done if order is not None else None,
        "part": part,
    }
    return json.dumps(made, separators=(",", ":"))


def program() -> str:
    """Return the text of ``carry.py``, for the Secret of a Job."""
    with open(carry.__file__, encoding="utf-8") as file:
        return file.read()


def _again(work: Callable[[Task[Any]], Made]) -> Callable[[Task[Any]], Made]:
    """Return the work, done again where a connection broke or a server was not well."""

    def run(task: Task[Any]) -> Made:
        for number in range(_TRIES):
            try:
                return work(task)
            except Exception as error:
                if number + 1 == _TRIES or not _may_pass(error):
                    raise
                task.move()
        raise AssertionError("unreachable")

    return run


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status == 429 or status >= 500
    return isinstance(error, ConnectionError) or type(error).__name__ in _BROKEN


_BROKEN = frozenset(
    {"ServerDisconnectedError", "ClientPayloadError", "ClientOSError", "ConnectionClosedError"}
)


def _sent(sha256: str) -> str:
    return f"v1/carried/sha256/{sha256[:2]}/{sha256}"


def _delivered(name: str, last: str | int) -> str:
    """Return the name of an object of a delivery; raises ValueError for no name of a Job."""
    if _JOB.fullmatch(name) is None:
        raise ValueError(f"no Job has the name {name!r}")
    return f"v1/carried/jobs/{name}/{last}"


def _parts(name: str, done: Done) -> list[str]:
    return [_delivered(name, number) for number in range(done.parts)]


def _done(record: Any) -> Done:
    """Return what a ``done.json`` says; raises ValueError for anything else."""
    if not isinstance(record, dict) or record.get("version") != 1:
        raise ValueError("no record of ours")
    parts, size, sha256 = record.get("parts"), record.get("size"), record.get("sha256")
    seconds: Any = record.get("seconds")
    if type(parts) is not int or type(size) is not int or not 0 <= parts <= _MOST_PARTS:
        raise ValueError("no numbers")
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise ValueError("no digest")
    if type(seconds) not in (int, float) or size < parts or (parts == 0) != (sha256 == _EMPTY):
        raise ValueError("no delivery")
    return Done(parts, size, sha256, float(seconds))
