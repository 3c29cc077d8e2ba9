"""The Python API, used as a program would use it."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Project
from executor_helpers import children
from step_helpers import LIMIT, PAUSE, Gate, a_gate

import buildrun as br

assert a_gate  # a fixture

HOSTILE = 'it\'s "$(date)" `x`\n\\ \N{GRINNING FACE}'

ECHO = "entry_points: {main: {parameters: {v: string}, command: 'printf %s {v}'}}\n"


@pytest.fixture(autouse=True)
def gated(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands find the gate."""
    for name, value in gate.environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def paused(project: Project) -> Path:
    """Return a project whose command waits to be let go on, and fails where it is told to."""
    return project(
        "entry_points:\n  main:\n    parameters: {name: {default: main}, code: {default: 0}}\n"
        f"    command: '{PAUSE.format('{name}')}; exit {{code}}'\n"
    )


def test_run_takes_mlflows_parameters_in_mlflows_order() -> None:
    parameters = inspect.signature(br.run).parameters.values()
    known = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert [each.name for each in known] == [
        "uri", "entry_point", "version", "parameters", "docker_args", "experiment_name",
        "experiment_id", "backend", "backend_config", "storage_dir", "synchronous", "run_id",
        "run_name", "env_manager", "build_image", "docker_auth",
    ]  # fmt: skip
    assert [each.default for each in known[1:]] == [
        "main", None, None, None, None, None, "local", None, None, True, None, None, None, False,
        None,
    ]  # fmt: skip


def test_synchronous_run_writes_to_the_callers_streams_and_is_recorded(
    project: Project, capfd: pytest.CaptureFixture[str], buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {command: 'echo out; echo err >&2'}}\n")
    run = br.run(str(directory), parameters=None, env_manager="local", quiet=True)
    assert capfd.readouterr() == ("out\n", "err\n")
    assert run.wait() is True
    assert (run.get_status(), run.exit_code) == ("FINISHED", 0)
    record = buildrun("runs", "show", run.run_id, "--format", "json").data
    assert (record["run_id"], record["status"]) == (run.run_id, "ok")


def test_report_has_the_shape_of_the_command_lines(project: Project) -> None:
    directory = project(
        "entry_points:\n"
        "  first: {inputs: [MLproject], outputs: [made], command: echo made > made}\n"
        "  main: {depends_on: [first], command: cat made}\n"
    )
    run = br.run(directory, env_manager="local", quiet=True)
    assert run.report is not None
    assert run.report["status"] == "ok"
    assert [(step["id"], step["state"]) for step in run.report["steps"]] == [
        ("first", "ok"),
        ("main", "ok"),
    ]
    again = br.run(directory, env_manager="local", quiet=True).report
    assert again is not None
    assert [step["state"] for step in again["steps"]] == ["up-to-date", "ok"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"), (0, "0"), (0.5, "0.5"), (None, "None"), ([1, "a b"], "[1, 'a b']"),
        (Path("data/x y"), "data/x y"), ("--flag", "--flag"), ("a=b", "a=b"), ("", ""),
        (HOSTILE, HOSTILE),
    ],
)  # fmt: skip
def test_values_reach_the_command_as_their_text(
    project: Project, capfd: pytest.CaptureFixture[str], value: object, text: str
) -> None:
    br.run(project(ECHO), parameters={"v": value}, env_manager="local", quiet=True)
    assert capfd.readouterr().out == text


def test_failure_raises_in_mlflows_words_and_keeps_the_exit_code(project: Project) -> None:
    directory = project("entry_points: {main: {command: exit 7}}\n")
    with pytest.raises(br.ExecutionException, match=r"^Run \(ID '[0-9a-f]{32}'\) failed$") as info:
        br.run(directory, env_manager="local")
    assert isinstance(info.value, br.BuildrunError)
    run = info.value.run
    assert (info.value.exit_code, run.exit_code, run.get_status()) == (7, 7, "FAILED")
    assert run.run_id in str(info.value)
    assert run.wait() is False
    told = pickle.loads(pickle.dumps(info.value))
    assert isinstance(told, br.ExecutionException)
    assert (str(told), told.exit_code) == (str(info.value), 7)


