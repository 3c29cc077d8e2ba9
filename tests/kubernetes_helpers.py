"""A cluster to run projects on: the stand-in with a registry of its own, or a real one.

Modules of tests name this one as a plug-in, for its fixtures; they import it before pytest does, so
PYTEST_DONT_REWRITE.

BUILDRUN_TEST_KUBECONFIG names a real cluster; then BUILDRUN_TEST_REPOSITORY is a repository that
it pulls from and that this machine may push to, BUILDRUN_TEST_NAMESPACE the namespace, and
BUILDRUN_TEST_REMOTE_CACHE an object store that both reach.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Buildrun, Outcome
from docker_helpers import (  # noqa: F401
    Registry,
    an_engine,
    docker,
    imported,
    need_engine,
    registry,
)
from kube_cluster import Cluster
from kube_kubelet import DockerKubelet, Pod, Scripted
from needs import missing
from remote_helpers import bucket

from buildrun.environments.images import derive
from buildrun.environments.images.engine import KEY
from buildrun.store.home import Home

REAL = os.environ.get("BUILDRUN_TEST_KUBECONFIG", "")

# Only reached by a test that fails.
LIMIT = 120.0

KINDS = ("jobs", "pods", "secrets")


class Place(NamedTuple):
    """A cluster, and all that a run on it takes.

    owner: whose Jobs a test's are, nobody else's. standin: None for a real cluster. home: of the
    store, "" for the test's own.
    """

    kubeconfig: Path
    context: str
    namespace: str
    repository: str
    owner: str
    standin: Cluster | None
    home: str = ""

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Return the objects of a kind that buildrun has made for the test."""
        return list(_ask(self, "list", kind, labelSelector=f"buildrun/owner={self.owner}")["items"])

    def left(self) -> list[str]:
        """Return the names of all that buildrun has left."""
        return [f"{kind}/{each['metadata']['name']}" for kind in KINDS for each in self.all(kind)]

    def settled(self) -> list[str]:
        """Return what is left once the pods of Jobs that have gone are gone, too."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            jobs = {each["metadata"]["name"] for each in self.all("jobs")}
            if {each["metadata"]["labels"]["job-name"] for each in self.all("pods")} <= jobs:
                break
            time.sleep(0.1)  # a real cluster tells only who watches
        return self.left()

    def job(self) -> dict[str, Any]:
        """Return the one Job that was kept."""
        (found,) = self.all("jobs")
        return found

    def delete(self, kind: str, name: str) -> None:
        """Delete an object of the namespace, if it is there."""
        _ask(self, "delete", kind, name)

    def create(self, kind: str, body: Mapping[str, Any]) -> None:
        """Make an object in the namespace."""
        _ask(self, "create", kind, body=body)

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that lead buildrun there."""
        home = {"BUILDRUN_HOME": self.home} if self.home else {}
        return {"KUBECONFIG": str(self.kubeconfig), "BUILDRUN_OWNER": self.owner, **home}


def _ask(place: Place, verb: str, kind: str, name: str = "", **options: Any) -> dict[str, Any]:
    """Call the cluster by the official client, past buildrun's own."""
    from kubernetes import client
    from kubernetes import config as loading

    config: Any = loading
    api = config.new_client_from_config(str(place.kubeconfig))
    try:
        group: Any = client.BatchV1Api(api) if kind == "jobs" else client.CoreV1Api(api)
        noun = {"jobs": "job", "pods": "pod", "secrets": "secret"}.get(kind, kind)
        if verb == "delete":
            options["propagation_policy"] = "Background"
        if "labelSelector" in options:
            options["label_selector"] = options.pop("labelSelector")
        call = getattr(group, f"{verb}_namespaced_{noun}")
        words = (name, place.namespace) if name else (place.namespace,)
        return dict(api.sanitize_for_serialization(call(*words, **options)))
    except client.ApiException as error:
        if verb == "delete" and error.status == 404:
            return {}
        raise
    finally:
        api.close()


