"""Settings of pip and uv that decide what is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from buildrun.console import redact_in_key
from buildrun.errors import EnvironmentFailure
from buildrun.store import digest
from buildrun.store.files import NotAFile
from buildrun.store.memo import DependencyTracker

_KEYS = (
    "index-url", "extra-index-url", "find-links", "no-index", "cert", "client-cert", "trusted-host",
    "proxy", "timeout", "default-timeout", "constraint", "no-binary", "only-binary", "pre",
    "require-hashes", "keyring-provider", "no-build-isolation",
)  # fmt: skip
# Those that decide what is installed.
_CHOICES = (
    "index-url", "extra-index-url", "find-links", "no-index", "no-binary", "only-binary", "pre",
)  # fmt: skip
_TRUE = frozenset({"1", "true", "yes", "on", "t", "y"})


class Settings(NamedTuple):
    """What pip was told.

    arguments: for ``uv pip``; nothing secret is among them, since a process list shows them.
    variables: for uv's environment; those that the caller set for uv already are not among them.
    indexes: the part that decides what is installed, without credentials.
    """

    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    indexes: tuple[str, ...]


def read(reader: DependencyTracker) -> Settings:
    """Return the settings that pip would use here, in uv's words."""
    values = own(reader)
    arguments = [
        f"--{key}={item}"
        for key in ("constraint", "no-binary", "only-binary")
        for item in values.get(key, "").replace(",", " ").split()
    ]
    arguments += ["--no-index"] if _is_true(values, "no-index") else []
    indexes = tuple(f"{key}={redact_in_key(values[key])}" for key in _CHOICES if key in values)
    return Settings(tuple(arguments), _variables(values, reader), indexes)


def own(reader: DependencyTracker) -> dict[str, str]:
    """Return the settings that pip would use here, by pip's names without dashes before them."""
    values: dict[str, str] = {}
    for path in _files(reader):
        values.update(_from_file(path, reader))
    for key in _KEYS:
        if value := reader.variable("PIP_" + key.upper().replace("-", "_")):
            values[key] = value
    return values


def _files(reader: DependencyTracker) -> list[str]:
    chosen = reader.variable("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    home = reader.home()
    config = reader.variable("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    shared = (reader.variable("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    paths = [os.path.join(directory, "pip", "pip.conf") for directory in reversed(shared)]
    paths += ["/etc/pip.conf", os.path.join(home, ".pip", "pip.conf")]
    if sys.platform == "darwin":
        paths.append(os.path.join(home, "Library/Application Support/pip/pip.conf"))
    paths.append(os.path.join(config, "pip", "pip.conf"))
    return paths + ([chosen] if chosen else [])


def _from_file(path: str, reader: DependencyTracker) -> dict[str, str]:
    try:
        text = reader.read(path).decode(errors="replace")
    except OSError:
        return {}
    import configparser

    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    sections = [parser[name] for name in ("global", "install") if parser.has_section(name)]
    found = {key.replace("_", "-"): value for each in sections for key, value in each.items()}
    return {key: value for key, value in found.items() if key in _KEYS}


def _variables(values: dict[str, str], reader: DependencyTracker) -> tuple[tuple[str, str], ...]:
    timeout = values.get("timeout") or values.get("default-timeout") or ""
    seconds = timeout.partition(".")[0]
    provider = values.get("keyring-provider", "")
    extra = values.get("extra-index-url", "")
    wanted = {
        "UV_DEFAULT_INDEX": values.get("index-url", ""),
        "UV_INDEX": " ".join(extra.split()),
        # pip takes the best version of all indexes, uv by default that of the first.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if extra else "",
        "UV_FIND_LINKS": ",".join(values.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(values.get("trusted-host", "").split()),
        "UV_KEYRING_PROVIDER": provider if provider in ("disabled", "subprocess") else "",
        "UV_PRERELEASE": "allow" if _is_true(values, "pre") else "",
        "UV_REQUIRE_HASHES": "1" if _is_true(values, "require-hashes") else "",
        "UV_NO_BUILD_ISOLATION": "1" if _is_true(values, "no-build-isolation") else "",
        "UV_HTTP_TIMEOUT": seconds if seconds.isdigit() else "",
        "SSL_CERT_FILE": values.get("cert", ""),
        "SSL_CLIENT_CERT": values.get("client-cert", ""),
        "ALL_PROXY": values.get("proxy", ""),
    }
    return tuple(
        (name, value) for name, value in wanted.items() if value and not reader.variable(name)
    )


def _is_true(values: dict[str, str], key: str) -> bool:
    return values.get(key, "").lower() in _TRUE


# uv's variables that decide what is installed.
_UV_CHOICES = (
    "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
    "UV_NO_INDEX", "UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER",
    "UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "UV_NO_BINARY", "UV_NO_BUILD",
    "UV_CONFIG_FILE", "UV_TORCH_BACKEND",
)  # fmt: skip


def choices(root: str, reader: DependencyTracker) -> list[str]:
    """Return the settings of uv that decide what is installed, without credentials.

    root: the directory that uv is called in, whose ``uv.toml`` and ``pyproject.toml`` it reads.
    """
    found = []
    for name in _UV_CHOICES:
        if value := reader.variable(name):
            found.append(f"{name}={redact_in_key(value)}")
    config = reader.variable("XDG_CONFIG_HOME") or os.path.join(reader.home(), ".config")
    for directory in ("/etc/uv", os.path.join(config, "uv"), root):
        found += contents(directory, ("uv.toml",), reader)
    if b"[tool.uv" in _bytes(os.path.join(root, "pyproject.toml"), reader):
        found += contents(root, ("pyproject.toml",), reader)
    return found


def contents(directory: str, names: Sequence[str], reader: DependencyTracker) -> list[str]:
    """Return the names of the files that are there, each with its digest."""
    texts = [(name, _bytes(os.path.join(directory, name), reader)) for name in names]
    return [f"{name} {digest.content(text)}" for name, text in texts if text]


def _bytes(path: str, reader: DependencyTracker) -> bytes:
    try:
        return reader.read(path)
    except NotAFile as error:
        raise EnvironmentFailure(
            f"uv would wait here for ever: {error.strerror}",
            place=path,
            hint="put a file in its place, or remove it",
        ) from None
    except OSError:
        return b""
