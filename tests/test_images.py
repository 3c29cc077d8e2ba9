"""Images that buildrun makes, on a real engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Buildrun
from docker_helpers import BASE, a_small, an_engine, docker, need_engine  # noqa: F401
from test_image_context import fingerprints, project_spec, write
from test_image_context import make as make_files

from buildrun.console import Console
from buildrun.environments.images import derive
from buildrun.environments.images.config import ConfigChange, build_context
from buildrun.environments.images.derive import DerivedImage, code_image
from buildrun.environments.images.engine import Engine, Image
from buildrun.errors import BuildrunError, EnvironmentFailure, ExecutionError
from buildrun.store.home import Home
from buildrun.workspace import archive
from buildrun.workspace.archive import Layer

QUIET = Console({}, quiet=True)


def derived(
    engine: Engine, base: str, root: Path, store: Path, *, refresh: bool = False
) -> DerivedImage:
    found = engine.image(base)
    assert found is not None
    return code_image(
        engine, Home(str(store)), found, project_spec(root),
        fingerprints(root, store / "index" / "x"), refresh=refresh, console=QUIET,
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    write(directory, MLproject="name: made\n", train__py="print('trained')\n")
    return directory


Make = Callable[..., DerivedImage]


@pytest.fixture
def make(engine: Engine, small: str, root: Path, store: Path) -> Make:
    """Return a function that makes the image of the project."""

    def call(
        base: str = small, root: Path = root, store: Path = store, **more: bool
    ) -> DerivedImage:
        return derived(engine, base, root, store, **more)

    return call


@pytest.fixture
def made(make: Make) -> DerivedImage:
    return make()


def the(engine: Engine, name: str) -> Image:
    found = engine.image(name)
    assert found is not None
    return found


def test_image_runs_the_code_as_it_is(root: Path, make: Make) -> None:
    make_files(root, "we\nird", "d" * 120 + "/" + "e" * 130, "run.sh")
    (root / os.fsdecode(b"latin\xff")).write_text("x")
    (root / "run.sh").write_text("#!/bin/sh\nls -1b\n")
    (root / "run.sh").chmod(0o755)
    made = make(BASE)
    listed = docker("run", "--rm", "--network=none", made.id, "./run.sh").splitlines()
    assert listed == ["MLproject", "d" * 120, "latin\\377", "run.sh", "train", "we\\nird"]
    assert docker("run", "--rm", made.id, "pwd") == derive.CODE


def test_image_keeps_what_the_base_says(engine: Engine, small: str, made: DerivedImage) -> None:
    found, base = the(engine, made.id), the(engine, small)
    assert found.layers[:-1] == base.layers
    assert found.config["Env"] == base.config["Env"]
    assert found.config["User"] == "1000"
    assert found.config["WorkingDir"] == derive.CODE
    labels = {"buildrun": "1", "buildrun.key": made.key, "buildrun.project": "made"}
    assert found.config["Labels"] == {"theirs": "yes", **labels}
    assert found.names == (made.reference,)
    assert made.reference == f"buildrun/made:{made.key[7:23]}"


def test_same_project_is_the_same_image_elsewhere(
    engine: Engine, tmp_path: Path, make: Make
) -> None:
    other = tmp_path / "other-machine"
    write(other, train__py="print('trained')\n", MLproject="name: made\n")
    os.utime(other / "MLproject", (1, 1))
    one = make()
    docker("rmi", one.reference)
    assert engine.image(one.id) is None
    two = make(root=other, store=tmp_path / "other-store")
    assert two == one
    docker("rmi", two.reference)


def test_unchanged_project_is_not_built_again(
    buildrun: Buildrun, store: Path, tmp_path: Path, made: DerivedImage, make: Make
) -> None:
    assert not made.reused
    assert make() == made._replace(reused=True)
    assert make(store=tmp_path / "other") == made._replace(reused=True)
    assert make(refresh=True) == made
    docker("rmi", made.reference)
    assert make() == made
    docker("rmi", made.reference)
    assert kept(buildrun, "ls") == []
    assert list((store / "images").glob("*.json")) == []


def test_name_that_moved_is_not_taken_for_the_image(
    engine: Engine, small: str, tmp_path: Path, made: DerivedImage, make: Make
) -> None:
    docker("tag", small, made.reference)
    assert make().id == made.id
    again = make(store=tmp_path / "other")
    assert again == made
    assert the(engine, made.reference).id == made.id


@pytest.mark.parametrize("what", ["code", "mode", "base", "name"])
def test_key_follows_what_the_image_is_made_of(
    engine: Engine, small: str, root: Path, store: Path, what: str
) -> None:
    base = the(engine, small)
    project = project_spec(root)
    before = derive.code_recipe(base, project, fingerprints(root), QUIET).key
    if what == "code":
        (root / "train/py").write_text("print('other')\n")
    elif what == "mode":
        (root / "train/py").chmod(0o755)
    elif what == "base":
        base = base._replace(id="sha256:" + "0" * 64)
    else:
        project = project._replace(name="other")
    assert derive.code_recipe(base, project, fingerprints(root), QUIET).key != before
    assert not Home(str(store)).images or not os.path.exists(Home(str(store)).images)


def test_damaged_record_is_no_trouble(store: Path, made: DerivedImage, make: Make) -> None:
    (record,) = (store / "images").glob("*.json")
    for text in ("", "[]", '{"version": 1}', "[" * 5000, '{"version": 1, "id": "x"}'):
        record.write_text(text)
        assert make().id == made.id


def test_engine_that_wants_all_layers_builds(engine: Engine, small: str) -> None:
    directory = archive.header(b"x/", archive.DIRECTORY, mode=0o755)
    data = directory + archive.whole(b"x/y", b"hello\n") + archive.END
    layer = Layer(len(data), lambda: iter([data]))
    change = ConfigChange({"A": 'q"$x\\ z'}, "/x")
    key = json.dumps({"buildrun": "1", "buildrun.key": "sha256:" + "1" * 64})
    made = engine.build(build_context(the(engine, small), change, layer), {"labels": key})
    found = the(engine, made)
    assert found.config["WorkingDir"] == "/x"
    assert 'A=q"$x\\ z' in found.config["Env"]
    assert found.layers[0] == the(engine, small).layers[0]
    assert engine.remove(made)
    assert engine.image(made) is None


def test_layers_that_are_gone_do_not_make_a_wrong_image(
    engine: Engine, root: Path, store: Path, small: str
) -> None:
    gone = the(engine, small)._replace(id="sha256:" + "2" * 64, layers=("sha256:" + "3" * 64,))
    project, prints = project_spec(root), fingerprints(root)
    with pytest.raises(EnvironmentFailure):
        code_image(engine, Home(str(store)), gone, project, prints, refresh=False, console=QUIET)
    assert engine.image(derive.code_recipe(gone, project, prints, QUIET).reference) is None


MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import os
from test_images import derived
from buildrun.environments.images.engine import Engine
print(derived(Engine(os.environ), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
"""


