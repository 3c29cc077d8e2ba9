"""A remote cache that fsspec reaches: object stores, HTTP servers, SSH."""

import errno
import os
import threading
from typing import Any

from buildrun.store.blobs import TEMPORARY
from buildrun.store.remote_goods import CHUNK, Arriving, Unwritable
from buildrun.store.remote_lane import Task
from buildrun.store.remote_place import OBJECT_STORES, Goods, Place, scheme_of

# What is larger is sent in parts, of which a few files at a time hold one each in memory. S3
# takes no smaller parts than 5 MiB and no more of them than 10,000; GCS wants whole 256 KiB.
_SMALL = 2 << 20
_PART = 8 << 20
_PARTS = 9000
_STREAMS = 4
# What is asked for at once where a library would hold all of an object in memory.
_RANGE = 4 << 20


def connect(url: str) -> Place:
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


def _following(task: Task[Any], into: Arriving) -> Any:
    """Return what fsspec tells of a download that it writes to the file of ``into``."""
    from fsspec.callbacks import Callback

    class Following(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:  # noqa: ARG002
            task.move()
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

    def read(self, task: Task[Any], name: str, into: Arriving) -> None:
        path = self._of(name)
        size: int | None = None
        while size is None or into.size < size:
            # One byte more than is allowed, so that an object that is longer shows.
            end = min(into.size + _RANGE, into.limit + 1 if size is None else size)
            with task.unseen(end - into.size):
                chunk = self._filesystem.cat_file(path, start=into.size, end=end)
            into.write(chunk)
            if len(chunk) < _RANGE:
                return
            if size is None:
                size = _size(self._filesystem, path)
                into.check(size)

    def size(self, name: str) -> int | None:
        return _size(self._filesystem, self._of(name))

    def write(self, task: Task[Any], name: str, goods: Goods) -> None:
        path = self._of(name)
        if goods.size <= _SMALL:
            data = b"".join(goods.chunks())
            with task.unseen(goods.size):
                self._filesystem.pipe_file(path, data)
            return
        with self._streams:
            self._write_parts(task, path, goods)

    def _write_parts(self, task: Task[Any], path: str, goods: Goods) -> None:
        part = _PART * (1 + goods.size // (_PART * _PARTS))
        sink = self._filesystem.open(path, "wb", block_size=part)
        try:
            with task.unseen(part):
                for chunk in goods.chunks():
                    sink.write(chunk)
                    task.move()
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

    def read(self, task: Task[Any], name: str, into: Arriving) -> None:
        follow = _following(task, into)
        try:
            self._filesystem.get_file(self._of(name), into.path, callback=follow)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise Unwritable(error.strerror) from None
            raise
        into.adopt(task.move)


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

    def write(self, task: Task[Any], name: str, goods: Goods) -> None:
        from io import BytesIO

        with self._streams:
            if goods.path is None or goods.size <= _SMALL:
                source: Any = BytesIO(b"".join(goods.chunks()))
            else:
                for _ in goods.chunks():  # so that what has changed raises before it is sent
                    task.move()
                source = goods.path
            with task.unseen(min(goods.size, _PART)):
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

    def read(self, task: Task[Any], name: str, into: Arriving) -> None:
        filesystem = self._connected()
        with filesystem.open(self._of(name), "rb") as source:
            if hasattr(source, "prefetch"):  # else SSH asks for 32 KiB after 32 KiB
                source.prefetch()
            while chunk := source.read(CHUNK):
                into.write(chunk)
                task.move()

    def size(self, name: str) -> int | None:
        return _size(self._connected(), self._of(name))

    def write(self, task: Task[Any], name: str, goods: Goods) -> None:
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
                    task.move()
            task.move()
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
