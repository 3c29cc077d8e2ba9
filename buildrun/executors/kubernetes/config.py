"""The backend config and the Job template."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from buildrun.errors import ProjectError
from buildrun.executors import backend_config
from buildrun.executors.backend_config import Source
from buildrun.project.diagnostics import Findings, Path
from buildrun.project.rules.backends import check_kubernetes
from buildrun.project.rules.entry_points import seconds
from buildrun.project.yaml_loader import parse, read_text
from buildrun.store.memo import DependencyTracker

# Of the backend config, in the user's hands or by default.
_PULL = "1m"
_SCHEDULE = "10m"

# A Job whose client never came back goes after a week.
_TTL = 7 * 86_400


class Config(NamedTuple):
    """Where Jobs run and how; what the template leaves open.

    context: None for the current one. repository: where the image is pushed. template: the Job.
    namespace: None for the template's, else the context's. keep: which Jobs stay once they have
    ended. pull, schedule: seconds that an image that cannot be pulled, or a pod that finds no
    place, is waited for. endpoint: where pods find the object store, None for the same address as
    here.
    """

    context: str | None
    repository: str
    template: Mapping[str, Any]
    namespace: str | None
    resources: Mapping[str, Any]
    service_account: str | None
    pull_secrets: tuple[str, ...]
    queue: str | None
    keep: str
    pull: float
    schedule: float
    endpoint: str | None


def read(source: Source) -> Config:
    """Return the config; raises ProjectError with the place."""
    return Config(*backend_config.read(source, "backend config", _read))


def _read(source: Source, reader: DependencyTracker, warnings: backend_config.Warnings) -> Config:
    document = backend_config.load(source, reader)
    findings = Findings(document)
    check_kubernetes(findings, source.cwd, reader)
    backend_config.judge(findings, warnings, fatal=["missing-job-template"])
    value: Mapping[str, Any] = document.value if isinstance(document.value, dict) else {}
    template = ""
    if name := value.get("kube-job-template-path"):
        # Relative to the caller's directory or to the config's.
        place = os.path.join(source.cwd, name)
        beside = os.path.join(os.path.dirname(document.path), name)
        template = place if reader.exists(place) else beside
    return Config(
        context=value.get("kube-context") or None,
        repository=str(value["repository-uri"]),
        template=_template(template, reader) if template else _DEFAULT,
        namespace=value.get("namespace"),
        resources=value.get("resources") or {},
        service_account=value.get("service-account"),
        pull_secrets=tuple(value.get("image-pull-secrets") or ()),
        queue=value.get("queue-name"),
        keep=str(value.get("keep-jobs") or "never"),
        pull=_seconds(value, "pull-timeout", _PULL),
        schedule=_seconds(value, "schedule-timeout", _SCHEDULE),
        endpoint=value.get("object-store-endpoint"),
    )


_DEFAULT: Mapping[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {},
    "spec": {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": _TTL,
        "template": {
            "spec": {
                "containers": [{}],
                "restartPolicy": "Never",
                # A command that is a container's first process may not know SIGTERM at all.
                "terminationGracePeriodSeconds": 10,
            }
        },
    },
}


def _template(path: str, reader: DependencyTracker) -> Mapping[str, Any]:
    document = backend_config.sound(parse(path, backend_config.sound(read_text(path, reader))))
    findings = Findings(document)
    _check(findings)
    for finding in findings.sorted():
        raise backend_config.error_of(finding)
    # What YAML takes for a date is a text in JSON.
    made: Mapping[str, Any] = json.loads(json.dumps(document.value, default=str))
    return made


def _seconds(value: Mapping[str, Any], name: str, default: str) -> float:
    text = value.get(name, default)
    found = seconds(text) if isinstance(text, str) else float(text)
    if found is None:
        raise ProjectError(
            f"`{name}` in the backend config is no time: `{text}`",
            hint="write a time such as `90s`, `10m` or `1h`",
        )
    return found


# What buildrun adds to or reads must be of these types where it is there: a mapping with what is in
# it, a list with what its first item is, or a scalar.
_POD: Any = {
    "imagePullSecrets": [],
    "securityContext": {"supplementalGroups": []},
    "volumes": [],
    "containers": [
        {
            "env": [],
            "securityContext": {},
            "volumeMounts": [],
            "resources": {"requests": {}, "limits": {}},
        }
    ],
}
_JOB: Any = {
    "metadata": {"labels": {}, "annotations": {}, "namespace": ""},
    "spec": {
        "backoffLimit": 0,
        "template": {"metadata": {"labels": {}, "annotations": {}}, "spec": _POD},
    },
}
_WORDS = {dict: "mapping", list: "list", str: "text", int: "number"}


def _check(findings: Findings) -> None:
    """Add what keeps the document from being the template of a Job."""
    value = findings.document.value
    if not isinstance(value, dict) or value.get("kind") != "Job":
        findings.error(
            "not-a-job", "this is not a Kubernetes Job", (), hint="it must say `kind: Job`"
        )
        return
    if value.get("apiVersion") != "batch/v1":
        findings.error(
            "not-a-job", "a Job's `apiVersion` is `batch/v1`", ("apiVersion",), hint="write that"
        )
        return
    for path, word in _misshapen(value, _JOB, ()):
        name = ".".join(map(str, path)).replace(".0", "[0]")
        findings.error(
            "wrong-type",
            f"`{name}` must be a {word}",
            path,
            hint="`kubectl explain job.spec --recursive` shows what a Job may hold",
        )
        return
    pod = ((value.get("spec") or {}).get("template") or {}).get("spec") or {}
    if not pod.get("containers") or pod["containers"][0] is None:
        findings.error(
            "no-container",
            "the Job has no container in `spec.template.spec.containers`",
            ("spec",),
            hint="the first one is the project's; `- name: main` is enough",
        )


def runs_as_root(pod: Mapping[str, Any], user: str = "") -> bool:
    """Return whether the first container of a pod's spec runs as root, as far as it says.

    user: the image's own, "" for root.
    """
    own = pod["containers"][0].get("securityContext") or {}
    context = {**(pod.get("securityContext") or {}), **own}
    if context.get("runAsNonRoot"):
        return False
    if context.get("runAsUser") is not None:
        return bool(context["runAsUser"] == 0)
    return user.partition(":")[0] in ("", "0", "root")


def _misshapen(value: Any, shape: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the paths of what is of another type, each with what it must be."""
    if value is None:
        return
    if not isinstance(value, type(shape)):
        yield path, _WORDS[type(shape)]
    elif isinstance(shape, dict):
        for name, inner in shape.items():
            yield from _misshapen(value.get(name), inner, (*path, name))
    elif isinstance(shape, list) and shape and value:
        yield from _misshapen(value[0], shape[0], (*path, 0))
