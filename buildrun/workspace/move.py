"""Moving and deleting trees without following links."""

import errno
import os
import stat

from buildrun.store.cas import Copier, ignore_errors
from buildrun.store.files import closing, open_beneath

# A directory that something is mounted on, another mount, or an image's layer cannot be renamed.
_FIXED = frozenset({errno.EXDEV, errno.EBUSY})
_FILLED = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_OWNER = stat.S_IRWXU
# A copy on its way; where a kill has left one, the next copy to that directory begins anew.
_PART = ".buildrun-part"


def rename(name: str, source: int, new_name: str, target: int) -> bool:
    """Move an entry of one open directory to another in one step.

    Returns False where that cannot be done with this entry, and raises other OSErrors.
    """
    try:
        try:
            os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
        except PermissionError:
            # To move a directory that may only be read needs the right to write to it.
            if not _open_up(name, source):
                raise
            os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    except OSError as error:
        if error.errno in _FIXED:
            return False
        raise
    return True


def copy_move(name: str, source: int, new_name: str, target: int) -> None:
    """Move an entry piece by piece into what is there; raises OSError.

    What can be moved in one step is. A directory that cannot be removed stays, empty.
    """
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        if not rename(name, source, new_name, target):
            _copy(name, source, new_name, target, status)
            os.unlink(name, dir_fd=source)
        return
    try:
        if rename(name, source, new_name, target):
            return
    except OSError as error:
        if error.errno not in _FILLED:
            raise
    try:
        os.mkdir(new_name, dir_fd=target)
    except FileExistsError:
        pass
    _carry_children(name, source, new_name, target)
    os.chmod(new_name, stat.S_IMODE(status.st_mode), dir_fd=target)
    try:
        os.rmdir(name, dir_fd=source)
    except OSError as error:
        if error.errno not in _FIXED:
            raise


def is_empty(name: str, directory: int) -> bool:
    """Return whether there is nothing, or a directory without anything in it."""
    try:
        with closing(open_beneath(directory, name)) as opened:
            return not os.listdir(opened)
    except OSError as error:
        return isinstance(error, FileNotFoundError)


def delete(path: str) -> None:
    """Delete a file or a whole tree as far as possible; no link is followed, nothing raised."""
    try:
        os.unlink(path)
    except OSError:
        clear(path)
        ignore_errors(os.rmdir, path)  # something is mounted there, or somebody still writes to it


def clear(path: str) -> None:
    """Delete what is in a directory as far as possible; without recursion, for it may be deep."""
    directories = [path] if os.path.isdir(path) and not os.path.islink(path) else []
    for directory in directories:
        _open_up(directory)
        try:
            with os.scandir(directory) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)  # the loop comes to it
                    else:
                        ignore_errors(os.unlink, entry.path)
        except OSError:
            continue
    for directory in reversed(directories[1:]):
        ignore_errors(os.rmdir, directory)


def _carry_children(name: str, source: int, new_name: str, target: int) -> None:
    _open_up(name, source)
    with (
        closing(open_beneath(source, name)) as inside,
        closing(open_beneath(target, new_name)) as there,
    ):
        for child in os.listdir(inside):
            if child == _PART:
                os.unlink(child, dir_fd=inside)  # a killed process was about to fill it
            else:
                copy_move(child, inside, child, there)


def _copy(name: str, source: int, new_name: str, target: int, status: os.stat_result) -> None:
    """Copy a file or a link; it appears under its new name whole."""
    try:
        os.unlink(_PART, dir_fd=target)
    except FileNotFoundError:
        pass
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), _PART, dir_fd=target)
    elif not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EXDEV, "a device, pipe or socket cannot be copied", name)
    else:
        _copy_file(name, source, target, status)
    os.rename(_PART, new_name, src_dir_fd=target, dst_dir_fd=target)


def _copy_file(name: str, source: int, target: int, status: os.stat_result) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    creating = os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags
    with (
        closing(os.open(name, os.O_RDONLY | flags, dir_fd=source)) as reading,
        closing(os.open(_PART, creating, 0o600, dir_fd=target)) as writing,
    ):
        try:
            Copier().copy_unread(reading, writing)
            os.fchmod(writing, stat.S_IMODE(status.st_mode))
            os.utime(writing, ns=(status.st_atime_ns, status.st_mtime_ns))
        except BaseException:
            os.unlink(_PART, dir_fd=target)
            raise


def _open_up(name: str, directory: int | None = None) -> bool:
    """Give the owner all rights to a directory; returns whether it had not all of them."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode) or mode & _OWNER == _OWNER:
            return False
        os.chmod(name, stat.S_IMODE(mode) | _OWNER, dir_fd=directory)
    except OSError:
        return False
    return True
