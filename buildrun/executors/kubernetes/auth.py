"""How the API server is reached: kubeconfig and credentials."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from buildrun.errors import ExecutionError
from buildrun.store import files

if TYPE_CHECKING:
    from ssl import SSLContext

    from urllib3 import PoolManager

_IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_CONFIG = "~/.kube/config"

# As many streams of logs at once keep their connections.
_CONNECTIONS = 256


class Connection(NamedTuple):
    """A cluster and how it is spoken to.

    context: the name in the kubeconfig, "" within a cluster. namespace: the context's own.
    host: its URL. pool: connections with its certificates. headers: returns the credentials that
    hold now.
    """

    context: str
    namespace: str
    host: str
    pool: PoolManager
    headers: Callable[[], Mapping[str, str]]


def connect(context: str | None, environ: Mapping[str, str]) -> Connection:
    """Return the connection for a context, or for the current one; nothing is asked of it yet.

    Without any context it is the cluster that this process runs in, as MLflow documents. Raises
    ExecutionError.
    """
    path = environ.get("KUBECONFIG") or os.path.expanduser(_CONFIG)
    access = read(path, context, environ)
    if access is not None:
        return _directly(access)
    import yaml
    from kubernetes.config import ConfigException

    try:
        for part in filter(os.path.exists, path.split(os.pathsep)):
            files.open_regular(part).close()  # the client would wait for a pipe
        return _by_file(path, context)
    except ConfigException as error:
        if context is None and os.path.exists(_IN_CLUSTER):
            return _in_cluster()
        there = any(os.path.exists(part) for part in path.split(os.pathsep))
        fact = _fact(context, error) if there else "there is no kubeconfig"
        raise ExecutionError(fact, place=path, hint=_hint(path)) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise ExecutionError(
            f"the kubeconfig cannot be read: {getattr(error, 'strerror', None) or error}",
            place=path,
            hint=_hint(path),
        ) from None


def _directly(access: Access) -> Connection:
    from urllib3 import PoolManager

    more: dict[str, Any] = {} if access.tls is None else {"ssl_context": access.tls}
    if access.name:
        more["server_hostname"] = access.name
    pool = PoolManager(maxsize=_CONNECTIONS, **more)
    return Connection(access.context, access.namespace, access.host, pool, lambda: access.headers)


def _by_file(path: str, context: str | None) -> Connection:
    from kubernetes.client import Configuration
    from kubernetes.config import kube_config as loader

    kube_config = cast("Any", loader)
    contexts, active = kube_config.list_kube_config_contexts(config_file=path)
    chosen: Any = active
    if context is not None:
        chosen = next((item for item in contexts if item["name"] == context), None)
        if chosen is None:
            names = ", ".join(f"`{item['name']}`" for item in contexts) or "none"
            raise ExecutionError(
                f"there is no context `{context}`; there is {names}",
                place=path,
                hint="correct `kube-context` in the backend config; `kubectl config get-contexts` "
                "lists them",
            )
    settings = Configuration()
    kube_config.load_kube_config(
        config_file=path, context=chosen["name"], client_configuration=settings
    )
    namespace = (chosen.get("context") or {}).get("namespace") or "default"
    return _by_client(chosen["name"], namespace, settings)


def _in_cluster() -> Connection:
    from kubernetes import config
    from kubernetes.client import Configuration

    settings, loading = Configuration(), cast("Any", config)
    loading.load_incluster_config(client_configuration=settings)
    with open(_IN_CLUSTER, encoding="utf-8") as file:
        namespace = file.read().strip()
    return _by_client("", namespace or "default", settings)


def _by_client(context: str, namespace: str, settings: Any) -> Connection:
    """Return a connection with the official client's settings, which renew the credentials."""
    from kubernetes.client.rest import RESTClientObject

    def headers() -> Mapping[str, str]:
        found = settings.auth_settings().values()
        return {
            str(item["key"]): str(item["value"])
            for item in found
            if item["in"] == "header" and item["value"]
        }

    settings.connection_pool_maxsize = _CONNECTIONS
    pool = RESTClientObject(settings).pool_manager
    return Connection(context, namespace, settings.host, pool, headers)


def _fact(context: str | None, error: Exception) -> str:
    wanted = f"the context `{context}`" if context is not None else "a cluster"
    return f"there is no way to {wanted}: {str(error).strip().rstrip('.')}"


def _hint(path: str) -> str:
    # `--kubeconfig` takes one file alone.
    return (
        f"`KUBECONFIG={shlex.quote(path)} kubectl get jobs` must work; KUBECONFIG names another "
        "file, and within a pod its service account is used"
    )


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
