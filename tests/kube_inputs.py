"""What a kubelet gives the containers of a pod: variables and volumes."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kube_pod import Pod

Object = dict[str, Any]


class Unready(Exception):
    """A container cannot be made as it is declared, since something is not there."""


class Mount(NamedTuple):
    """A directory or file of the host in a container."""

    source: str
    target: str
    readonly: bool


class Inputs:
    """The variables and volumes of one pod.

    directory: where the volumes are made. given: variables for every container.
    """

    def __init__(self, pod: Pod, directory: Path, given: Mapping[str, str]) -> None:
        self._pod = pod
        self._directory = directory
        self._given = given
        self._volumes: dict[str, str] = {}

    # Variables.

    def variables(self, container: Object) -> dict[str, str]:
        """Return the variables of a container; raises Unready."""
        found = dict(self._given)
        for source in container.get("envFrom") or ():
            for kind, resource in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
                if kind in source:
                    data = self._data(resource, source[kind])
                    prefix = source.get("prefix") or ""
                    found.update({prefix + key: value.decode() for key, value in data.items()})
        for variable in container.get("env") or ():
            name, source = variable["name"], variable.get("valueFrom")
            if source:
                value = self._value(source)
                if value is not None:
                    found[name] = value
            else:
                found[name] = expand(variable.get("value") or "", found)
        return found

    def _value(self, source: Object) -> str | None:
        for kind, resource, said in (
            ("secretKeyRef", "secrets", "Secret"), ("configMapKeyRef", "configmaps", "ConfigMap"),
        ):  # fmt: skip
            if kind in source:
                reference = source[kind]
                data = self._data(resource, reference)
                if reference["key"] in data:
                    return data[reference["key"]].decode()
                if reference.get("optional"):
                    return None
                place = f"{self._pod.namespace}/{reference['name']}"
                raise Unready(f"couldn't find key {reference['key']} in {said} {place}")
        at: Any = self._pod.current
        path = source["fieldRef"]["fieldPath"]
        if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.*)'\]", path):
            return str((at["metadata"].get(found[1]) or {}).get(found[2], ""))
        for part in path.split("."):
            at = at.get(part, "")
        return str(at)

    def _data(self, resource: str, reference: Object) -> dict[str, bytes]:
        found = self._pod.read(resource, reference["name"])
        if found is None:
            if reference.get("optional"):
                return {}
            kind = {"secrets": "secret", "configmaps": "configmap"}[resource]
            raise Unready(f'{kind} "{reference["name"]}" not found')
        return contents(found)

    # Volumes.

    def mounted(self) -> bool:
        """Prepare the volumes as soon as what they hold is there."""
        pod = self._pod
        for volume in pod.spec.get("volumes") or ():
            while not pod.ending():
                try:
                    self._volumes[volume["name"]] = self._volume(volume)
                    break
                except Unready as error:
                    name = volume["name"]
                    pod.event(
                        "FailedMount", f'MountVolume.SetUp failed for volume "{name}" : {error}'
                    )
                    self._until_there(volume)
        return not pod.ending()

    def _until_there(self, volume: Object) -> None:
        self._pod.until(lambda: self._there(volume))

    def _there(self, volume: Object) -> bool:
        try:
            self._source(volume)
        except Unready:
            return False
        return True

    def _source(self, volume: Object) -> dict[str, bytes] | None:
        for kind, resource, key in (
            ("secret", "secrets", "secretName"), ("configMap", "configmaps", "name"),
        ):  # fmt: skip
            if kind in volume:
                source = volume[kind]
                data = self._data(resource, {**source, "name": source[key]})
                if source.get("items"):
                    for item in source["items"]:
                        if item["key"] not in data:
                            raise Unready(f"references non-existent {kind} key: {item['key']}")
                    return {item["path"]: data[item["key"]] for item in source["items"]}
                return data
        return None

    def _volume(self, volume: Object) -> str:
        if "hostPath" in volume:
            return str(volume["hostPath"]["path"])
        data = self._source(volume)
        place = self._directory / f"volume-{volume['name']}"
        place.mkdir(exist_ok=True)
        if data is None:
            place.chmod(0o777)
            return str(place)
        kind = volume.get("secret") or volume.get("configMap") or {}
        mode = kind.get("defaultMode", 0o644)
        inner = place / "..2025_01_01_00_00_00.000000001"
        for name, content in data.items():
            file = inner / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(mode)
            top = place / Path(name).parts[0]
            if not top.is_symlink():
                top.symlink_to(Path("..data") / Path(name).parts[0])
        inner.mkdir(exist_ok=True)
        if not (place / "..data").is_symlink():
            (place / "..data").symlink_to(inner.name)
        return str(place)

    def mount(self, mount: Object) -> Mount:
        """Return where a mount of a container leads."""
        source = self._volumes[mount["name"]]
        if mount.get("subPath"):
            source = os.path.realpath(os.path.join(source, mount["subPath"]))
            if not os.path.exists(source):
                os.makedirs(source)
        volume = next(each for each in self._pod.spec["volumes"] if each["name"] == mount["name"])
        sealed = bool(mount.get("readOnly")) or "secret" in volume or "configMap" in volume
        return Mount(source, mount["mountPath"], sealed)


def contents(object: Object) -> dict[str, bytes]:
    """Return what a Secret or ConfigMap holds."""
    data = object.get("data") or {}
    if object["kind"] == "Secret":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary = object.get("binaryData") or {}
    return {
        **{key: value.encode() for key, value in data.items()},
        **{key: base64.b64decode(value) for key, value in binary.items()},
    }


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expand ``$(NAME)`` as a kubelet does: ``$$`` is ``$``, what is not known stays."""

    def value(found: re.Match[str]) -> str:
        if found[1] is not None:
            return variables.get(found[1], found[0])
        return "$" if found[0] == "$$" else found[0]

    return re.sub(r"\$(?:\$|\(([^)]*)\))", value, text)
