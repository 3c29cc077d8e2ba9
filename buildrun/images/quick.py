"""What image a name stands for now, asked of the engine's own socket.

A warm run asks this alone, and importing the docker SDK for it would take longer than the answer.
Whatever is not plain, such as an engine that is not on this machine, is left to the long way.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

_SOCKET = "/var/run/docker.sock"

# Seconds that the engine may take, and bytes that its answer may have.
_TIME = 5.0
_LONGEST = 1 << 24


def image_id(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the id of a local image, or None where it is not there or cannot be asked for."""
    path = _path(environ)
    if path is None or any(char in name for char in " \r\n?#%"):
        return None
    answer = _get(path, f"/images/{name}/json")
    found = answer.get("Id") if isinstance(answer, dict) else None
    return found if isinstance(found, str) and found.startswith("sha256:") else None


def _path(environ: Mapping[str, str]) -> str | None:
    """Return the socket's path where it is known without the CLI's contexts."""
    host = environ.get("DOCKER_HOST", "")
    if host:
        return host.removeprefix("unix://") if host.startswith("unix:///") else None
    if environ.get("DOCKER_CONTEXT"):
        return None
    directory = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME", ""), ".docker")
    try:
        with open(os.path.join(directory, "config.json"), "rb") as file:
            current = json.loads(file.read()).get("currentContext", "default")
    except FileNotFoundError:
        return _SOCKET
    except (OSError, ValueError, AttributeError):
        return None
    return _SOCKET if current in ("", "default") else None


def _get(path: str, resource: str) -> Any:
    import socket

    request = f"GET {resource} HTTP/1.0\r\nHost: docker\r\n\r\n".encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(_TIME)
            link.connect(path)
            link.sendall(request)
            answer = bytearray()
            while (chunk := link.recv(65536)) and len(answer) < _LONGEST:
                answer += chunk
    except OSError:
        return None
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"] or b"transfer-encoding: chunked" in head.lower():
        return None
    try:
        return json.loads(body)
    except ValueError:
        return None