@pytest.fixture(scope="session", name="own_registry")
def an_own_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Run one registry for all tests of a session."""
    yield from registry(tmp_path_factory.mktemp("kubernetes") / "registry")


@pytest.fixture(name="place")
def a_place(request: pytest.FixtureRequest, engine: object, tmp_path: Path) -> Iterator[Place]:
    """Return a cluster whose pods are real; nothing may be left on it by a test."""
    del engine
    owner = f"test-{os.urandom(6).hex()}"
    if REAL:
        found = _real(owner)
        yield found
        assert _cleared(found) == []
        return
    address = request.getfixturevalue("own_registry").address
    with Cluster(DockerKubelet(), backoff=0.1) as cluster:
        config = cluster.kubeconfig(tmp_path / "kubeconfig")
        found = Place(config, "test", "default", f"{address}/team/project", owner, cluster)
        yield found
        assert _cleared(found) == []


def _cleared(place: Place) -> list[str]:
    left = place.settled()
    for each in left:
        place.delete(*each.split("/"))
    return left


def _real(owner: str) -> Place:
    repository = os.environ.get("BUILDRUN_TEST_REPOSITORY", "")
    if not repository:
        missing("BUILDRUN_TEST_REPOSITORY names no repository")
    from kubernetes import config as loading

    config: Any = loading
    _, active = config.list_kube_config_contexts(REAL)
    namespace = os.environ.get("BUILDRUN_TEST_NAMESPACE", "default")
    return Place(Path(REAL), active["name"], namespace, repository, owner, None)


@pytest.fixture(name="kept")
def a_tidy_place(place: Place) -> Iterator[None]:
    """Delete what a test has told buildrun to keep."""
    yield
    _cleared(place)
    while place.left():
        time.sleep(0.1)  # pods take a moment, and a real cluster tells only who watches


class Store(NamedTuple):
    """A remote cache that pods reach: its URL, and what leads programs to it."""

    url: str
    environ: dict[str, str]


@pytest.fixture(name="objects")
def an_object_store(tmp_path: Path) -> Iterator[Store]:
    """Return an object store for files that travel."""
    if REAL:
        url = os.environ.get("BUILDRUN_TEST_REMOTE_CACHE", "")
        if not url:
            missing("BUILDRUN_TEST_REMOTE_CACHE names no object store")
        yield Store(f"{url.rstrip('/')}/{os.urandom(6).hex()}", {})
        return
    with bucket(tmp_path) as found:
        yield Store(found.url, found.environ)


Run = Callable[..., Outcome]


@pytest.fixture(name="run")
def a_run(place: Place, buildrun: Buildrun, tmp_path: Path) -> Run:
    """Return buildrun with `-b kubernetes` and a config; others of its keys by ``config``."""

    def call(
        *words: str | os.PathLike[str],
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str | None] | None = None,
    ) -> Outcome:
        path = written(place, tmp_path, **(config or {}))
        return buildrun(
            *words, "-b", "kubernetes", "-c", path, environ={**place.environ, **(environ or {})}
        )

    return call


def written(place: Place, directory: Path, **keys: Any) -> Path:
    """Write a config, and return its path."""
    path = directory / "kubernetes_config.json"
    base = {"repository-uri": place.repository, "namespace": place.namespace}
    found = {name: value for name, value in {**base, **keys}.items() if value is not None}
    path.write_text(json.dumps(found))
    return path


class Live:
    """A buildrun that runs while the test does something else."""

    def __init__(self, place: Place, config: Path, cwd: Path, *words: str | Path) -> None:
        argv = [sys.executable, "-m", "buildrun", *map(str, words), "-b", "kubernetes", "-c"]
        self.process = subprocess.Popen(
            [*argv, str(config)], cwd=cwd, env={**os.environ, **place.environ},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._seen = {1: b"", 2: b""}

    def said(self, text: str) -> None:
        """Return when it has written the text, to standard output or error."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        open_ = {self.process.stdout: 1, self.process.stderr: 2}
        while not any(text.encode() in seen for seen in self._seen.values()):
            ready, _, _ = select.select(list(open_), [], [], LIMIT)
            assert ready, f"`{text}` was not said: {self._seen}"
            for each in ready:
                chunk = os.read(each.fileno(), 65536)
                self._seen[open_[each]] += chunk
                if not chunk:
                    del open_[each]
            assert open_ or any(text.encode() in seen for seen in self._seen.values()), self._seen

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> Outcome:
        """Return how it ended."""
        out, err = self.process.communicate(timeout=LIMIT)
        return Outcome(
            self.process.returncode,
            (self._seen[1] + out).decode(errors="surrogateescape"),
            (self._seen[2] + err).decode(errors="surrogateescape"),
        )

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=LIMIT)


