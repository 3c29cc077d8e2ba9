"""Where a tracking store is."""

import os

from buildrun.secrets import redact

# Stores that MLflow knows by a name.
_NAMES = ("databricks", "databricks-uc", "uc")


def absolute(uri: str, cwd: str) -> str:
    """Return the URI so that it means the same in any directory; cwd: the caller's."""
    scheme, colon, rest = uri.partition(":")
    if not colon and uri not in _NAMES:
        return _file(os.path.join(cwd, uri))
    if scheme == "file" and not rest.startswith("/"):
        return _file(os.path.join(cwd, rest))
    if scheme.startswith("sqlite") and rest.startswith("///") and rest[3:4] not in ("", "/", ":"):
        return f"{scheme}:///{os.path.join(cwd, rest[3:])}"
    return uri


def is_server(uri: str) -> bool:
    """Return whether the store is spoken to over HTTP."""
    return uri.lower().startswith(("http://", "https://"))


def directory(uri: str) -> str | None:
    """Return the path of a directory of this machine that a URI stands for, else None."""
    if uri.startswith("/"):
        return uri
    if not uri.startswith(("file:///", "file:/")):
        return None
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(uri)
    return unquote(parts.path) if parts.netloc in ("", "localhost") else None


def shown(uri: str) -> str:
    """Return the URI without credentials."""
    return redact(uri)


def _file(path: str) -> str:
    from urllib.parse import quote

    return f"file://{quote(os.path.normpath(path))}"
