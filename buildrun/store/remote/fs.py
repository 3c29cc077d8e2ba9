"""Where a remote cache can be: a directory, or whatever fsspec reaches."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from buildrun.store.cas import TEMPORARY
from buildrun.store.remote.transfer import CHUNK, Refused, Task, Unwritable, VerifiedDownload


class Upload(Protocol):
    """What is written; ``path`` is its local file, if it has one, and ``size`` its bytes."""

    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102

    def chunks(self, length: int = ...) -> Iterator[bytes]:
        """Yield the content; raise, at its end at the latest, where it is not what it should be."""
        ...


class RemoteStore(Protocol):
    """Objects by name; each call may hang, and raises whatever the library below it raises."""

    def read(self, task: Task[Any], name: str, into: VerifiedDownload) -> None:
        """Fill ``into`` with an object; FileNotFoundError where there is none."""

    def size(self, name: str) -> int | None:
        """Return an object's bytes, None where that is not told, -1 for what is no object.

        Raises FileNotFoundError where there is none.
        """

    def write(self, task: Task[Any], name: str, goods: Upload) -> None:
        """Make an object, for readers whole or not at all; also raises what ``goods`` raises."""


# Where what is put appears whole.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "http", "https"})


def scheme_of(url: str) -> str:
    """Return what is in front of ``://``, in lower case; empty for a path."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


def is_directory(url: str) -> bool:
    """Return whether the address is a path or a ``file:`` URL."""
    return scheme_of(url) in ("", "file", "local")


def width(url: str) -> int:
    """Return how many transfers this place takes at once, in each direction."""
    # The others need a connection for each; SSH servers refuse the eleventh that comes at once.
    return 16 if is_directory(url) or scheme_of(url) in OBJECT_STORES else 4


def connect(url: str, *, write: bool) -> RemoteStore:
    """Return the place.

    Raises NotADirectoryError for a directory that is not there and is not to be written, and all
    that fsspec and the library for the address raise.
    """
    if is_directory(url):
        return _Directory(_path(url), write=write)
    return connect_fsspec(url)


def _path(url: str) -> str:
    return os.path.abspath(os.path.expanduser(url.partition("://")[2] if "://" in url else url))


