"""Which cluster to speak to: by the user's kubeconfig, else from within a pod."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from buildrun.errors import ExecutionError

if TYPE_CHECKING:
    from kubernetes.client import Configuration

_IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_CONFIG = "~/.kube/config"


class Connection(NamedTuple):
    """A cluster and how it is spoken to.

    context: the name in the kubeconfig, "" within a cluster. namespace: the context's own.
    settings: the client's, with host, certificates and credentials.
    """

    context: str
    namespace: str
    settings: Configuration


def connect(context: str | None, environ: Mapping[str, str]) -> Connection:
    """Return the connection for a context, or for the current one; nothing is asked of it yet.

    Without any context it is the cluster that this process runs in, as MLflow documents. Raises
    ExecutionError.
    """
    from kubernetes.config import ConfigException

    path = environ.get("KUBECONFIG") or os.path.expanduser(_CONFIG)
    try:
        return _by_file(path, context)
    except ConfigException as error:
        if context is None and os.path.exists(_IN_CLUSTER):
            return _in_cluster()
        raise ExecutionError(_fact(context, error), place=path, hint=_hint(path)) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExecutionError(
            f"the kubeconfig cannot be read: {error}", place=path, hint=_hint(path)
        ) from None


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
    return Connection(chosen["name"], namespace, settings)


def _in_cluster() -> Connection:
    from kubernetes import config
    from kubernetes.client import Configuration

    settings, loading = Configuration(), cast("Any", config)
    loading.load_incluster_config(client_configuration=settings)
    with open(_IN_CLUSTER, encoding="utf-8") as file:
        namespace = file.read().strip()
    return Connection("", namespace or "default", settings)


def _fact(context: str | None, error: Exception) -> str:
    wanted = f"the context `{context}`" if context is not None else "a cluster"
    return f"there is no way to {wanted}: {str(error).strip().rstrip('.')}"


def _hint(path: str) -> str:
    return (
        f"`kubectl --kubeconfig {path} get jobs` must work; KUBECONFIG names another file, and "
        "within a pod its service account is used"
    )
