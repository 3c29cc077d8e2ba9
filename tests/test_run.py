"""Running: what the command sees, what comes back, and what is told of it."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Buildrun, Project

LOCAL = "--env-manager=local"
BUILDRUN = (sys.executable, "-m", "buildrun")


@pytest.mark.parametrize(
    ("command", "code", "out"),
    [
        ("exit 7", 7, ""),
        ("pwd", 0, "{root}\n"),
        ("echo $FLAVOUR", 0, "mint\n"),
        ("cat", 0, "a line\n"),
        ('"false\\necho done"', 0, "done\n"),  # later lines decide, as in bash
    ],
)
def test_command_runs_as_the_caller_would_run_it(
    command: str, code: int, out: str, project: Project, buildrun: Buildrun
) -> None:
    directory = project(f"entry_points:\n  main:\n    command: {command}\n")
    outcome = buildrun(directory, LOCAL, environ={"FLAVOUR": "mint"}, stdin="a line\n")
    assert (outcome.code, outcome.out) == (code, out.format(root=directory)), outcome.err


def test_warm_run_sees_an_edit_of_the_same_size_with_its_time_put_back(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {command: echo one}}\n")
    file = directory / "MLproject"
    assert [buildrun("-q", directory, LOCAL).out for _ in range(2)] == ["one\n", "one\n"]
    status = file.stat()
    file.write_text("entry_points: {main: {command: echo two}}\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert buildrun("-q", directory, LOCAL).out == "two\n"


def test_warm_run_sees_a_new_environment_file(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    assert buildrun("-q", directory).code == 0
    (directory / "python_env.yaml").write_text("python: '3.99'\n")
    buildrun("-q", directory, environ={"UV_PYTHON_DOWNLOADS": "never"}).refused("Python 3.99")


def test_warm_run_sees_a_path_that_vanished(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.write_text("x")
    directory = project("entry_points: {main: {parameters: {f: path}, command: 'cat {f}'}}\n")
    assert buildrun("-q", directory, LOCAL, "-P", "f=data").out == "x"
    data.unlink()
    buildrun("-q", directory, LOCAL, "-P", "f=data").refused("no such file")


def test_warm_run_passes_the_current_variables(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: 'echo $FLAVOUR'}}\n")
    for flavour in ("mint", "rose"):
        assert buildrun("-q", directory, environ={"FLAVOUR": flavour}).out == f"{flavour}\n"


def test_subdirectory_by_fragment(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: echo top}}\n")
    (directory / "v1.2").mkdir()
    (directory / "v1.2" / "MLproject").write_text("entry_points: {main: {command: echo sub}}\n")
    for fragment in ("v1.2", "/v1.2", "v1.2/", "/v1.2/", f"{directory}/v1.2"):
        assert buildrun(f"{directory}#{fragment}", LOCAL).out == "sub\n"
    assert buildrun(f"{directory}#/", LOCAL).out == "top\n"


@pytest.mark.parametrize("fragment", ["../other", "/etc", "no/such", "link"])
def test_subdirectory_stays_in_the_project(
    project: Project, buildrun: Buildrun, tmp_path: Path, fragment: str
) -> None:
    (tmp_path / "other").mkdir()
    directory = project("entry_points: {main: {command: echo top}}\n")
    (directory / "link").symlink_to(tmp_path / "other")
    buildrun(f"{directory}#{fragment}", LOCAL).refused("subdirectory")


def test_file_uri_and_quotes_name_a_project(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: echo hi}}\n", name="a b")
    assert buildrun(f"file://{directory}".replace(" ", "%20"), LOCAL).out == "hi\n"
    assert buildrun(f"'{directory}'", LOCAL).out == "hi\n"


def test_scripts_are_entry_points_without_mlproject(project: Project, buildrun: Buildrun) -> None:
    directory = project(None, a__py="import sys; print(sys.argv[1:])", b__sh="echo sh $@")
    assert buildrun(directory, LOCAL, "-e", "a.py", "-P", "x=1").out == "['--x', '1']\n"
    shell = buildrun(directory, LOCAL, "-e", "b.sh", "-P", "y=2", environ={"SHELL": None})
    assert shell.out == "sh --y 2\n"


@pytest.mark.parametrize(
    ("name", "fact"),
    [("nothing.py", "no script `nothing.py`"), ("train", "could not find `train`")],
)
def test_unknown_entry_point_is_told(
    project: Project, buildrun: Buildrun, name: str, fact: str
) -> None:
    buildrun(project(None, trains__py=""), LOCAL, "-e", name).refused(fact)


def test_close_name_is_proposed(project: Project, buildrun: Buildrun) -> None:
    outcome = buildrun(project("entry_points: {train: {command: x}}\n"), LOCAL, "-e", "tran")
    assert "did you mean `-e train`?" in outcome.err


def test_report_tells_how_the_run_went(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {command: exit 3}}\n")
    buildrun(directory, LOCAL, "--report", "report.json", "--run-id", "abc", "--tracking=off")
    report = json.loads((tmp_path / "report.json").read_text())
    (step,) = report["steps"]
    assert (report["version"], report["run_id"], report["status"]) == (1, "abc", "failed")
    assert (report["exit_code"], step["exit_code"], step["state"]) == (3, 3, "failed")
    assert step["id"] == step["entry_point"] == "main"


def test_report_is_written_when_nothing_could_run(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    assert buildrun(project("entry_points: []\n"), "--report", "r.json").code == 1
    assert json.loads((tmp_path / "r.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (("--run-id=r1", "--experiment-id=7"), "r1 7 [] http://127.0.0.1:5000\n"),
        # a name replaces an inherited id
        (("--experiment-name=new",), "[new] http://127.0.0.1:5000\n"),
    ],
)
def test_mlflow_variables_reach_the_command(
    arguments: tuple[str, ...], out: str, project: Project, buildrun: Buildrun
) -> None:
    command = (
        "echo $MLFLOW_RUN_ID $MLFLOW_EXPERIMENT_ID [$MLFLOW_EXPERIMENT_NAME] $MLFLOW_TRACKING_URI"
    )
    directory = project(f"entry_points: {{main: {{command: '{command}'}}}}\n")
    environ = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "MLFLOW_EXPERIMENT_ID": "9"}
    assert buildrun(directory, LOCAL, "--tracking=off", *arguments, environ=environ).out == out


def test_error_elsewhere_in_the_project_does_not_stop_the_run(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project(
        "entry_points:\n  main: {command: echo fine}\n  broken: {command: 'echo {nothing}'}\n"
    )
    assert buildrun(directory, LOCAL).out == "fine\n"
    assert buildrun(directory, LOCAL, "-e", "broken").code == 1


def test_warnings_are_told_once(project: Project, buildrun: Buildrun) -> None:
    directory = project("nmae: x\nentry_points: {main: {command: 'true'}}\n")
    assert "unknown-key" in buildrun(directory, LOCAL).err
    assert "unknown-key" not in buildrun(directory, LOCAL, "-P", "x=1").err


def test_read_only_store_is_told(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    buildrun(
        project("entry_points: {main: {command: 'true'}}\n"),
        environ={"BUILDRUN_HOME": str(tmp_path / "file" / "store")},
    ).refused("cannot write into the store", "BUILDRUN_HOME")


def test_project_that_is_not_here_is_told(buildrun: Buildrun) -> None:
    buildrun("nowhere").refused("there is no project at `nowhere`")


@pytest.mark.parametrize("uri", ["https://example.invalid/a.git", "git@example.invalid:a/b"])
def test_repository_that_cannot_be_reached_is_told(buildrun: Buildrun, uri: str) -> None:
    buildrun(uri).refused(f"`{uri}` cannot be reached")


def test_docker_projects_are_planned_and_refused(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "name: d\ndocker_env: {image: img}\nentry_points: {main: {command: 'true'}}\n"
    )
    step = buildrun("plan", directory, "--format=json").data["steps"][-1]
    assert (step["backend"], step["image"]) == ("docker", "img")
    assert buildrun(directory).code == 1


def test_help_and_version(buildrun: Buildrun) -> None:
    assert "usage: buildrun" in buildrun("--help").out
    assert buildrun("--version").out.startswith("buildrun ")
    assert buildrun("run", "--help").code == 0
    assert buildrun().code == 2


def test_report_follows_links_and_leaves_devices_alone(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    target = tmp_path / "target.json"
    (tmp_path / "link.json").symlink_to(target)
    assert buildrun("-q", directory, LOCAL, "--report", "link.json").code == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads(target.read_text())["status"] == "ok"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert buildrun("-q", directory, LOCAL, "--report", "fifo").code == 0
    assert json.loads(os.read(reader, 1 << 16))["exit_code"] == 0
    os.close(reader)


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/stderr"])
def test_report_goes_behind_what_the_command_writes(
    project: Project, tmp_path: Path, place: str
) -> None:
    directory = project("entry_points: {main: {command: 'echo before'}}\n")
    words = ("-q", directory, LOCAL, "--report", place)
    for _ in range(2):
        with (tmp_path / "all").open("w") as file:
            argv = (sys.executable, "-m", "buildrun", *words)
            subprocess.run(argv, stdout=file, stderr=file, check=True, timeout=120)
        first, *told = (tmp_path / "all").read_text().splitlines()
        assert first == "before"
        assert json.loads("".join(told))["status"] == "ok"


def test_report_into_what_is_not_open_is_refused(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: 'echo ran'}}\n")
    outcome = buildrun(directory, LOCAL, "--report", "/dev/fd/199")
    outcome.refused("nothing can be written there", code=2)
    assert outcome.out == ""


def test_report_is_written_by_warm_runs_too(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    for _ in range(2):
        assert buildrun("-q", directory, LOCAL, "--report=r.json").code == 0
        (tmp_path / "r.json").unlink()


def test_report_that_cannot_be_written_is_refused_before_the_run(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(f"entry_points: {{main: {{command: touch {tmp_path}/ran}}}}\n")
    for path in (".", "no/such/r.json"):
        assert buildrun(directory, LOCAL, "--report", path).code == 2
    for path in ("r.htm", "xml.r", "r.JSON.gz", "r.jsn", "r\udcff.svg"):
        buildrun(directory, LOCAL, "--report", path).refused(
            "hint: name a file that ends in", "`.json`", code=2
        )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("code", [0, 7])
def test_report_that_gets_lost_changes_no_exit_code(
    code: int, project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    command = f"rmdir {tmp_path}/out; exit {code}"
    directory = project(f"entry_points: {{main: {{command: '{command}'}}}}\n")
    outcome = buildrun(directory, LOCAL, "--report", "out/r.json")
    assert outcome.code == code
    assert "the report could not be written: No such file" in outcome.err
    os.mkfifo(tmp_path / "fifo.json")  # that nobody reads
    outcome = buildrun(directory, LOCAL, "--report", "fifo.json")
    assert outcome.code == code
    assert "the report could not be written" in outcome.err
    outcome = buildrun("-q", directory, LOCAL, "--report", "/dev/stdout")
    assert outcome.data["exit_code"] == code


def test_credentials_in_parameters_are_not_kept_or_shown(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project("entry_points: {main: {parameters: {u: uri}, command: 'echo {u}'}}\n")
    uri = "https://me:hunter2@example.invalid/x"
    outcome = buildrun(directory, LOCAL, "-P", f"u={uri}")
    assert outcome.out == f"{uri}\n"
    assert "hunter2" not in outcome.err
    assert "hunter2" not in buildrun("plan", directory, LOCAL, "-P", f"u={uri}").out
    kept = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b"hunter2" not in kept


def test_credentials_in_the_project_are_not_kept(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(
        "entry_points: {main: {command: 'true'}}\n",
        python_env__yaml="dependencies: ['--index-url https://me:hunter2@127.0.0.1:9/simple']\n",
    )
    assert buildrun(directory).code == 0
    held = [path for path in store.glob("index/*") if b"hunter2" in path.read_bytes()]
    assert held == []


def test_offline_downloads_nothing(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {parameters: {f: path}, command: 'cat {f}'}}\n")
    buildrun(directory, LOCAL, "--offline", "-P", "f=http://127.0.0.1:9/x").refused(
        "would have to be downloaded"
    )


def test_warm_run_reminds_of_warnings(project: Project, buildrun: Buildrun) -> None:
    directory = project("name: x\nnmae: y\nentry_points: {main: {command: 'true'}}\n")
    buildrun(directory, LOCAL)
    assert "1 warning; `buildrun validate` shows them" in buildrun(directory, LOCAL).err


def test_many_warnings_are_capped(project: Project, buildrun: Buildrun) -> None:
    unknown = "".join(f"key{number}: 1\n" for number in range(500))
    directory = project(f"name: x\n{unknown}entry_points: {{main: {{command: 'true'}}}}\n")
    outcome = buildrun(directory, LOCAL)
    assert outcome.code == 0
    assert "and 490 more" in outcome.err
    assert len(outcome.err.splitlines()) < 50


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(("-P", "-dash=1"), "---dash 1"), (("-P", "a=-1", "-P", "--b=2"), "--a -1 ----b 2")],
)
def test_values_may_begin_with_a_dash(
    project: Project, buildrun: Buildrun, arguments: tuple[str, ...], extra: str
) -> None:
    directory = project("entry_points: {main: {command: echo}}\n")
    plan = buildrun("plan", directory, LOCAL, "--format=json", *arguments).data
    assert plan["steps"][-1]["command"] == f"echo {extra}"


@pytest.mark.parametrize(("word", "close"), [("plam", "plan"), ("valdate", "validate")])
def test_mistyped_command_is_told(buildrun: Buildrun, word: str, close: str) -> None:
    buildrun(word, ".").refused(f"did you mean `{close}`?", code=2)


@pytest.mark.parametrize("stream", ["1", "2"])
def test_closed_streams_are_no_failure(project: Project, tmp_path: Path, stream: str) -> None:
    directory = project(f"entry_points: {{main: {{command: touch {tmp_path}/ran}}}}\n")
    done = subprocess.run(
        ("bash", "-c", f'"$@" {stream}>&-', "-", *BUILDRUN, directory, LOCAL),
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists()


def test_full_output_is_told(project: Project) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            (*BUILDRUN, "plan", directory, LOCAL),
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_runs_that_waited_for_the_first_go_on_together(project: Project, tmp_path: Path) -> None:
    directory = project(
        "entry_points: {main: {command: 'echo started; read line'}}\n",
        python_env__yaml="dependencies: []\n",
    )
    running = [
        subprocess.Popen(
            (*BUILDRUN, "-q", directory),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    try:
        # None has ended when the last one starts.
        for process in running:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 120)[0], "it waits for another's end"
            assert process.stdout.readline() == b"started\n"
        for process in running:
            process.communicate(b"\n", timeout=60)
        assert [process.returncode for process in running] == [0] * 4
    finally:
        for process in running:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "fact", "hint"),
    [
        (("--forse", "."), "--forse", "did you mean `--force`?"),
        (("--qqqq", "."), "--qqqq", "`buildrun run --help`"),
        ((".", "--output", "loud"), "invalid choice: 'loud'", "`buildrun run --help`"),
        ((".", "--output", "error"), "invalid choice: 'error'", "did you mean `errors`?"),
        ((".", "-b", "k8s"), "invalid choice: 'k8s'", "did you mean `kubernetes`?"),
        ((".", "--env-manager", "Conda"), "invalid choice", "did you mean `conda`?"),
        ((".", "--no-conda"), "--no-conda", "did you mean `--env-manager local`?"),
        ((".", "--depth=3"), "--depth", "parameters are given as `-P depth=VALUE`"),
        ((".", "-p", "a=1"), "-p", "did you mean `-P`?"),
    ],
)
def test_unknown_option_is_told_with_a_remedy(
    arguments: tuple[str, ...], fact: str, hint: str, project: Project, buildrun: Buildrun
) -> None:
    buildrun("run", *arguments, cwd=project("entry_points: {}\n")).refused(fact, hint, code=2)


def test_variable_chooses_the_manager(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "python_env: python_env.yaml\nentry_points:\n"
        "  main: {command: '$PYTHON -m buildrun -q . $OPTIONS'}\n  inner: {command: echo inner}\n",
        python_env__yaml="dependencies: [no-such-package-of-anyone==9]\n",
    )
    environ: dict[str, str | None] = {"PYTHON": sys.executable, "OPTIONS": "-e inner"}
    assert buildrun("-q", directory, LOCAL, environ=environ).out == "inner\n"
    chosen = {**environ, "BUILDRUN_ENV_MANAGER": "local"}
    assert buildrun("-q", directory, environ=chosen).out == "inner\n"
    outcome = buildrun(
        "plan", directory, "--env-manager=virtualenv", "--format=json", environ=chosen
    )
    assert json.loads(outcome.out)["steps"][0]["environment"]["manager"] == "virtualenv"
    environ["OPTIONS"] = "-e inner --env-manager=virtualenv"
    outcome = buildrun("-q", directory, LOCAL, "--offline", environ=environ)
    assert "no-such-package-of-anyone" in outcome.err
    buildrun("-q", directory, environ={"BUILDRUN_ENV_MANAGER": "venv"}).refused(
        "error: BUILDRUN_ENV_MANAGER: `venv` is no environment manager", code=2
    )


def test_python3_serves_as_python(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    directory = project(
        "entry_points:\n  main: {command: 'python train.py 1 | cat; python -c \"exit(7)\"'}\n",
        train__py="import sys\nprint('trained', sys.argv[1:])\n",
    )
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "cat"):
        (programs / name).symlink_to(shutil.which(name) or "")
    (programs / "python3").write_text(f'#!{programs}/bash\nexec {sys.executable} "$@"\n')
    (programs / "python3").chmod(0o755)
    environ = {"PATH": str(programs)}
    outcome = buildrun("-q", directory, LOCAL, environ=environ)
    assert (outcome.code, outcome.out) == (7, "trained ['1']\n"), outcome.err
    script = ("-e", "train.py", "-P", "a=x y")
    outcome = buildrun("-q", directory, LOCAL, *script, environ=environ)
    assert (outcome.code, outcome.out) == (0, "trained ['--a', 'x y']\n"), outcome.err


def test_lone_command_clears_up_after_a_killed_run(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: cat model.txt}}\n")
    staging = directory / ".buildrun-0123456789ab"
    for text in ("cold", "warm"):
        (staging / "new/0").mkdir(parents=True)
        (staging / "old").mkdir()
        (staging / "old/0").write_text(text)
        (staging / "journal").write_text('[0, "model.txt", null, null]\n')
        outcome = buildrun("-q", directory, LOCAL)
        assert (outcome.code, outcome.out) == (0, text), outcome.err
        assert not staging.exists()
        (directory / "model.txt").unlink()
    staging.mkdir()
    with (staging / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert buildrun("-q", directory, LOCAL).code == 1
        assert staging.exists()


def test_absent_python_is_told_until_there_is_one(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(
        "entry_points:\n  main: {command: python train.py}\n"
        "  later: {command: 'cd . && python3 train.py; other'}\n"
        "  made: {outputs: [out], command: 'python train.py > out'}\n",
        train__py="print('trained')\n",
    )
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "bash").symlink_to(shutil.which("bash") or "")
    environ = {"PATH": str(programs)}
    for name in ("main", "train.py", "later", "made"):
        outcome = buildrun("-q", directory, LOCAL, "-e", name, environ=environ)
        program = "python3" if name == "later" else "python"
        assert (outcome.code, outcome.out) == (127, ""), outcome.err
        assert f"bash: {program}: command not found\nhint: install Python 3" in outcome.err
        assert "or have an environment built: `--env-manager virtualenv`" in outcome.err
    assert outcome.err.count("hint: install Python 3") == 1
    (programs / "python3").write_text(f'#!{programs}/bash\nexec {sys.executable} "$@"\n')
    (programs / "python3").chmod(0o755)
    for name in ("main", "train.py"):
        outcome = buildrun("-q", directory, LOCAL, "-e", name, environ=environ)
        assert (outcome.code, outcome.out) == (0, "trained\n"), outcome.err


def test_user_without_home_is_told_what_to_set(project: Project, tmp_path: Path) -> None:
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {command: echo fine}}\n",
        python_env__yaml="dependencies: []\n",
    )
    program = (
        "import pwd\n"
        "def missing(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid = missing\n"
        "from buildrun.cli import entry\n"
        "entry()\n"
    )
    environ = {"PATH": os.environ["PATH"]}
    for command in (("plan", "."), ("run", "."), ("cache", "info"), ("runs", "ls")):
        words = (sys.executable, "-c", program, *command)
        for kept, code in (({}, 1), ({"BUILDRUN_HOME": str(tmp_path / "kept")}, 0)):
            done = subprocess.run(
                words, cwd=directory, env={**environ, **kept}, capture_output=True, check=False
            )
            assert done.returncode == code, done.stderr
            assert (b"set BUILDRUN_HOME" in done.stderr) == (code == 1)
    assert sorted(path.name for path in directory.iterdir()) == ["MLproject", "python_env.yaml"]


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("schema", "mlproject"), "MLproject"),
        (("runs", "list"), "ls"),
        (("runs", "show", "--formt=json"), "--format"),
        (("validate", "project/MLprojekt"), "MLproject"),
        (("run", "projct", "--env-manager", "local"), "project"),
        (("run", "project", "-e", "trian"), "-e train"),
        (("run", "project/../projct/"), "project/../project/"),
    ],
)
def test_typing_error_names_what_was_meant(
    arguments: tuple[str, ...], meant: str, project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {train: {command: echo}}\n")
    outcome = buildrun(*arguments, cwd=directory.parent)
    assert outcome.code != 0
    assert f"did you mean `{meant}`?" in outcome.out + outcome.err


PARAMETERS = """
entry_points:
  main:
    parameters: {times: {type: int, default: 1}, big: {type: bool, default: false}}
    command: echo {times} {big}