def test_refusal_raises_what_the_command_line_says(project: Project) -> None:
    with pytest.raises(br.ExecutionException, match=r"no value given .*'v'") as info:
        br.run(project(ECHO), env_manager="local")
    assert isinstance(info.value.__cause__, br.ParameterError)
    assert info.value.hint == "give each one: -P v=VALUE"
    report = info.value.run.report
    assert report is not None
    assert (report["status"], report["exit_code"], report["steps"]) == ("failed", 1, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "moon"}, "unsupported execution mode moon"),
        ({"backend": "databricks"}, "backend spec must be provided when launching"),
        ({"backend": "kubernetes", "backend_config": {}}, "specify 'backend_config'"),
        ({"env_manager": "moon"}, "`moon` is no environment manager"),
        ({"experiment_name": "a", "experiment_id": "1"}, "only one of 'experiment_name'"),
        ({"uri": "--upload-pack=x"}, "looks like an option"),
        ({"uri": ""}, "URI is empty"),
        ({"parameters": {"a=b": 1}}, "cannot be the name"),
        ({"parameters": {"a": "x\0y"}}, "NUL"),
        ({"parameters": ["a"]}, "must be a mapping"),
        ({"backend_config": {"a": object()}}, "cannot be written as JSON"),
        ({"docker_auth": {"username": "me"}}, "needs a `username` and a `password`"),
        ({"docker_auth": "me"}, "`docker_auth` must be a mapping"),
        ({"uri": 3}, "`uri` must be a text or a path"),
        ({"jobs": 0}, "`jobs` must be a number from 1"),
        ({"jobs": True}, "`jobs` must be a number from 1"),
        ({"output": "loud"}, "`output` must be one of stream"),
        ({"tracking": True}, "`tracking` must be one of on"),
        ({"force": 3}, "`force` takes True, False or names"),
        ({"offline": "no"}, "takes True or False"),
        ({"cache": "no"}, "takes True or False"),
        ({"parameters": {"a": "\ud800"}}, "half of a character"),
        ({"parameters": {"a": "x" * 200_000}}, "more than a command can be given"),
        ({"environ": {"A": 1}}, "names and values that are texts"),
        ({"environ": {"A=B": ""}}, "no variable that a process can have"),
        ({"environ": ["A"]}, "`environ` must be a mapping"),
        ({"cwd": 5}, "`cwd` must be a path"),
    ],
)
@pytest.mark.parametrize("synchronous", [True, False])
def test_arguments_that_cannot_be_are_refused_at_once(
    tmp_path: Path, arguments: dict[str, object], message: str, synchronous: bool
) -> None:
    given = {"uri": tmp_path, "synchronous": synchronous, **arguments}
    with pytest.raises((br.UsageError, br.ParameterError), match=message):
        br.run(**given)  # type: ignore[arg-type]


def test_asynchronous_run_goes_on_beside_its_caller(
    paused: Path, gate: Gate, buildrun: Buildrun
) -> None:
    run = br.run(paused, synchronous=False, env_manager="local")
    assert gate.wait() == "main"
    record = buildrun("runs", "show", run.run_id, "--format", "json").data
    assert record["status"] == "running"
    assert (run.get_status(), run.exit_code, run.report) == ("RUNNING", None, None)
    with pytest.raises(TimeoutError):
        run.wait(timeout=0)
    gate.open()
    assert run.wait() is True
    assert run.get_status() == "FINISHED"


def test_asynchronous_failure_is_told_by_wait(paused: Path, gate: Gate) -> None:
    run = br.run(paused, parameters={"code": 3}, synchronous=False, env_manager="local")
    gate.wait()
    gate.open()
    assert run.wait() is False
    assert (run.get_status(), run.exit_code, run.error) == ("FAILED", 3, None)


def test_asynchronous_refusal_is_told_by_wait(tmp_path: Path) -> None:
    run = br.run(tmp_path / "nowhere", synchronous=False)
    assert run.wait() is False
    assert run.get_status() == "FAILED"
    assert isinstance(run.error, br.ProjectError)
    assert run.run_id


