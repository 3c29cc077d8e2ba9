"""Files with findings mended: edits that are certain, each proved by reading the result."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.errors import ProjectError
from buildrun.project.diagnostics import Diagnostic, Path
from buildrun.project.read import Row, check_files
from buildrun.project.rules.backends import load_json
from buildrun.project.yaml_loader import Document, load
from buildrun.store.files import publish, read
from buildrun.store.memo import DependencyTracker

# Readings of a project at most. One is enough where no edit has to be refused.
_TRIALS = 64
_LINE_END = re.compile("(\r\n|\r|\n)")


class Mended(NamedTuple):
    """A file with some of its findings mended."""

    path: str
    before: bytes
    after: bytes
    findings: tuple[Diagnostic, ...]  # those that are gone, with the places that they had


def mend(rows: Sequence[Row], cwd: str, environ: Mapping[str, str]) -> tuple[Mended, ...]:
    """Return the files that change when all is mended that certainly can be; nothing is written."""
    reader = _Drafts(environ)
    done: dict[str, list[Diagnostic]] = {}
    for argument in dict.fromkeys(
        row.argument for row in rows if any(item.fix for item in row.diagnostics)
    ):
        for finding in _mend(argument, cwd, reader):
            done.setdefault(os.path.realpath(finding.path), []).append(finding)
    return tuple(
        Mended(found[0].path, reader.originals[real], reader.given[real], tuple(found))
        for real, found in done.items()
    )


def write(mended: Mended) -> None:
    """Put a mended file into its place in one step; raises ProjectError.

    Its owner, group and rights stay, and links to it go on leading there.
    """
    real = os.path.realpath(mended.path)
    try:
        status, now = os.stat(real), read(real)
        if now == mended.before:
            publish(real, mended.after, mode=0o600, like=status)
            return
    except OSError as error:
        message = f"the file cannot be mended: {error.strerror or error}"
        hint = "give yourself the right to write it and its directory"
        raise ProjectError(message, place=mended.path, hint=hint) from error
    message = "the file was changed while it was being mended"
    raise ProjectError(message, place=mended.path, hint="run the command again")


class _Drafts(DependencyTracker):
    """Reads files as they would be."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Start without any."""
        super().__init__(environ)
        self.originals: dict[str, bytes] = {}  # what the first draft of each was made from


def _mend(argument: str, cwd: str, reader: _Drafts) -> Iterator[Diagnostic]:
    """Yield the findings that drafts mend, as many as can be at a time."""
    findings, refused = _check(argument, cwd, reader), set[tuple[str, int, int, str]]()
    size: int | None = None
    for _ in range(_TRIALS):
        batch = [item for item in findings if item.fix and _identity(item) not in refused][:size]
        if not batch:
            return
        done, size = _try(batch, findings, (argument, cwd), reader), None
        if done is not None:
            findings, mended = done
            yield from mended
            refused.clear()  # what stood in the way may be gone
        elif len(batch) > 1:
            size = len(batch) // 2
        else:
            refused.add(_identity(batch[0]))


def _identity(finding: Diagnostic) -> tuple[str, int, int, str]:
    return finding.path, finding.line, finding.column, finding.code


def _check(argument: str, cwd: str, reader: _Drafts) -> list[Diagnostic]:
    rows = check_files([argument], cwd, reader)
    return [finding for row in rows for finding in row.diagnostics]


def _try(
    batch: Sequence[Diagnostic],
    findings: Sequence[Diagnostic],
    check: tuple[str, str],
    reader: _Drafts,
) -> tuple[list[Diagnostic], list[Diagnostic]] | None:
    """Make drafts of edits; return what is found then and what they mend; None if anything is new.

    What comes to light on the same lines, and certainly can be mended, is mended as well.
    """
    before, mended = dict(reader.given), list(batch)
    groups = [[item for item in batch if item.path == path] for path in {i.path for i in batch}]
    if all(_draft(group, reader) for group in groups):
        after, lines = _check(*check, reader), {(item.path, item.line) for item in batch}
        more = _added(findings, after)
        if more and all(item.fix and (item.path, item.line) in lines for item in more):
            after, further = _try(more, after, check, reader) or (after, [])
            mended += further
        gone = Counter(map(_kind, findings)) - Counter(map(_kind, after))
        if not _added(findings, after) and gone >= Counter(map(_kind, batch)):
            return after, mended
    reader.given = before
    return None


def _added(before: Sequence[Diagnostic], after: Sequence[Diagnostic]) -> list[Diagnostic]:
    new = Counter(map(_kind, after)) - Counter(map(_kind, before))
    return [item for item in after if _kind(item) in new]


def _kind(finding: Diagnostic) -> tuple[str, str, str, int]:
    return finding.path, finding.severity, finding.code, finding.line


def _draft(findings: Sequence[Diagnostic], reader: _Drafts) -> bool:
    """Make the draft of their file; return whether its value changes as intended and no more."""
    path = findings[0].path
    load_file = load_json if path.lower().endswith(".json") else load
    real, old = os.path.realpath(path), load_file(path, reader)
    if not isinstance(old, Document):
        return False
    content = reader.given[real] if real in reader.given else reader.read(path)
    text = _edited(content, findings)
    if text is None:
        return False
    reader.originals.setdefault(real, content)
    reader.given[real] = text
    new = load_file(path, reader)
    intended = {path for item in findings for edit in item.fix for path in edit.changes}
    return isinstance(new, Document) and set(differences(old.value, new.value)) == intended


def _edited(content: bytes, findings: Sequence[Diagnostic]) -> bytes | None:
    """Return a file's content with edits, or None where it does not hold what they replace."""
    parts = _LINE_END.split(content.decode())  # every second one is a line
    edits = {(item.line, edit.column, edit.old, edit.new) for item in findings for edit in item.fix}
    for line, column, old, new in sorted(edits, reverse=True):
        text = "".join(parts[2 * line - 2 : 2 * line - 1])
        start = column - 1 + text.startswith("\ufeff")
        if not text.startswith(old, start):  # YAML knows more line ends than we
            return None
        parts[2 * line - 2] = text[:start] + new + text[start + len(old) :]
    return "".join(parts).encode()


def differences(old: Any, new: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of values that are there once only, or differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() ^ new.keys():
            yield (*path, key)
        for key in old.keys() & new.keys():
            yield from differences(old[key], new[key], (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, (*path, index))
    elif type(old) is not type(new) or repr(old) != repr(new):
        yield path
