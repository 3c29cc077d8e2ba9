"""How sure a result is, and the conditions under which it counts.

What results tell of that is written into their manifests here, as others might who share a cache.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Outcome, Project
from needs import missing
from step_helpers import LOCAL

import buildrun as br
from buildrun.planning.evidence import Evidence
from buildrun.planning.result_publisher import ResultPublisher
from buildrun.sandbox import tracer

TWO = """\
name: sure
entry_points:
  first:
    inputs: [in.txt]
    outputs: [first.txt]
    command: "cat in.txt override.cfg > first.txt 2> /dev/null; true"
  main:
    depends_on: [first]
    inputs: [first.txt]
    outputs: [main.txt]
    command: "cp first.txt main.txt"
"""

STRICT = "--strict-cache"
WRITE = "--remote-cache-write"


@pytest.fixture
def directory(project: Project) -> Path:
    made = project(TWO)
    (made / "in.txt").write_text("in\n")
    return made


class Runs:
    """Runs and plans of one project; the last run's report is kept."""

    def __init__(self, directory: Path, buildrun: Buildrun, report: Path) -> None:
        self.directory = directory
        self._buildrun = buildrun
        self._report = report

    def run(self, *arguments: str | Path, **environ: str) -> Outcome:
        words = ("run", self.directory, LOCAL, *arguments)
        outcome = self._buildrun(*words, environ=environ)
        assert outcome.code == 0, outcome.err
        return outcome

    def states(self, *arguments: str | Path, **environ: str) -> list[str]:
        self.run("--report", self._report, *arguments, **environ)
        return [step["state"] for step in self.steps]

    @property
    def steps(self) -> list[Any]:
        steps: list[Any] = json.loads(self._report.read_text())["steps"]
        return steps

    def plan(self, *arguments: str | Path, **environ: str) -> list[Any]:
        words = ("plan", self.directory, LOCAL, "--format=json", *arguments)
        return [step["cache"] for step in self._buildrun(*words, environ=environ).data["steps"]]

    def reasons(self, *arguments: str | Path, **environ: str) -> list[tuple[str, str]]:
        """Return the state of the first step, and its reasons."""
        first = self.plan(*arguments, **environ)[0]
        found = [(first["state"], "")]
        return found + [(reason["code"], reason["detail"]) for reason in first["reasons"]]

    def forget(self) -> None:
        """Remove the outputs."""
        for name in ("first.txt", "main.txt"):
            (self.directory / name).unlink(missing_ok=True)


@pytest.fixture
def runs(directory: Path, buildrun: Buildrun, tmp_path: Path) -> Runs:
    return Runs(directory, buildrun, tmp_path / "report.json")


def manifests(place: Path) -> Iterator[tuple[Path, Any]]:
    """Yield the results in a store, or in a remote cache."""
    for path in sorted(place.glob("**/results/**/*")):
        if path.is_file():
            yield path, json.loads(path.read_bytes())


def tell(place: Path, step: str = "", **details: Any) -> int:
    """Write into the details of results, those of a step or of all; return of how many."""
    count = 0
    for path, manifest in manifests(place):
        if step in ("", manifest["step"]):
            manifest["details"].update(details)
            path.chmod(0o600)
            path.write_text(json.dumps(manifest))
            count += 1
    return count


Settled = Callable[..., None]


@pytest.fixture
def settled(runs: Runs, store: Path) -> Settled:
    """Return a function after which results tell this, and the project has taken them."""

    def settle(**details: Any) -> None:
        assert runs.states() == ["ok", "ok"]
        assert tell(store, **details) == 2
        runs.forget()
        assert runs.states() == ["cached", "cached"]

    return settle


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Evidence], None]:
    """Return a function after which every command that runs has left this evidence."""
    publish: Any = ResultPublisher.publish

    def leave(evidence: Evidence) -> None:
        def publish_with(self: ResultPublisher, *arguments: Any) -> None:
            publish(self, *arguments[:6], evidence)

        monkeypatch.setattr(ResultPublisher, "publish", publish_with)

    return leave


# -- commands that are really watched -------------------------------------------------------------


@pytest.fixture
def tracer_is_there() -> None:
    if why := tracer.unavailable():
        missing(why)


