"""The system calls by which programs reach files: their numbers and where their arguments are."""

import os
from typing import Literal, NamedTuple

Kind = Literal[
    "open", "run", "look", "readlink", "list", "make", "remove", "rename", "link", "change", "hide"
]  # fmt: skip


class Call(NamedTuple):
    """What a call does with a path.

    path, other: the numbers of the arguments that point to paths, -1 for none. directory,
    other_directory: those of the descriptors that relative paths begin at, -1 for the working
    directory. flags: that of the flags, -1 for none; given: flags that the call implies. follow:
    whether it follows a link at the path's end.
    """

    kind: Kind
    path: int
    directory: int = -1
    flags: int = -1
    given: int = 0
    other: int = -1
    other_directory: int = -1
    follow: bool = True


# Whose flags lie in memory, in a `struct open_how`.
OPENAT2 = "openat2"
# Has paths begin at the descriptor even where they are absolute.
RESOLVE_IN_ROOT = 0x10

CALLS = {
    "open": Call("open", 0, flags=1),
    "creat": Call("open", 0, given=os.O_CREAT | os.O_WRONLY | os.O_TRUNC),
    "openat": Call("open", 1, 0, flags=2),
    OPENAT2: Call("open", 1, 0),
    "execve": Call("run", 0),
    "execveat": Call("run", 1, 0),
    "stat": Call("look", 0),
    "lstat": Call("look", 0, follow=False),
    "newfstatat": Call("look", 1, 0),
    "statx": Call("look", 1, 0),
    "access": Call("look", 0),
    "chdir": Call("look", 0),
    "faccessat": Call("look", 1, 0),
    "faccessat2": Call("look", 1, 0),
    "readlink": Call("readlink", 0, follow=False),
    "readlinkat": Call("readlink", 1, 0, follow=False),
    "getdents": Call("list", -1, 0),
    "getdents64": Call("list", -1, 0),
    "mkdir": Call("make", 0),
    "mkdirat": Call("make", 1, 0),
    "mknod": Call("make", 0),
    "mknodat": Call("make", 1, 0),
    "symlink": Call("make", 1, follow=False),
    "symlinkat": Call("make", 2, 1, follow=False),
    "unlink": Call("remove", 0, follow=False),
    "unlinkat": Call("remove", 1, 0, follow=False),
    "rmdir": Call("remove", 0, follow=False),
    "truncate": Call("change", 0),
    "rename": Call("rename", 0, other=1, follow=False),
    "renameat": Call("rename", 1, 0, other=3, other_directory=2, follow=False),
    "renameat2": Call("rename", 1, 0, 4, other=3, other_directory=2, follow=False),
    "link": Call("link", 0, other=1, follow=False),
    "linkat": Call("link", 1, 0, 4, other=3, other_directory=2, follow=False),
    # After these, paths may mean something else for the program than for us.
    "chroot": Call("hide", -1),
    "pivot_root": Call("hide", -1),
    "mount": Call("hide", -1),
    "umount2": Call("hide", -1),
    "open_tree": Call("hide", -1),
    "fsmount": Call("hide", -1),
    "move_mount": Call("hide", -1),
    "setns": Call("hide", -1),
    "open_by_handle_at": Call("hide", -1),
}


class Architecture(NamedTuple):
    """Numbers of one architecture, from the kernel's `unistd.h`.

    audit: what the kernel calls it to filters. unavailable: calls that are refused as if the
    kernel did not have them: io_uring opens files that no filter sees, and programs that use it
    can do without.
    """

    audit: int
    numbers: dict[str, int]
    seccomp: int
    socket: int
    unavailable: tuple[int, ...] = (425,)


_COMMON = {"openat2": 437, "faccessat2": 439, "open_tree": 428, "move_mount": 429, "fsmount": 432}

ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        {
            "open": 2, "stat": 4, "lstat": 6, "access": 21, "execve": 59, "truncate": 76,
            "getdents": 78, "chdir": 80, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85,
            "link": 86, "unlink": 87, "symlink": 88, "readlink": 89, "mknod": 133,
            "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "getdents64": 217,
            "openat": 257, "mkdirat": 258, "mknodat": 259, "newfstatat": 262, "unlinkat": 263,
            "renameat": 264, "linkat": 265, "symlinkat": 266, "readlinkat": 267, "faccessat": 269,
            "open_by_handle_at": 304, "setns": 308, "renameat2": 316, "execveat": 322, "statx": 332,
            **_COMMON,
        },
        seccomp=317,
        socket=41,
    ),
    "aarch64": Architecture(
        0xC00000B7,
        {
            "mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37,
            "renameat": 38, "umount2": 39, "mount": 40, "pivot_root": 41, "truncate": 45,
            "faccessat": 48, "chdir": 49, "chroot": 51, "openat": 56, "getdents64": 61,
            "readlinkat": 78, "newfstatat": 79, "execve": 221, "open_by_handle_at": 265,
            "setns": 268, "renameat2": 276, "execveat": 281, "statx": 291, **_COMMON,
        },
        seccomp=277,
        socket=198,
    ),
}  # fmt: skip

# The same calls take their flags here, for the filter alone: `fstat` is one with an empty path.
EMPTY_PATH = 0x1000
STATS = {"newfstatat": 3, "statx": 2}


def here() -> Architecture | None:
    """Return the numbers of this machine, or None where they are not known."""
    return ARCHITECTURES.get(os.uname().machine)
