"""The usual kubeconfig: a server, certificates, and a token or password that stand in it.

The official client reads it too, and all others; it takes as long to import as a Job to start.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun import files

if TYPE_CHECKING:
    from ssl import SSLContext

_OF_CLUSTER = frozenset(
    {
        "certificate-authority", "certificate-authority-data", "disable-compression", "extensions",
        "insecure-skip-tls-verify", "server", "tls-server-name",
    }
)  # fmt: skip
_OF_USER = frozenset(
    {
        "client-certificate", "client-certificate-data", "client-key", "client-key-data",
        "extensions", "password", "token", "username",
    }
)  # fmt: skip

_PROXIES = frozenset({"all_proxy", "http_proxy", "https_proxy"})


class Access(NamedTuple):
    """How a context's cluster is spoken to.

    host: its URL. tls: None for plain HTTP. name: what its certificate is for, where that is not
    the host. headers: with the credentials.
    """

    context: str
    namespace: str
    host: str
    tls: SSLContext | None
    name: str
    headers: Mapping[str, str]


def read(path: str, context: str | None, environ: Mapping[str, str]) -> Access | None:
    """Return the access by a context, or by the current one.

    None for whatever is not plain, such as programs that give tokens, proxies and several files;
    and for what is wrong, which the official client tells.
    """
    if any(value and name.lower() in _PROXIES for name, value in environ.items()):
        return None
    try:
        return _read(path, context)
    # ssl.SSLError is an OSError.
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _read(path: str, context: str | None) -> Access | None:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = yaml.load(files.read(path), Loader=loader)  # noqa: S506
    except yaml.YAMLError:
        return None
    chosen = str(context if context is not None else value["current-context"])
    place = _named(value["contexts"], chosen)["context"]
    cluster = _named(value["clusters"], place["cluster"])["cluster"]
    user: Mapping[str, Any] = {}
    if place.get("user"):
        user = _named(value["users"], place["user"])["user"] or {}
    if not set(cluster) <= _OF_CLUSTER or not set(user) <= _OF_USER:
        return None
    if cluster.get("insecure-skip-tls-verify"):
        return None
    host = str(cluster["server"]).rstrip("/")
    if not host.startswith(("http://", "https://")):
        return None
    there = os.path.dirname(os.path.abspath(path))
    return Access(
        context=chosen,
        namespace=str(place.get("namespace") or "default"),
        host=host,
        tls=_tls(cluster, user, there) if host.startswith("https:") else None,
        name=str(cluster.get("tls-server-name") or ""),
        headers=_headers(user),
    )


def _named(items: Any, name: str) -> Mapping[str, Any]:
    """Return the only one of the name; raises ValueError."""
    (found,) = [item for item in items if item["name"] == name]
    made: Mapping[str, Any] = found
    return made


def _headers(user: Mapping[str, Any]) -> Mapping[str, str]:
    if user.get("token"):
        return {"authorization": f"Bearer {user['token']}"}
    if "username" in user and "password" in user:
        pair = f"{user['username']}:{user['password']}".encode("iso-8859-1")
        return {"authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], there: str) -> SSLContext:
    """Return what verifies the server and shows our certificate; raises OSError, ValueError."""
    from urllib3.util.ssl_ import create_urllib3_context

    made = create_urllib3_context()
    authority = _content(cluster, "certificate-authority", there)
    if authority:
        made.load_verify_locations(cadata=authority.decode("ascii"))
    else:
        made.load_default_certs()
    certificate = _content(user, "client-certificate", there)
    if certificate:
        import tempfile

        # OpenSSL takes these from a file alone.
        with tempfile.NamedTemporaryFile(prefix="buildrun-") as file:
            file.write(certificate + b"\n" + _content(user, "client-key", there))
            file.flush()
            made.load_cert_chain(file.name, password=lambda: "")
    return made


def _content(values: Mapping[str, Any], name: str, there: str) -> bytes:
    """Return what stands in the file, or in another that it names; empty for neither."""
    if values.get(f"{name}-data"):
        return base64.b64decode(values[f"{name}-data"], validate=True)
    if values.get(name):
        return files.read(os.path.join(there, values[name]))
    return b""
