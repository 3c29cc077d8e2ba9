"""Secrets, by their names and in URLs: found, so that they are neither kept nor shown."""

import re

# What stands for a secret where all else is shown.
MASK = "***"

_WORDS = (
    r"token|secret|password|passwd|passphrase|pwd|credentials?|api_?key|signature|sig|"
    r"(access|secret|private|account)_?key"
)
_NAME = re.compile(rf"(.*_)?({_WORDS})", re.IGNORECASE)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|-")

# `user:password@` or `token@` behind a scheme; `git@`, the user of every git host, is no secret.
# The last `@` before a slash ends it. A password with a slash in it is no URL, but is met all the
# same: no host has a colon behind it and then anything but a port.
_USERINFO = re.compile(r"(://)(?!git@|\[)(?:[^/\s\"'\\]+@|[^/@:\s\"'\\]*:(?!\d{0,5}/)[^\s\"'\\]*@)")
_QUERY = re.compile(
    rf"([?&](?:[\w.-]*[_.-])?(?:{_WORDS.replace('_?', '[_-]?')})=)[^&#\s\"']+", re.I
)


def redact(text: str) -> str:
    """Return the text with users, passwords and tokens of every URL in it left out."""
    return _QUERY.sub(rf"\1{MASK}", _USERINFO.sub(r"\1", text)) if "://" in text else text


def are_in(text: str) -> bool:
    """Return whether a URL in the text bears credentials."""
    return redact(text) != text


def is_named(name: str) -> bool:
    """Return whether a parameter or variable of this name holds a secret, as its name has it."""
    return _NAME.fullmatch(_HUMP.sub("_", name)) is not None
