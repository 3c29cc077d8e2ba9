"""Requirement lines: followed through the files they name, kept with their places.

The grammar is pip's: comments, continuation lines, ``-r``, ``-c``, ``-e`` and local paths.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

from buildrun.console import redact
from buildrun.errors import EnvironmentFailure
from buildrun.project.rules.environments import Parsed, parse
from buildrun.store.files import NotAFile
from buildrun.store.memo import DependencyTracker

_COMMENT = re.compile(r"(^|\s)#.*$")
_CODING = re.compile(rb"^[ \t]*#.*coding[:=][ \t]*([-\w.]+)", re.MULTILINE)
EDITABLE = re.compile(r"^(?:-e|--editable)(?:\s*=\s*|\s+)(.+)$")
_DIRECT = re.compile(r"^[A-Za-z0-9._-]+(?:\[[^]]*\])?\s*@\s*(.+)$")
_SUFFIXES = re.compile(r"(\.whl|\.zip|\.tar\.gz|\.tar\.bz2|\.tgz|\.tar)$")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_SOURCES = ("--index-url", "--extra-index-url", "--find-links", "--no-index", "--trusted-host")
# A line with a path, and an option with one.
_LOCAL = re.compile(
    r"((?:(?:-e|--editable)(?:\s*=\s*|\s+))?)((?:[A-Za-z0-9._-]+(?:\[[^]]*\])?\s*@\s*)?)"
    r"(\S+?)((?:\[[^]/]*\])?(?:#\S*)?(?:\s.*)?)"
)
_LINKS = re.compile(r"(--find-links|--index-url|--extra-index-url) (.+)")


class Line(NamedTuple):
    """One requirement or option.

    text: without comment. path and number: where it stands. constraint: it came through ``-c``.
    """

    text: str
    path: str
    number: int
    constraint: bool = False

    @property
    def place(self) -> str:
        """Return the file and number, for messages."""
        return f"{self.path}:{self.number}" if self.number else self.path


def follow(
    lines: Sequence[str], origin: str, root: str, reader: DependencyTracker
) -> tuple[Line, ...]:
    """Return every line, those of the files named by ``-r`` and ``-c`` in their place.

    lines: the top level, read from ``origin``. root: what its paths are relative to; paths in a
        file are relative to that file.
    Raises EnvironmentFailure for an unreadable file and for a cycle.
    """
    top = logical_lines(lines, origin)
    return tuple(_walk(top, root, (), reader, constraint=False))


def logical_lines(lines: Sequence[str], origin: str) -> list[Line]:
    """Return lines without comments, each whole; the files they name are not followed."""
    return _logical_lines("\n".join(lines), origin, located=False)


def sources(lines: Iterable[Line]) -> list[Line]:
    """Return the lines that say where packages come from, locked ones as well."""
    return [line for line in lines if line.text.startswith(_SOURCES)]


def local_path(line: Line, root: str) -> str | None:
    """Return the absolute path that a line installs from, or None."""
    editable = EDITABLE.match(line.text)
    target = editable.group(1) if editable else line.text
    if direct := _DIRECT.match(target):
        target = direct.group(1)
    target = re.split(r" (?:;|--hash=)", target)[0].strip()
    if target.startswith("file:"):
        target = unquote(re.sub(r"^file:(//(localhost)?)?", "", target).split("#")[0])
    elif "://" in target or not (editable or _looks_local(target)):
        return None
    path = re.sub(r"\[[^]/]*\]$", "", target)
    base = root if line.number == 0 else os.path.dirname(line.path)
    candidates = (os.path.join(base, path), os.path.join(root, path))
    return os.path.abspath(next((item for item in candidates if os.path.exists(item)), path))


def rewrite_paths(
    line: Line,
    root: str,
    target: Callable[[str, bool], str],
    address: Callable[[str, str], str],
) -> str:
    """Return a line's text with other paths.

    target: told the path that the line installs from, and whether it is editable. address: told
    the path or URL of an option, and the directory that it is relative to. Both return another.
    """
    base = os.path.dirname(line.path) if line.number else root
    if option := _LINKS.fullmatch(line.text):
        return f"{option.group(1)} {address(option.group(2), base)}"
    path = local_path(line, root)
    match = _LOCAL.fullmatch(line.text)
    if path is None or match is None:
        return line.text
    editable, name, _, rest = match.groups()
    there = target(path, bool(editable))
    if name or "#" in rest or " " in there:
        there = f"file://{quote(there)}"
    return f"{editable}{name}{there}{rest}"


def name_of(text: str) -> str:
    """Return the distribution's normalised name at the start of a line, or ""."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", text)
    return re.sub(r"[-_.]+", "-", match.group()).lower() if match else ""


