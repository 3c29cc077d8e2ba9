"""The Job that a step becomes, its Secret, names and labels."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from buildrun import __version__
from buildrun.executors.kubernetes.config import Config, runs_as_root
from buildrun.store import digest

# Where a Job's Secret is mounted.
MOUNT = "/buildrun"
_QUEUE = "kueue.x-k8s.io/queue-name"

# Labels and annotations that buildrun makes.
KEY = "buildrun/key"
OWNER = "buildrun/owner"
PROJECT = "buildrun/project"
STEP = "buildrun/step"
VERSION = "buildrun/version"
RUN = "buildrun/run"
# A Job that was kept though its end is known: the next one of its name replaces it.
HARVESTED = "buildrun/harvested"
# The run that follows a Job which another run has submitted, and cleans up after it.
FOLLOWER = "buildrun/follower"
MANAGED_BY = "app.kubernetes.io/managed-by"

# Characters of a label's value, and of a DNS label.
_LONGEST = 63


class Identity(NamedTuple):
    """What a Job is of.

    project, step: as the user named them. key: the digest of all that decides what it does.
    owner: whose it is; others' Jobs are never attached to.
    """

    project: str
    step: str
    key: str
    owner: str


class JobSpec(NamedTuple):
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
        """Return the name of the Job and of its Secret, the same whoever submits the same.

        A pod's name is longer by six characters and is cut by the cluster.
        """
        identity = self.identity
        # Two owners may do the same at once, each with a Job of their own.
        key = digest.key("job", [identity.key, identity.owner]).rpartition(":")[2][:16]
        rest = f"-{key}" + (f"-{self.attempt}" if self.attempt else "")
        room = _LONGEST - len("br-") - len(rest) - 1
        step = dns(identity.step, room // 2)
        return f"br-{dns(identity.project, room - len(step))}-{step}{rest}"

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


def job(config: Config, job_spec: JobSpec, place: str) -> dict[str, Any]:
    """Return the template with its first container filled in; the others stay as they are.

    place: the namespace.
    """
    made: dict[str, Any] = copy.deepcopy(dict(config.template))
    metadata = made["metadata"] = _marked(made.get("metadata"), job_spec)
    metadata.pop("generateName", None)
    metadata.update(name=job_spec.name, namespace=place)
    spec = made["spec"]
    template = spec["template"]
    template["metadata"] = _marked(template.get("metadata"), job_spec)
    pod = template["spec"]
    pod.setdefault("restartPolicy", "Never")
    if config.queue:
        metadata["labels"][_QUEUE] = config.queue
        spec["suspend"] = True  # Kueue lets it go
    if config.service_account:
        pod["serviceAccountName"] = config.service_account
    if config.pull_secrets:
        named = [{"name": name} for name in config.pull_secrets]
        pod["imagePullSecrets"] = [*(pod.get("imagePullSecrets") or ()), *named]
    if job_spec.timeout is not None:
        # Of the pod rather than of the Job: it does not count while there is no place for it.
        pod["activeDeadlineSeconds"] = max(1, math.ceil(job_spec.timeout))
    if job_spec.retries:
        spec["backoffLimit"] = max(job_spec.retries, spec.get("backoffLimit") or 0)
    if not runs_as_root(pod, job_spec.user):
        # The group that may write in the project's directory.
        context = pod["securityContext"] = dict(pod.get("securityContext") or {})
        groups = context.get("supplementalGroups") or []
        context["supplementalGroups"] = [*groups, *({0} - set(groups))]
    _fill(pod["containers"][0], config, job_spec)
    if job_spec.files:
        items = [{"key": name, "path": name} for name in job_spec.files]
        volume = {"name": "buildrun", "secret": {"secretName": job_spec.name, "items": items}}
        pod["volumes"] = [*(pod.get("volumes") or ()), volume]
    return made


def secret(job_spec: JobSpec, place: str) -> dict[str, Any]:
    """Return the Secret of a Job."""
    variables = {f"env.{name}": text for name, text in job_spec.secrets.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**_marked(None, job_spec), "name": job_spec.name, "namespace": place},
        "type": "Opaque",
        "stringData": {**job_spec.files, **variables},
    }


def _marked(metadata: Mapping[str, Any] | None, job_spec: JobSpec) -> dict[str, Any]:
    """Return metadata with the labels by which all that is buildrun's is found.

    Annotations tell the whole story; labels are cut and changed.
    """
    there, identity = dict(metadata or {}), job_spec.identity
    labels = {
        MANAGED_BY: "buildrun",
        PROJECT: label(identity.project),
        STEP: label(identity.step),
        KEY: label(identity.key.rpartition(":")[2]),
        OWNER: label(identity.owner),
    }
    annotations = {
        PROJECT: identity.project,
        STEP: identity.step,
        KEY: identity.key,
        OWNER: identity.owner,
        VERSION: __version__,
        RUN: job_spec.run_id,
    }
    there["labels"] = {**(there.get("labels") or {}), **labels}
    there["annotations"] = {**(there.get("annotations") or {}), **annotations}
    return there


def _fill(container: dict[str, Any], config: Config, job_spec: JobSpec) -> None:
    container["name"] = dns(job_spec.identity.project)
    container["image"] = job_spec.image
    container["command"] = [_literal(word) for word in job_spec.program]
    container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
    ours: dict[str, dict[str, Any]] = {
        name: {"value": _literal(text)} for name, text in job_spec.environ.items()
    }
    for name in job_spec.secrets:
        source = {"name": job_spec.name, "key": f"env.{name}"}
        ours[name] = {"valueFrom": {"secretKeyRef": source}}
    container["env"] = [
        *(item for item in container.get("env") or () if not _is_replaced(item, ours)),
        *({"name": name, **value} for name, value in ours.items()),
    ]
    if config.resources:
        there = container["resources"] = dict(container.get("resources") or {})
        for name, amounts in config.resources.items():
            there[name] = {**(there.get(name) or {}), **amounts}
    if job_spec.files:
        mount = {"name": "buildrun", "mountPath": MOUNT, "readOnly": True}
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]


def _is_replaced(item: Any, ours: Container[Any]) -> bool:
    """Return whether we set a variable of the template.

    MLflow's documentation shows a text in braces in their place.
    """
    if isinstance(item, str):
        return item.startswith("{") and item.endswith("}")
    return isinstance(item, dict) and item.get("name") in ours


def _literal(text: str) -> str:
    """Return the text for a place where the kubelet would replace ``$(NAME)`` and ``$$``."""
    return text.replace("$", "$$")


def dns(text: str, longest: int = _LONGEST) -> str:
    """Return the text as a DNS label: lower case letters, digits and dashes."""
    made = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-")
    return made or "x"


def label(text: str) -> str:
    """Return the text as a label's value."""
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:_LONGEST]
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", made)


def selector(owner: str) -> str:
    """Return the label selector for all Jobs and pods of an owner."""
    return f"{MANAGED_BY}=buildrun,{OWNER}={label(owner)}"
