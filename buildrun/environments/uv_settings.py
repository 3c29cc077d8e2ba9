"""uv's own settings: the variables and files that decide what it installs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildrun import digest
from buildrun.errors import EnvironmentFailure
from buildrun.files import NotAFile
from buildrun.secrets import redact

if TYPE_CHECKING:
    from buildrun.memo import Reader

# uv's variables that decide what is installed.
_UV_CHOICES = (
    "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
    "UV_NO_INDEX", "UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER",
    "UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "UV_NO_BINARY", "UV_NO_BUILD",
    "UV_CONFIG_FILE", "UV_TORCH_BACKEND",
)  # fmt: skip


def choices(root: str, reader: Reader) -> list[str]:
    """Return the settings of uv that decide what is installed, without credentials.

    root: the directory that uv is called in, whose ``uv.toml`` and ``pyproject.toml`` it reads.
    """
    found = []
    for name in _UV_CHOICES:
        if value := reader.variable(name):
            found.append(f"{name}={redact(value)}")
    config = reader.variable("XDG_CONFIG_HOME") or os.path.join(reader.home(), ".config")
    for directory in ("/etc/uv", os.path.join(config, "uv"), root):
        found += contents(directory, ("uv.toml",), reader)
    if b"[tool.uv" in _bytes(os.path.join(root, "pyproject.toml"), reader):
        found += contents(root, ("pyproject.toml",), reader)
    return found


def contents(directory: str, names: Sequence[str], reader: Reader) -> list[str]:
    """Return the names of the files that are there, each with its digest."""
    texts = [(name, _bytes(os.path.join(directory, name), reader)) for name in names]
    return [f"{name} {digest.content(text)}" for name, text in texts if text]


def _bytes(path: str, reader: Reader) -> bytes:
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
