"""What an image says of itself, and the archive that an engine loads it from.

The config has the fields of the OCI image specification and nothing of the engine or the moment it
was made, so that its digest, which is the image's id, is the same on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from buildrun.environments.images.engine_api import Image
from buildrun.workspace import archive
from buildrun.workspace.archive import Layer

_TIME = "1970-01-01T00:00:00Z"

# What a container gets from its image; OnBuild is for builds alone.
_KEPT = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels",
    "StopSignal", "StopTimeout", "Healthcheck", "Shell", "ArgsEscaped",
)  # fmt: skip


class ConfigChange(NamedTuple):
    """What differs from the base beside the new layer.

    environ: variables set for every container. workdir: None for the base's own. labels: added.
    history: one line of it.
    """

    environ: Mapping[str, str] = {}
    workdir: str | None = None
    labels: Mapping[str, str] = {}
    history: str = "buildrun"


def config(base: Image, change: ConfigChange, layer: str) -> bytes:
    """Return the config of the base with a layer above it; layer: ``sha256:…`` of its tar."""
    own = {name: base.config[name] for name in _KEPT if base.config.get(name)}
    if environ := {**base.environ, **change.environ}:
        own["Env"] = [f"{name}={value}" for name, value in environ.items()]
    if change.workdir is not None:
        own["WorkingDir"] = change.workdir
    if labels := {**base.labels, **change.labels}:
        own["Labels"] = labels
    system, architecture = base.platform
    history = [{"created": _TIME, "created_by": "layer of the base image"} for _ in base.layers]
    value: dict[str, Any] = {
        "architecture": architecture,
        "config": own,
        "created": _TIME,
        "history": [*history, {"created": _TIME, "created_by": change.history}],
        "os": system,
        "rootfs": {"type": "layers", "diff_ids": [*base.layers, layer]},
    }
    if base.variant:
        value["variant"] = base.variant
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Archive:
    """What ``docker load`` takes, with the new layer alone: the engine has the others.

    Its classic store takes layers that it has from itself (``image/tarexport/load.go`` in moby).
    id, layer: digests of the image and of its new layer; known when all was sent.
    """

    def __init__(self, base: Image, change: ConfigChange, layer: Layer) -> None:
        """Take the parts."""
        self._base = base
        self._change = change
        self._source = layer
        self.layer = ""
        self.id = ""

    def chunks(self) -> Iterator[bytes]:
        """Yield the archive."""
        made, sent = hashlib.sha256(), 0
        yield archive.header(b"layer.tar", size=self._source.size)
        for chunk in self._source.chunks():
            made.update(chunk)
            sent += len(chunk)
            yield chunk
        if sent != self._source.size:
            raise AssertionError(f"a layer of {self._source.size} bytes has {sent}")
        self.layer = f"sha256:{made.hexdigest()}"
        text = config(self._base, self._change, self.layer)
        number = hashlib.sha256(text).hexdigest()
        absent = [f"{layer.partition(':')[2]}.tar" for layer in self._base.layers]
        manifest = [
            {"Config": f"{number}.json", "RepoTags": None, "Layers": [*absent, "layer.tar"]}
        ]
        yield (
            archive.padding(sent)
            + archive.whole(b"%s.json" % number.encode(), text)
            + archive.whole(b"manifest.json", json.dumps(manifest).encode())
            + archive.END
        )
        self.id = f"sha256:{number}"


def build_context(base: Image, change: ConfigChange, layer: Layer) -> Iterator[bytes]:
    """Yield a context from which ``docker build`` makes the same files, with an id of its own.

    Labels are not in it.
    """
    lines = [f"FROM {base.id}", "ADD layer.tar /"]
    lines += [f"ENV {name}={_quoted(value)}" for name, value in change.environ.items()]
    if change.workdir is not None:
        lines.append(f"WORKDIR {_quoted(change.workdir)}")
    yield archive.whole(b"Dockerfile", "".join(f"{line}\n" for line in lines).encode())
    yield archive.header(b"layer.tar", size=layer.size)
    yield from layer.chunks()
    yield archive.padding(layer.size) + archive.END


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\{each}" if each in '"\\$' else each for each in text) + '"'