def test_two_processes_make_one_image(small: str, root: Path, store: Path, make: Make) -> None:
    command = (sys.executable, "-c", MAKE, Path(__file__).parent, small, root, store)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("reused=True" in out.decode() for out, _ in said) == [False, True]
    assert make().reused


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from contextlib import nullcontext
from test_images import QUIET, ConfigChange, fingerprints, project_spec, the
from buildrun.store.home import Home
from buildrun.environments.images import derive
from buildrun.environments.images.engine import Engine
from buildrun.workspace.archive import Layer
engine = Engine(os.environ)
base = the(engine, sys.argv[2])
root = Path(sys.argv[3])
recipe = derive.code_recipe(base, project_spec(root), fingerprints(root), QUIET)
def chunks():
    yield bytes(1 << 20)
    os.kill(os.getpid(), signal.SIGKILL)
recipe = recipe._replace(make=lambda: nullcontext((Layer(2 << 20, chunks), ConfigChange())))
derive.layer_image(engine, Home(sys.argv[4]), base, recipe, refresh=False, console=QUIET)
"""


def test_killed_build_leaves_nothing_that_counts(
    engine: Engine, small: str, root: Path, store: Path, buildrun: Buildrun, make: Make
) -> None:
    for repaired in (True, False):
        done = subprocess.run(
            (sys.executable, "-c", KILLED, Path(__file__).parent, small, root, store),
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        (record,) = (store / "images").glob("*.json")
        assert json.loads(record.read_text())["id"] == ""
        assert not list((store / "images").glob("*.tmp"))
        if repaired:
            made = make()
            assert not made.reused
            assert engine.made()[made.key] == [made.id]
            buildrun("cache", "clear")
    (row,) = kept(buildrun, "gc")
    assert row["complete"] is False
    assert kept(buildrun, "ls") == []


def kept(buildrun: Buildrun, *arguments: str) -> list[dict[str, object]]:
    outcome = buildrun("cache", *arguments, "--format=json")
    assert outcome.code == 0, outcome.err
    rows: list[dict[str, object]] = outcome.data["images"]
    return rows


def test_cache_lists_and_removes_images(
    engine: Engine, small: str, store: Path, buildrun: Buildrun, made: DerivedImage
) -> None:
    (row,) = kept(buildrun, "ls")
    assert (row["key"], row["id"], row["reference"]) == (made.key, made.id, made.reference)
    assert buildrun("cache", "info", "--format=json").data["images"]["count"] == 1
    assert kept(buildrun, "gc", "--max-age=1h") == []
    (record,) = (store / "images").glob("*.json")
    os.utime(record, (1, 1))
    assert len(kept(buildrun, "gc", "--max-age=1h", "--dry-run")) == 1
    assert len(kept(buildrun, "gc", "--max-age=1h")) == 1
    assert engine.image(made.id) is None
    assert engine.image(small) is not None
    assert kept(buildrun, "ls") == []


def test_image_of_an_older_version_is_removed(
    engine: Engine, buildrun: Buildrun, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    with monkeypatch.context() as older:
        older.setattr("buildrun.store.digest.PREFIX", "sha256:")
        made = make()
    assert made.key.startswith("sha256:")
    assert [row["id"] for row in kept(buildrun, "ls")] == [made.id]
    assert len(kept(buildrun, "clear")) == 1
    assert engine.image(made.id) is None
    assert kept(buildrun, "ls") == []


def test_image_of_a_container_is_kept(engine: Engine, buildrun: Buildrun, make: Make) -> None:
    made = make(BASE)
    container = docker("create", made.id, "true")
    try:
        outcome = buildrun("cache", "clear")
        assert "is in use and was kept" in outcome.err
        assert the(engine, made.reference).id == made.id
    finally:
        docker("rm", container)
    buildrun("cache", "clear")
    assert engine.image(made.id) is None


def test_names_that_others_gave_stay(
    engine: Engine, small: str, buildrun: Buildrun, made: DerivedImage
) -> None:
    docker("tag", made.id, f"{small}-mine")
    try:
        buildrun("cache", "clear")
        assert the(engine, made.id).names == (f"{small}-mine",)
    finally:
        docker("rmi", f"{small}-mine")


@pytest.mark.usefixtures("made")
def test_cache_works_without_an_engine(buildrun: Buildrun) -> None:
    nowhere = {"DOCKER_HOST": "unix:///nonexistent"}
    assert len(buildrun("cache", "ls", "--format=json", environ=nowhere).data["images"]) == 1
    outcome = buildrun("cache", "clear", environ=nowhere)
    assert outcome.code == 0
    assert "was kept: no docker engine answers" in outcome.err
    assert len(kept(buildrun, "ls")) == 1


def test_missing_engine_is_told(tmp_path: Path) -> None:
    nobody = Engine({"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"})
    with pytest.raises(ExecutionError, match="no docker engine answers at") as caught:
        nobody.image("python")
    assert caught.value.hint is not None
    with pytest.raises(ExecutionError, match="no docker engine answers at"):
        nobody.obtain("python", lambda _: None)
    with pytest.raises(ExecutionError, match=r"no docker engine answers at tcp://127.0.0.1:1 "):
        Engine({"DOCKER_HOST": "tcp://127.0.0.1:1"}).image("python")


DENIED = """
import os, socket, sys
from buildrun.errors import BuildrunError
from buildrun.environments.images.engine import Engine
os.setuid(65534)
try:
    Engine({"DOCKER_HOST": "unix://" + sys.argv[1]}).image("python")
