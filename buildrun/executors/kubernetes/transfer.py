"""Files of a step on their way to a pod and back, through the remote cache."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from buildrun.console import printable
from buildrun.errors import ExecutionError, StoreError
from buildrun.executors.base import Usage
from buildrun.executors.kubernetes import archive, pod_runner
from buildrun.store.manifest import DeclaredOutputs
from buildrun.workspace import outputs as staging

if TYPE_CHECKING:
    from buildrun.executors.kubernetes.archive import Part, PartLimit

WORKDIR, EVERYWHERE = "workdir", "/"

# Bytes of the first parts of a delivery: a pod keeps one part at a time on its disk.
PART = 256 << 20
# Parts of what is sent: a Secret holds 1 MiB, and a signed address takes a KiB or two. Servers
# without signatures get small ones, since their library holds each in memory.
_SIGNED = archive.PartLimit(256 << 20, 128)
_PLAIN = archive.PartLimit(8 << 20, 2048)

_CONTENT = "v1/carried/sha256/"
_LARGEST_RECORD = 1 << 16
_MOST_PARTS = 10_000
_JOB = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Written last, so that what it tells of is there.
_RECORD = "done.json"


class StagedArchive(NamedTuple):
    """An archive that a pod can get.

    urls: its parts, in order; credentials, so not to be shown. sha256: of it all, in hexadecimal.
    size: its bytes. root: where it is unpacked, ``workdir`` or ``/``.
    """

    urls: tuple[str, ...]
    sha256: str
    size: int
    root: str = WORKDIR


class Delivery(NamedTuple):
    """What a Job has delivered.

    parts: how many objects. size: bytes of the archive. sha256: its digest in hexadecimal.
    seconds: that the command took; usage: what it has used, None where that is not told.
    """

    parts: int
    size: int
    sha256: str
    seconds: float
    usage: Usage | None = None


class Store(Protocol):
    """Where files are on their way, by names; its methods raise ExecutionError."""

    # What it is, for people; without credentials.
    @property
    def shown(self) -> str: ...

    # Writes the objects that are not there yet.
    def upload(self, parts: Mapping[str, Part]) -> None: ...

    # Returns where a command's place finds objects (GET), or may leave them (PUT).
    def urls(self, names: Sequence[str], method: str) -> tuple[str, ...]: ...

    # Returns the bytes of objects, one behind the other; ``what`` names them in messages.
    def stream(self, names: Sequence[str], what: str) -> pod_runner.MultipartReader: ...

    # Returns an object of so many bytes at most, None where there is none.
    def read(self, name: str, limit: int) -> bytes | None: ...

    # Deletes objects, as far as they are there.
    def delete(self, names: Sequence[str]) -> None: ...


def through_cache(
    url: str,
    environ: Mapping[str, str],
    *,
    endpoint: str | None = None,
    hours: float = 168,
    patience: float = 30.0,
    part: int | None = None,
) -> ArtifactTransfer:
    """Return the way through a remote cache; nothing is connected to yet.

    endpoint: the address of the store's service for pods, where that is another one. environ: whose
    credentials no message may show. hours: how long addresses are good for, as far as the store
    and the credentials allow. patience: seconds without progress after which a transfer is given
    up. part: bytes of a part of what is sent, by default what suits. Raises ExecutionError for a
    remote cache that pods cannot use.
    """
    from buildrun.executors.kubernetes.object_store import LONGEST, ObjectStore

    seconds = max(1, min(int(hours * 3600), LONGEST))
    store = ObjectStore(url, environ, endpoint, seconds, patience)
    usual = _PLAIN if store.is_plain else _SIGNED
    return ArtifactTransfer(store, usual if part is None else usual._replace(bytes=part))


class ArtifactTransfer:
    """The way for files to commands elsewhere and back; used by several threads.

    Raises ExecutionError.
    """

    def __init__(self, store: Store, limit: PartLimit) -> None:
        """Take the store, and how what is sent is cut."""
        self._store = store
        self._limit = limit

    @property
    def shown(self) -> str:
        """Return where files are on their way, for people."""
        return self._store.shown

    def send(self, root: str, paths: Sequence[str], *, as_absolute: bool = False) -> StagedArchive:
        """Have files, directories and links in the store, where they are not there already.

        The paths are relative to the root; absent ones are passed over. With ``as_absolute`` they
        appear in pods under their full paths here. Raises also for what changes meanwhile, and for
        links out of the project.
        """
        made = archive.archive(root, paths, as_absolute=as_absolute, limit=self._limit)
        parts = {_content_name(part.sha256): part for part in made.parts}
        self._store.upload(parts)
        urls = self._store.urls([_content_name(part.sha256) for part in made.parts], "GET")
        return StagedArchive(urls, made.sha256, made.size, EVERYWHERE if as_absolute else WORKDIR)

    def order(self, name: str, parts: int = 64) -> tuple[str, ...]:
        """Return where a Job of this name delivers to: URLs for the record, and for parts."""
        return self._store.urls(_names(name, parts), "PUT")

    def arrived(self, name: str) -> Delivery | None:
        """Return what a Job has delivered, None where it has not."""
        data = self._store.read(_names(name, 0)[0], _LARGEST_RECORD)
        if data is None:
            return None
        try:
            return _delivery(json.loads(data))
        except (ValueError, RecursionError):
            text = f"{self._store.shown} holds no sound delivery of `{name}`"
            raise ExecutionError(text, hint=archive.UNTRUSTED) from None

    def delivered_archive(self, name: str, done: Delivery) -> StagedArchive:
        """Return what a Job has delivered for another one."""
        urls = self._store.urls(_names(name, done.parts)[1:], "GET")
        return StagedArchive(urls, done.sha256, done.size)

    def fetch(self, name: str, done: Delivery, root: str, outputs: Sequence[str]) -> None:
        """Put the outputs that a Job has delivered into the project, in the place of old ones.

        Declared outputs that were not delivered stay as they are. All is made ready beside the
        project's files first; where that fails, nothing is half there.
        """
        paths = sorted(os.path.normpath(path) for path in outputs)
        names = _names(name, done.parts)[1:]
        try:
            with (
                closing(self._store.stream(names, f"what `{name}` has delivered")) as stream,
                staging.prepare(root, paths) as stage,
            ):
                stage.swap(_unpack(stream, done, stage, paths))
        except pod_runner.TransferError as error:
            raise ExecutionError(
                f"the outputs cannot be fetched from {self._store.shown}: {error}",
                hint="run it again, and see who may write there",
            ) from None
        except StoreError as error:
            raise ExecutionError(error.message, place=error.place, hint=error.hint) from error
        except OSError as error:
            place = error.filename if isinstance(error.filename, str) else root
            raise ExecutionError(
                f"the outputs cannot be written: {error.strerror}", place=printable(place)
            ) from error

    def discard(self, name: str) -> None:
        """Delete what a Job has delivered, as far as the store lets us."""
        done = self.arrived(name)
        if done is not None:
            self._store.delete(_names(name, done.parts))


def task(
    argv: Sequence[str],
    workdir: str,
    inputs: Sequence[StagedArchive],
    outputs: Sequence[str],
    order: Sequence[str],
    *,
    part: int = PART,
    only: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return what ``task.json`` of a Job says; it holds URLs, so it is a secret.

    order: empty where nothing is to be delivered. part: bytes of the first parts of the delivery.
    only: what the working directory has before the inputs come, ``keep`` of what is there and
    ``directories``; None for all that is there.
    """
    made = {
        "version": 1,
        "argv": list(argv),
        "workdir": workdir,
        "inputs": [
            {"urls": list(archive.urls), "sha256": archive.sha256, "root": archive.root}
            for archive in inputs
        ],
        "outputs": list(outputs),
        "deliver": list(order[1:]),
        "done": order[0] if order else None,
        "part": part,
        "only": only,
    }
    return json.dumps(made, separators=(",", ":"))


