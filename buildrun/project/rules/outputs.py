"""Rules of `outputs`: inside the project, overlapping no other."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from buildrun.project.diagnostics import Findings, Path
from buildrun.project.model import Declared
from buildrun.project.rules.values import is_passable, items
from buildrun.store.home import STAGING


class _Output(NamedTuple):
    """An output, with its number and its place in the document."""

    parts: list[str]
    number: int
    path: Path
    owner: str
    text: str


def read_outputs(
    findings: Findings,
    path: Path,
    value: object,
    parameters: Collection[str],
    reserved: Mapping[str, str],
) -> tuple[tuple[Path, str], ...]:
    """Return the outputs that are in order, normalised, with their paths in the document."""
    found = []
    for where, text in items(path, value):
        if isinstance(text, str) and text and _check(findings, where, text, reserved):
            check_fields(findings, where, text, parameters)
            found.append((where, _normal(text)))
    return tuple(found)


def check_overlaps(findings: Findings, entry_points: Sequence[Declared]) -> None:
    """Check that no two outputs are the same or one within the other."""
    every = [
        _Output(output.rstrip("/").split("/"), number, where, entry_point.name, output)
        for number, (entry_point, where, output) in enumerate(
            (entry_point, *item) for entry_point in entry_points for item in entry_point.outputs
        )
    ]
    above: list[_Output] = []
    # In this order what lies within a directory follows it at once.
    for item in sorted(every, key=lambda item: item[:2]):
        while above and item.parts[: len(above[-1].parts)] != above[-1].parts:
            above.pop()
        if above:
            first, second = sorted((above[0], item), key=lambda each: each.number)
            _report_overlap(findings, first, second)
        above.append(item)


def _report_overlap(findings: Findings, first: _Output, second: _Output) -> None:
    line, column = findings.document.place(first.path)
    owner = "the same entry point" if first.owner == second.owner else f"`{first.owner}`"
    message = (
        f"the output `{second.text[:60]}` of `{second.owner}` overlaps with "
        f"`{first.text[:60]}` of {owner}, in line {line}, column {column}"
    )
    hint = "let each file be the output of one entry point, once"
    findings.error("overlapping-outputs", message, second.path, hint=hint)


def _check(findings: Findings, path: Path, text: str, reserved: Mapping[str, str]) -> bool:
    found = problem(text, "the output")
    if found is not None:
        is_outside, message, hint = found
        findings.error("output-outside" if is_outside else "bad-output", message, path, hint=hint)
        return False
    refusal = _refusal(_normal(text).rstrip("/"), reserved)
    if refusal is None:
        return True
    findings.error("bad-output", f"the output `{text[:60]}` {refusal[0]}", path, hint=refusal[1])
    return False


def _refusal(output: str, reserved: Mapping[str, str]) -> tuple[str, str] | None:
    """Return why a normalised path is no output, and what to do; or None."""
    parts = output.split("/")
    if output == ".":
        return "is the project itself", "name the files and directories that the command makes"
    if "*" in output or "?" in output:
        return "is a pattern", "outputs are paths: name the directory that holds the files"
    taken = {
        "belongs to git": ".git" in parts,
        f"begins as buildrun's own do, with `{STAGING}`": any(
            part.startswith(STAGING) for part in parts
        ),
        "is the MLproject file": output.lower() == "mlproject",
    }
    taken |= {f"is {what}": path == output for path, what in reserved.items()}
    taken |= {
        f"holds {what}, `{path[:60]}`": path.startswith(output + "/")
        for path, what in reserved.items()
    }
    reason = next((reason for reason, holds in taken.items() if holds), None)
    return None if reason is None else (reason, "name another path, made by the command alone")


def _normal(text: str) -> str:
    slash = "/" if text.endswith(("/", "/.")) else ""
    return posixpath.normpath(text) + slash


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FIELD = re.compile(r"\{([\w-]+)\}")
_VARIABLE = re.compile(r"\$(\{?[A-Za-z_]|\()")
_RELATIVE = "write a path relative to the project's root"


def problem(text: str, what: str) -> tuple[bool, str, str] | None:
    """Return whether a path lies outside, what is wrong with it, and a hint; or None."""
    named = f"{what} `{text[:60]}`"
    if _SCHEME.match(text):
        hint = "download or upload in the command; a parameter of type `path` takes a URI"
        return True, f"{named} is a URI, not a path in the project", hint
    if text.startswith("/"):
        return True, f"{named} is an absolute path", _RELATIVE
    if text.startswith("~"):
        hint = f"{_RELATIVE}; for a file of this name write `./{text[:60]}`"
        return True, f"{named} begins with `~`, which nothing fills in", hint
    if posixpath.normpath(text).split("/")[0] == "..":
        return True, f"{named} lies outside the project", f"{_RELATIVE}, without `..`"
    if not is_passable(text):
        return False, f"{named} holds what no file name can", "remove the character"
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