except BuildrunError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_missing_permission_is_told() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{directory}/docker.sock")
        listening.listen()
        os.chmod(directory, 0o755)
        os.chmod(f"{directory}/docker.sock", 0o600)
        done = subprocess.run(
            (sys.executable, "-c", DENIED, f"{directory}/docker.sock"),
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    assert "there is no permission to speak to the docker engine" in done.stdout
    assert "group `docker`" in done.stdout


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[str]:
    """An engine that stops as soon as it is spoken to."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "dying.sock"))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.recv(10)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix://{tmp_path}/dying.sock"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)


def test_engine_that_stops_is_told(dying: str) -> None:
    with pytest.raises(ExecutionError, match="no docker engine answers"):
        Engine({"DOCKER_HOST": dying}).image("python")
    with pytest.raises(ExecutionError, match="no docker engine answers"):
        Engine({"DOCKER_HOST": dying}).load([b"x"])


def test_contexts_are_those_of_the_cli(tmp_path: Path) -> None:
    need_engine()
    environ = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
    subprocess.run(
        ("docker", "context", "create", "there", "--docker", "host=unix:///there.sock"),
        env=environ, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert Engine(environ).host.url == "unix:///var/run/docker.sock"
    assert Engine({**environ, "DOCKER_CONTEXT": "there"}).host.url == "unix:///there.sock"
    subprocess.run(
        ("docker", "context", "use", "there"),
        env=environ, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert Engine(environ).host.url == "unix:///there.sock"
    assert Engine({**environ, "DOCKER_HOST": "tcp://x:1"}).host.url == "tcp://x:1"
    with pytest.raises(EnvironmentFailure, match="`other` cannot be read"):
        _ = Engine({**environ, "DOCKER_CONTEXT": "other"}).host


@pytest.mark.parametrize(
    "name", ["Upper", "a b", "", "-x", "a/../b", "a:b:c", "a@sha256:1", "a\nb"]
)
def test_names_that_no_image_may_have_are_refused(name: str) -> None:
    with pytest.raises(EnvironmentFailure, match="is not a name that an image may have"):
        Engine({}).image(name)


def test_image_that_cannot_be_had_is_told(engine: Engine) -> None:
    absent = "127.0.0.1:1/team/none:1"
    with pytest.raises(BuildrunError, match=r"docker cannot pull `127.0.0.1:1/team/none:1`"):
        engine.obtain(absent, lambda _: None)
    with pytest.raises(EnvironmentFailure, match="has no image"):
        engine.obtain("sha256:" + "0" * 64, lambda _: None)


def test_image_is_found_by_every_name(engine: Engine, small: str) -> None:
    one = the(engine, small)
    docker("tag", small, f"{small}-second")
    try:
        assert the(engine, f"{small}-second").id == one.id == the(engine, one.id).id
    finally:
        docker("rmi", f"{small}-second")
    assert engine.image("buildrun-test-nothing-of-that-name") is None