@pytest.mark.usefixtures("tracer_is_there")
def test_strict_run_checks_every_step_and_keeps_what_is_sound(runs: Runs) -> None:
    runs.run()
    assert runs.states(STRICT) == ["ok", "ok"]
    for _ in range(3):  # by the steps, then by a look at files
        assert runs.states(STRICT) == ["up-to-date", "up-to-date"]
    assert [step["assurance"] for step in runs.plan(STRICT)] == ["checked", "checked"]
    (runs.directory / "override.cfg").write_text("over\n")
    fact = "`override.cfg`, which the command looks for, is there now"
    assert runs.reasons(STRICT) == [("miss", ""), ("lookup-changed", fact)]
    assert runs.reasons() == [("miss", ""), ("lookup-changed", fact)]
    done = runs.run(STRICT)
    assert "the command read `override.cfg`, which is not declared" in done.err
    assert (runs.directory / "main.txt").read_text() == "in\nover\n"
    (runs.directory / "override.cfg").unlink()
    assert runs.states(STRICT) == ["cached", "cached"]
    assert (runs.directory / "main.txt").read_text() == "in\n"


@pytest.mark.usefixtures("tracer_is_there")
@pytest.mark.parametrize("runs_of_it", [1, 3])
def test_name_that_appears_where_the_command_listed_makes_it_run(
    runs: Runs, runs_of_it: int
) -> None:
    project = runs.directory / "MLproject"
    project.write_text(TWO.replace("cat in.txt override.cfg", "ls"))
    assert runs.states(STRICT) == ["ok", "ok"]
    for _ in range(runs_of_it):
        assert runs.states(STRICT) == ["up-to-date", "up-to-date"]
    runs.forget()  # outputs are no names that count
    assert runs.states(STRICT) == ["cached", "cached"]
    (runs.directory / "more.txt").touch()
    assert runs.reasons(STRICT)[1] == (
        "lookup-changed",
        "the names in the project's directory changed",
    )
    assert runs.states(STRICT)[0] == "ok"
    assert "more.txt" in (runs.directory / "main.txt").read_text()


@pytest.mark.usefixtures("tracer_is_there")
def test_key_is_the_same_for_a_checked_step(runs: Runs) -> None:
    runs.run(STRICT)
    keys = [step["key"] for step in runs.plan(STRICT)]
    assert runs.states("--force") == ["ok", "ok"]
    assert [step["key"] for step in runs.plan()] == keys


# -- what is kept of a command that was watched ---------------------------------------------------


def test_evidence_is_kept_with_the_result(
    runs: Runs, store: Path, watched: Callable[[Evidence], None]
) -> None:
    watched(Evidence("checked", {"override.cfg": ""}))
    assert "not cached" not in runs.run(STRICT).err
    for _, manifest in manifests(store):
        assert manifest["details"]["assurance"] == "checked"
        assert manifest["details"]["conditions"] == {"override.cfg": ""}
    shutil.rmtree(next(store.glob("**/results")))  # the project's history has it as well
    for _ in range(2):
        assert runs.states(STRICT) == ["up-to-date", "up-to-date"]
    (runs.directory / "override.cfg").write_text("over\n")
    assert runs.reasons(STRICT)[1][0] == "lookup-changed"
    watched(Evidence("checked", {"override.cfg": "file:5"}))
    assert runs.states(STRICT) == ["ok", "ok"]
    assert runs.states(STRICT) == ["up-to-date", "up-to-date"]
    (runs.directory / "override.cfg").unlink()
    assert runs.states(STRICT) == ["ok", "ok"]


def test_strict_run_keeps_nothing_that_was_not_checked(
    runs: Runs, store: Path, watched: Callable[[Evidence], None]
) -> None:
    watched(Evidence())
    done = runs.run(STRICT)
    fact = (
        "the result is not cached: its inputs were not checked, and `--strict-cache` asks for that"
    )
    assert f"[first] {fact}" in done.err
    assert f"[main] {fact}" in done.err
    assert not list(manifests(store))
    assert runs.states(STRICT) == ["ok", "ok"]


def test_result_with_too_many_conditions_is_not_kept(
    runs: Runs, store: Path, watched: Callable[[Evidence], None]
) -> None:
    watched(Evidence("checked", {f"x{number}": "" for number in range(100_001)}))
    assert "the command looks for too many files that are no inputs" in runs.run().err
    assert not list(manifests(store))


def test_obstacle_of_a_check_is_told(
    runs: Runs, store: Path, watched: Callable[[Evidence], None]
) -> None:
    watched(Evidence("checked", obstacle="the command read `x`"))
    assert "[first] the result is not cached: the command read `x`" in runs.run(STRICT).err
    assert not list(manifests(store))


