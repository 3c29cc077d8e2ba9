"""Where a remote cache can be: a directory, or whatever fsspec reaches."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import IO, Any

from buildrun.store.cas import TEMPORARY
from buildrun.store.files import NotAFile, open_regular
from buildrun.store.remote.transfer import CHUNK, Chunks, Refused, Task, writing_here

_HTTP = frozenset({"http", "https"})
_S3 = frozenset({"s3", "s3a"})
_GOOGLE = frozenset({"gs", "gcs"})
_AZURE = frozenset({"az", "abfs", "abfss", "adl"})
# Where an object appears whole, and many connections at once are welcome.
OBJECT_STORES = _HTTP | _S3 | _GOOGLE | _AZURE

# That the disk is full, or the file as large as it may be: never said of what is read.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What is larger is sent in parts, of which a few files at a time hold one each in memory. S3
# takes no smaller parts than 5 MiB and no more of them than 10,000; GCS wants whole 256 KiB.
_SMALL = 2 << 20
_PART = 8 << 20
_PARTS = 9000
_STREAMS = 4
# What Azure's library fetches in one piece at first.
_AZURE_PIECE = 32 << 20


def scheme_of(url: str) -> str:
    """Return what is in front of ``://``, in lower case; empty for a path."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


def is_directory(url: str) -> bool:
    """Return whether the address is a path or a ``file:`` URL."""
    return scheme_of(url) in ("", "file", "local")


def width(url: str) -> int:
    """Return how many transfers the remote takes at once, in each direction."""
    # The others need a connection for each; SSH servers refuse the eleventh that comes at once.
    return 16 if is_directory(url) or scheme_of(url) in OBJECT_STORES else 4


def connect(url: str, *, write: bool) -> RemoteStore:
    """Return the store at an address; write: a directory that is not there is made.

    Raises NotADirectoryError, and all that fsspec and the library for the address raise.
    """
    if is_directory(url):
        path = url.partition("://")[2] if "://" in url else url
        root = os.path.abspath(os.path.expanduser(path))
        if write:
            os.makedirs(root, exist_ok=True)
        elif not os.path.isdir(root):
            raise NotADirectoryError(errno.ENOTDIR, "there is no such directory", root)
        return _Files(_Local, root)
    scheme = scheme_of(url)
    if scheme in _HTTP:
        # A query, such as a signature, belongs behind each object's name.
        base, mark, query = url.partition("?")
        filesystem, _ = open_filesystem(base)
        filesystem.client_kwargs = {"timeout": _no_deadline(), **filesystem.client_kwargs}
        return _HttpServer(filesystem, base.rstrip("/"), mark + query)
    filesystem, root = open_filesystem(url)
    if scheme not in OBJECT_STORES:
        # Connections such as those of SSH serve one thread each.
        return _Files(lambda: open_filesystem(url)[0], root)
    if scheme in _S3:
        # It would hold ten parts of 50 MB in memory for each large object; one is a stream.
        filesystem.max_concurrency = 1
        filesystem.connect()  # loads for long what describes the service; sends nothing to it
    elif scheme in _GOOGLE:
        filesystem.requests_timeout = _no_deadline()
    return RemoteStore(filesystem, root, unseen=_AZURE_PIECE if scheme in _AZURE else 0)


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, shared with nobody, and the path there."""
    import fsspec

    # A cached one would keep another run's credentials, were there several runs in a process.
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return filesystem, root.rstrip("/")


class RemoteStore:
    """Objects by name, in an object store; each call may hang, and raises what fsspec raises."""

    def __init__(self, filesystem: Any, root: str, query: str = "", unseen: int = 0) -> None:
        """Keep the file system and the path there.

        query: what follows every name. unseen: bytes that arrive with no sign of their progress.
        """
        self._filesystem = filesystem
        self._root = root
        self._query = query
        self._unseen = unseen
        self._streams = threading.Semaphore(_STREAMS)

    def read(self, task: Task[Any], name: str, path: str, limit: int) -> None:
        """Download an object to an empty file.

        Raises FileNotFoundError, Refused where it has more bytes than the limit, and Unwritable.
        """

        def watch() -> None:
            task.heartbeat()
            # Counts do not tell: they may be of compressed bytes, or again of those of a retry;
            # and the size that is told first may be that of a server's page for an error.
            if os.stat(path).st_size > limit:
                raise Refused(f"is larger than {limit} bytes")

        with writing_here(*_FULL), task.allow(self._unseen):
            self._copy(self.path_of(name), path, watch)
        watch()

    def read_bytes(self, task: Task[Any], name: str, limit: int) -> bytes:
        """Return a short object; raises as `read` does."""
        with TemporaryDirectory(prefix="buildrun-") as directory:
            path = os.path.join(directory, "object")
            open(path, "wb").close()
            self.read(task, name, path, limit)
            with open(path, "rb") as file:
                return file.read()

    def has(self, name: str, size: int) -> bool:
        """Return whether an object is there, with so many bytes as far as that is told."""
        try:
            info = self._connected().info(self.path_of(name))
        except Exception:  # absent, or hidden, or away: to write it tells these apart
            return False
        return info.get("size") in (None, size)

    def write(self, task: Task[Any], name: str, size: int, chunks: Chunks) -> None:
        """Make an object, for readers whole or not at all; raises also what the chunks raise."""
        # Not by fsspec's `put_file`: it would publish a file that changes while it is sent.
        path = self.path_of(name)
        if size <= _SMALL:
            data = b"".join(chunks())
            with task.allow(size):
                self._connected().pipe_file(path, data)
            return
        part = _PART * (1 + size // (_PART * _PARTS))
        with self._streams, task.allow(part):
            sink = self._connected().open(path, "wb", block_size=part)
            try:
                for chunk in chunks():
                    sink.write(chunk)
                    task.heartbeat()
                sink.close()
            except BaseException:
                # Closed, or left to the garbage collector, it would publish what it has so far.
                try:
                    sink.discard()
                finally:
                    sink.closed = True
                raise

    def path_of(self, name: str) -> str:
        """Return an object's path in the file system."""
        return f"{self._root}/{name}{self._query}"

    def _connected(self) -> Any:
        return self._filesystem

    def _copy(self, name: str, path: str, watch: Callable[[], None]) -> None:
        from fsspec.callbacks import Callback

        callback = Callback(hooks={"watch": lambda *_: watch()})
        self._connected().get_file(name, path, callback=callback)


