"""What the user's docker configuration has for a registry, as an engine is told of it.

The SDK can read it too, and takes longer to import than a registry to be asked for an image.
"""

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from buildrun import files
from buildrun.images.host import directory

_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"

# What a helper gives as the name of the user where it has a token, and says where it has nothing.
_BEARER = "<token>"
_NOTHING = b"credentials not found"

# Seconds that a helper may take, which may ask a cloud.
_SECONDS = 60


def header(repository: str, environ: Mapping[str, str]) -> str | None:
    """Return the value of ``X-Registry-Auth`` for a repository, "" where nothing is known for it.

    None where the configuration is one that the SDK may understand: it also says what is wrong.
    """
    path = os.path.join(directory(environ), "config.json")
    try:
        text = files.read(path)
    except FileNotFoundError:
        old = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".dockercfg")
        return None if os.path.exists(old) else ""
    except OSError:
        return None
    try:
        found = _find(_registry(repository), json.loads(text), environ)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if not found:
        return ""
    return base64.urlsafe_b64encode(json.dumps(found).encode()).decode()


def _find(registry: str, config: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the engine is to be told, {} for nothing; raises where it is not plain."""
    key = _HUB_KEY if registry == _HUB else registry
    helper = (config.get("credHelpers") or {}).get(key) or config.get("credsStore")
    if helper and (found := _ask(str(helper), key, environ)):
        return found
    for name, entry in (config.get("auths") or {}).items():
        if _host(name) != registry:
            continue
        if entry.get("identitytoken"):
            return {"identitytoken": entry["identitytoken"], "serveraddress": name}
        if entry.get("auth"):
            user, password = base64.b64decode(entry["auth"]).decode().split(":", 1)
            return {"username": user, "password": password, "serveraddress": name}
    return {}


def _ask(helper: str, key: str, environ: Mapping[str, str]) -> dict[str, str]:
    import subprocess

    try:
        done = subprocess.run(
            (f"docker-credential-{helper}", "get"),
            input=key.encode(),
            env=dict(environ),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"the helper {helper} takes too long") from error
    if _NOTHING in done.stdout and done.returncode != 0:
        return {}
    value = json.loads(done.stdout)
    if value["Username"] == _BEARER:
        return {"identitytoken": value["Secret"], "serveraddress": key}
    return {"username": value["Username"], "password": value["Secret"], "serveraddress": key}


def _registry(repository: str) -> str:
    first, slash, _ = repository.partition("/")
    is_host = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    return _host(first) if is_host else _HUB


def _host(name: str) -> str:
    """Return the registry that a key of the configuration is for, which may be an URL."""
    plain = name.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return _HUB if plain == f"index.{_HUB}" else plain
