"""The one walk through a tree, for keys, images and archives alike."""

import os
from collections.abc import Callable, Iterator

Found = tuple[bytes, os.stat_result]

# Told a directory's path, with a slash at its end or empty, and what it holds by name; returns
# what of it counts.
Choose = Callable[[bytes, dict[bytes, "os.DirEntry[bytes]"]], dict[bytes, "os.DirEntry[bytes]"]]

# Told the path of a directory that cannot be read, and why.
Trouble = Callable[[bytes, OSError], None]

_Level = Iterator[tuple[bytes, "os.DirEntry[bytes] | None"]]


def everything(
    below: bytes, held: dict[bytes, "os.DirEntry[bytes]"]
) -> dict[bytes, "os.DirEntry[bytes]"]:
    """Choose all that a directory holds."""
    del below
    return held


def walk(
    root: bytes, below: bytes, choose: Choose, trouble: Trouble, *, directories: bool = False
) -> Iterator[Found]:
    """Yield what is beneath a directory: paths relative to the root, each with its lstat.

    below: the directory, relative to the root, with a slash at its end; empty for the root.
    directories: whether they are told as well; they are entered in any case.
    The order is that of the paths' bytes. Links are told and never followed. What vanishes
    meanwhile is not told.
    """
    stack = [_level(root, below, choose, trouble)]
    while stack:
        for path, entry in stack[-1]:
            try:
                if entry is None:
                    if directories:
                        yield path[:-1], os.lstat(os.path.join(root, path[:-1]))
                    stack.append(_level(root, path, choose, trouble))
                    break
                yield path, entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
        else:
            stack.pop()


def _level(root: bytes, below: bytes, choose: Choose, trouble: Trouble) -> _Level:
    """Return what a directory holds, in order; a subdirectory ends in a slash and has no entry."""
    try:
        with os.scandir(os.path.join(root, below) or b".") as listing:
            held = {entry.name: entry for entry in listing}
    except (FileNotFoundError, NotADirectoryError):
        return iter(())  # it vanished, or something else took its place
    except OSError as error:
        trouble(below, error)
        return iter(())
    rows = [
        (below + name + b"/", None)
        if entry.is_dir(follow_symlinks=False)
        else (below + name, entry)
        for name, entry in choose(below, held).items()
    ]
    rows.sort(key=_path)
    return iter(rows)


def _path(row: tuple[bytes, object]) -> bytes:
    return row[0]
