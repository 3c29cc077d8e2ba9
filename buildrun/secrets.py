"""Secrets, by their names and in URLs: found, so that they are neither kept nor shown."""

import re

# What stands for a secret where all else is shown.
MASK = "***"

_WORDS = (
    r"token|secret|password|passwd|passphrase|pwd|credentials?|api_?key|signature|sig|"
    r"(access|secret|private|account)_?key"
)
_LAST = re.compile(
    rf"(token|secrets?|passw(or)?ds?|passphrase|(\A|_)({_WORDS}|connection_?string))\Z",
    re.IGNORECASE,
)
# Names in capitals are of variables. Of these a word tells wherever it stands, even the bare KEY,
# which among parameters is rather one to sort by.
_WORD = re.compile(
    r".*(TOKEN|SECRETS?|PASSW(OR)?DS?|PASSPHRASE)|PASS|PWD|CREDENTIALS?|O?AUTH|(API)?KEYS?|SAS"
)
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
    return _LAST.search(_HUMP.sub("_", name)) is not None or (
        name.isupper() and any(map(_WORD.fullmatch, name.split("_")))
    )


def holds(name: str, value: str) -> bool:
    """Return whether a variable holds a secret, by its name or as a URL with a password."""
    return is_named(name) or are_in(value)