def _looks_local(target: str) -> bool:
    return target.startswith((".", "/")) or (
        bool(_SUFFIXES.search(target)) or ("/" in target and " " not in target)
    )


def _walk(
    lines: Sequence[Line],
    base: str,
    trail: tuple[str, ...],
    reader: DependencyTracker,
    *,
    constraint: bool,
) -> Iterator[Line]:
    for line in lines:
        parsed = _parsed(line, reader)
        if parsed.requirement:
            words = (parsed.requirement, *(f"{name}={value}" for name, value in parsed.options))
            yield line._replace(text=" ".join(words), constraint=constraint)
            continue
        includes = [item for item in parsed.options if item[0] in ("--requirement", "--constraint")]
        if not includes or "://" in includes[0][1]:
            for option in includes[:1] or parsed.options:
                yield line._replace(text=" ".join(option).strip(), constraint=constraint)
            continue
        kind, name = includes[0]  # beside it pip heeds nothing
        path = os.path.abspath(os.path.join(base, name))
        if path in trail:
            chain = " -> ".join(os.path.basename(item) for item in (*trail, path))
            raise EnvironmentFailure(
                f"requirement files include each other: {chain}",
                place=line.place,
                hint="take one of the `-r` lines out",
            )
        inner = _logical_lines(_read(path, line, reader), path, located=True)
        is_constraint = constraint or kind == "--constraint"
        yield from _walk(
            inner, os.path.dirname(path), (*trail, path), reader, constraint=is_constraint
        )


def _parsed(line: Line, reader: DependencyTracker) -> Parsed:
    """Return what a line is made of; variables in URLs stay, since they may be credentials."""
    text = line.text
    if "://" not in text or "file:" in text:
        text = expanded(text, reader.variable)
    try:
        return parse(text)
    except ValueError as error:
        raise EnvironmentFailure(
            f"pip cannot read `{redact(line.text)}`: {error}",
            place=line.place,
            hint="correct the line; options of `pip install` itself do not stand in requirements",
        ) from None


def expanded(text: str, variable: Callable[[str], str | None]) -> str:
    """Return a text with `${NAME}` replaced, where the variable has a value, as pip does it."""
    return VARIABLE.sub(lambda match: variable(match.group(1)) or match.group(), text)


def _read(path: str, line: Line, reader: DependencyTracker) -> str:
    try:
        content = reader.read(path)
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        coding = _CODING.search(b"\n".join(content.split(b"\n", 2)[:2]))
        return content.decode(coding.group(1).decode() if coding else "utf-8-sig")
    except (UnicodeDecodeError, LookupError):
        fact, hint = f"`{path}` is not UTF-8 text", "save it as UTF-8"
    except NotAFile as error:
        fact, hint = f"`{line.text}` names `{path}`: {error.strerror}", "put a file in its place"
    except OSError as error:
        fact = f"`{line.text}` names a file that cannot be read: {error.strerror}"
        place = "the file that names it" if line.number else "the project's root"
        hint = f"make `{path}`; the path is relative to {place}"
    raise EnvironmentFailure(fact, place=line.place, hint=hint)


def _logical_lines(text: str, path: str, *, located: bool) -> list[Line]:
    found: list[Line] = []
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        start = start or number
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            pending += raw[:-1]
            continue
        blank = " " if raw.lstrip().startswith("#") else ""  # so that it is a comment
        whole = _COMMENT.sub("", pending + blank + raw).strip()
        if whole:
            found.append(Line(whole, path, start if located else 0))
        pending, start = "", 0
    if pending.strip():
        found.append(Line(pending.strip(), path, start if located else 0))
    return found
