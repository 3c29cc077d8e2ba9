"""Lines of pip requirements files, as far as a check before any download can judge them."""

from __future__ import annotations

import re
from typing import NamedTuple

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
_COMMENT = re.compile(r"(^|\s)#.*$")
_OPTIONS = (
    "requirement=", "constraint=", "editable=", "index-url=", "extra-index-url=", "find-links=",
    "no-index", "no-binary=", "only-binary=", "pre", "prefer-binary", "require-hashes",
    "trusted-host=", "use-feature=", "hash=", "config-settings=", "global-option=",
    "install-option=",
)  # fmt: skip
_SHORT = {
    "-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-i": "--index-url",
    "-f": "--find-links", "-C": "--config-settings",
}  # fmt: skip
# Options that pip heeds behind a requirement; others, which it knows, it ignores there.
OF_REQUIREMENTS = ("--hash", "--config-settings", "--global-option", "--install-option")
# What pip took until 2024, and uv does not: `>=1.*` is `>=1`, and `<=1.*` is `<1`.
_WILDCARD = re.compile(r"([<>])=?(\s*)(\d[\w.!]*?)\.\*")
_SINGLE_EQUALS = re.compile(r"(?P<name>[\w.-]+)\s*=\s*(?P<version>[\d.]+)(=.*)?")


class Parsed(NamedTuple):
    """A line as pip takes it apart.

    requirement: "" where there are options alone; an editable one begins with ``-e``.
    options: long names, and values ("" for flags). ignored: those behind a requirement that are
    without effect.
    """

    requirement: str
    options: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()


def parse(line: str) -> Parsed:
    """Take a line without comment apart; raises ValueError with what pip would not take."""
    from getopt import GetoptError, gnu_getopt

    words = line.split(" ")
    start = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    requirement = re.sub(r"\s*;\s*$", "", " ".join(words[:start]).strip())
    options: list[tuple[str, str]] = []
    if start < len(words):
        import shlex

        try:
            found, _ = gnu_getopt(shlex.split(" ".join(words[start:])), "r:c:e:i:f:C:", _OPTIONS)
        except GetoptError as error:
            raise ValueError(error.msg) from None
        options = [(_SHORT.get(name, name), value.strip()) for name, value in found]
    editable = [value for name, value in options if name == "--editable"]
    if not requirement and editable:
        requirement = f"-e {editable[0]}"
    if not requirement:
        return Parsed("", tuple(options))
    kept = tuple(option for option in options if option[0] in OF_REQUIREMENTS)
    others = (name for name, _ in options if name not in (*OF_REQUIREMENTS, "--editable"))
    return Parsed(modern(requirement), kept, tuple(others))


def modern(requirement: str) -> str:
    """Return a requirement with the wildcards that pip once took replaced by what they mean."""

    def bound(match: re.Match[str]) -> str:
        operator, blank, version = match.groups()
        return f"{'>=' if operator == '>' else '<'}{blank}{version}"

    return requirement if "://" in requirement else _WILDCARD.sub(bound, requirement)


def is_valid(line: str) -> bool:
    """Return whether pip can take a line; options, paths, URLs and variables pass unread."""
    text = re.split(r"\s#|^#", line, maxsplit=1)[0].strip()
    text = re.split(r"\s--?[A-Za-z]", text.split(";", 1)[0], maxsplit=1)[0].strip()
    if not text or text.startswith("-") or _PLACE.match(text):
        return True
    return len(text) < 1000 and _REQUIREMENT.fullmatch(text) is not None


def remedy(line: str) -> str:
    """Return what an invalid line should be, as a hint."""
    match = _SINGLE_EQUALS.fullmatch(line.strip())
    if match:
        return f"pip pins with two signs: `{match['name']}=={match['version']}`"
    if (meant := modern(line)) != line:
        return f"only old versions of pip take it; write `{meant}`"
    return "write it as `name==version`"


def named_file(line: str) -> str | None:
    """Return the local file that a ``-r`` or ``-c`` line names, or None."""
    try:
        requirement, options, _ = parse(_COMMENT.sub("", line).strip())
    except ValueError:
        return None
    names = [value for option, value in options if option in ("--requirement", "--constraint")]
    if requirement or not names or "://" in names[0] or "${" in names[0]:
        return None
    return names[0]


def ignored(line: str) -> tuple[str, ...]:
    """Return the options behind a requirement that pip takes and ignores."""
    try:
        return parse(_COMMENT.sub("", line).strip()).ignored
    except ValueError:
        return ()
