"""Whether the fields of an object are those that the API has, by the client's own models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import kubernetes
from kube_status import RESOURCES, Resource, bad_request

# What a field may hold, with Go's word for the type.
KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "string"),
    "int": ((int,), "int64"),
    "bool": ((bool,), "bool"),
    "float": ((int, float), "float64"),
    "datetime": ((str,), "Time"),
}

# Numbers are taken for these too, as quantities.
QUANTITIES = {"limits", "requests", "sizeLimit", "divisor", "capacity", "overhead"}


# Has the client load the models that nearly every object needs, which takes it a while.
SAMPLE = {
    "metadata": {"ownerReferences": [{}]},
    "spec": {
        "template": {
            "metadata": {},
            "spec": {
                "containers": [
                    {
                        "env": [{"valueFrom": {"secretKeyRef": {}, "fieldRef": {}}}],
                        "envFrom": [{"secretRef": {}}],
                        "volumeMounts": [{}],
                        "resources": {},
                        "securityContext": {},
                    }
                ],
                "volumes": [{"secret": {}, "emptyDir": {}, "configMap": {}}],
                "tolerations": [{}],
                "imagePullSecrets": [{}],
            },
        }
    },
}


class Trouble(NamedTuple):
    """What is wrong: an unknown field, or a value of another type."""

    text: str
    unknown: bool


def checked(resource: Resource, body: Any, mode: str) -> tuple[str, ...]:
    """Return what to warn of; raises Refused.

    mode: Strict refuses unknown fields, Warn tells of them, Ignore does not.
    """
    if not isinstance(body, dict):
        return ()
    client: Any = kubernetes.client
    model = getattr(client, "V1" + resource.kind, None) or client.CoreV1Event
    found = list(_fields(client, model, body, "", ""))
    prefix = f'{resource.kind} in version "{resource.version}" cannot be handled as a '
    for trouble in found:
        if not trouble.unknown:
            raise bad_request(f"{prefix}{resource.kind}: {trouble.text}")
    unknown = [trouble.text for trouble in found]
    if unknown and mode == "Strict":
        raise bad_request(f"{prefix}{resource.kind}: strict decoding error: {', '.join(unknown)}")
    return tuple(unknown) if mode == "Warn" else ()


def warm() -> None:
    """Do now what would make the first request slow."""
    for name in ("jobs", "secrets", "pods", "configmaps"):
        checked(RESOURCES[name], SAMPLE if name == "jobs" else {"metadata": {}}, "Ignore")


def _fields(client: Any, model: Any, value: Any, path: str, way: str) -> Iterator[Trouble]:
    """path: as strict decoding names a field, with indexes; way: as Go does, without."""
    types = {
        name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()
    }
    owner = re.sub(r"^(Core)?V1", "", model.__name__)
    for name, content in value.items():
        at, by = _join(path, name), _join(way, name)
        if name not in types:
            yield Trouble(f'unknown field "{at}"', unknown=True)
        elif content is not None and name not in QUANTITIES:
            yield from _value(client, types[name], content, at, by, owner)


def _value(
    client: Any, kind: str, value: Any, path: str, way: str, owner: str
) -> Iterator[Trouble]:
    if found := re.fullmatch(r"[lL]ist\[(.*)\]", kind):
        if not isinstance(value, list):
            yield _wrong(value, way, owner, f"[]{found[1]}")
            return
        for number, each in enumerate(value):
            if each is not None:
                yield from _value(client, found[1], each, f"{path}[{number}]", way, owner)
    elif found := re.fullmatch(r"[dD]ict[\[(]str, (.*)[\])]", kind):
        if not isinstance(value, dict):
            yield _wrong(value, way, owner, f"map[string]{found[1]}")
            return
        for key, each in value.items():
            if each is not None:
                yield from _value(client, found[1], each, _join(path, key), way, owner)
    elif kind in KINDS:
        types, word = KINDS[kind]
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
            yield _wrong(value, way, owner, word)
    elif kind != "object" and hasattr(getattr(client, kind, None), "openapi_types"):
        model = getattr(client, kind)
        if isinstance(value, dict):
            yield from _fields(client, model, value, path, way)
        else:
            yield _wrong(value, way, owner, "v1." + re.sub(r"^(Core)?V1", "", kind))


def _wrong(value: Any, way: str, owner: str, kind: str) -> Trouble:
    told = {str: "string", bool: "bool", int: "number", float: "number", list: "array"}
    text = (
        f"json: cannot unmarshal {told.get(type(value), 'object')} into Go struct field "
        f"{owner}.{way} of type {kind}"
    )
    return Trouble(text, unknown=False)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