"""


@pytest.mark.parametrize(
    ("given", "warning", "out"),
    [
        (("tmes=3",), "did you mean `times`?", "1 false --tmes 3\n"),
        (("Times=3",), "did you mean `times`?", "1 false --Times 3\n"),
        (
            ("times=x",),
            "parameter `times` is of type `int`, and `x` is not an integer",
            "x false\n",
        ),
        (("big=maybe",), "`maybe` is not true or false", "1 maybe\n"),
        (("times=3", "time=4"), "", "3 false --time 4\n"),
        (("times=-3", "big=1", "verbose=1"), "", "-3 1 --verbose 1\n"),
    ],
)
def test_odd_parameter_is_warned_of_each_time(
    given: tuple[str, ...], warning: str, out: str, project: Project, buildrun: Buildrun
) -> None:
    directory = project(PARAMETERS)
    assert buildrun("run", ".", "--env-manager", "local", cwd=directory).code == 0
    parameters = [word for pair in given for word in ("-P", pair)]
    for _ in range(2):
        outcome = buildrun("run", ".", "--env-manager", "local", *parameters, cwd=directory)
        assert outcome.out.replace("False", "false") == out
        assert ("warning:" in outcome.err) is bool(warning)
        assert warning in outcome.err


HERE = "entry_points:\n  main: {command: echo main}\n  other: {command: echo other}\n"


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        ((), "main\n"),
        (("run",), "main\n"),
        (("-e", "other"), "other\n"),
        (("run", "--force", "main"), "main\n"),
        (("build",), "the caller's own environment; nothing to build\n"),
    ],
)
def test_current_directory_is_the_project(
    arguments: tuple[str, ...], out: str, project: Project, buildrun: Buildrun
) -> None:
    manager = ("--env-manager", "local") if arguments else ()
    outcome = buildrun(*arguments, *manager, cwd=project(HERE))
    assert (outcome.code, outcome.out) == (0, out), outcome.err


def test_plan_and_lock_look_at_the_current_directory(project: Project, buildrun: Buildrun) -> None:
    directory = project(HERE, python_env__yaml="dependencies: []\n")
    made = buildrun("plan", "--format", "json", cwd=directory)
    assert made.data["project"]["root"] == str(directory)
    locked = buildrun("lock", "--check", cwd=directory)
    assert (locked.code, locked.out.partition(": ")[2]) == (1, "there is no lock\n")


@pytest.mark.parametrize("verb", [(), ("run",), ("plan",), ("build",), ("lock",), ("-e", "x.py")])
def test_directory_without_a_project_names_those_below(
    verb: tuple[str, ...], tmp_path: Path, buildrun: Buildrun
) -> None:
    outcome = buildrun(*verb)
    assert outcome.code == 2
    assert "there is no MLproject file in the current directory" in outcome.err
    assert "projects below" not in outcome.err
    for path in ("b/c", "a", "a/within", ".hidden", "1/2/3/4/5"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "MLproject").touch()
    (tmp_path / "link").symlink_to("a")
    buildrun(*verb).refused("give one of the projects below: `a`, `b/c`\n", code=2)


def test_each_error_has_its_hint_beneath_it(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {timeout: soon, command: 'echo {x}'}}\n")
    outcome = buildrun("run", LOCAL, cwd=directory)
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    facts = [index for index, line in enumerate(lines) if line.endswith("]")]
    assert len(facts) == 2
    for index in facts:
        assert lines[index + 1].startswith("    hint: ")
    assert "[bad-timeout]" in outcome.err
    assert "    hint: declare `x` under `parameters:`" in outcome.err


def test_too_few_descriptors_are_told_with_the_remedy(project: Project) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    limited = ("bash", "-c", 'ulimit -n 9; exec "$@"', "bash", sys.executable, "-m", "buildrun")
    done = subprocess.run(
        (*limited, "-q", LOCAL, "."), cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: too many open files\n\nhint: raise the limit with `ulimit -n 1024`\n"
    )


def test_lone_command_that_is_killed_after_a_signal_ends_as_that_signal_says(
    project: Project, tmp_path: Path
) -> None:
    command = "trap 'kill -KILL $$' TERM; echo up; sleep 1000 & wait"
    directory = project(f'entry_points:\n  main:\n    command: "{command}"\n')
    report = tmp_path / "report.json"
    words = (sys.executable, "-m", "buildrun", LOCAL, "-q", ".", "--report", report)
    with subprocess.Popen(words, cwd=directory, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.terminate()
        assert child.wait(timeout=60) == 128 + signal.SIGTERM
    told = json.loads(report.read_text())
    assert (told["status"], told["exit_code"]) == ("cancelled", 143)


def test_lone_command_that_is_to_be_checked_runs_as_a_step(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {command: test -t 0 || echo hi}}\n")

    def ending(*options: str, **variables: str) -> str:
        outcome = buildrun(directory, LOCAL, *options, environ=variables)
        assert (outcome.code, outcome.out) == (0, "hi\n"), outcome.err
        return outcome.err.splitlines()[-1].partition(" in ")[0]

    step, alone = "1 step: 1 ran", "[main] test -t 0 || echo hi"
    for _ in range(2):
        assert ending() == alone
        assert ending(BUILDRUN_CHECK_INPUTS="1") == step
        assert ending(BUILDRUN_CHECK_INPUTS="0") == alone
        assert ending("--check-inputs") == step
