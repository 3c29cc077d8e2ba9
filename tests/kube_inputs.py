"""What a kubelet gives the containers of a pod: variables and volumes."""

from __future__ import annotations

import base64
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
    """The variables of one pod, and its volumes: Secrets and empty directories.

    directory: where the volumes are made.
    """

    def __init__(self, pod: Pod, directory: Path) -> None:
        self._pod = pod
        self._directory = directory

    def variables(self, container: Object) -> dict[str, str]:
        """Return the variables of a container; raises Unready."""
        found: dict[str, str] = {}
        for variable in container.get("env") or ():
            source = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if source:
                found[variable["name"]] = self._secret(source["name"])[source["key"]].decode()
            else:
                found[variable["name"]] = expand(variable.get("value") or "", found)
        return found

    def _secret(self, name: str) -> dict[str, bytes]:
        found = self._pod.read("secrets", name)
        if found is None:
            raise Unready(f'secret "{name}" not found')
        return {key: base64.b64decode(value) for key, value in found["data"].items()}

    def mount_all(self) -> None:
        """Prepare the volumes; raises Unready."""
        for volume in self._pod.spec.get("volumes") or ():
            place = self._place(volume["name"])
            place.mkdir(exist_ok=True)
            place.chmod(0o777)
            if secret := volume.get("secret"):
                data = self._secret(secret["secretName"])
                for item in secret["items"]:
                    (place / item["path"]).write_bytes(data[item["key"]])

    def mount(self, mount: Object) -> Mount:
        """Return where a mount of a container leads."""
        volume = next(each for each in self._pod.spec["volumes"] if each["name"] == mount["name"])
        sealed = bool(mount.get("readOnly")) or "secret" in volume
        return Mount(str(self._place(mount["name"])), mount["mountPath"], sealed)

    def _place(self, volume: str) -> Path:
        return self._directory / f"volume-{volume}"


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expand ``$(NAME)`` as a kubelet does: ``$$`` is ``$``, what is not known stays."""

    def value(found: re.Match[str]) -> str:
        if found[1] is not None:
            return variables.get(found[1], found[0])
        return "$" if found[0] == "$$" else found[0]

    return re.sub(r"\$(?:\$|\(([^)]*)\))", value, text)