def test_one_of_two_runs_can_be_cancelled(paused: Path, gate: Gate, buildrun: Buildrun) -> None:
    one, two = (
        br.run(paused, parameters={"name": name}, synchronous=False, env_manager="local")
        for name in ("one", "two")
    )
    assert gate.wait_for(2) == {"one", "two"}
    one.cancel()
    assert (one.get_status(), one.wait(), two.get_status()) == ("KILLED", False, "RUNNING")
    assert (one.exit_code, one.error) == (128 + signal.SIGTERM, None)
    record = buildrun("runs", "show", one.run_id, "--format", "json").data
    assert record["status"] == "cancelled"
    gate.open()
    assert two.wait() is True
    two.cancel()
    assert two.get_status() == "FINISHED"
    one.cancel()
    assert one.get_status() == "KILLED"


def test_cancel_ends_all_that_the_command_has_started(
    project: Project, gate: Gate, tmp_path: Path
) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    directory = project(
        "entry_points: {main: {command: 'exec 3>$ALIVE; sleep 1000 & echo here > $UP; wait'}}\n"
    )
    environ = {**os.environ, "ALIVE": str(fifo)}
    run = br.run(directory, synchronous=False, env_manager="local", environ=environ)
    with open(fifo, "rb") as alive:
        assert gate.wait() == "here"
        run.cancel()
        assert alive.read() == b""  # the last that held it open has ended
    assert run.get_status() == "KILLED"


def test_cancel_before_anything_has_begun_ends_the_run(paused: Path) -> None:
    run = br.run(paused, synchronous=False, env_manager="local")
    run.cancel()
    assert run.get_status() == "KILLED"
    assert run.exit_code == 128 + signal.SIGTERM
    assert run.run_id


def test_run_whose_process_is_killed_has_failed(project: Project) -> None:
    directory = project("entry_points: {main: {command: 'kill -9 $PPID'}}\n")
    run = br.run(directory, synchronous=False, env_manager="local")
    assert run.wait() is False
    assert (run.get_status(), run.exit_code) == ("FAILED", 128 + signal.SIGKILL)


def test_several_runs_from_threads_go_on_at_once(paused: Path, gate: Gate) -> None:
    names = ["a", "b", "c"]

    def one(name: str) -> br.Run:
        return br.run(paused, parameters={"name": name}, env_manager="local", quiet=True)

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(one, name) for name in names]
        assert gate.wait_for(3) == set(names)
        gate.open(3)
        done = [each.result(timeout=LIMIT) for each in runs]
    assert [run.get_status() for run in done] == ["FINISHED"] * 3
    assert len({run.run_id for run in done}) == 3