class _Directory:
    """A directory, most likely on a network's file system."""

    def __init__(self, root: str, *, write: bool) -> None:
        self._root = root
        if write:
            os.makedirs(root, exist_ok=True)
        elif not os.path.isdir(root):
            raise NotADirectoryError(errno.ENOTDIR, "there is no such directory", root)

    def read(self, task: Task[Any], name: str, into: VerifiedDownload) -> None:
        # A pipe in the place of a file would never answer, and a device never end.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self._of(name), flags), "rb", buffering=0) as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Refused("is not a file")
            into.check(status.st_size)
            while chunk := source.read(CHUNK):
                into.write(chunk)
                task.heartbeat()

    def size(self, name: str) -> int | None:
        status = os.stat(self._of(name))
        return status.st_size if stat.S_ISREG(status.st_mode) else -1

    def write(self, task: Task[Any], name: str, goods: Upload) -> None:
        path = self._of(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Other machines write here too, so a process's number would not tell us from them.
        temporary = f"{path}.{os.urandom(8).hex()}{TEMPORARY}"
        try:
            with open(temporary, "xb") as sink:
                for chunk in goods.chunks():
                    sink.write(chunk)
                    task.heartbeat()
                with task.allow(goods.size):  # a network's file system writes all of it now
                    sink.close()
            task.commit(lambda: os.replace(temporary, path))
        except BaseException:
            try:
                os.unlink(temporary)
            except OSError:
                pass
            raise

    def _of(self, name: str) -> str:
        return os.path.join(self._root, name)


# What is larger is sent in parts, of which a few files at a time hold one each in memory. S3
# takes no smaller parts than 5 MiB and no more of them than 10,000; GCS wants whole 256 KiB.
_SMALL = 2 << 20
_PART = 8 << 20
_PARTS = 9000
_STREAMS = 4
# What is asked for at once where a library would hold all of an object in memory.
_RANGE = 4 << 20


def connect_fsspec(url: str) -> RemoteStore:
    """Return the place; raises what fsspec and the library for the address raise."""
    scheme = scheme_of(url)
    if scheme in ("http", "https"):
        # A query, such as a signature, belongs behind each object's name.
        base, _, query = url.partition("?")
        return _Http(base, query)
    filesystem, root = _open(url)
    if scheme in ("s3", "s3a"):
        # It would hold ten parts of 50 MB in memory for each large object; one is a stream.
        filesystem.max_concurrency = 1
        filesystem.connect()  # loads for long what describes the service; sends nothing to it
        return _Streamed(filesystem, root)
    return _Objects(filesystem, root) if scheme in OBJECT_STORES else _Tree(url, root)


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    # A cached one would keep another run's credentials, were there several runs in a process.
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return filesystem, root.rstrip("/")


def _size(filesystem: Any, path: str) -> int | None:
    info = filesystem.info(path)
    if info.get("type", "file") != "file":
        return -1
    size: int | None = info.get("size")
    return size


def _following(task: Task[Any], into: VerifiedDownload) -> Any:
    """Return what fsspec tells of a download that it writes to the file of ``into``."""
    from fsspec.callbacks import Callback

    class Following(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:  # noqa: ARG002
            task.heartbeat()
            # Counts do not tell: they may be of compressed bytes, or again of those of a retry;
            # and the size that is told first may be that of a server's page for an error.
            into.check(os.stat(into.path).st_size)

    return Following()


class _Objects:
    """An object store: what is put there appears whole."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._filesystem = filesystem
        self._root = root
        self._streams = threading.Semaphore(_STREAMS)

    def read(self, task: Task[Any], name: str, into: VerifiedDownload) -> None:
        path = self._of(name)
        size: int | None = None
        while size is None or into.size < size:
            # One byte more than is allowed, so that an object that is longer shows.
            end = min(into.size + _RANGE, into.limit + 1 if size is None else size)
            with task.allow(end - into.size):
                chunk = self._filesystem.cat_file(path, start=into.size, end=end)
            into.write(chunk)
            if len(chunk) < _RANGE:
                return
            if size is None:
                size = _size(self._filesystem, path)
                into.check(size)

    def size(self, name: str) -> int | None:
        return _size(self._filesystem, self._of(name))

    def write(self, task: Task[Any], name: str, goods: Upload) -> None:
        path = self._of(name)
        if goods.size <= _SMALL:
            data = b"".join(goods.chunks())
            with task.allow(goods.size):
                self._filesystem.pipe_file(path, data)
            return
        with self._streams:
            self._write_parts(task, path, goods)

    def _write_parts(self, task: Task[Any], path: str, goods: Upload) -> None:
        part = _PART * (1 + goods.size // (_PART * _PARTS))
        sink = self._filesystem.open(path, "wb", block_size=part)
        try:
            with task.allow(part):
                for chunk in goods.chunks():
                    sink.write(chunk)
                    task.heartbeat()
                sink.close()
        except BaseException:
            # Closed or left to the collector of garbage it would publish what it has so far.
            try:
                sink.discard()
            finally:
                sink.closed = True
            raise

    def _of(self, name: str) -> str:
        return f"{self._root}/{name}"


class _Streamed(_Objects):
    """An object store whose library writes what arrives to a file, bit by bit."""

    def read(self, task: Task[Any], name: str, into: VerifiedDownload) -> None:
        follow = _following(task, into)
        try:
            self._filesystem.get_file(self._of(name), into.path, callback=follow)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise Unwritable(error.strerror) from None
            raise
        into.adopt(task.heartbeat)


class _Http(_Streamed):
    """A server that answers GET, and PUT where it is written to."""

    def __init__(self, base: str, query: str) -> None:
        from aiohttp import ClientTimeout

        filesystem = _open(base)[0]
        # It would give up after five minutes, however well a large object gets on.
        filesystem.client_kwargs = {
            "timeout": ClientTimeout(total=None),
            **filesystem.client_kwargs,
        }
        super().__init__(filesystem, base.rstrip("/"))
        self._query = f"?{query}" if query else ""

    def write(self, task: Task[Any], name: str, goods: Upload) -> None:
        from io import BytesIO

        with self._streams:
            if goods.path is None or goods.size <= _SMALL:
                source: Any = BytesIO(b"".join(goods.chunks()))
            else:
                for _ in goods.chunks():  # so that what has changed raises before it is sent
                    task.heartbeat()
                source = goods.path
            with task.allow(min(goods.size, _PART)):
                self._filesystem.put_file(source, self._of(name), method="put")

    def _of(self, name: str) -> str:
        return f"{self._root}/{name}{self._query}"


class _Tree:
    """Directories behind a connection, such as SSH, of which each thread has its own."""

    def __init__(self, url: str, root: str) -> None:
        self._url = url
        self._root = root
        self._own = threading.local()
        self._made: set[str] = set()

    def read(self, task: Task[Any], name: str, into: VerifiedDownload) -> None:
        filesystem = self._connected()
        with filesystem.open(self._of(name), "rb") as source:
            if hasattr(source, "prefetch"):  # else SSH asks for 32 KiB after 32 KiB
                source.prefetch()
            while chunk := source.read(CHUNK):
                into.write(chunk)
                task.heartbeat()

    def size(self, name: str) -> int | None:
        return _size(self._connected(), self._of(name))

    def write(self, task: Task[Any], name: str, goods: Upload) -> None:
        filesystem = self._connected()
        path = self._of(name)
        self._make(filesystem, os.path.dirname(path))
        temporary = f"{path}.{os.urandom(8).hex()}{TEMPORARY}"
        try:
            with filesystem.open(temporary, "wb") as sink:
                if hasattr(sink, "set_pipelined"):
                    sink.set_pipelined(True)
                for chunk in goods.chunks():
                    sink.write(chunk)
                    task.heartbeat()
            task.heartbeat()
            filesystem.mv(temporary, path)
        except BaseException:
            try:
                filesystem.rm_file(temporary)
            except Exception:  # noqa: S110
                pass  # what could not be written may not be there, or the connection is gone
            raise

    def _make(self, filesystem: Any, directory: str) -> None:
        if directory in self._made:
            return
        # At each level another one may be faster, which SSH's errors do not tell from a failure.
        for last in (*[False] * directory.count("/"), True):
            try:
                filesystem.makedirs(directory, exist_ok=True)
                break
            except PermissionError:
                raise
            except OSError:
                if last:
                    raise
        self._made.add(directory)

    def _connected(self) -> Any:
        if not hasattr(self._own, "filesystem"):
            self._own.filesystem = _open(self._url)[0]
        return self._own.filesystem

    def _of(self, name: str) -> str:
        return f"{self._root}/{name}"