# -- strict: only what was checked ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environ"), [((STRICT,), {}), ((), {"BUILDRUN_STRICT_CACHE": "1"})]
)
def test_strict_run_takes_no_result_that_was_not_checked(
    runs: Runs, arguments: tuple[str, ...], environ: dict[str, str]
) -> None:
    assert runs.states() == ["ok", "ok"]
    assert runs.states() == ["up-to-date", "up-to-date"]
    fact = "its result was made without its inputs being checked"
    assert runs.plan()[0]["state"] == "up-to-date"
    assert runs.reasons(*arguments, **environ) == [("miss", ""), ("not-checked", fact)]
    assert runs.states(*arguments, **environ)[0] == "ok"
    assert runs.steps[0]["reasons"][0] == {"code": "not-checked", "detail": fact}


def test_switch_of_the_variable_is_seen_by_the_same_command_line(runs: Runs) -> None:
    for _ in range(3):
        runs.run()
    assert "2 up to date" in runs.run(BUILDRUN_STRICT_CACHE="0").err
    assert "up to date" not in runs.run(BUILDRUN_STRICT_CACHE="1").err


@pytest.mark.parametrize("assurance", ["checked", "sandboxed"])
def test_strict_run_takes_what_was_checked(runs: Runs, settled: Settled, assurance: str) -> None:
    settled(assurance=assurance)
    for _ in range(3):  # by the steps, then by a look at files
        assert runs.states(STRICT) == ["up-to-date", "up-to-date"]
        assert [step["assurance"] for step in runs.steps] == [assurance, assurance]
    runs.forget()
    assert runs.states(STRICT) == ["cached", "cached"]
    assert [step["assurance"] for step in runs.steps] == [assurance, assurance]


def test_look_at_files_of_a_run_that_was_not_strict_is_not_taken_for_a_strict_one(
    runs: Runs,
) -> None:
    for _ in range(3):
        runs.run()
    assert "up to date" not in runs.run(STRICT).err


def test_unknown_assurance_assures_of_nothing(runs: Runs, settled: Settled) -> None:
    settled(assurance=["checked"])
    assert [step["assurance"] for step in runs.plan()] == ["declared", "declared"]
    assert runs.reasons(STRICT)[1][0] == "not-checked"


def test_key_is_the_same_with_strict(runs: Runs) -> None:
    runs.run()
    assert runs.plan()[0]["key"] == runs.plan(STRICT)[0]["key"]


# -- what is told ---------------------------------------------------------------------------------


def test_plan_shows_how_sure_a_result_is(runs: Runs, buildrun: Buildrun, settled: Settled) -> None:
    assert [step["assurance"] for step in runs.plan()] == [None, None]
    settled(assurance="checked")
    assert [step["assurance"] for step in runs.plan()] == ["checked", "checked"]
    assert "first: up-to-date, checked, on local, " in buildrun("plan", runs.directory, LOCAL).out
    rows = buildrun("cache", "ls", "--format=json").data["results"]
    assert [row["assurance"] for row in rows] == ["checked", "checked"]


def test_result_that_nobody_checked_tells_nothing_new(
    runs: Runs, buildrun: Buildrun, store: Path
) -> None:
    runs.run()
    for _, manifest in manifests(store):
        assert not {"assurance", "conditions"} & manifest["details"].keys()
    assert [step["assurance"] for step in runs.plan()] == ["declared", "declared"]
    assert "first: up-to-date, on local, " in buildrun("plan", runs.directory, LOCAL).out


def test_api_has_it_as_well(runs: Runs) -> None:
    runs.run()
    for strict, state in ((False, "up-to-date"), (True, "miss")):
        made = br.plan(runs.directory, env_manager="local", strict_cache=strict)
        assert made["steps"][0]["cache"]["state"] == state


# -- conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [1, 3])
def test_file_that_was_looked_for_and_appears_makes_the_step_run(
    runs: Runs, settled: Settled, looks: int
) -> None:
    settled(conditions={"override.cfg": ""})
    for _ in range(looks):  # by the steps, then by a look at files
        assert runs.states() == ["up-to-date", "up-to-date"]
    (runs.directory / "override.cfg").write_text("over\n")
    fact = "`override.cfg`, which the command looks for, is there now"
    assert runs.reasons() == [("miss", ""), ("lookup-changed", fact)]
    assert runs.states() == ["ok", "ok"]
    assert (runs.directory / "main.txt").read_text() == "in\nover\n"


