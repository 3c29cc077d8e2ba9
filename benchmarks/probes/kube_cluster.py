"""Plays a Kubernetes cluster and a registry, in the directory that is named second, until its end.

Its pods are real containers where the first word is ``docker``; where it is ``log``, what they
write is there at once; else it is how many of them are to run at once before the first one ends.
Prints where both are, then for each line that it reads the requests that came since the last one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tests"))

from docker_helpers import registry
from kube_cluster import Cluster
from kube_faults import Request
from kube_http import Answer
from kube_kubelet import DockerKubelet, Kubelet, Pod, Scripted
from kube_status import RESOURCES

# What each played pod writes before it waits for the others.
_LINES = 100

# Lines of a log that is there at once, what stands in each behind its number, and how much of it
# goes out together, in bytes.
_MANY = 400_000
_TEXT = b"loss 0.123456 accuracy 0.654321 of a training that tells a lot, and tells it often"
_BLOCK = 32 * 1024


def main() -> None:
    """Play, until there is nothing more to read."""
    kind, directory = sys.argv[1], Path(sys.argv[2])
    directory.mkdir()
    with ExitStack() as parts:
        there = parts.enter_context(contextmanager(registry)(directory / "registry"))
        cluster = parts.enter_context(_cluster(kind))
        config = cluster.kubeconfig(directory / "kubeconfig")
        _tell({"kubeconfig": str(config), "registry": there.address})
        told = 0
        for _ in sys.stdin:
            found = cluster.requests[told:]
            told += len(found)
            _tell([[request.method, request.path, dict(request.query)] for request in found])


def _cluster(kind: str) -> Cluster:
    if kind == "docker":
        return _Discovered(DockerKubelet())
    return _Written() if kind == "log" else _Discovered(_at_once(int(kind)))


class _Discovered(Cluster):
    """A cluster that tells kubectl what it has."""

    def answer(self, request: Request, body: Any) -> Answer:
        batch = {"groupVersion": "batch/v1", "version": "v1"}
        group = {"name": "batch", "versions": [batch], "preferredVersion": batch}
        told: dict[str, dict[str, Any]] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
            "/api/v1": _resources("v1", ""),
            "/apis/batch/v1": _resources("batch/v1", "batch"),
        }
        found = told.get(request.path.rstrip("/"))
        return super().answer(request, body) if found is None else Answer(object=found)


def _resources(version: str, group: str) -> dict[str, Any]:
    rows = [
        {
            "name": each.plural,
            "singularName": each.kind.lower(),
            "kind": each.kind,
            "namespaced": each.namespaced,
            "verbs": list(each.verbs),
        }
        for each in RESOURCES.values()
        if each.group == group
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": rows}


class _Written(_Discovered):
    """A cluster whose logs are prepared, so that none waits for whoever writes them."""

    def __init__(self) -> None:
        super().__init__(Scripted(_run))
        lines = [b"%06d %s\n" % (number, _TEXT) for number in range(_MANY)]
        self._plain = b"".join(lines)
        # As fast as a disk takes them.
        stamps = (b"2024-01-01T00:00:%02d.%09dZ " % divmod(at * 5000, 10**9) for at in range(_MANY))
        self._stamped = b"".join(stamp + line for stamp, line in zip(stamps, lines, strict=True))

    def answer(self, request: Request, body: Any) -> Answer:
        if not request.path.endswith("/log"):
            return super().answer(request, body)
        text = self._stamped if request.query.get("timestamps") == "true" else self._plain
        if request.query.get("tailLines"):
            text = text[text.rindex(b"\n", 0, -1) + 1 :]
        return Answer(stream=_blocks(text), kind="text/plain")


def _blocks(text: bytes) -> Iterator[bytes]:
    for at in range(0, len(text), _BLOCK):
        yield text[at : at + _BLOCK]


def _run(pod: Pod) -> None:
    pod.running()
    pod.ended(0)


def _at_once(count: int) -> Kubelet:
    """Return what plays all pods at the same time, but for the last one."""
    together = threading.Barrier(count)

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"".join(b"line %d of %s\n" % (at, pod.name.encode()) for at in range(_LINES)))
        if "-main-" not in pod.name:
            together.wait(300)
        pod.ended(0)

    return Scripted(play)


def _tell(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
