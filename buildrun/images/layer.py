"""A layer of a project's files, as a stream."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from buildrun.errors import BuildrunError, ProjectError
from buildrun.images import tar
from buildrun.printable import printable
from buildrun.tree import listing, signature

if TYPE_CHECKING:
    from buildrun.tree.listing import Entry
    from buildrun.tree.taken import Taken

_CHUNK = 1 << 20
# It vanished, or became a link or something else.
_OTHER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO})
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Layer(NamedTuple):
    """A plain tar of files beneath ``/``.

    size: its bytes, which have to be known before it is sent. chunks: makes them; each call anew.
    """

    size: int
    chunks: Callable[[], Iterator[bytes]]


def of_files(root: str, taken: Taken, directory: str, *, any_user: bool = False) -> Layer:
    """Return the layer that has some files of a project in a directory of the image.

    any_user: not only root may write there, but whoever is in the group 0.
    Making it raises ProjectError for a file that is no longer what was taken.
    """
    top = os.fsencode(directory.strip("/"))
    members = _members(taken, top, any_user=any_user)
    size = sum(len(head) + tar.room(entry.size) for head, entry, _ in members if entry) + sum(
        len(head) for head, entry, _ in members if entry is None
    )

    def chunks() -> Iterator[bytes]:
        for head, entry, seen in members:
            yield head
            if entry is not None:
                place = os.path.join(os.fsencode(root), os.fsencode(entry.path))
                yield from _content(place, entry, seen, young=os.fsencode(entry.path) in young)
        yield tar.END

    young = taken.young
    return Layer(size + len(tar.END), lambda: tar.gathered(chunks()))


def _members(
    taken: Taken, top: bytes, *, any_user: bool
) -> list[tuple[bytes, Entry | None, bytes]]:
    """Return headers, each with its entry and signature; None for a directory's.

    any_user: the group, which is 0, may do what the owner may, for a cluster may give a pod any
    user and this group. See "Support arbitrary user ids" in OpenShift's guidelines for images.
    """
    group = 0o020 if any_user else 0
    made: list[tuple[bytes, Entry | None, bytes]] = []
    known: set[bytes] = set()

    def enter(directory: bytes) -> None:
        if directory and directory not in known:
            enter(directory.rpartition(b"/")[0])
            known.add(directory)
            mode = 0o755 | (group if directory.startswith(top) else 0)
            made.append((tar.header(directory + b"/", tar.DIRECTORY, mode=mode), None, b""))

    enter(top)
    for entry, seen in zip(taken.entries(), taken.selection.signatures, strict=True):
        name = top + b"/" + os.fsencode(entry.path)
        enter(name.rpartition(b"/")[0])
        made.append((_header(name, entry, group), entry, seen))
    return made


def _header(name: bytes, entry: Entry, group: int) -> bytes:
    if entry.kind == listing.SYMLINK:
        return tar.header(name, tar.SYMLINK, target=os.fsencode(entry.content), mode=0o777)
    mode = 0o755 if entry.kind == listing.EXECUTABLE else 0o644
    return tar.header(name, size=entry.size, mode=mode | group)


def _content(place: bytes, entry: Entry, seen: bytes, *, young: bool) -> Iterator[bytes]:
    try:
        if entry.kind == listing.SYMLINK:
            if os.readlink(place) != os.fsencode(entry.content):
                raise _changed(entry)
            return
        descriptor = os.open(place, _FLAGS)
    except OSError as error:
        raise _unreadable(entry, error) from error
    # A file that was just written may change without a trace: then what it holds is compared.
    made = hashlib.sha256() if young else None
    try:
        if signature.of(os.fstat(descriptor)) != seen:
            raise _changed(entry)
        left = entry.size
        while left:
            chunk = os.read(descriptor, min(left, _CHUNK))
            if not chunk:
                raise _changed(entry)
            left -= len(chunk)
            if made is not None:
                made.update(chunk)
            yield chunk
        if signature.of(os.fstat(descriptor)) != seen:
            raise _changed(entry)
    except OSError as error:
        raise _unreadable(entry, error) from error
    finally:
        os.close(descriptor)
    if made is not None and f"sha256:{made.hexdigest()}" != entry.content:
        raise _changed(entry)
    yield tar.padding(entry.size)


def _changed(entry: Entry) -> BuildrunError:
    return ProjectError(
        f"`{printable(entry.path)}` changed while the image was made", hint="run it again"
    )


def _unreadable(entry: Entry, error: OSError) -> BuildrunError:
    if error.errno in _OTHER:
        return _changed(entry)
    name = printable(entry.path)
    return ProjectError(f"`{name}` cannot be read into the image: {error.strerror}")
