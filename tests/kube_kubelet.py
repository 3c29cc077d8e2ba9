"""The kubelets of a Kubernetes stand-in: what a pod does, by a test's own script or by Docker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kube_docker import DockerKubelet
from kube_pod import Pod

__all__ = ["DockerKubelet", "Kubelet", "Pod", "Scripted"]


class Kubelet(Protocol):
    """How pods are played."""

    # Seconds that a pod is given to go above its own grace period.
    slack: float

    # Play a pod in a thread of its own, until it has ended or `pod.deleted` is set.
    def play(self, pod: Pod) -> None: ...

    # Let go of what it holds.
    def close(self) -> None: ...


class Scripted:
    """Plays pods by a function of a test, each in a thread; the pod goes when it returns.

    One that has returned leaves the pod as it is until it is deleted, as a process that hangs. One
    that goes on after `pod.deleted` is set goes on for the pod's grace period at most.
    """

    slack = 1.0

    def __init__(self, play: Callable[[Pod], object]) -> None:
        self._play = play

    def play(self, pod: Pod) -> None:
        self._play(pod)

    def close(self) -> None:
        pass
