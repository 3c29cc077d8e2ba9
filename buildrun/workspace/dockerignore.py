"""What .dockerignore leaves out of an image."""

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from buildrun.errors import ProjectError
from buildrun.workspace import glob

NAME = ".dockerignore"
_BOM = b"\xef\xbb\xbf"
_ANY_DEPTH = "**"
# What Go's strings.TrimSpace takes off.
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class Pattern(NamedTuple):
    """One line, cleaned; parts: matchers of each, None for one that crosses directories."""

    text: str
    exception: bool
    matches: Callable[[str], bool]
    parts: tuple[Callable[[str], bool] | None, ...]

    @property
    def spells(self) -> bool:
        """Return whether its last part says more than "anything"."""
        return self.text.rpartition("/")[2].strip("*?") != ""


class Rules:
    """The patterns of a file, in order."""

    def __init__(self, patterns: Sequence[Pattern] = ()) -> None:
        """Take the patterns."""
        self._patterns = tuple(patterns)
        self._exceptions = tuple(pattern for pattern in patterns if pattern.exception)

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._patterns)

    def leaves_out(self, path: str) -> bool:
        """Return whether a path is left out of the image."""
        out = False
        above = list(_above(path))
        for pattern in self._patterns:
            if pattern.exception == out and (
                pattern.matches(path) or any(pattern.matches(directory) for directory in above)
            ):
                out = not pattern.exception
        return out

    def brings_back(self, path: str) -> bool:
        """Return whether the last pattern that means the path itself brings it back.

        A pattern whose last part is only a star brings nothing back that others leave out.
        """
        for pattern in reversed(self._patterns):
            if pattern.matches(path):
                return pattern.exception and pattern.spells
        return False

    def may_bring_back(self, directory: str, *, spelled: bool) -> bool:
        """Return whether there may be something beneath a directory to bring back.

        spelled: only what a pattern spells out, not what ``**`` may come to, counts.
        """
        names = directory.split("/")
        return any(
            _leads_into(pattern.parts, names, spelled=spelled)
            for pattern in self._exceptions
            if pattern.spells or not spelled
        )


def parse(content: bytes, *, place: str = NAME) -> Rules:
    """Return the rules of a file; raises ProjectError for a malformed pattern."""
    content = content.removeprefix(_BOM)
    patterns = []
    for number, line in enumerate(content.decode(errors="surrogateescape").split("\n"), 1):
        if line.startswith("#"):
            continue
        text = line.strip(_BLANKS)
        if not text:
            continue
        exception = text.startswith("!")
        text = _clean(text[1:].strip(_BLANKS)) if exception else _clean(text)
        if not text or glob.translate(text, docker=True) == glob.NEVER:
            raise ProjectError(
                "this pattern is malformed",
                place=f"{place}:{number}",
                hint="see https://docs.docker.com/build/concepts/context/#dockerignore-files",
            )
        patterns.append(_pattern(text, exception=exception))
    return Rules(patterns)


def _clean(text: str) -> str:
    """Return a path as Go's ``filepath.Clean`` has it, relative to the context."""
    if not text:
        return ""
    text = posixpath.normpath(text)
    if text.startswith("//"):
        text = text[1:]
    return text[1:] if len(text) > 1 and text[0] == "/" else text


def _pattern(text: str, *, exception: bool) -> Pattern:
    parts = tuple(None if _ANY_DEPTH in part else _matcher(part) for part in text.split("/"))
    return Pattern(text, exception, _matcher(text), parts)


def _matcher(text: str) -> Callable[[str], bool]:
    if not re.search(r"[*?\[\]\\]", text):
        return text.__eq__
    if text.startswith(_ANY_DEPTH) and not re.search(r"[*?\[\]\\]", text[2:]):
        # By the end of the path alone, as Docker has it: `**name` means `othername` too.
        end = text[2:]
        return lambda path: path.endswith(end) or "/" + path == end
    matching = re.compile(glob.translate(text, docker=True)).fullmatch
    return lambda path: matching(path) is not None


def _leads_into(
    parts: Sequence[Callable[[str], bool] | None], names: Sequence[str], *, spelled: bool
) -> bool:
    for number, name in enumerate(names):
        if number >= len(parts):
            return False
        matches = parts[number]
        if matches is None:
            return not spelled
        if not matches(name):
            return False
    return len(parts) > len(names)


def _above(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)