def program() -> str:
    """Return the text of the program that does a task in a pod."""
    with open(pod_runner.__file__, encoding="utf-8") as file:
        return file.read()


def _content_name(sha256: str) -> str:
    return f"{_CONTENT}{sha256[:2]}/{sha256}"


def is_content(name: str) -> bool:
    """Return whether a name of a store is that of what was sent, by its content."""
    return name.startswith(_CONTENT)


def _names(job: str, parts: int) -> list[str]:
    """Return the names of a delivery's record and of its parts.

    Raises ValueError for no name of a Job.
    """
    if _JOB.fullmatch(job) is None:
        raise ValueError(f"no Job has the name {job!r}")
    return [f"v1/carried/jobs/{job}/{last}" for last in (_RECORD, *range(parts))]


def _delivery(record: Any) -> Delivery:
    """Return what a record says; raises ValueError for anything else."""
    if not isinstance(record, dict) or record.get("version") != 1:
        raise ValueError("no record of ours")
    parts, size, sha256 = record.get("parts"), record.get("size"), record.get("sha256")
    seconds: Any = record.get("seconds")
    if type(parts) is not int or type(size) is not int or type(seconds) not in (int, float):
        raise ValueError("no numbers")
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise ValueError("no digest")
    if not 0 <= parts <= min(size, _MOST_PARTS) or (parts == 0) != (size == 0):
        raise ValueError("no delivery")
    return Delivery(parts, size, sha256, float(seconds), _usage(record))


def _usage(record: Mapping[str, Any]) -> Usage | None:
    cpu: Any = record.get("cpu_seconds")
    memory: Any = record.get("peak_memory")
    is_sound = type(cpu) in (int, float) and 0 <= cpu < 1e12 and type(memory) is int
    return Usage(float(cpu), memory) if is_sound else None


def _unpack(
    stream: pod_runner.MultipartReader,
    done: Delivery,
    stage: staging.Staging,
    paths: Sequence[str],
) -> list[str]:
    """Return which outputs came, in the order of their numbers in the staging directory."""
    owners = DeclaredOutputs(paths)

    def accept(name: bytes) -> None:
        if owners.of(os.fsdecode(name)) is None:
            shown = pod_runner.shown(name)
            raise pod_runner.TransferError(f"the delivery holds `{shown}`, which is no output")

    tree = stage.new(len(paths))
    os.mkdir(tree)
    if done.parts:
        # Links are what the command made of them: kept, and never followed here.
        pod_runner.Unpacker(os.fsencode(tree), any_links=True).unpack(stream, accept)
    stream.finish(done.sha256, done.size)
    there = [path for path in paths if os.path.lexists(os.path.join(tree, path))]
    for number, path in enumerate(there):
        os.rename(os.path.join(tree, path), stage.new(number))
    return there
