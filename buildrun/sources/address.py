"""What the user names a project by: split, and refused where it can only be meant badly."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from buildrun.console import near_path, printable, redact
from buildrun.errors import ProjectError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# `user@host:path`, as ssh and git have it; `host:path` as well.
_SCP = re.compile(r"(?:[^@/:\s]+@)?(?:\[[0-9A-Fa-f:.]+\]|[^@/:\s]+):(?!//|:)[^\s]")
# git would start the program `git-remote-NAME` for `NAME::…`.
_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")


class Address(NamedTuple):
    """A project's URI without quotes and subdirectory."""

    base: str
    subdirectory: str
    path: str | None  # absolute, of what is on this machine

    @property
    def scheme(self) -> str:
        """Return the scheme in lower case, or ""."""
        found = _SCHEME.match(self.base)
        return found.group(1).lower() if found else ""

    @property
    def is_scp(self) -> bool:
        """Return whether it has ssh's short form."""
        return not self.scheme and _SCP.match(self.base) is not None

    @property
    def shown(self) -> str:
        """Return it for people: without credentials, which a query may bear as well."""
        text = shown(self.base)
        return f"{text}#{printable(self.subdirectory)}" if self.subdirectory else text


def parse(uri: str, cwd: str) -> Address:
    """Return the address; raises ProjectError for one that names no project."""
    base, _, subdirectory = uri.strip("'\"").partition("#")
    if "\0" in uri:
        raise ProjectError("the project's path holds a NUL byte")
    path = local_path(base, cwd)
    subdirectory = _within(subdirectory, path)
    if path is not None and os.path.lexists(path):
        return Address(base, subdirectory, path)
    refuse(base)
    remote = bool(_SCHEME.match(base) or _SCP.match(base)) and not _is_file(base)
    if path is None or remote:
        return Address(base, subdirectory, None)
    raise ProjectError(
        f"there is no project at `{shown(base)}`",
        hint=near_path(base, cwd)
        or "give the directory that holds the MLproject file, such as `.`, or a git URL",
    )


def refuse(base: str) -> None:
    """Raise ProjectError for what no address may be: an option, a command, several lines."""
    if base.startswith("-"):
        raise ProjectError(
            f"`{shown(base)}` is an option, not a project", hint=f"a directory: `./{shown(base)}`"
        )
    if any(not char.isprintable() for char in base):
        raise ProjectError(
            f"there is no project at `{shown(base)}`: a URI holds no control characters",
            hint="give a URI on one line",
        )
    if _HELPER.match(base):
        raise ProjectError(
            f"`{shown(base)}` names a transport of git's that may run any command",
            hint="give an https:// or ssh:// URL",
        )
    host = re.match(r"(?:[A-Za-z0-9+.-]+://)?(?:[^@/]*@)?(-[^/:]*)", base)
    if host:
        raise ProjectError(f"`{printable(host.group(1))}` is an option, not a host")


def shown(base: str) -> str:
    """Return an address for people, without credentials."""
    text = redact(base)
    if _SCHEME.match(text):
        text = text.partition("?")[0]
    return printable(text)


def clone_name(url: str) -> str:
    """Return what a clone of the URL would be called."""
    name = re.split(r"[/:]", url.partition("?")[0].rstrip("/"))[-1]
    return name.removesuffix(".git")


def local_path(base: str, cwd: str) -> str | None:
    """Return the absolute path that a base would name here, or None for other schemes."""
    if _is_file(base):
        from urllib.parse import unquote, urlsplit

        parts = urlsplit(base)
        base = unquote(parts.netloc + parts.path if parts.netloc != "localhost" else parts.path)
        if "\0" in base:
            raise ProjectError("the project's path holds a NUL byte")
    elif _SCHEME.match(base):
        return None
    return os.path.abspath(os.path.join(cwd, base))


def enter(directory: str, subdirectory: str, shown: str) -> str:
    """Return the subdirectory of a project's directory; raises ProjectError."""
    if not subdirectory:
        return directory
    inside = os.path.join(directory, os.path.normpath(subdirectory))
    if not os.path.isdir(inside):
        raise ProjectError(f"could not find subdirectory `{printable(subdirectory)}` of {shown}")
    real = os.path.realpath(inside)
    if os.path.commonpath([real, os.path.realpath(directory)]) != os.path.realpath(directory):
        raise ProjectError(
            f"the subdirectory `#{printable(subdirectory)}` is a link out of the project"
        )
    return inside


def _within(subdirectory: str, path: str | None) -> str:
    """Return the subdirectory relative to the project, whose absolute path may stand before it."""
    if ".." in subdirectory.split("/"):
        raise ProjectError(
            f"the subdirectory `#{printable(subdirectory)}` leaves the project",
            hint="give a path below the project, without `..`",
        )
    if path is not None and f"{subdirectory}/".startswith(f"{path}/"):
        subdirectory = subdirectory[len(path) :]
    return subdirectory.strip("/")


def _is_file(base: str) -> bool:
    return base.lower().startswith("file:")