def test_conditions_hold_again(runs: Runs, settled: Settled) -> None:
    settled(conditions={"override.cfg": ""})
    for _ in range(3):
        runs.run()
    (runs.directory / "override.cfg").mkdir()
    assert runs.reasons()[0] == ("miss", "")
    (runs.directory / "override.cfg").rmdir()
    assert runs.states() == ["up-to-date", "up-to-date"]


def test_changes_of_what_was_looked_for_are_told(runs: Runs, settled: Settled) -> None:
    (runs.directory / "conf").mkdir()
    (runs.directory / "flag").touch()
    settled(conditions={"conf": "directory", "flag": "file:0"})
    assert runs.plan()[0]["state"] == "up-to-date"
    (runs.directory / "flag").unlink()
    assert runs.reasons()[1][1] == "`flag`, which the command looks for, is gone"
    (runs.directory / "flag").mkdir()
    assert runs.reasons()[1][1] == "`flag`, which the command looks for, is a directory now"


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda data: (data / "b").touch(), "the names in `data` changed"),
        (lambda data: (data / "a").unlink(), "the names in `data` changed"),
        (shutil.rmtree, "`data`, which the command looks for, is gone"),
    ],
)
def test_change_of_names_that_were_listed_is_told(
    runs: Runs, settled: Settled, change: Callable[[Path], None], fact: str
) -> None:
    from buildrun.workspace.conditions import observe

    data = runs.directory / "data"
    data.mkdir()
    (data / "a").touch()
    settled(conditions={"data": observe(str(runs.directory), "data", names=True)})
    for _ in range(2):
        assert runs.states() == ["up-to-date", "up-to-date"]
    (data / "__pycache__").mkdir()  # is none of the names
    assert runs.states() == ["up-to-date", "up-to-date"]
    change(data)
    assert runs.reasons() == [("miss", ""), ("lookup-changed", fact)]
    assert runs.states()[0] == "ok"


def test_result_whose_conditions_do_not_hold_is_not_restored(
    runs: Runs, store: Path, tmp_path: Path, buildrun: Buildrun
) -> None:
    runs.run()
    tell(store, "first", conditions={"override.cfg": ""})
    other = shutil.copytree(runs.directory, tmp_path / "other")
    (other / "override.cfg").write_text("over\n")
    there = Runs(other, buildrun, tmp_path / "there.json")
    there.forget()
    assert ("lookup-changed" in dict(there.reasons())) is True
    assert there.states() == ["ok", "ok"]
    assert (other / "main.txt").read_text() == "in\nover\n"


# -- conditions of others -------------------------------------------------------------------------

_OUTSIDE = [{"/etc/passwd": "file"}, {"../x": ""}, {"a/../../x": ""}, {"a//b": ""}, {"": ""}]
_WRONG = [
    ["override.cfg"], "override.cfg", 7, None, {"a": 1}, {"a": None}, {"a": "device"},
    {"a": "names:x"}, {"a\0b": ""}, {"\ud800": ""}, {"a": {"b": ""}}, {"x" * 5000: ""},
]  # fmt: skip


@pytest.mark.parametrize("conditions", [*_OUTSIDE, *_WRONG])
def test_conditions_that_are_none_are_a_miss(runs: Runs, store: Path, conditions: object) -> None:
    runs.run()
    tell(store, "first", conditions=conditions)
    runs.forget()
    assert runs.reasons()[:2] == [
        ("miss", ""),
        ("lookup-changed", "its result does not tell which files the command looked for"),
    ]
    assert runs.states()[0] == "ok"


def test_absurdly_many_conditions_are_a_miss(runs: Runs, store: Path) -> None:
    runs.run()
    tell(store, "first", conditions={f"x{number}": "" for number in range(100_001)})
    runs.forget()
    assert runs.reasons()[1][0] == "lookup-changed"
    assert runs.states()[0] == "ok"


@pytest.mark.parametrize("path", ["link", "link/deep/x"])
def test_condition_behind_a_link_out_of_the_project_is_a_miss(
    runs: Runs, store: Path, tmp_path: Path, path: str
) -> None:
    (tmp_path / "outside/deep").mkdir(parents=True)
    os.symlink("../outside", runs.directory / "link")
    runs.run()
    tell(store, "first", conditions={path: "directory" if path == "link" else ""})
    runs.forget()
    reason = (
        f"`{path}`, which the command looks for, is behind a link that leads out of the project"
    )
    assert runs.reasons()[1] == ("lookup-changed", reason)
    assert runs.states()[0] == "ok"


