"""The places a remote cache can be: a directory, or whatever fsspec reaches."""

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any, Protocol

from buildrun.store.blobs import TEMPORARY
from buildrun.store.remote_goods import CHUNK, Arriving, Refused
from buildrun.store.remote_lane import Task


class Goods(Protocol):
    """What is written; ``path`` is its local file, if it has one, and ``size`` its bytes."""

    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102

    def chunks(self, length: int = ...) -> Iterator[bytes]:
        """Yield the content; raise, at its end at the latest, where it is not what it should be."""
        ...


class Place(Protocol):
    """Objects by name; each call may hang, and raises whatever the library below it raises."""

    def read(self, task: Task[Any], name: str, into: Arriving) -> None:
        """Fill ``into`` with an object; FileNotFoundError where there is none."""

    def size(self, name: str) -> int | None:
        """Return an object's bytes, None where that is not told, -1 for what is no object.

        Raises FileNotFoundError where there is none.
        """

    def write(self, task: Task[Any], name: str, goods: Goods) -> None:
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


def connect(url: str, *, write: bool) -> Place:
    """Return the place.

    Raises NotADirectoryError for a directory that is not there and is not to be written, and all
    that fsspec and the library for the address raise.
    """
    if is_directory(url):
        return _Directory(_path(url), write=write)
    from buildrun.store import remote_objects

    return remote_objects.connect(url)


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

    def read(self, task: Task[Any], name: str, into: Arriving) -> None:
        # A pipe in the place of a file would never answer, and a device never end.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self._of(name), flags), "rb", buffering=0) as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Refused("is not a file")
            into.check(status.st_size)
            while chunk := source.read(CHUNK):
                into.write(chunk)
                task.move()

    def size(self, name: str) -> int | None:
        status = os.stat(self._of(name))
        return status.st_size if stat.S_ISREG(status.st_mode) else -1

    def write(self, task: Task[Any], name: str, goods: Goods) -> None:
        path = self._of(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Other machines write here too, so a process's number would not tell us from them.
        temporary = f"{path}.{os.urandom(8).hex()}{TEMPORARY}"
        try:
            with open(temporary, "xb") as sink:
                for chunk in goods.chunks():
                    sink.write(chunk)
                    task.move()
                with task.unseen(goods.size):  # a network's file system writes all of it now
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
