"""What a Kubernetes API server demands of objects and adds to them."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from kube_status import Cause, Resource, bad_request, invalid
from kube_store import Object, suffix

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(LABEL.pattern + r"(\." + LABEL.pattern + ")*")
QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
QUANTITY = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?")

SAY_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
    "must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SAY_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
SAY_QUALIFIED = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    "with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for "
    "validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
SAY_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  "
    "or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
SAY_CONFIG_KEY = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. "
    "'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
SAY_VARIABLE = (
    "a valid environment variable name must consist only of printable ASCII characters other "
    "than '='"
)
SAY_QUANTITY = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)

ANNOTATIONS = 256 * 1024
SECRET = 1024 * 1024

# Labels that a pod of a Job bears; the short ones are from before Kubernetes 1.27.
UID_LABELS = ("batch.kubernetes.io/controller-uid", "controller-uid")
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
        made["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    elif resource.plural == "secrets":
        _secret_defaults(made)
    causes = [*_metadata(resource, meta), *_content(resource, made)]
    if causes:
        raise invalid(resource, meta.get("name", ""), causes)
    return made


def _job_defaults(job: Object) -> None:
    spec: Object = dict(job.get("spec") or {})
    meta = job["metadata"]
    meta["uid"] = str(uuid.uuid4())
    meta["generation"] = 1
    job["spec"] = spec
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    for key, value in (
        ("backoffLimit", 6), ("completionMode", "NonIndexed"), ("suspend", False),
        ("podReplacementPolicy", "TerminatingOrFailed"), ("manualSelector", False),
    ):  # fmt: skip
        if spec.get(key) is None:
            spec[key] = value
    template: Object = dict(spec.get("template") or {})
    spec["template"] = template
    template["metadata"] = dict(template.get("metadata") or {})
    labels = dict(template["metadata"].get("labels") or {})
    template["metadata"]["labels"] = labels
    template["spec"] = _pod_defaults(template.get("spec") or {})
    if labels and not meta.get("labels"):
        meta["labels"] = dict(labels)
    spec["selector"] = {"matchLabels": {UID_LABELS[0]: meta["uid"]}}
    labels.update(dict.fromkeys(UID_LABELS, meta["uid"]))
    labels.update(dict.fromkeys(NAME_LABELS, meta.get("name", "")))
    job["status"] = {}


def _pod_defaults(spec: Mapping[str, Any]) -> Object:
    made: Object = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
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
        "resources": {},
        **{key: value for key, value in container.items() if value is not None},
    }


def _secret_defaults(secret: Object) -> None:
    secret.setdefault("type", "Opaque")
    data = dict(secret.get("data") or {})
    for value in data.values():
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, ValueError):
            good = re.match(r"[A-Za-z0-9+/]*", value)
            at = len(good[0]) if good else 0
            raise bad_request(
                f'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at '
                f"input byte {at}"
            ) from None
    for key, value in (secret.pop("stringData", None) or {}).items():
        data[key] = base64.b64encode(value.encode()).decode()
    secret["data"] = data


def _metadata(resource: Resource, meta: Mapping[str, Any]) -> Iterator[Cause]:
    name = meta.get("name")
    if not name:
        yield Cause("metadata.name", "Required value", "name or generateName is required")
    elif len(name) > 253:
        yield invalid_value("metadata.name", name, "must be no more than 253 bytes")
    elif not (LABEL if resource.plural == "namespaces" else SUBDOMAIN).fullmatch(name):
        yield invalid_value("metadata.name", name, SAY_SUBDOMAIN)
    yield from labels(meta.get("labels") or {}, "metadata.labels")
    yield from _annotations(meta.get("annotations") or {}, "metadata.annotations")
    for number, owner in enumerate(meta.get("ownerReferences") or ()):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                field = f"metadata.ownerReferences[{number}].{key}"
                yield invalid_value(field, "", "must not be empty")


def labels(found: Mapping[str, Any], field: str) -> Iterator[Cause]:
    """Yield what is wrong with labels."""
    for key, value in found.items():
        yield from _qualified(key, field)
        if len(value) > 63:
            yield invalid_value(field, value, "must be no more than 63 bytes")
        if not VALUE.fullmatch(value):
            yield invalid_value(field, value, SAY_VALUE)


def _annotations(found: Mapping[str, Any], field: str) -> Iterator[Cause]:
    for key in found:
        yield from _qualified(key.lower(), field)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in found.items())
    if size > ANNOTATIONS:
        yield Cause(field, "Too long", f"may not be more than {ANNOTATIONS} bytes")


def _qualified(key: str, field: str) -> Iterator[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not SUBDOMAIN.fullmatch(prefix):
        yield invalid_value(field, key, f"prefix part {SAY_SUBDOMAIN}")
    if len(name) > 63:
        yield invalid_value(field, key, "name part must be no more than 63 bytes")
    if not QUALIFIED.fullmatch(name):
        yield invalid_value(field, key, SAY_QUALIFIED)


def invalid_value(field: str, value: object, why: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause(field, "Invalid value", f"{shown}: {why}")


def _content(resource: Resource, made: Object) -> Iterator[Cause]:
    if resource.plural == "jobs":
        yield from _job(made["spec"])
    elif resource.plural == "pods":
        yield from _pod(made["spec"], "spec")
    elif resource.plural in ("secrets", "configmaps"):
        data = made.get("data") or {}
        for key in data:
            if not CONFIG_KEY.fullmatch(key):
                yield invalid_value(f"data[{key}]", key, SAY_CONFIG_KEY)
        if sum(len(base64.b64decode(v)) if made["kind"] == "Secret" else len(v.encode())
               for v in data.values()) > SECRET:  # fmt: skip
            yield Cause("data", "Too long", f"may not be more than {SECRET} bytes")


def _job(spec: Mapping[str, Any]) -> Iterator[Cause]:
    for key in ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds",
                "ttlSecondsAfterFinished"):  # fmt: skip
        if spec.get(key) is not None and spec[key] < 0:
            yield invalid_value(f"spec.{key}", spec[key], "must be greater than or equal to 0")
    template = spec["template"]
    yield from labels(template["metadata"]["labels"], "spec.template.labels")
    yield from _annotations(
        template["metadata"].get("annotations") or {}, "spec.template.annotations"
    )
    yield from _pod(template["spec"], "spec.template.spec")
    policy = template["spec"]["restartPolicy"]
    if policy == "Always":
        yield Cause(
            "spec.template.spec.restartPolicy",
            "Required value",
            'valid values: "OnFailure", "Never"',
        )


def _pod(spec: Mapping[str, Any], field: str) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield Cause(f"{field}.containers", "Required value")
    if spec["restartPolicy"] not in ("Always", "OnFailure", "Never"):
        yield Cause(
            f"{field}.restartPolicy",
            "Unsupported value",
            f'"{spec["restartPolicy"]}": supported values: "Always", "OnFailure", "Never"',
        )
    if (spec.get("activeDeadlineSeconds") or 1) < 1:
        yield invalid_value(
            f"{field}.activeDeadlineSeconds", spec["activeDeadlineSeconds"],
            "must be between 1 and 2147483647, inclusive",
        )  # fmt: skip
    volumes: set[str] = set()
    for number, volume in enumerate(spec.get("volumes") or ()):
        yield from _label(f"{field}.volumes[{number}].name", volume.get("name"), volumes)
    names: set[str] = set()
    for kind in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(kind) or ()):
            yield from _container(container, f"{field}.{kind}[{number}]", names, volumes)


def _label(field: str, name: str | None, taken: set[str]) -> Iterator[Cause]:
    if not name:
        yield Cause(field, "Required value")
    elif len(name) > 63:
        yield invalid_value(field, name, "must be no more than 63 bytes")
    elif not LABEL.fullmatch(name):
        yield invalid_value(field, name, SAY_LABEL)
    elif name in taken:
        yield Cause(field, "Duplicate value", f'"{name}"')
    taken.add(name or "")


def _container(
    container: Mapping[str, Any], field: str, names: set[str], volumes: set[str]
) -> Iterator[Cause]:
    yield from _label(f"{field}.name", container.get("name"), names)
    image = container.get("image") or ""
    if not image:
        yield Cause(f"{field}.image", "Required value")
    elif image != image.strip():
        yield invalid_value(f"{field}.image", image, "must not have leading or trailing whitespace")
    for key, values in (
        ("imagePullPolicy", ("Always", "IfNotPresent", "Never")),
        ("terminationMessagePolicy", ("FallbackToLogsOnError", "File")),
    ):
        if container[key] not in values:
            shown = ", ".join(f'"{value}"' for value in values)
            text = f'"{container[key]}": supported values: {shown}'
            yield Cause(f"{field}.{key}", "Unsupported value", text)
    for number, variable in enumerate(container.get("env") or ()):
        name = variable.get("name") or ""
        if not name:
            yield Cause(f"{field}.env[{number}].name", "Required value")
        elif not re.fullmatch(r"[ -<>-~]+", name):
            yield invalid_value(f"{field}.env[{number}].name", name, SAY_VARIABLE)
        if variable.get("value") and variable.get("valueFrom"):
            yield invalid_value(
                f"{field}.env[{number}].valueFrom", "",
                "may not be specified when `value` is not empty",
            )  # fmt: skip
    paths: set[str] = set()
    for number, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("mountPath") in paths:
            at = f"{field}.volumeMounts[{number}].mountPath"
            yield invalid_value(at, mount["mountPath"], "must be unique")
        paths.add(mount.get("mountPath", ""))
        if mount.get("name") not in volumes:
            at = f"{field}.volumeMounts[{number}].name"
            yield Cause(at, "Not found", f'"{mount.get("name")}"')
        if not mount.get("mountPath"):
            yield Cause(f"{field}.volumeMounts[{number}].mountPath", "Required value")
    yield from _resources(container.get("resources") or {}, f"{field}.resources")


def _resources(resources: Mapping[str, Any], field: str) -> Iterator[Cause]:
    limits = resources.get("limits") or {}
    for kind in ("limits", "requests"):
        for name, value in (resources.get(kind) or {}).items():
            if not QUANTITY.fullmatch(str(value)):
                raise bad_request(f"unable to parse quantity's suffix: {SAY_QUANTITY}")
            if name in limits and quantity(value) > quantity(limits[name]):
                yield invalid_value(
                    f"{field}.requests", str(value),
                    f"must be less than or equal to {name} limit of {limits[name]}",
                )  # fmt: skip


def quantity(value: object) -> float:
    """Return a quantity such as ``100m`` or ``1Gi`` as a number."""
    text = str(value)
    found = re.fullmatch(r"([+-]?[0-9.]+)(.*)", text)
    assert found is not None, text
    number, unit = float(found[1]), found[2]
    if unit[:1] in ("e", "E") and unit[1:]:
        return float(text)
    if unit.endswith("i"):
        return number * 1024.0 ** ("KMGTPE".index(unit[0]) + 1)
    exponents = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
    return number * 1000.0 ** exponents[unit]


def replaced(resource: Resource, before: Object, after: Object) -> None:
    """See to it that an update changes only what may change; raises Refused."""
    meta, old = after.get("metadata") or {}, before["metadata"]
    name = old["name"]
    if meta.get("name") != name:
        raise bad_request(
            f"the name of the object ({meta.get('name')}) does not match the name on the URL "
            f"({name})"
        )
    causes = [*_metadata(resource, meta)]
    for key in ("uid", "creationTimestamp", "generation", "deletionTimestamp",
                "deletionGracePeriodSeconds", "namespace"):  # fmt: skip
        if key == "uid" and meta.get(key) not in (None, old[key]):
            causes.append(invalid_value("metadata.uid", meta[key], "field is immutable"))
        if key in old:
            meta[key] = old[key]
        else:
            meta.pop(key, None)
    if resource.plural == "jobs":
        causes += _job_changes(before["spec"], after.get("spec") or {})
    elif resource.plural == "pods" and _without_metadata(before) != _without_metadata(after):
        causes.append(Cause("spec", "Forbidden", "pod updates may not change fields other than "
            "`spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
            "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
            "previously negative)"))  # fmt: skip
    elif resource.plural == "secrets":
        _secret_defaults(after)
        causes += _content(resource, after)
    if causes:
        raise invalid(resource, name, causes)


def _without_metadata(pod: Object) -> Object:
    spec = dict(pod.get("spec") or {})
    spec.pop("activeDeadlineSeconds", None)
    return spec


def _job_changes(before: Mapping[str, Any], after: Object) -> Iterator[Cause]:
    for key in ("completions", "selector", "completionMode"):
        if after.get(key) != before.get(key):
            yield invalid_value(f"spec.{key}", after.get(key), "field is immutable")
    if after.get("template") != before["template"] and not before["suspend"]:
        yield invalid_value("spec.template", "{...}", "field is immutable")
    for key in ("parallelism", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if after.get(key) is not None and after[key] < 0:
            yield invalid_value(f"spec.{key}", after[key], "must be greater than or equal to 0")
