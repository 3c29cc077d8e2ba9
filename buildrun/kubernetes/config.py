"""The backend config and the Job template, checked before anything is built."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from buildrun.errors import ProjectError
from buildrun.kubernetes.template import check
from buildrun.memo import Reader
from buildrun.project.check_kubernetes import check_kubernetes, load_json
from buildrun.project.check_limits import seconds
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.document import Document, parse, read_text
from buildrun.project.findings import Findings

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
    reader = Reader(environ)
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


def _document(given: str, reader: Reader, cwd: str) -> Document:
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


def _template(path: str, reader: Reader) -> Mapping[str, Any]:
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