Start = Callable[..., Live]


@pytest.fixture(name="start")
def a_start(place: Place, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a run."""
    started: list[Live] = []

    def call(*words: str | Path, **keys: Any) -> Live:
        config = written(place, tmp_path, **keys)
        started.append(Live(place, config, tmp_path, *words))
        return started[-1]

    yield call
    for live in started:
        live.close()


# -- pods that a test plays ------------------------------------------------------------------------


@pytest.fixture(scope="session", name="prepared")
def a_prepared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return an image with next to nothing in it, and a store for all tests of a session."""
    need_engine()
    name = f"buildrun-test-kubernetes:{os.getpid()}"
    imported(name, "nothing")
    store = tmp_path_factory.mktemp("store")
    yield name, store
    for key in derive.keys(Home(str(store))):
        images = docker("images", "-aq", "--no-trunc", "--filter", f"label={KEY}={key}").split()
        if images:
            docker("rmi", "--force", *sorted(set(images)), check=False)
    docker("rmi", "--force", name, check=False)


class Stage:
    """A cluster whose pods do what a test's function says, and a project to run on it.

    All runs share one store, so that the image is made and pushed only once.
    """

    def __init__(
        self, place: Place, cluster: Cluster, root: Path, buildrun: Buildrun, home: Path
    ) -> None:
        self.place = place._replace(home=str(home))
        self.cluster = cluster
        self.root = root
        self._buildrun = buildrun

    def run(
        self,
        *words: str | Path,
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str | None] | None = None,
    ) -> Outcome:
        """Run the project; config: keys beside those that lead to the cluster."""
        path = written(self.place, self.root.parent, **(config or {}))
        return self._buildrun(
            self.root, *words, "-b", "kubernetes", "-c", path,
            environ={**self.place.environ, **(environ or {})},
        )  # fmt: skip

    def start(self, *words: str | Path, **keys: Any) -> Live:
        """Start to run the project."""
        config = written(self.place, self.root.parent, **keys)
        return Live(self.place, config, self.root.parent, self.root, *words)

    def asked(self, method: str, end: str) -> int:
        """Return how many requests of a kind there were whose path ends so."""
        found = self.cluster.requests
        return len([each for each in found if each.method == method and each.path.endswith(end)])


Staged = Callable[..., Stage]
MAIN = "  main: {command: 'true'}\n"


@pytest.fixture(name="stage")
def a_stage(
    engine: object,
    prepared: tuple[str, Path],
    own_registry: Registry,
    tmp_path: Path,
    buildrun: Buildrun,
) -> Iterator[Staged]:
    """Return a function that makes a cluster for a play; nothing may be left on it by a test.

    Its options are the project's entry points, whether a test keeps Jobs, and a cluster's.
    """
    del engine
    image, home = prepared
    with ExitStack() as stack:

        def call(
            play: Callable[[Pod], object], entries: str = MAIN, *, keeps: bool = False,
            environment: str = "", **options: Any,
        ) -> Stage:  # fmt: skip
            cluster = stack.enter_context(Cluster(Scripted(play), **{"backoff": 0.01, **options}))
            place = Place(
                cluster.kubeconfig(tmp_path / "kubeconfig"), "test", "default",
                f"{own_registry.address}/team/staged", "tester", cluster,
            )  # fmt: skip
            if not keeps:
                stack.callback(_assert_empty, cluster)
            root = tmp_path / "project"
            root.mkdir()
            (root / "MLproject").write_text(
                f"name: staged\ndocker_env: {{image: '{image}'{environment}}}\n"
                f"entry_points:\n{entries}"
            )
            return Stage(place, cluster, root, buildrun, home)

        yield call


def _assert_empty(cluster: Cluster) -> None:
    # A pod that is to end goes by itself; the Job and the Secret have gone before the run's end.
    cluster.wait_until(lambda: not cluster.all("pods"))
    left = [f"{kind}/{each['metadata']['name']}" for kind in KINDS for each in cluster.all(kind)]
    assert left == []
