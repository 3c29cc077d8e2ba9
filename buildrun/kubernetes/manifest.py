"""From a template and a step to the Job that the cluster gets, and the Secret beside it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from buildrun import __version__
from buildrun.kubernetes import names
from buildrun.kubernetes.config import Config
from buildrun.kubernetes.names import Identity
from buildrun.kubernetes.template import runs_as_root

# Where a Job's Secret is mounted.
MOUNT = "/buildrun"
_QUEUE = "kueue.x-k8s.io/queue-name"


class Wish(NamedTuple):
    """A step as far as its Job is concerned.

    image: by digest. user: whom it runs as, "" for root. program: the words to run. environ:
    variables with their values. secrets: those whose values are for the Secret. files: what else
    the Secret holds, by name; they are mounted at `MOUNT`. timeout: seconds, None for the
    template's. attempt: counts from 0.
    """

    identity: Identity
    run_id: str
    image: str
    user: str
    program: tuple[str, ...]
    environ: Mapping[str, str]
    secrets: Mapping[str, str]
    files: Mapping[str, str]
    timeout: float | None
    retries: int
    attempt: int

    @property
    def name(self) -> str:
        """Return the name of the Job and of its Secret."""
        return names.job_name(self.identity, self.attempt)

    @property
    def has_secret(self) -> bool:
        """Return whether there is a Secret at all."""
        return bool(self.secrets or self.files)


def namespace(config: Config, context: str) -> str:
    """Return where Jobs run; context: the namespace of the kubeconfig's context."""
    declared = (config.template.get("metadata") or {}).get("namespace")
    return config.namespace or declared or context


def first_container(template: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the container of a template that is the project's."""
    found: Mapping[str, Any] = template["spec"]["template"]["spec"]["containers"][0]
    return found


def job(config: Config, wish: Wish, place: str) -> dict[str, Any]:
    """Return the template with its first container filled in; the others stay as they are.

    place: the namespace.
    """
    made: dict[str, Any] = copy.deepcopy(dict(config.template))
    metadata = made["metadata"] = dict(made.get("metadata") or {})
    metadata.pop("generateName", None)
    metadata.update(name=wish.name, namespace=place)
    _mark(metadata, wish)
    spec = made["spec"]
    template = spec["template"]
    template["metadata"] = dict(template.get("metadata") or {})
    _mark(template["metadata"], wish)
    pod = template["spec"]
    pod.setdefault("restartPolicy", "Never")
    if config.queue:
        metadata["labels"][_QUEUE] = config.queue
        spec["suspend"] = True  # Kueue lets it go
    if config.service_account:
        pod["serviceAccountName"] = config.service_account
    if config.pull_secrets:
        there = pod.get("imagePullSecrets") or []
        pod["imagePullSecrets"] = [*there, *({"name": name} for name in config.pull_secrets)]
    if wish.timeout is not None:
        # Of the pod rather than of the Job: it does not count while there is no place for it.
        pod["activeDeadlineSeconds"] = max(1, math.ceil(wish.timeout))
    if wish.retries:
        spec["backoffLimit"] = max(wish.retries, spec.get("backoffLimit") or 0)
    if not runs_as_root(pod, wish.user):
        _add_group(pod)
    _fill(pod["containers"][0], config, wish)
    if wish.files:
        items = [{"key": name, "path": name} for name in wish.files]
        volume = {"name": "buildrun", "secret": {"secretName": wish.name, "items": items}}
        pod["volumes"] = [*(pod.get("volumes") or []), volume]
    return made


def secret(wish: Wish, place: str) -> dict[str, Any]:
    """Return the Secret of a Job."""
    metadata: dict[str, Any] = {"name": wish.name, "namespace": place}
    _mark(metadata, wish)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "stringData": {
            **wish.files,
            **{f"env.{name}": wish.secrets[name] for name in wish.secrets},
        },
    }


def _mark(metadata: dict[str, Any], wish: Wish) -> None:
    labels = names.labels(wish.identity)
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    annotations = names.annotations(wish.identity, __version__, wish.run_id)
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}


def _add_group(pod: dict[str, Any]) -> None:
    """Give the pod the group that may write in the project's directory."""
    context = pod["securityContext"] = dict(pod.get("securityContext") or {})
    groups = context.get("supplementalGroups") or []
    context["supplementalGroups"] = [*groups, *({0} - set(groups))]


def _fill(container: dict[str, Any], config: Config, wish: Wish) -> None:
    container["name"] = names.dns(wish.identity.project)
    container["image"] = wish.image
    container["command"] = [_literal(word) for word in wish.program]
    container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    ours: list[dict[str, Any]] = [
        {"name": name, "value": _literal(value)} for name, value in wish.environ.items()
    ]
    ours += [
        {
            "name": name,
            "valueFrom": {"secretKeyRef": {"name": wish.name, "key": f"env.{name}"}},
        }
        for name in wish.secrets
    ]
    container["env"] = _without(container.get("env") or (), ours) + ours
    resources = {name: dict(config.resources[name]) for name in config.resources}
    if resources:
        there = container.get("resources") or {}
        container["resources"] = {
            **there,
            **{name: {**(there.get(name) or {}), **resources[name]} for name in resources},
        }
    if wish.files:
        mount = {"name": "buildrun", "mountPath": MOUNT, "readOnly": True}
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]


def _without(there: Sequence[Any], ours: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the template's variables less those that we set.

    MLflow's documentation shows a text in braces in their place.
    """
    taken = {item["name"] for item in ours}
    return [
        item
        for item in there
        if not (isinstance(item, dict) and item.get("name") in taken)
        and not (isinstance(item, str) and item.startswith("{") and item.endswith("}"))
    ]


def _literal(text: str) -> str:
    """Return the text for a place where the kubelet would replace ``$(NAME)`` and ``$$``."""
    return text.replace("$", "$$")
