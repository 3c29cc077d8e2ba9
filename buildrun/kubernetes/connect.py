"""Which cluster to speak to: by the user's kubeconfig, else from within a pod."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from buildrun import files
from buildrun.errors import ExecutionError
from buildrun.kubernetes import kubeconfig

if TYPE_CHECKING:
    from urllib3 import PoolManager

    from buildrun.kubernetes.kubeconfig import Access

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
    access = kubeconfig.read(path, context, environ)
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
