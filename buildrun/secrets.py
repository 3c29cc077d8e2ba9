"""Credentials in URLs: found, so that they are not kept, and left out of what is shown."""

import re

# `user:password@` or `token@` behind a scheme; `git@`, the user of every git host, is no secret.
_USERINFO = re.compile(r"(://)(?!git@)[^/@\s\"'\\]+@")


def redact(text: str) -> str:
    """Return the text with the user and password of every URL in it left out."""
    return _USERINFO.sub(r"\1", text)


def are_in(text: str) -> bool:
    """Return whether a URL in the text bears credentials."""
    return "@" in text and _USERINFO.search(text) is not None
