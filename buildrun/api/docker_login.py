"""Credentials for a docker registry, given through the API."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from buildrun.errors import ExecutionError, UsageError

_HUB = "https://index.docker.io/v1/"


def log_in(auth: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """Return a new private directory for DOCKER_CONFIG: the user's, with credentials as docker-py
    takes them. Whoever asks for it removes it. Raises UsageError, ExecutionError."""
    import tempfile  # takes as long to load as all else here

    if not isinstance(auth, Mapping):
        raise UsageError(f"`docker_auth` must be a mapping, not a {type(auth).__name__}")
    name, password = auth.get("username"), auth.get("password")
    if not isinstance(name, str) or not isinstance(password, str):
        raise UsageError("`docker_auth` needs a `username` and a `password`")
    given = environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    file = str(auth.get("dockercfg_path") or os.path.join(given, "config.json"))
    config = _read(file)
    registry = str(auth.get("registry") or _HUB)
    encoded = base64.b64encode(f"{name}:{password}".encode()).decode()
    config["auths"] = {**config.get("auths", {}), registry: {"auth": encoded}}
    if "credsStore" in config or "credHelpers" in config:
        # A helper comes before what stands here, but for this registry.
        config["credHelpers"] = {**config.get("credHelpers", {}), registry: ""}
    directory = tempfile.mkdtemp(prefix="buildrun-docker-")
    try:
        path = os.path.join(directory, "config.json")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump(config, stream)
        _link_the_rest(given, directory)
    except OSError as error:
        forget(directory)
        raise ExecutionError(
            f"the credentials cannot be handed to docker: {error.strerror}", place=directory
        ) from None
    return directory


def forget(directory: str) -> None:
    """Remove such a directory; "" is none."""
    if directory:
        import shutil

        shutil.rmtree(directory, ignore_errors=True)


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8") as stream:
            config = json.load(stream)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"docker's config cannot be read: {error}", place=file) from None
    return config if isinstance(config, dict) else {}


def _link_the_rest(source: str, directory: str) -> None:
    """Keep contexts and plug-ins that are beside the config."""
    try:
        names = os.listdir(source)
    except OSError:
        return
    for name in names:
        if name != "config.json":
            os.symlink(os.path.join(os.path.abspath(source), name), os.path.join(directory, name))
