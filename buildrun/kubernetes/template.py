"""What a Job template must be like for a Job to be made of it; the cluster checks the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from buildrun.project.findings import Findings

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
