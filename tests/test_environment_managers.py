"""Facts that hold for every environment manager; see ``environment_harness``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from environment_harness import (
    Adapter,
    Conda,
    Place,
    Virtualenv,
    read_only,
    small_disk,
    until,
)

MANAGERS = ("virtualenv", "conda")
ADAPTERS: dict[str, type[Virtualenv] | type[Conda]] = {"virtualenv": Virtualenv, "conda": Conda}
CROWD = 20


@pytest.fixture(params=MANAGERS)
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    return make_adapter(request.param, tmp_path)


def make_adapter(name: str, directory: Path) -> Adapter:
    if name == "virtualenv":
        return Virtualenv()
    pytest.importorskip("rattler")
    return Conda(directory / "channel")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    directory = tmp_path / "gate"
    directory.mkdir()
    return directory


def of_each(kind: str) -> list[tuple[str, str]]:
    return [(name, item) for name in MANAGERS for item in getattr(ADAPTERS[name], kind)]


def test_environment_is_built_once_and_used_again(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
    first, said = place.run(project)
    assert f"building the {adapter.name} environment" in said
    assert first.split() == ["1.0", str(place.prefix(project))]
    second, said = place.run(project)
    assert second == first
    assert "building" not in said


def test_command_without_a_record_of_it_uses_the_environment_too(
    adapter: Adapter, place: Place
) -> None:
    project = place.project()
    adapter.declare(project)
    place.run(project)
    shutil.rmtree(place.store / "index")
    _, said = place.run(project)
    assert "building" not in said


@pytest.mark.parametrize(("name", "part"), of_each("parts"))
def test_key_changes_with(name: str, part: str, place: Place, tmp_path: Path) -> None:
    adapter, project = make_adapter(name, tmp_path), place.project()
    adapter.declare(project)
    before = place.key(project)
    change = adapter.parts[part]
    change.apply(project)
    assert place.key(project, **change.environ) != before


@pytest.mark.parametrize(("name", "trifle"), of_each("trifles"))
def test_key_does_not_change_with(name: str, trifle: str, place: Place, tmp_path: Path) -> None:
    adapter, project = make_adapter(name, tmp_path), place.project()
    adapter.declare(project)
    before = place.key(project)
    change = adapter.trifles[trifle]
    change.apply(project)
    assert place.key(project, **change.environ) == before


def test_projects_of_the_same_content_share_an_environment(adapter: Adapter, place: Place) -> None:
    one, other = place.project("one"), place.project("other")
    adapter.declare(one)
    adapter.declare(other)
    mlproject = other / "MLproject"
    mlproject.write_text(mlproject.read_text().replace("name: demo", "name: another"))
    for path in other.iterdir():
        os.utime(path, (1, 1))
    out, _ = place.run(one)
    again, said = place.run(other)
    assert again == out
    assert "building" not in said


def spoil(path: Path) -> None:
    """Write into a file in place, and leave its size."""
    with path.open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write(text.replace("1.0", "6.6"))


def test_write_into_an_environment_reaches_no_other(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
    out, _ = place.run(project)
    spoil(place.prefix(project) / adapter.milestones()[-1])
    again, said = place.run(project, "--refresh")
    assert again == out
    assert "damaged files" not in said


def test_damaged_package_cache_is_found_told_and_passed_by(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
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


def test_change_that_keeps_the_size_is_found_after_a_failure(
    adapter: Adapter, place: Place
) -> None:
    project = place.project()
    adapter.declare(project)
    out, _ = place.run(project)
    spoil(place.prefix(project) / adapter.milestones()[-1])
    mlproject = project / "MLproject"
    text = mlproject.read_text()
    mlproject.write_text(text.replace("print(", "exit(7) or print("))
    failed = place.start("run", project)
    assert failed.fail() == 7
    assert "files of the environment were changed or are gone" in failed.err
    mlproject.write_text(text)
    assert place.run(project)[0] == out


@pytest.mark.parametrize("number", range(4))
def test_killed_at_a_milestone_leaves_nothing_that_is_used(
    number: int, adapter: Adapter, place: Place
) -> None:
    milestones = adapter.milestones()
    project = place.project()
    adapter.declare(project)
    seen = place.prefix(project) / milestones[number % len(milestones)]
    run = place.start("run", project)
    until(lambda: seen.exists() or not run.alive, str(seen))
    run.kill(group=True)
    out, _ = place.run(project)
    assert out.split() == ["1.0", str(place.prefix(project))]
    assert "building" not in place.run(project)[1]


def test_what_a_killed_build_leaves_running_cannot_spoil_the_next(
    adapter: Adapter, place: Place, gate: Path
) -> None:
    project = place.project()
    adapter.declare_gated(project, gate)
    killed = place.start("run", project)
    until((gate / "started").exists, "the start of the build")
    killed.kill(group=False)
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
    adapter: Adapter, place: Place, gate: Path
) -> None:
    project = place.project()
    adapter.declare_gated(project, gate)
    first = place.start("run", project)
    until((gate / "started").exists, "the start of the build")
    second = place.start("run", project)
    until(lambda: "waiting for another run" in second.err, "the message")
    (gate / "go").touch()
    assert first.finish() == second.finish()
    assert (first.builds, second.builds) == (1, 0)


def test_twenty_at_once_build_once(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
    runs = [place.start("run", project) for _ in range(CROWD)]
    outputs = {run.finish() for run in runs}
    assert len(outputs) == 1
    assert sum(run.builds for run in runs) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_ends_and_leaves_nothing(
    number: signal.Signals, adapter: Adapter, place: Place, gate: Path
) -> None:
    project = place.project()
    adapter.declare_gated(project, gate)
    run = place.start("run", project)
    until((gate / "started").exists, "the start of the build")
    # As a terminal does; a service manager ends the one process.
    (os.killpg if number == signal.SIGINT else os.kill)(run.process.pid, number)
    assert run.fail() == 128 + number
    assert place.leftovers() == []
    (gate / "go").touch()
    assert place.run(project)[0].startswith("1.0 ")


def test_failed_build_leaves_nothing(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare_unbuildable(project)
    run = place.start("run", project)
    assert run.fail() == 1
    assert "alpha" in run.err
    assert "hint:" in run.err
    assert place.leftovers() == []


def test_full_disk_is_said_and_leaves_nothing(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare_large(project)
    with small_disk(place.store, 3_000_000):
        run = place.start("run", project)
        assert run.fail() == 1
        assert "space" in run.err
        assert "BUILDRUN_HOME" in run.err
        assert place.leftovers() == []
    assert place.run(project)[0].startswith("1.0 ")


def test_missing_file_is_noticed_and_the_environment_built_anew(
    adapter: Adapter, place: Place
) -> None:
    project = place.project()
    adapter.declare(project)
    out, _ = place.run(project)
    (place.prefix(project) / adapter.milestones()[-1]).unlink()
    again, said = place.run(project)
    assert "alpha.py` is missing from it" in said
    assert again == out


def test_changed_file_makes_the_run_after_a_failure_build_anew(
    adapter: Adapter, place: Place
) -> None:
    project = place.project()
    adapter.declare(project)
    out, _ = place.run(project)
    with (place.prefix(project) / adapter.milestones()[-1]).open("a") as file:
        file.write("raise SystemExit(3)\n")
    run = place.start("run", project)
    assert run.fail() == 3
    assert place.run(project)[0] == out


def test_removed_interpreter_makes_it_build_anew(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
    out, _ = place.run(project)
    (place.prefix(project) / "bin" / "python").unlink()
    again, said = place.run(project)
    assert "is missing from it" in said
    assert again == out


def test_changed_interpreter_makes_it_build_anew(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
    out, _ = place.run(project)
    marker = place.prefix(project) / ".buildrun.json"
    content = json.loads(marker.read_text())
    assert os.path.exists(content["base"][0])
    content["base"][1] = [1, 1]  # as an upgrade of the interpreter does
    marker.write_text(json.dumps(content))
    again, said = place.run(project)
    assert "was changed or removed" in said
    assert again == out


def test_refresh_builds_anew(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
    place.run(project)
    _, said = place.run(project, "--refresh")
    assert "it is to be refreshed" in said


def test_store_that_may_only_be_read_serves_what_it_has(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
    out, _ = place.run(project)
    with read_only(place.store):
        again, said = place.run(project)
    assert again == out
    assert "building" not in said


def test_offline_uses_what_is_there(adapter: Adapter, place: Place) -> None:
    project = place.project()
    adapter.declare(project)
    out, _ = place.run(project)
    shutil.rmtree(place.store / "envs")
    again, _ = place.run(project, "--offline")
    assert again == out


def test_local_builds_nothing_and_runs_the_callers_python(place: Place) -> None:
    project = place.project()
    Virtualenv().declare(project)
    write_main(project, "import sys; print(sys.prefix)")
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    out, said = place.run(project, "--env-manager", "local", PATH=path)
    assert out.strip() == sys.prefix
    assert "building" not in said
    assert place.leftovers() == []


def write_main(project: Path, code: str) -> None:
    (project / "main.py").write_text(code)
    text = "name: demo\nentry_points: {main: {command: python main.py}}\n"
    (project / "MLproject").write_text(text)
