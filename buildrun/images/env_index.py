"""What pip in a container gets to know of the indexes, proxies and certificates of this machine.

All of it is for one container that is removed: variables, and files and directories that are
mounted read-only. Nothing of it is in an image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from buildrun.environments import pip_settings
from buildrun.images.env_container import Access

if TYPE_CHECKING:
    from buildrun.memo import Reader

# Where mounted files and directories are in the container.
_MOUNTED = "/run/buildrun"

# uv's variables, which win here as they do where uv makes the environment, in pip's words.
_OF_UV = (
    ("UV_INDEX_URL", "index-url"),
    ("UV_DEFAULT_INDEX", "index-url"),
    ("UV_EXTRA_INDEX_URL", "extra-index-url"),
    ("UV_INDEX", "extra-index-url"),
    ("UV_FIND_LINKS", "find-links"),
    ("UV_NO_INDEX", "no-index"),
    ("UV_CONSTRAINT", "constraint"),
    ("UV_INSECURE_HOST", "trusted-host"),
)
_LISTS = ("extra-index-url", "find-links", "trusted-host", "constraint", "no-binary", "only-binary")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_LOCAL = re.compile(r"://(?:[^/@\s]*@)?(?:localhost|127\.[0-9.]+|\[::1\])(?=[:/\s]|$)")


class Mounts:
    """Files and directories of this machine, each with its place in the container."""

    def __init__(self) -> None:
        """Begin with none."""
        self._targets: dict[str, str] = {}

    def place(self, path: str) -> str:
        """Return where a path of this machine is in the container."""
        path = os.path.abspath(path)
        # Pages of an index refer to files beside it.
        if os.path.basename(path) == "simple" and os.path.isdir(path):
            return f"{self.place(os.path.dirname(path))}/simple"
        name = f"{len(self._targets)}/{os.path.basename(path)}".rstrip("/")
        return self._targets.setdefault(path, f"{_MOUNTED}/{name}")

    def address(self, text: str, base: str) -> str:
        """Return a URL or path as it is in the container; base: where relative paths begin."""
        if text.startswith("file:"):
            path = unquote(urlsplit(text).path)
            return f"file://{quote(self.place(path))}" if os.path.exists(path) else text
        path = os.path.join(base, os.path.expanduser(text))
        return text if "://" in text or not os.path.exists(path) else self.place(path)

    @property
    def all(self) -> tuple[tuple[str, str], ...]:
        """Return them, as containers take them."""
        return tuple(self._targets.items())


def access(
    reader: Reader, environ: Mapping[str, str], mounts: Mounts, cwd: str, *, offline: bool
) -> Access:
    """Return what a container needs; cwd: where relative paths begin.

    environ: the caller's, which may hold credentials.
    """
    values = _values(reader)
    for name in ("index-url", *_LISTS):
        if name in values:
            values[name] = " ".join(mounts.address(one, cwd) for one in values[name].split())
    seen = {f"PIP_{name.upper().replace('-', '_')}": text for name, text in values.items() if text}
    certificates = values.pop("cert", "") or next(
        (environ[name] for name in _CERTIFICATES if os.path.isfile(environ.get(name, ""))), ""
    )
    if certificates and os.path.isfile(certificates):
        here = mounts.place(certificates)
        seen.update(dict.fromkeys(("PIP_CERT", "GIT_SSL_CAINFO", *_CERTIFICATES), here))
    if os.path.isfile(values.get("client-cert", "")):
        seen["PIP_CLIENT_CERT"] = mounts.place(values["client-cert"])
    netrc = environ.get("NETRC") or os.path.join(environ.get("HOME", "/"), ".netrc")
    if os.path.isfile(netrc):
        seen["NETRC"] = mounts.place(netrc)
    for name in (*_PROXIES, *(name.upper() for name in _PROXIES)):
        if environ.get(name):
            seen[name] = environ[name]
    if offline:
        return Access({**seen, "PIP_RETRIES": "0"}, mounts.all, "none")
    # An index of this very machine is not there in a container's own network.
    local = any(_LOCAL.search(text) for text in seen.values())
    return Access(seen, mounts.all, "host" if local else "")


def _values(reader: Reader) -> dict[str, str]:
    values = pip_settings.own(reader)
    for name, key in _OF_UV:
        if text := reader.variable(name):
            words = re.split(r"[\s,]+", text.strip()) if key == "find-links" else text.split()
            if name == "UV_INDEX":
                words = [re.sub(r"^[\w.-]+=(?=\w+:)", "", word) for word in words]
            more = values.get(key, "") if name == "UV_INDEX" else ""
            values[key] = " ".join([*words, *more.split()])
    values.pop("keyring-provider", None)  # a program of this machine
    if "default-timeout" in values:
        values.setdefault("timeout", values.pop("default-timeout"))
    if values.get("no-index", "").lower() not in ("", "0", "false", "no", "off"):
        values["no-index"] = "1"
    return values
