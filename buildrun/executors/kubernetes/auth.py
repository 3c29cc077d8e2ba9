"""How a cluster is reached: by a context of the kubeconfig, or by the pod that we run in."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from buildrun.errors import ExecutionError
from buildrun.store import files

if TYPE_CHECKING:
    from urllib3 import PoolManager

_IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_CONFIG = "~/.kube/config"

# As many streams of logs at once keep their connections.
_CONNECTIONS = 256


class Connection(NamedTuple):
    """The official client for a cluster; namespace: the context's own."""

    namespace: str
    client: Any

    @property
    def host(self) -> str:
        """Return the URL of the server."""
        return str(self.client.configuration.host).rstrip("/")

    @property
    def pool(self) -> PoolManager:
        """Return connections with the certificates and proxies of the configuration."""
        pool: PoolManager = self.client.rest_client.pool_manager
        return pool

    def headers(self) -> Mapping[str, str]:
        """Return the credentials that hold now; the client renews them."""
        settings = self.client.configuration.auth_settings().values()
        return {
            item["key"]: item["value"]
            for item in settings
            if item["in"] == "header" and item["value"]
        }


def connect(context: str | None, environ: Mapping[str, str]) -> Connection:
    """Return the connection for a context, or for the current one; nothing is asked of it yet.

    Without any context it is the cluster that this process runs in, as MLflow documents. Raises
    ExecutionError.
    """
    import yaml
    from kubernetes.config import ConfigException

    path = environ.get("KUBECONFIG") or os.path.expanduser(_CONFIG)
    try:
        for part in filter(os.path.exists, path.split(os.pathsep)):
            files.open_regular(part).close()  # the client would wait for a pipe
        return _by_kubeconfig(path, context)
    except ConfigException as error:
        if context is None and os.path.exists(_IN_CLUSTER):
            return _in_cluster()
        there = any(os.path.exists(part) for part in path.split(os.pathsep))
        wanted = f"the context `{context}`" if context is not None else "a cluster"
        fact = f"there is no way to {wanted}: {str(error).strip().rstrip('.')}"
        raise _error(fact if there else "there is no kubeconfig", path) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        words = getattr(error, "strerror", None) or error
        raise _error(f"the kubeconfig cannot be read: {words}", path) from None


def _by_kubeconfig(path: str, context: str | None) -> Connection:
    from kubernetes.client import Configuration
    from kubernetes.config import kube_config

    loader, settings = cast("Any", kube_config), Configuration()
    contexts, chosen = loader.list_kube_config_contexts(config_file=path)
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
    loader.load_kube_config(config_file=path, context=chosen["name"], client_configuration=settings)
    return _connection((chosen.get("context") or {}).get("namespace"), settings)


def _in_cluster() -> Connection:
    from kubernetes import config
    from kubernetes.client import Configuration

    settings, loader = Configuration(), cast("Any", config)
    loader.load_incluster_config(client_configuration=settings)
    with open(_IN_CLUSTER, encoding="utf-8") as file:
        return _connection(file.read().strip(), settings)


def _connection(namespace: str | None, settings: Any) -> Connection:
    from kubernetes.client import ApiClient

    settings.connection_pool_maxsize = _CONNECTIONS
    return Connection(namespace or "default", ApiClient(settings))


def _error(fact: str, path: str) -> ExecutionError:
    # `--kubeconfig` takes one file alone.
    return ExecutionError(
        fact,
        place=path,
        hint=f"`KUBECONFIG={shlex.quote(path)} kubectl get jobs` must work; KUBECONFIG names "
        "another file, and within a pod its service account is used",
    )
