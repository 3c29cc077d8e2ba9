"""A Kubernetes API server for tests, over HTTP, with a Job controller and kubelets.

It speaks as Kubernetes v1.34 does, as far as buildrun and its tests ask::

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"hello\\n")
        pod.ended(0)

    with Cluster(Scripted(play)) as cluster:
        config = cluster.kubeconfig(tmp_path / "config")
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import kube_api
from kube_control import Control
from kube_faults import Fault, Kind, Request
from kube_http import Answer, Server
from kube_jobs import Jobs
from kube_kubelet import Kubelet, Pod
from kube_rules import prepared, unknown
from kube_status import RESOURCES, Refused, Resource, forbidden, unauthorized
from kube_store import Object, Store
from kube_tls import identity

# Seconds that what plays pods is given to end when the cluster does.
PATIENCE = 20.0


class Cluster:
    """One cluster; everything in it ends with its `with` block.

    backoff: seconds before a Job's second pod. token: what requests must bear; None for anything.
    tls: with a certificate that the configuration names.
    A play that raises is raised again at the end.
    """

    def __init__(
        self,
        kubelet: Kubelet,
        *,
        backoff: float = 10.0,
        token: str | None = None,
        tls: bool = False,
        user: str = "system:serviceaccount:default:builder",
    ) -> None:
        self.store = Store()
        self.kubelet = kubelet
        self.token = token
        self.user = user
        self.identity = identity() if tls else None
        self.unauthorized = False
        self.gone_as: Literal["event", "status"] = "event"
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.troubles: list[BaseException] = []
        self.closing = threading.Event()
        self._forbidden: set[tuple[str, str]] = set()
        self._refused: dict[str, tuple[str, bool]] = {}
        jobs = Jobs(self.store, self._create_pod, backoff)
        self._control = Control(self.store, kubelet, jobs, self.troubles, self.closing)
        for name in ("default", "kube-system"):
            self.namespace(name)
        self._server = Server(self)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.05,), name="kube-http"),
            threading.Thread(target=self._control.run, name="kube-controllers"),
        ]

    def __enter__(self) -> Cluster:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None and self.troubles:
            raise self.troubles[0]

    def close(self) -> None:
        """End all of it; raises AssertionError if a play does not end."""
        self.closing.set()
        for fault in self.faults:
            fault.release()
        with self.store.changed:
            self.store.changed.notify_all()
        self._threads[1].join()
        stuck = self._control.end(PATIENCE)
        self._server.shutdown()
        self._threads[0].join()
        self._server.sever(".*")
        self._server.server_close()
        self.kubelet.close()
        assert not stuck, f"what plays these pods goes on although they are deleted: {stuck}"

    # What a test asks and arranges.

    def kubeconfig(
        self,
        path: Path,
        *,
        context: str = "test",
        namespace: str | None = None,
        token: str | None = "token",
    ) -> Path:
        """Write a configuration for clients, and return its path."""
        user = {} if token is None else {"token": token}
        place = {} if namespace is None else {"namespace": namespace}
        server = {"server": self.url}
        if self.identity is not None:
            authority = base64.b64encode(self.identity.certificate).decode()
            server["certificate-authority-data"] = authority
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u", **place}}],
        }
        path.write_text(json.dumps(config, indent=2))
        path.chmod(0o600)
        return path

    def namespace(self, name: str) -> None:
        """Add a namespace; `default` and `kube-system` are there."""
        self.store.create(
            "namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        )

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """Return an object, such as of kind ``jobs``; raises kube_status.Refused."""
        return self.store.get(_plural(kind), namespace if kind != "namespaces" else "", name)

    def all(self, kind: str, namespace: str = "") -> list[Object]:
        """Return the objects of a kind, in all namespaces by default."""
        return self.store.all(_plural(kind), namespace)

    def wait(self, kind: str, predicate: Callable[[Object], object], limit: float = 60) -> Object:
        """Return the first object of a kind that is so, when there is one; limit: seconds."""
        found: list[Object] = []

        def done() -> bool:
            found.extend(each for each in self.all(kind) if predicate(each))
            return bool(found)

        assert self.store.wait(done, limit), f"no such {kind} in {limit} s: {self.all(kind)}"
        return found[0]

    def wait_until(self, predicate: Callable[[], object], limit: float = 60) -> None:
        """Wait until something is so, looking after each change; limit: seconds."""
        assert self.store.wait(lambda: bool(predicate()), limit), f"it is not so after {limit} s"

    def pod(self, uid: str) -> Pod | None:
        """Return what plays a pod."""
        with self.store.changed:
            return self._control.pods.get(uid)

    def create(self, kind: str, body: object, namespace: str = "default") -> Object:
        """Create an object as a request does; raises kube_status.Refused."""
        resource = RESOURCES[_plural(kind)]
        with self.store.changed:
            made = prepared(resource, body, namespace)
            if resource.namespaced:
                try:
                    self.store.get("namespaces", "", namespace)
                except Refused:
                    raise kube_api.namespace_missing(namespace) from None
            self._admit(resource, made)
            return self.store.create(resource.plural, made)

    def update(
        self, kind: str, name: str, change: Callable[[Object], None], namespace: str = "default"
    ) -> Object:
        """Let a function change an object, without the rules for requests."""
        return self.store.update(_plural(kind), namespace, name, change)

    def compact(self) -> None:
        """Make all versions up to now too old for a new watch."""
        self.store.compact()

    def sever(self, pattern: str = ".*") -> None:
        """Close the connections whose last request, path and query, matches."""
        self._server.sever(pattern)

    def forbid(self, verb: str, resource: str) -> None:
        """Take a right away; resource: such as ``jobs`` or ``pods/log``."""
        self._forbidden.add((verb, resource))

    def refuse(self, resource: str, why: str, *, plain: bool = False) -> None:
        """Refuse new objects, also to the Job controller.

        why: such as ``exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1``.
        plain: it is the whole message, as that of an admission webhook.
        """
        self._refused[resource] = (why, plain)

    def admit(self, resource: str) -> None:
        """Refuse no longer, and have the Job controller try again at once."""
        with self.store.changed:
            self._refused.pop(resource, None)
            self._control.kick()

    def fault(self, kind: Kind, method: str = "*", pattern: str = "", **options: Any) -> Fault:
        """Let the next requests fail whose path and query match; options: as of `Fault`."""
        made = Fault(kind, method, pattern, **options)
        with self.store.changed:
            self.faults.append(made)
        return made

    # What the server asks.

    def met(self, request: Request, target: str) -> Fault | None:
        """Note a request; return the fault that it meets."""
        with self.store.changed:
            self.requests.append(request)
            self.store.changed.notify_all()
            for fault in self.faults:
                if fault.times and fault.matches(request.method, target):
                    fault.times -= 1
                    fault.met += 1
                    return fault
            return None

    def authenticate(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        good = self.token is None or (scheme.lower(), token.strip()) == ("bearer", self.token)
        if self.unauthorized or not good:
            raise unauthorized()

    def authorize(
        self, verb: str, resource: Resource, namespace: str, name: str, part: str
    ) -> None:
        thing = f"{resource.plural}/{part}" if part else resource.plural
        if self.allowed(verb, thing):
            return
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        raise forbidden(
            resource, name, f'User "{self.user}" cannot {verb} resource "{thing}" in API group '
            f'"{resource.group}" {where}',
        )  # fmt: skip

    def allowed(self, verb: str, resource: str) -> bool:
        return (verb, resource) not in self._forbidden

    def warnings_of(self, resource: Resource, body: Any) -> tuple[str, ...]:
        """Return what is to be warned of in a new object."""
        found = unknown(resource, body)
        why, _ = self._refused.get("pods", ("", False))
        if resource.plural == "jobs" and why.startswith("violates PodSecurity"):
            found = (*found, f"would violate{why.removeprefix('violates')}")
        return found

    def answer(self, request: Request, body: Any) -> Answer:
        return kube_api.answer(self, request, body)

    # What goes on by itself.

    def _create_pod(self, pod: Object) -> Object:
        return self.create("pods", pod, pod["metadata"]["namespace"])

    def _admit(self, resource: Resource, made: Object) -> None:
        name = made["metadata"]["name"]
        if resource.plural == "pods":
            account = made["spec"]["serviceAccountName"]
            if account != "default":
                place = made["metadata"]["namespace"]
                raise forbidden(
                    resource, name, f"error looking up service account {place}/{account}: "
                    f'serviceaccount "{account}" not found',
                )  # fmt: skip
        if resource.plural in self._refused:
            why, plain = self._refused[resource.plural]
            raise kube_api.refuse_creation(resource, name, why, plain=plain)


def _plural(kind: str) -> str:
    for resource in RESOURCES.values():
        if kind in (resource.plural, resource.kind, resource.kind.lower()):
            return resource.plural
    raise KeyError(kind)
