"""Which docker engine is spoken to: the one that the docker CLI would take.

``DOCKER_HOST`` with its TLS variables goes first, then ``DOCKER_CONTEXT``, then the current context
of the user's configuration. The files are read here since the SDK, which can do so too, takes
longer to import than a whole run has.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun import files
from buildrun.errors import EnvironmentFailure

DEFAULT = "unix:///var/run/docker.sock"


class Host(NamedTuple):
    """An engine's address.

    certificates: the directory of ``ca.pem``, ``cert.pem`` and ``key.pem``; None without TLS.
    verify: whether its certificate is checked. origin: what named it, for messages.
    """

    url: str
    certificates: str | None = None
    verify: bool = False
    origin: str = "the default socket"

    @property
    def socket(self) -> str | None:
        """Return the path of its socket, where it has one on this machine."""
        return self.url[len("unix://") :] if self.url.startswith("unix://") else None


def find(environ: Mapping[str, str]) -> Host:
    """Return the engine; raises EnvironmentFailure for a context that is not there."""
    configuration = directory(environ)
    if url := environ.get("DOCKER_HOST"):
        verify = bool(environ.get("DOCKER_TLS_VERIFY"))
        if not verify and not environ.get("DOCKER_TLS"):
            return Host(url, origin="DOCKER_HOST")
        certificates = environ.get("DOCKER_CERT_PATH") or configuration
        return Host(url, certificates, verify=verify, origin="DOCKER_HOST")
    name = environ.get("DOCKER_CONTEXT") or _json(os.path.join(configuration, "config.json")).get(
        "currentContext"
    )
    if not name or name == "default":
        return Host(DEFAULT)
    return _context(configuration, str(name))


def directory(environ: Mapping[str, str]) -> str:
    """Return the directory of the user's docker configuration."""
    if chosen := environ.get("DOCKER_CONFIG"):
        return chosen
    return os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".docker")


def _context(configuration: str, name: str) -> Host:
    import hashlib

    number = hashlib.sha256(name.encode()).hexdigest()
    contexts = os.path.join(configuration, "contexts")
    meta = _json(os.path.join(contexts, "meta", number, "meta.json"))
    try:
        endpoint = meta["Endpoints"]["docker"]
        url = str(endpoint["Host"])
        verify = not endpoint.get("SkipTLSVerify", False)
    except (AttributeError, KeyError, TypeError):
        raise EnvironmentFailure(
            f"docker's context `{name}` cannot be read", hint="see `docker context ls`"
        ) from None
    certificates = os.path.join(contexts, "tls", number, "docker")
    origin = f"docker's context `{name}`"
    if not os.path.isdir(certificates):
        return Host(url, origin=origin)
    return Host(url, certificates, verify=verify, origin=origin)


def _json(path: str) -> dict[str, Any]:
    try:
        value = json.loads(files.read(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
