"""Paths inside the project, as entry points name them."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Mapping
from typing import Literal

from buildrun.project.compose import Path
from buildrun.project.findings import Findings

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FIELD = re.compile(r"\{([\w-]+)\}")
_VARIABLE = re.compile(r"\$(\{?[A-Za-z_]|\()")
_RELATIVE = "write a path relative to the project's root"


def problem(text: str, what: str) -> tuple[Literal["outside", "bad"], str, str] | None:
    """Return what is wrong with a path or pattern in itself: kind, message and hint; or None.

    what: the words before the path in the message.
    """
    named = f"{what} `{text[:60]}`"
    if _SCHEME.match(text):
        hint = "download or upload in the command; a parameter of type `path` takes a URI"
        return "outside", f"{named} is a URI, not a path in the project", hint
    if text.startswith("/"):
        return "outside", f"{named} is an absolute path", _RELATIVE
    if text.startswith("~"):
        hint = f"{_RELATIVE}; for a file of this name write `./{text[:60]}`"
        return "outside", f"{named} begins with `~`, which nothing fills in", hint
    if posixpath.normpath(text).split("/")[0] == "..":
        return "outside", f"{named} lies outside the project", f"{_RELATIVE}, without `..`"
    if not _can_be_a_name(text):
        return "bad", f"{named} holds what no file name can", "remove the character"
    return None


def reserved(root: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return what the files are, absolute paths, by their path in the root; others are left out."""
    inside = {os.path.relpath(path, root): what for path, what in files.items()}
    return {path: what for path, what in inside.items() if path.split("/")[0] != ".."}


def check_fields(findings: Findings, path: Path, text: str, parameters: Collection[str]) -> None:
    """Warn of parameters and variables in a path, which nothing fills in."""
    fields = [match for match in _FIELD.findall(text) if match in parameters]
    if not fields and not _VARIABLE.search(text):
        return
    what = f"`{{{fields[0]}}}`" if fields else "`$`"
    message = f"{what} stands as it is: nothing fills in a path of `{path[-2]}`"
    hint = "name a fixed path, or the directory above what varies"
    findings.warning("not-filled-in", message, path, hint=hint)


def _can_be_a_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except ValueError:
        return False
