"""Facts that hold for every environment manager; see ``environment_harness``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from environment_harness import (
    Adapter,
    Conda,
    Place,
    Run,
    Virtualenv,
    read_only,
    small_disk,
    until,
    write,
)


@pytest.fixture(params=["virtualenv", "conda"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    if request.param == "virtualenv":
        return Virtualenv()
    pytest.importorskip("rattler")
    return Conda(tmp_path / "channel")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


@pytest.fixture
def project(adapter: Adapter, place: Place) -> Path:
    """Return a project of the manager, whose environment is not built yet."""
    directory = place.project()
    adapter.declare(directory)
    return directory


@pytest.fixture
def out(place: Place, project: Path) -> str:
    """Return what the project's command prints, once its environment is built."""
    return place.run(project)[0]


@pytest.fixture
def module(adapter: Adapter, place: Place, project: Path, out: str) -> Path:
    """Return a file of a package in the environment that was built."""
    del out
    return place.prefix(project) / adapter.milestones()[-1]


def test_environment_is_built_once_and_used_again(
    adapter: Adapter, place: Place, project: Path
) -> None:
    out, said = place.run(project)
    assert f"building the {adapter.name} environment" in said
    assert out.split() == ["1.0", str(place.prefix(project))]
    again, said = place.run(project)
    assert (again, "building" in said) == (out, False)
    shutil.rmtree(place.store / "index")  # without a record of the command
    again, said = place.run(project)
    assert (again, "building" in said) == (out, False)
    shutil.rmtree(place.store / "envs")
    assert place.run(project, "--offline")[0] == out


def test_store_that_may_only_be_read_serves_what_it_has(
    place: Place, project: Path, out: str
) -> None:
    with read_only(place.store):
        again, said = place.run(project)
    assert (again, "building" in said) == (out, False)


@pytest.mark.parametrize("kind", ["parts", "trifles"])
def test_key_changes_with_what_counts_and_with_nothing_else(
    kind: str, adapter: Adapter, place: Place, project: Path
) -> None:
    before = place.key(project)
    for name, change in getattr(adapter, kind).items():
        other = place.project(name)
        adapter.declare(other)
        change.apply(other)
        assert (place.key(other, **change.environ) != before) == (kind == "parts"), name


def test_projects_of_the_same_content_share_an_environment(
    adapter: Adapter, place: Place, out: str
) -> None:
    other = place.project("other")
    adapter.declare(other)
    mlproject = other / "MLproject"
    mlproject.write_text(mlproject.read_text().replace("name: demo", "name: another"))
    for path in other.iterdir():
        os.utime(path, (1, 1))
    again, said = place.run(other)
    assert (again, "building" in said) == (out, False)


def spoil(path: Path) -> None:
    """Write into a file in place, and leave its size."""
    with path.open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write(text.replace("1.0", "6.6"))


def test_write_into_an_environment_reaches_no_other(
    place: Place, project: Path, module: Path, out: str
) -> None:
    spoil(module)
    again, said = place.run(project, "--refresh")
    assert again == out
    assert "it is to be refreshed" in said
    assert "damaged files" not in said


def test_damaged_package_cache_is_found_told_and_passed_by(place: Place, project: Path) -> None:
    own_cache = {"UV_CACHE_DIR": str(place.directory / "uv")}
    out, _ = place.run(project, **own_cache)
    cached = [
        path
        for path in place.directory.rglob("alpha.py")
        if place.store / "envs" not in path.parents
    ]
    assert cached
    for path in cached:
        spoil(path)
    again, said = place.run(project, "--refresh", **own_cache)
    assert again == out
    assert "cache has damaged files of" in said
    assert "damaged files" not in place.run(project, "--refresh", **own_cache)[1]


def lengthen(path: Path) -> None:
    with path.open("a") as file:
        file.write("# more\n")


@pytest.mark.parametrize("damage", [spoil, lengthen])
def test_changed_file_is_found_after_a_failure(
    damage: Callable[[Path], None], place: Place, project: Path, module: Path, out: str
) -> None:
    damage(module)
    mlproject = project / "MLproject"
    text = mlproject.read_text()
    mlproject.write_text(text.replace("print(", "exit(7) or print("))
    failed = place.start("run", project)
    assert failed.fail() == 7
    assert "files of the environment were changed or are gone" in failed.err
    mlproject.write_text(text)
    assert place.run(project)[0] == out


