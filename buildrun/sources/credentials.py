"""Credentials in git URLs: taken out, so that no process list, file or message shows them.

git gets them from a helper of its own kind, whose values are in the environment alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

_USER, _PASSWORD = "BUILDRUN_GIT_USERNAME", "BUILDRUN_GIT_PASSWORD"
# Run by the shell that git starts for helpers; the values are data there.
_HELPER = (
    f'!f() {{ test "$1" = get && printf "username=%s\\npassword=%s\\n" '
    f'"${_USER}" "${_PASSWORD}"; }}; f'
)


class Remote(NamedTuple):
    """A git URL without credentials, and the variables that bear them for git."""

    url: str
    secrets: Mapping[str, str]


def split(url: str, environ: Mapping[str, str]) -> Remote:
    """Return the URL and what git has to be given with it.

    The name alone, as in `https://alice@host/`, is left to git's own helpers to complete.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return Remote(url, {})
    userinfo, _, host = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    bare = urlunsplit(parts._replace(netloc=host))
    scope = f"credential.{parts.scheme}://{host}"
    if not colon:
        # A token may stand there as well: where no helper knows a password, it has none.
        settings = [(f"{scope}.username", unquote(user)), (f"{scope}.helper", _HELPER)]
    else:
        settings = [(f"{scope}.helper", ""), (f"{scope}.helper", _HELPER)]
    values = {_USER: unquote(user), _PASSWORD: unquote(password)}
    return Remote(bare, {**values, **_configured(settings, environ)})


def _configured(settings: list[tuple[str, str]], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that add settings to git's, after those that are there already."""
    count = environ.get("GIT_CONFIG_COUNT", "")
    number = int(count) if count.isascii() and count.isdigit() else 0
    found = {"GIT_CONFIG_COUNT": str(number + len(settings))}
    for offset, (key, value) in enumerate(settings):
        found[f"GIT_CONFIG_KEY_{number + offset}"] = key
        found[f"GIT_CONFIG_VALUE_{number + offset}"] = value
    return found