def test_directory_and_variables_can_be_given(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = project("entry_points: {main: {command: 'echo $FLAVOUR'}}\n")
    environ = {**os.environ, "FLAVOUR": "mint"}
    br.run(directory.name, env_manager="local", quiet=True, cwd=directory.parent, environ=environ)
    assert capfd.readouterr().out == "mint\n"


def test_asynchronous_run_keeps_every_option(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = project(
        "entry_points:\n"
        "  first: {outputs: [made], command: echo made > made}\n"
        "  main:\n    depends_on: [first]\n"
        "    command: 'echo $MLFLOW_EXPERIMENT_ID $MLFLOW_RUN_ID'\n"
    )
    for _ in range(2):
        run = br.run(
            directory,
            experiment_id=0,
            run_id="mine",
            run_name="a name",
            env_manager="local",
            synchronous=False,
            force="first",
            cache=False,
            jobs=2,
            keep_going=True,
            output="grouped",
            quiet=True,
            tracking="off",
            check_inputs=True,
        )
        assert run.run_id == "mine"
        assert run.wait()
        assert run.report is not None
        assert [step["state"] for step in run.report["steps"]] == ["ok", "ok"]
    assert "0 mine" in capfd.readouterr().out


def test_what_the_system_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(br.ExecutionError, match="Argument list too long"):
        br.run(tmp_path, parameters={f"v{number}": "x" * 100_000 for number in range(100)})
    with pytest.raises(br.ExecutionError, match=r"nowhere: .*No such file"):
        br.run(tmp_path, cwd=tmp_path / "nowhere")


def test_runs_leave_neither_descriptors_nor_processes(project: Project) -> None:
    others = children()
    directory = project("entry_points: {main: {command: 'true'}}\n")
    br.run(directory, env_manager="local", quiet=True)
    before = os.listdir("/dev/fd")
    for synchronous in (True, False):
        br.run(directory, env_manager="local", quiet=True, synchronous=synchronous).wait()
    assert os.listdir("/dev/fd") == before
    assert children() == others


def test_modules_of_the_callers_directory_are_not_buildruns(
    project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')\n")
    directory = project("entry_points: {main: {command: echo fine}}\n")
    br.run(directory, env_manager="local", quiet=True, cwd=tmp_path)
    assert capfd.readouterr().out == "fine\n"


def test_command_inherits_neither_pipe_nor_option(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = project("entry_points: {main: {command: 'ls /dev/fd/ | wc -l; env'}}\n")
    br.run(directory, env_manager="local", quiet=True)
    with_api = capfd.readouterr().out
    assert "listener" not in with_api
    # 0, 1, 2 and what `ls` itself has opened
    assert int(with_api.splitlines()[0]) <= 4


def test_credentials_of_a_registry_are_seen_by_docker_alone(
    project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "docker"
    own.mkdir()
    (own / "config.json").write_text('{"auths": {"other": {"auth": "eA=="}}, "x": 1}')
    (own / "contexts").mkdir()
    directory = project(
        "entry_points:\n  main:\n    command: |\n"
        "      echo $DOCKER_CONFIG; stat -c %a $DOCKER_CONFIG $DOCKER_CONFIG/config.json\n"
        "      test -d $DOCKER_CONFIG/contexts; cat $DOCKER_CONFIG/config.json; echo\n"
        "      env; tr '\\0' ' ' < /proc/$PPID/cmdline\n"
    )
    auth = {"username": "ada", "password": "s3cret-word", "registry": "registry.example"}
    run = br.run(
        directory,
        env_manager="local",
        quiet=True,
        docker_auth=auth,
        environ={**os.environ, "DOCKER_CONFIG": str(own)},
    )
    lines = capfd.readouterr().out.splitlines()
    assert lines[1:3] == ["700", "600"]
    config = json.loads(lines[3])
    assert config["auths"].keys() == {"other", "registry.example"}
    assert config["x"] == 1
    assert "s3cret-word" not in "\n".join(lines[4:])
    assert run.wait()
    assert not Path(lines[0]).exists()
    assert (own / "contexts").is_dir()


def test_credentials_of_a_run_that_cannot_start_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    auth = {"username": "ada", "password": "secret"}
    with pytest.raises(br.ExecutionError):
        br.run(tmp_path, cwd=tmp_path / "nowhere", docker_auth=auth)
    assert list(directory.iterdir()) == []


def test_plan_has_the_shape_of_the_command_lines(project: Project, buildrun: Buildrun) -> None:
    directory = project(ECHO)
    made = br.plan(directory, parameters={"v": 1}, env_manager="local")
    assert made["steps"][-1]["command"] == "printf %s 1"
    said = buildrun("plan", directory, "-P", "v=1", "--env-manager=local", "--format=json").data
    assert made == said


def test_plan_raises_the_error_of_its_kind_and_writes_nothing(
    project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(br.ProjectError, match="no project"):
        br.plan(tmp_path / "nowhere")
    with pytest.raises(br.ParameterError, match="'v'"):
        br.plan(project(ECHO), env_manager="local")
    assert capfd.readouterr() == ("", "")


def test_validate_has_the_shape_of_the_command_lines(project: Project, buildrun: Buildrun) -> None:
    directory = project("nonsense: 1\nentry_points: {main: {command: 'echo {nope}'}}\n")
    found = br.validate([directory], cwd=directory.parent)
    assert found == buildrun("validate", directory, "--format=json", cwd=directory.parent).data
    assert found["valid"] is False
    codes = {item["code"] for item in found["files"][0]["diagnostics"]}
    assert "unknown-placeholder" in codes


def test_validate_is_strict_when_asked(project: Project) -> None:
    directory = project("nonsense: 1\nentry_points: {main: {command: 'true'}}\n")
    assert [br.validate(directory, strict=strict)["valid"] for strict in (False, True)] == [
        True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("paths", [3, None, [3]])
def test_paths_that_are_none_are_refused(paths: Any) -> None:
    with pytest.raises(br.UsageError, match="`paths` must be a path or several"):
        br.validate(paths)


def test_package_lists_its_api() -> None:
    assert set(br.__all__) <= set(dir(br))
    assert all(getattr(br, name) is not None for name in br.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        br.nonsense  # type: ignore[attr-defined]  # noqa: B018
