"""What a Kubernetes API server demands of names and labels, and adds to objects.

The rest of its rules is left to the real cluster that the same tests run on.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import kubernetes
from kube_status import Resource, bad_request, invalid
from kube_store import Object, suffix

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
NAME = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(\.{LABEL})*")
CONTAINER = re.compile(rf"(?=.{{1,63}}\Z){LABEL}")
VALUE = re.compile(r"(?=.{0,63}\Z)(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
KEY = re.compile(rf"({LABEL}(\.{LABEL})*/)?(?=.{{1,63}}\Z)([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
VARIABLE = re.compile(r"[ -<>-~]+")

# Labels that a pod of a Job bears; the short one is from before Kubernetes 1.27.
NAME_LABELS = ("batch.kubernetes.io/job-name", "job-name")


def prepared(resource: Resource, body: object, namespace: str) -> Object:
    """Return a new object with its defaults; raises Refused where the server would."""
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized (must be of type object)")
    made: Object = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
    if (made["apiVersion"], made["kind"]) != (resource.api_version, resource.kind):
        raise bad_request(
            f'{made["kind"]} in version "{made["apiVersion"]}" cannot be handled as a '
            f'{resource.kind}: no kind "{made["kind"]}" is registered for version '
            f'"{made["apiVersion"]}" in scheme'
        )
    meta: Object = dict(made.get("metadata") or {})
    made["metadata"] = meta
    if resource.namespaced and meta.setdefault("namespace", namespace) != namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if meta.get("generateName") and not meta.get("name"):
        meta["name"] = meta["generateName"][:58] + suffix()
    for key in ("resourceVersion", "deletionTimestamp", "creationTimestamp", "selfLink", "uid"):
        meta.pop(key, None)
    if resource.plural == "jobs":
        _job_defaults(made)
    elif resource.plural == "pods":
        made["spec"] = _pod_defaults(made.get("spec") or {})
        made["spec"].setdefault("serviceAccountName", "default")
        made["status"] = {"phase": "Pending"}
    elif resource.plural == "secrets":
        _secret_defaults(made)
    causes = [f"{field}: Invalid value: {value!r}" for field, value in _wrong(resource, made)]
    if causes:
        raise invalid(resource, meta.get("name", ""), causes)
    return made


def unknown(resource: Resource, body: Any) -> tuple[str, ...]:
    """Return what is to be warned of in a Job."""
    if resource.plural != "jobs":
        return ()
    client: Any = kubernetes.client
    known = set(client.V1JobSpec.attribute_map.values())
    return tuple(f'unknown field "spec.{name}"' for name in body["spec"] if name not in known)


def _job_defaults(job: Object) -> None:
    spec: Object = {"backoffLimit": 6, "suspend": False, **(job.get("spec") or {})}
    meta = job["metadata"]
    meta["uid"] = str(uuid.uuid4())
    job["spec"] = spec
    template: Object = dict(spec.get("template") or {})
    spec["template"] = template
    template["metadata"] = dict(template.get("metadata") or {})
    labels = dict(template["metadata"].get("labels") or {})
    template["metadata"]["labels"] = labels
    template["spec"] = _pod_defaults(template.get("spec") or {})
    labels.update(dict.fromkeys(NAME_LABELS, meta.get("name", "")))
    job["status"] = {}


def _pod_defaults(spec: Mapping[str, Any]) -> Object:
    made: Object = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        **{key: value for key, value in spec.items() if value is not None},
    }
    for kind in ("initContainers", "containers"):
        if isinstance(made.get(kind), list):
            made[kind] = [_container_defaults(container) for container in made[kind]]
    return made


def _container_defaults(container: Mapping[str, Any]) -> Object:
    image = str(container.get("image") or "")
    name = image.rpartition("/")[2]
    latest = "@" not in name and (":" not in name or name.endswith(":latest"))
    return {
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always" if latest else "IfNotPresent",
        **{key: value for key, value in container.items() if value is not None},
    }


def _secret_defaults(secret: Object) -> None:
    secret.setdefault("type", "Opaque")
    data = dict(secret.get("data") or {})
    for key, value in (secret.pop("stringData", None) or {}).items():
        data[key] = base64.b64encode(value.encode()).decode()
    secret["data"] = data


def _wrong(resource: Resource, made: Object) -> Iterator[tuple[str, str]]:
    """Yield the fields whose values are refused, and the values."""
    yield from _mismatches(NAME, "metadata.name", [made["metadata"].get("name") or ""])
    yield from _labels(made["metadata"], "metadata")
    if resource.plural == "jobs":
        template = made["spec"]["template"]
        yield from _labels(template["metadata"], "spec.template.metadata")
        yield from _pod(template["spec"], "spec.template.spec")
        if template["spec"]["restartPolicy"] == "Always":
            yield "spec.template.spec.restartPolicy", "Always"
    elif resource.plural == "pods":
        yield from _pod(made["spec"], "spec")


def _mismatches(
    pattern: re.Pattern[str], field: str, values: Iterable[str]
) -> Iterator[tuple[str, str]]:
    yield from ((field, value) for value in values if not pattern.fullmatch(value))


def _labels(meta: Mapping[str, Any], field: str) -> Iterator[tuple[str, str]]:
    labels = meta.get("labels") or {}
    yield from _mismatches(KEY, f"{field}.labels", labels)
    yield from _mismatches(VALUE, f"{field}.labels", labels.values())
    yield from _mismatches(KEY, f"{field}.annotations", meta.get("annotations") or {})


def _pod(spec: Mapping[str, Any], field: str) -> Iterator[tuple[str, str]]:
    volumes = [volume["name"] for volume in spec.get("volumes") or ()]
    yield from _mismatches(CONTAINER, f"{field}.volumes", volumes)
    if not spec.get("containers"):
        yield f"{field}.containers", ""
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        yield from _mismatches(CONTAINER, f"{field}.containers.name", [container["name"]])
        if not container.get("image"):
            yield f"{field}.containers.image", ""
        variables = [variable["name"] for variable in container.get("env") or ()]
        yield from _mismatches(VARIABLE, f"{field}.containers.env", variables)
        for mount in container.get("volumeMounts") or ():
            if mount["name"] not in volumes:
                yield f"{field}.containers.volumeMounts", mount["name"]


def quantity(value: object) -> float:
    """Return an amount of memory such as ``64Mi`` in bytes."""
    found = re.fullmatch(r"([0-9.]+)(?:([KMGT])i)?", str(value))
    assert found is not None, value
    return float(found[1]) * 1024.0 ** (" KMGT".index(found[2] or " "))