def test_history_that_somebody_has_edited_is_a_miss(runs: Runs, store: Path) -> None:
    runs.run()
    (history,) = store.glob("**/*.steps")
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    for line in lines:
        line[4]["conditions"] = ["x"]
    history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(next(store.glob("**/results")))
    assert runs.reasons()[1][0] == "lookup-changed"
    assert runs.states()[0] == "ok"


# -- a shared cache -------------------------------------------------------------------------------

REMOTE_STRICT = {"BUILDRUN_REMOTE_CACHE_STRICT": "1"}
_NOTE = "results whose inputs were not checked are not put into the remote cache"


def test_strict_remote_cache_is_given_nothing_that_was_not_checked(
    runs: Runs, tmp_path: Path, store: Path
) -> None:
    remote = ("--remote-cache", tmp_path / "remote", WRITE)
    assert runs.run(*remote, **REMOTE_STRICT).err.count(_NOTE) == 1
    assert not list(manifests(tmp_path / "remote"))
    assert runs.run(*remote, **REMOTE_STRICT).err.count(_NOTE) == 1  # found to be here already
    assert not list(manifests(tmp_path / "remote"))
    tell(store, assurance="checked")
    runs.forget()
    assert _NOTE not in runs.run(*remote, **REMOTE_STRICT).err
    told = [manifest["details"]["assurance"] for _, manifest in manifests(tmp_path / "remote")]
    assert told == ["checked", "checked"]


def test_reader_is_not_told_of_what_it_would_not_have_written(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    done = runs.run("--remote-cache", tmp_path / "remote", **REMOTE_STRICT)
    assert _NOTE not in done.err


def test_strict_remote_cache_gives_nothing_that_was_not_checked(runs: Runs, tmp_path: Path) -> None:
    remote = ("--remote-cache", tmp_path / "remote")
    runs.run(*remote, WRITE)
    elsewhere = {"BUILDRUN_HOME": str(tmp_path / "elsewhere")}
    runs.forget()
    assert runs.plan(*remote, **elsewhere)[0]["state"] == "hit"
    reasons = runs.reasons(*remote, **elsewhere, **REMOTE_STRICT)
    assert reasons[0] == ("miss", "")
    assert "not-checked" in dict(reasons)
    assert runs.states(*remote, **elsewhere, **REMOTE_STRICT) == ["ok", "ok"]
    # What was made here counts.
    assert runs.states(*remote, **elsewhere, **REMOTE_STRICT) == ["up-to-date", "up-to-date"]


def test_checked_result_takes_the_place_of_one_in_the_remote_cache_that_was_not(
    runs: Runs, tmp_path: Path, store: Path
) -> None:
    remote = ("--remote-cache", tmp_path / "remote", WRITE)
    runs.run(*remote)
    tell(store, assurance="sandboxed")
    runs.forget()
    assert runs.states(*remote, **REMOTE_STRICT) == ["cached", "cached"]
    told = [manifest["details"]["assurance"] for _, manifest in manifests(tmp_path / "remote")]
    assert told == ["sandboxed", "sandboxed"]


def test_result_of_others_counts_where_its_conditions_hold(
    runs: Runs, tmp_path: Path, store: Path
) -> None:
    remote = ("--remote-cache", tmp_path / "remote")
    runs.run(*remote, WRITE)
    tell(tmp_path / "remote", conditions={"override.cfg": ""})
    tell(store, conditions={"override.cfg": "file:0"})
    runs.forget()
    # That of this store does not hold, that of the others does, and is kept from now on.
    assert runs.states(*remote) == ["cached", "cached"]
    kept = [manifest["details"]["conditions"] for _, manifest in manifests(store)]
    assert kept == [{"override.cfg": ""}, {"override.cfg": ""}]
    (runs.directory / "override.cfg").write_text("over\n")
    assert runs.reasons(*remote)[1][0] == "lookup-changed"
    assert runs.states(*remote)[0] == "ok"


@pytest.mark.parametrize("conditions", [{"/etc/passwd": "file"}, [1], {"a": 1}])
def test_conditions_of_others_that_are_none_are_a_miss(
    runs: Runs, tmp_path: Path, conditions: object
) -> None:
    remote = ("--remote-cache", tmp_path / "remote")
    runs.run(*remote, WRITE)
    tell(tmp_path / "remote", conditions=conditions)
    runs.forget()
    elsewhere = {"BUILDRUN_HOME": str(tmp_path / "elsewhere")}
    assert runs.states(*remote, **elsewhere) == ["ok", "ok"]
