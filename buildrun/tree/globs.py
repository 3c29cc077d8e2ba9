"""Globs as git has them, as regular expressions.

The rules are those of git's ``wildmatch.c`` with ``WM_PATHNAME``: ``*`` and ``?`` do not cross a
slash, ``**`` between slashes does, ``[...]`` are sets, a backslash takes the next character as it
is. What is malformed matches nothing.
"""

import re

NEVER = "(?!)"

_CLASSES = {
    "alnum": (("0", "9"), ("A", "Z"), ("a", "z")),
    "alpha": (("A", "Z"), ("a", "z")),
    "blank": ((" ", " "), ("\t", "\t")),
    "cntrl": (("\0", "\x1f"), ("\x7f", "\x7f")),
    "digit": (("0", "9"),),
    "graph": (("!", "~"),),
    "lower": (("a", "z"),),
    "print": ((" ", "~"),),
    "punct": (("!", "/"), (":", "@"), ("[", "`"), ("{", "~")),
    "space": (("\t", "\r"), (" ", " ")),
    "upper": (("A", "Z"),),
    "xdigit": (("0", "9"), ("A", "F"), ("a", "f")),
}

Range = tuple[str, str]


class _Malformed(Exception):
    """A set that is not closed, or a class that there is not."""


def is_glob(text: str) -> bool:
    """Return whether the text has a character that means something else than itself."""
    return any(character in text for character in "*?[\\")


def translate(glob: str) -> str:
    """Return a regular expression, to be compiled with ``re.DOTALL``, for the whole of a path."""
    parts: list[str] = []
    position = 0
    try:
        while position < len(glob):
            part, position = _next(glob, position)
            parts.append(part)
    except _Malformed:
        return NEVER
    return "".join(parts)


def _next(glob: str, position: int) -> tuple[str, int]:
    character = glob[position]
    if character == "*":
        return _stars(glob, position)
    if character == "?":
        return "[^/]", position + 1
    if character == "[":
        return _set(glob, position + 1)
    if character == "\\":
        return re.escape(_at(glob, position + 1)), position + 2
    return re.escape(character), position + 1


def _stars(glob: str, position: int) -> tuple[str, int]:
    end = position
    while end < len(glob) and glob[end] == "*":
        end += 1
    alone = position == 0 or glob[position - 1] == "/"
    if end - position < 2 or not alone:
        return "[^/]*", end
    if end == len(glob) or glob.startswith("\\/", end):
        return ".*", end
    return ("(?:.*/)?", end + 1) if glob[end] == "/" else ("[^/]*", end)


def _set(glob: str, position: int) -> tuple[str, int]:
    negated = _at(glob, position) in "!^"
    if negated:
        position += 1
    ranges: list[Range] = []
    before = ""  # what a range may start with
    while True:
        character = _at(glob, position)
        if character == "\\":
            position += 1
            before = _at(glob, position)
            ranges.append((before, before))
        elif character == "-" and before and glob[position + 1 : position + 2] not in ("", "]"):
            position += 2 if glob[position + 1] == "\\" else 1
            ranges.append((before, _at(glob, position)))
            before = ""
        elif glob.startswith("[:", position) and (named := _class(glob, position + 2)):
            ranges.extend(named[0])
            position = named[1]
            before = ""
        else:
            ranges.append((character, character))
            before = character
        position += 1
        if _at(glob, position) == "]":
            return _alternatives(ranges, negated=negated), position + 1


def _class(glob: str, start: int) -> tuple[tuple[Range, ...], int] | None:
    """Return the ranges of ``[:name:]`` and where its last character is; None for a mere ``[``."""
    end = glob.find("]", start)
    if end < 0:
        raise _Malformed
    if end == start or glob[end - 1] != ":":
        return None
    name = glob[start : end - 1]
    if name not in _CLASSES:
        raise _Malformed
    return _CLASSES[name], end


def _alternatives(ranges: list[Range], *, negated: bool) -> str:
    body = "".join(
        f"{re.escape(first)}-{re.escape(last)}" for first, last in ranges if first <= last
    )
    if negated:
        return f"[^/{body}]"
    return f"(?!/)[{body}]" if body else NEVER


def _at(glob: str, position: int) -> str:
    if position >= len(glob):
        raise _Malformed
    return glob[position]
