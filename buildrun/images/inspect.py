"""Looking at one image over the engine's socket, without the SDK.

An unchanged project needs no more of the engine than this, and the SDK takes longer to import than
all the rest of such a run.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun.errors import ExecutionError

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
