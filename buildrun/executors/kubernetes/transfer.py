"""Files of a step on their way to a pod and back."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.console import printable
from buildrun.errors import ExecutionError, StoreError
from buildrun.executors.kubernetes import archive as goods_tar
from buildrun.executors.kubernetes import pod_runner, sign
from buildrun.executors.kubernetes.archive import Archive, Largest, Slice
from buildrun.executors.kubernetes.object_store import UNTRUSTED, Store
from buildrun.store.manifest import DeclaredOutputs
from buildrun.store.remote.transfer import Task
from buildrun.workspace import outputs as staging
from buildrun.workspace.restore import check_places, settle, swap

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
# Written last, so that what it tells of is there.
_LAST = "done.json"


class StagedArchive(NamedTuple):
    """An archive that a pod can get.

    urls: its parts, in order; credentials, so not to be shown. sha256: of it all, in hexadecimal.
    size: its bytes. root: where it is unpacked, ``workdir`` or ``/``.
    """

    urls: tuple[str, ...]
    sha256: str
    size: int
    root: str = WORKDIR


class OutputTicket(NamedTuple):
    """Where a Job delivers to: addresses for the parts of its outputs, and for the last word."""

    parts: tuple[str, ...]
    done: str


class Delivery(NamedTuple):
    """What a Job has delivered.

    parts: how many objects. size: bytes of the archive. sha256: its digest in hexadecimal.
    seconds: that the command took.
    """

    parts: int
    size: int
    sha256: str
    seconds: float


class ArtifactTransfer:
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
        sign.refuse_unreachable(url)
        seconds = max(1, min(int(hours * 3600), sign.LONGEST))
        self._store = Store(url, environ, endpoint=endpoint, seconds=seconds, patience=patience)
        usual = _PLAIN if self._store.is_plain else _SIGNED
        self._largest = usual if part is None else usual._replace(bytes=part)
        self._there: set[str] = set()
        self._web = pod_runner.HttpClient()

    def send(self, root: str, paths: Sequence[str], *, as_absolute: bool = False) -> StagedArchive:
        """Have files, directories and links in the store, where they are not there already.

        paths: relative to the root; absent ones are passed over. as_absolute: they are to appear
        in pods under their full paths here. Raises ExecutionError, also for what changes
        meanwhile, and for links out of the project.
        """
        archive = goods_tar.archive(root, paths, as_absolute=as_absolute, largest=self._largest)
        self._store.all(
            [self._sending(archive, part) for part in archive.parts], "files cannot be sent there"
        )
        urls = self._store.sign([_sent(part.sha256) for part in archive.parts], write=False)
        return StagedArchive(
            urls, archive.sha256, archive.size, EVERYWHERE if as_absolute else WORKDIR
        )

    def order(self, name: str, parts: int = 64) -> OutputTicket:
        """Return where a Job of this name delivers to; raises ExecutionError."""
        names = [*_parts(name, parts), _delivered(name, _LAST)]
        *urls, done = self._store.sign(names, write=True)
        return OutputTicket(tuple(urls), done)

    def arrived(self, name: str) -> Delivery | None:
        """Return what a Job has delivered, None where it has not; raises ExecutionError."""
        last = _delivered(name, _LAST)
        (data,) = self._store.all(
            [lambda task: self._store.small(task, last, _LARGEST_RECORD)],
            "what a pod has delivered cannot be seen",
        )
        return None if data is None else self._trusted(name, data)

    def parcel(self, name: str, done: Delivery) -> StagedArchive:
        """Return what a Job has delivered for another one; raises ExecutionError."""
        urls = self._store.sign(_parts(name, done.parts), write=False)
        return StagedArchive(urls, done.sha256, done.size)

    def fetch(self, name: str, done: Delivery, root: str, outputs: Sequence[str]) -> None:
        """Put the outputs that a Job has delivered into the project.

        outputs: as declared; those that were not delivered stay as they are. Raises
        ExecutionError; then nothing is half there.
        """
        urls = self._store.sign(_parts(name, done.parts), write=False, here=True)
        parts = pod_runner.MultipartReader(self._web, urls, f"what `{name}` has delivered")
        try:
            fetch(parts, root, outputs, size=done.size, sha256=done.sha256)
        except pod_runner.TransferError as error:
            raise ExecutionError(
                f"the outputs cannot be fetched from `{self._store.shown}`: {error}",
                hint="run it again, and see who may write there",
            ) from None
        finally:
            parts.close()

    def discard(self, name: str) -> None:
        """Delete what a Job has delivered, as far as the store lets us; raises ExecutionError.

        A plain HTTP server may know no way to delete; then it stays.
        """
        if self._store.is_plain:
            done = self.arrived(name)
            names = [_delivered(name, _LAST), *_parts(name, done.parts)] if done else []
            for url in self._store.sign(names, write=True, here=True):
                self._web.delete(url)
            return
        above = _delivered(name, "").rstrip("/")
        self._store.all(
            [lambda task: self._delete(task, name, above)], "a delivery cannot be deleted"
        )

    def _sending(self, archive: Archive, part: goods_tar.Part) -> Callable[[Task[Any]], None]:
        name = _sent(part.sha256)

        def send(task: Task[Any]) -> None:
            if name not in self._there and not self._store.place().has(name, part.size):
                chunks = Slice(archive, part).chunks
                self._store.place().write(task, name, part.size, chunks)
            self._there.add(name)

        return send

    def _delete(self, task: Task[Any], name: str, above: str) -> None:
        try:
            names = self._store.names(above)
        except PermissionError:  # one may delete, but not list
            data = self._store.small(task, f"{above}/{_LAST}", _LARGEST_RECORD)
            parts = 0 if data is None else self._trusted(name, data).parts
            names = [f"{above}/{_LAST}", *_parts(name, parts)]
        # First what says that there is something.
        for one in sorted(names, key=lambda one: not one.endswith(_LAST)):
            self._store.delete(one)

    def _trusted(self, name: str, data: bytes) -> Delivery:
        try:
            return _done(json.loads(data))
        except (ValueError, RecursionError):
            text = f"the remote cache `{self._store.shown}` holds no sound delivery of `{name}`"
            raise ExecutionError(text, hint=UNTRUSTED) from None


def task(
    argv: Sequence[str],
    workdir: str,
    inputs: Sequence[StagedArchive],
    outputs: Sequence[str],
    order: OutputTicket | None,
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
    with open(pod_runner.__file__, encoding="utf-8") as file:
        return file.read()


def _sent(sha256: str) -> str:
    return f"v1/carried/sha256/{sha256[:2]}/{sha256}"


def _delivered(name: str, last: str | int) -> str:
    """Return the name of an object of a delivery; raises ValueError for no name of a Job."""
    if _JOB.fullmatch(name) is None:
        raise ValueError(f"no Job has the name {name!r}")
    return f"v1/carried/jobs/{name}/{last}"


def _parts(name: str, count: int) -> list[str]:
    return [_delivered(name, number) for number in range(count)]


def _done(record: Any) -> Delivery:
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
    return Delivery(parts, size, sha256, float(seconds))


def fetch(
    parts: pod_runner.MultipartReader, root: str, outputs: Sequence[str], *, size: int, sha256: str
) -> None:
    """Put the outputs that a delivery holds into the project, each in the place of an old one.

    parts: its archive, which must have the size and the digest (in hexadecimal). All is made
    ready beside the project's files first. Raises carry.Trouble for a delivery that is not what
    it should be, and ExecutionError where the project cannot be written; then the outputs are as
    they were, or wholly replaced where the failure came in between.
    """
    paths = sorted(os.path.normpath(path) for path in outputs)
    try:
        stage = staging.make(root)
        try:
            check_places(root, paths)
            there = _unpack(parts, stage, paths, size, sha256)
            swap(stage, there)
        finally:
            settle(stage)
    except StoreError as error:
        raise ExecutionError(error.message, place=error.place, hint=error.hint) from error
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else root
        raise ExecutionError(
            f"the outputs cannot be written: {error.strerror}", place=printable(place)
        ) from error


def _unpack(
    parts: pod_runner.MultipartReader,
    stage: staging.Staging,
    paths: Sequence[str],
    size: int,
    sha256: str,
) -> list[str]:
    """Return which outputs came, in the order of their numbers in the staging directory."""
    owners = DeclaredOutputs(paths)

    def accept(member: pod_runner.Member) -> None:
        if owners.of(os.fsdecode(member.name)) is None:
            name = pod_runner.shown(member.name)
            raise pod_runner.TransferError(f"the delivery holds `{name}`, which is no output")

    tree = stage.new(len(paths))
    os.mkdir(tree)
    # Links are what the command made of them: kept, and never followed here.
    pod_runner.Unpacker(os.fsencode(tree), links="anywhere").unpack(parts, accept)
    parts.finish(sha256, size)
    there = [path for path in paths if os.path.lexists(os.path.join(tree, path))]
    for number, path in enumerate(there):
        os.rename(os.path.join(tree, path), stage.new(number))
    return there