class _HttpServer(RemoteStore):
    """A server that answers GET, and PUT where it is written to."""

    def write(self, task: Task[Any], name: str, size: int, chunks: Chunks) -> None:
        for _ in chunks():  # what has changed raises before anything is sent
            task.heartbeat()
        with task.allow(min(size, _PART)):
            body = _Body(task, chunks())
            self._connected().put_file(body, self.path_of(name), method="put")


class _Body(io.RawIOBase):
    """What aiohttp reads an upload from."""

    def __init__(self, task: Task[Any], chunks: Iterator[bytes]) -> None:
        self._task = task
        self._chunks = chunks

    def read(self, _size: int = -1) -> bytes:
        chunk = next(self._chunks, b"")
        if chunk:
            self._task.heartbeat()
        return chunk


class _Files(RemoteStore):
    """Files in directories: an object is written beside its place, and then renamed.

    They are read here since fsspec's `get_file` tells no progress of directories and SSH.
    """

    def __init__(self, connect: Callable[[], Any], root: str) -> None:
        super().__init__(None, root)
        self._connect = connect
        self._own = threading.local()
        self._made: set[str] = set()

    def _connected(self) -> Any:
        if not hasattr(self._own, "filesystem"):
            self._own.filesystem = self._connect()
        return self._own.filesystem

    def _copy(self, name: str, path: str, watch: Callable[[], None]) -> None:
        with self._connected().open(name, "rb") as source, open(path, "wb") as sink:
            if hasattr(source, "prefetch"):  # else SSH asks for 32 KiB after 32 KiB
                source.prefetch()
            while chunk := source.read(CHUNK):
                sink.write(chunk)
                watch()

    def write(self, task: Task[Any], name: str, size: int, chunks: Chunks) -> None:
        path = self.path_of(name)
        self._make_directory(os.path.dirname(path))
        # Other machines write here too, so a process's number would not tell us from them.
        temporary = f"{path}.{os.urandom(8).hex()}{TEMPORARY}"
        try:
            with self._connected().open(temporary, "wb") as sink:
                if hasattr(sink, "set_pipelined"):
                    sink.set_pipelined(True)
                for chunk in chunks():
                    sink.write(chunk)
                    task.heartbeat()
                with task.allow(size):  # a network's file system writes all of it now
                    sink.close()
            self._connected().mv(temporary, path)
        except BaseException:
            try:
                self._connected().rm_file(temporary)
            except Exception:  # noqa: S110
                pass  # what could not be written may not be there, or the connection is gone
            raise

    def _make_directory(self, path: str) -> None:
        # At each level another writer may be faster, which SSH does not tell from a failure.
        for tries in range(path.count("/"), -1, -1):
            if path in self._made:
                return
            try:
                self._connected().makedirs(path, exist_ok=True)
                self._made.add(path)
            except OSError as error:
                if not tries or isinstance(error, PermissionError):
                    raise


class _Local:
    """What is used of fsspec's file systems, for this machine: loading fsspec takes long."""

    makedirs = staticmethod(os.makedirs)
    mv = staticmethod(os.replace)
    rm_file = staticmethod(os.unlink)

    @staticmethod
    def open(path: str, mode: str) -> IO[bytes]:
        if mode == "wb":
            return open(path, "xb")
        try:
            return open_regular(path)
        except (NotAFile, IsADirectoryError):
            raise Refused("is not a file") from None

    @staticmethod
    def info(path: str) -> dict[str, Any]:
        return {"size": os.stat(path).st_size}


def _no_deadline() -> Any:
    """Return what keeps aiohttp from giving up after five minutes, however well it gets on."""
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None)
