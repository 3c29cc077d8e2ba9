"""Where the docker engine is, what it says of images, and image names."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun.console import printable
from buildrun.errors import EnvironmentFailure, ExecutionError
from buildrun.store import files

_CHUNK = 1 << 16
_SECONDS = 60.0


class Image(NamedTuple):
    """An image that an engine has.

    id: ``sha256:…``, of its config. names: its tags. digests: ``name@sha256:…``, as registries
    know it. config: what its containers get, such as Env, Entrypoint, Cmd, WorkingDir, User and
    Labels. layers: the digests of their plain tars. platform: system and architecture.
    """

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    config: Mapping[str, Any]
    layers: tuple[str, ...]
    platform: tuple[str, str]
    variant: str = ""

    @property
    def labels(self) -> Mapping[str, str]:
        """Return what it is labelled with."""
        return self.config.get("Labels") or {}

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that its containers have."""
        pairs = (text.partition("=") for text in self.config.get("Env") or ())
        return {name: value for name, _, value in pairs}

    @property
    def search_path(self) -> str:
        """Return where its containers look for programs."""
        default = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return self.environ.get("PATH") or default


def read(value: Mapping[str, Any]) -> Image:
    """Return an image from what the engine tells of it."""
    root = value.get("RootFS") or {}
    return Image(
        id=str(value["Id"]),
        names=tuple(value.get("RepoTags") or ()),
        digests=tuple(value.get("RepoDigests") or ()),
        config=value.get("Config") or {},
        layers=tuple(root.get("Layers") or ()),
        platform=(str(value.get("Os") or "linux"), str(value.get("Architecture") or "amd64")),
        variant=str(value.get("Variant") or ""),
    )


def over_socket(path: str, reference: str) -> Image | None:
    """Return an image, or None where there is none.

    reference: a name or id that is known to be well formed. Raises OSError where nobody answers,
    ExecutionError where the answer makes no sense.
    """
    status, body = _get(path, f"/images/{reference}/json")
    if status == 404:
        return None
    try:
        value = json.loads(body)
        if status == 200:
            return read(value)
        said = value["message"]
    except (KeyError, TypeError, ValueError):
        said = f"status {status}"
    raise ExecutionError(f"docker cannot look at `{reference}`: {said}")


def digest_in_registry(path: str, name: str, credentials: str) -> str | None:
    """Return the digest that a registry has for a name, None where it has none or does not say.

    name: known to be well formed. credentials: for ``X-Registry-Auth``, "" for none. Raises OSError
    where no engine answers.
    """
    more = f"X-Registry-Auth: {credentials}\r\n" if credentials else ""
    status, body = _get(path, f"/distribution/{name}/json", more)
    try:
        return str(json.loads(body)["Descriptor"]["digest"]) if status == 200 else None
    except (KeyError, TypeError, ValueError):
        return None


def _get(path: str, target: str, more: str = "") -> tuple[int, bytes]:
    """Return status and body; more: lines of the request's head."""
    import socket

    # With HTTP/1.0 the engine closes the connection after its answer, and sends it in one piece.
    request = f"GET {target} HTTP/1.0\r\nHost: docker\r\nUser-Agent: buildrun\r\n{more}\r\n"
    parts = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(path)
        connection.sendall(request.encode())
        while chunk := connection.recv(_CHUNK):
            parts.append(chunk)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionAbortedError("the engine closed the connection")
    return int(words[1]), body


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


_HUB = "docker.io"


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
        found = _find(_registry(repository), json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not found:
        return ""
    return base64.urlsafe_b64encode(json.dumps(found).encode()).decode()


def _find(registry: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Return what the engine is to be told, {} for nothing; raises where it is not plain."""
    if config.get("credHelpers") or config.get("credsStore"):
        raise ValueError("a program has the credentials")
    for name, entry in (config.get("auths") or {}).items():
        if _host(name) != registry:
            continue
        if entry.get("identitytoken"):
            return {"identitytoken": entry["identitytoken"], "serveraddress": name}
        if entry.get("auth"):
            user, password = base64.b64decode(entry["auth"]).decode().split(":", 1)
            return {"username": user, "password": password, "serveraddress": name}
    return {}


def _registry(repository: str) -> str:
    first, slash, _ = repository.partition("/")
    is_host = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    return _host(first) if is_host else _HUB


def _host(name: str) -> str:
    """Return the registry that a key of the configuration is for, which may be an URL."""
    plain = name.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return _HUB if plain == f"index.{_HUB}" else plain


_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_NAME = rf"(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"({_NAME})(?::({_TAG}))?(?:@({_DIGEST}))?")
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 255


class Reference(NamedTuple):
    """The parts of a name; an empty text for what is not there."""

    repository: str
    tag: str
    digest: str


def parse(text: str) -> Reference:
    """Return the parts; raises EnvironmentFailure for what no image may be called."""
    match = _REFERENCE.fullmatch(text)
    if match is None or len(match.group(1)) > _LONGEST:
        raise EnvironmentFailure(
            f"`{printable(text[:300])}` is not a name that an image may have",
            hint="names are lower case, such as `python:3.12-slim` or `host:5000/team/image:tag`",
        )
    return Reference(*(part or "" for part in match.groups()))


def is_id(text: str) -> bool:
    """Return whether it is the whole id of an image."""
    return _ID.fullmatch(text) is not None


def component(text: str) -> str:
    """Return a part of a name made from any text, such as a project's name."""
    made = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100].strip("-")
    return made or "project"