def upgrade(marker: Path) -> None:
    """Note another interpreter than is there, as after an upgrade of it."""
    content = json.loads(marker.read_text())
    assert os.path.exists(content["base"][0])
    content["base"][1] = [1, 1]
    marker.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("", Path.unlink, "alpha.py` is missing from it"),
        ("bin/python", Path.unlink, "is missing from it"),
        (".buildrun.json", upgrade, "was changed or removed"),
    ],
)
def test_damage_that_is_seen_at_once_is_mended(
    file: str, damage: Callable[[Path], None], reason: str, place: Place, project: Path,
    module: Path, out: str,
) -> None:  # fmt: skip
    damage(place.prefix(project) / file if file else module)
    again, said = place.run(project)
    assert reason in said
    assert again == out


@pytest.mark.parametrize("number", range(4))
def test_killed_at_a_milestone_leaves_nothing_that_is_used(
    number: int, adapter: Adapter, place: Place, project: Path
) -> None:
    milestones = adapter.milestones()
    seen = place.prefix(project) / milestones[number % len(milestones)]
    run = place.start("run", project)
    until(lambda: seen.exists() or not run.alive, str(seen))
    run.kill(group=True)
    out, _ = place.run(project)
    assert out.split() == ["1.0", str(place.prefix(project))]
    assert "building" not in place.run(project)[1]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    directory = tmp_path / "gate"
    directory.mkdir()
    return directory


@pytest.fixture
def begun(adapter: Adapter, place: Place, project: Path, gate: Path) -> Run:
    """Return a run in the midst of its build, which goes on when the gate has a file `go`."""
    adapter.declare_gated(project, gate)
    run = place.start("run", project)
    until((gate / "started").exists, "the start of the build")
    return run


def test_what_a_killed_build_leaves_running_cannot_spoil_the_next(
    place: Place, project: Path, gate: Path, begun: Run
) -> None:
    begun.kill(group=False)
    (gate / "started").unlink()
    following = place.start("run", project)
    # It waits for what was left running, or that has ended and it builds.
    until(
        lambda: "waiting for another run" in following.err or (gate / "started").exists(),
        "the next build",
    )
    (gate / "go").touch()
    assert following.finish().split() == ["1.0", str(place.prefix(project))]
    assert following.builds == 1
    assert "building" not in place.run(project)[1]


def test_second_run_waits_with_a_message_for_the_first(
    place: Place, project: Path, gate: Path, begun: Run
) -> None:
    second = place.start("run", project)
    until(lambda: "waiting for another run" in second.err, "the message")
    (gate / "go").touch()
    assert begun.finish() == second.finish()
    assert (begun.builds, second.builds) == (1, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_ends_and_leaves_nothing(
    number: signal.Signals, place: Place, project: Path, gate: Path, begun: Run
) -> None:
    # As a terminal does; a service manager ends the one process.
    (os.killpg if number == signal.SIGINT else os.kill)(begun.process.pid, number)
    assert begun.fail() == 128 + number
    assert place.leftovers() == []
    (gate / "go").touch()
    assert place.run(project)[0].startswith("1.0 ")


def test_twenty_at_once_build_once(place: Place, project: Path) -> None:
    runs = [place.start("run", project) for _ in range(20)]
    outputs = {run.finish() for run in runs}
    assert len(outputs) == 1
    assert sum(run.builds for run in runs) == 1


def test_failed_build_leaves_nothing(adapter: Adapter, place: Place, project: Path) -> None:
    adapter.declare_unbuildable(project)
    run = place.start("run", project)
    assert run.fail() == 1
    assert "alpha" in run.err
    assert "hint:" in run.err
    assert place.leftovers() == []


def test_full_disk_is_said_and_leaves_nothing(
    adapter: Adapter, place: Place, project: Path
) -> None:
    adapter.declare_large(project)
    with small_disk(place.store, 3_000_000):
        run = place.start("run", project)
        assert run.fail() == 1
        assert "space" in run.err
        assert "BUILDRUN_HOME" in run.err
        assert place.leftovers() == []
    assert place.run(project)[0].startswith("1.0 ")


def test_local_builds_nothing_and_runs_the_callers_python(place: Place) -> None:
    project = place.project()
    Virtualenv().declare(project)
    write(project, MLproject="entry_points: {main: {command: python main.py}}\n")
    write(project, main__py="import sys; print(sys.prefix)")
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    out, said = place.run(project, "--env-manager", "local", PATH=path)
    assert out.strip() == sys.prefix
    assert "building" not in said
    assert place.leftovers() == []
