"""The backend config and the Job template."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from buildrun.errors import ProjectError
from buildrun.project.diagnostics import Diagnostic, Findings
from buildrun.project.rules.backends import check_kubernetes, load_json
from buildrun.project.rules.entry_points import seconds
from buildrun.project.yaml_loader import Document, parse, read_text
from buildrun.store.memo import DependencyTracker

# Of the backend config, in the user's hands or by default.
_PULL = "1m"
_SCHEDULE = "10m"

# A Job whose client never came back goes after a week.
_TTL = 7 * 86_400

KEEP = ("never", "failed", "always")


class Config(NamedTuple):
    """Where Jobs run and how; what the template leaves open.

    context: None for the current one. repository: where the image is pushed. template: the Job.
    source: the path of the template, "" for the default one. namespace: None for the template's,
    else the context's. keep: which Jobs stay once they have ended. pull, schedule: seconds that an
    image that cannot be pulled, or a pod that finds no place, is waited for. endpoint: where pods
    find the object store, None for the same address as here.
    """

    context: str | None
    repository: str
    template: Mapping[str, Any]
    source: str
    namespace: str | None
    resources: Mapping[str, Any]
    service_account: str | None
    pull_secrets: tuple[str, ...]
    queue: str | None
    keep: str
    pull: float
    schedule: float
    endpoint: str | None


def read(
    given: str, environ: Mapping[str, str], cwd: str, warn: Callable[[str, str], None]
) -> Config:
    """Return the config of a file, or of JSON text; raises ProjectError with the place.

    warn: gets a message and a hint.
    """
    reader = DependencyTracker(environ)
    document = _document(given, reader, cwd)
    findings = Findings(document)
    check_kubernetes(findings, cwd, reader)
    for finding in findings.sorted():
        if finding.severity == "error" or finding.code == "missing-job-template":
            raise _error(finding)
        warn(f"{finding.place}: {finding.message} [{finding.code}]", finding.hint)
    value: Mapping[str, Any] = document.value if isinstance(document.value, dict) else {}
    name = value.get("kube-job-template-path")
    source = _find(name, cwd, document.path) if name else ""
    return Config(
        context=value.get("kube-context") or None,
        repository=str(value["repository-uri"]),
        template=_template(source, reader) if source else _DEFAULT,
        source=source,
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


def _document(given: str, reader: DependencyTracker, cwd: str) -> Document:
    if given.endswith(".json"):
        found = load_json(os.path.join(cwd, given), reader)
    else:
        found = parse("--backend-config", given)
    if isinstance(found, Diagnostic):
        raise _error(found)
    return found


def _find(name: str, cwd: str, config: str) -> str:
    """Return the template's path, relative to the caller's directory or to the config's."""
    place = os.path.join(cwd, name)
    return place if os.path.exists(place) else os.path.join(os.path.dirname(config), name)


def _template(path: str, reader: DependencyTracker) -> Mapping[str, Any]:
    text = read_text(path, reader)
    if isinstance(text, Diagnostic):
        raise _error(text)
    document = parse(path, text)
    if isinstance(document, Diagnostic):
        raise _error(document)
    findings = Findings(document)
    check(findings)
    for finding in findings.sorted():
        raise _error(finding)
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


def _error(finding: Diagnostic) -> ProjectError:
    return ProjectError(
        f"{finding.message} [{finding.code}]", place=finding.place, hint=finding.hint or None
    )


_POD = ("spec", "template", "spec")
_OURS = (*_POD, "containers", 0)


class _Shape(NamedTuple):
    """A part that buildrun adds to or reads, where it is there."""

    path: tuple[str | int, ...]
    kind: type
    word: str


def _mapping(*path: str | int) -> _Shape:
    return _Shape(path, dict, "mapping")


def _list(*path: str | int) -> _Shape:
    return _Shape(path, list, "list")


_SHAPES = (
    _mapping("metadata"),
    _mapping("metadata", "labels"),
    _mapping("metadata", "annotations"),
    _Shape(("metadata", "namespace"), str, "text"),
    _mapping("spec"),
    _Shape(("spec", "backoffLimit"), int, "number"),
    _mapping("spec", "template"),
    _mapping("spec", "template", "metadata"),
    _mapping("spec", "template", "metadata", "labels"),
    _mapping("spec", "template", "metadata", "annotations"),
    _mapping(*_POD),
    _list(*_POD, "imagePullSecrets"),
    _mapping(*_POD, "securityContext"),
    _list(*_POD, "securityContext", "supplementalGroups"),
    _list(*_POD, "volumes"),
    _list(*_POD, "containers"),
    _mapping(*_OURS),
    _list(*_OURS, "env"),
    _mapping(*_OURS, "securityContext"),
    _list(*_OURS, "volumeMounts"),
    _mapping(*_OURS, "resources"),
    _mapping(*_OURS, "resources", "requests"),
    _mapping(*_OURS, "resources", "limits"),
)


def check(findings: Findings) -> None:
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
    for shape in _misshapen(value):
        name = ".".join(map(str, shape.path)).replace(".0", "[0]")
        findings.error(
            "wrong-type",
            f"`{name}` must be a {shape.word}",
            shape.path,
            hint="`kubectl explain job.spec --recursive` shows what a Job may hold",
        )
        return
    if not isinstance(_at(value, _OURS), dict):
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


def _misshapen(value: dict[str, Any]) -> Iterator[_Shape]:
    for shape in _SHAPES:
        found = _at(value, shape.path)
        if found is not None and not isinstance(found, shape.kind):
            yield shape


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    """Return what is at a path, None where nothing is."""
    for name in path:
        if isinstance(name, int):
            value = value[name] if isinstance(value, list) and name < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value
