"""Lines of pip requirements files, as far as a check before any download can judge them."""

from __future__ import annotations

import re

_VERSION = (
    r"v?(\d+!)?\d+(\.\d+)*([._-]?(a|b|c|rc|alpha|beta|pre|preview)[._-]?\d*)?"
    r"(-\d+|[._-]?(post|rev|r)[._-]?\d*)?([._-]?dev[._-]?\d*)?"
)
_CLAUSE = (
    rf"((===\s*\S+)|(~=|<=|>=|<|>)\s*{_VERSION}(\+[\w.-]+)?|(==|!=)\s*{_VERSION}(\.\*|\+[\w.-]+)?)"
)
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*(\[[\w\s.,-]*\])?\s*"
    rf"(@\s*\S+|\(?\s*({_CLAUSE}\s*(,\s*{_CLAUSE}\s*)*,?)?\s*\)?)\s*",
    re.IGNORECASE,
)
# What pip looks for on the disk or fetches, and only then knows.
_PLACE = re.compile(
    r"\.|file:|.*(://|[/\\]|\$\{)|.*\.(whl|zip|t(ar\.)?(gz|bz2|xz|lzma)|tar)(\[[^]]*\])?$",
    re.IGNORECASE,
)
_FILE = re.compile(r"\s*(?:-r|-c|--requirements?|--constraints?)(?:\s*=\s*|\s*)(?P<file>[^#]*)")
_SINGLE_EQUALS = re.compile(r"(?P<name>[\w.-]+)\s*=\s*(?P<version>[\d.]+)(=.*)?")


def is_valid(line: str) -> bool:
    """Return whether pip can take a line; options, paths, URLs and variables pass unread."""
    text = re.split(r"\s#|^#", line, maxsplit=1)[0].strip()
    text = re.split(r"\s--", text.split(";", 1)[0], maxsplit=1)[0].strip()
    if not text or text.startswith("-") or _PLACE.match(text):
        return True
    return len(text) < 1000 and _REQUIREMENT.fullmatch(text) is not None


def remedy(line: str) -> str:
    """Return what an invalid line should be, as a hint."""
    match = _SINGLE_EQUALS.fullmatch(line.strip())
    if match:
        return f"pip pins with two signs: `{match['name']}=={match['version']}`"
    return "write it as `name==version`"


def named_file(line: str) -> str | None:
    """Return the local file that a ``-r`` or ``-c`` line names, or None."""
    match = _FILE.match(line)
    name = match["file"].strip().strip("\"'") if match else ""
    return name if name and "://" not in name and "${" not in name else None
