"""How a container is asked for: words, variables and mounts; no engine is needed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from buildrun.errors import ProjectError, UsageError
from buildrun.executors import container_mounts, docker_reaper
from buildrun.executors.container_command import COMMAND, needs_bash, program, program_of_variable
from buildrun.executors.docker_cli import (
    Container,
    arguments,
    cli_environ,
    container_name,
    create_argv,
    refuse_unfit,
    run_argv,
    sets_user,
)


@pytest.mark.parametrize(
    "command",
    ["python train.py 0.5", "python -c 'print(1); print(2)'", "train --name 'a b' ''", "/app/run"],
)
def test_plain_words_run_without_a_shell(command: str) -> None:
    assert program(command) == tuple(shlex.split(command))


@pytest.mark.parametrize(
    "command",
    [
        "a && b", "a | b", "a\nb", "echo $HOME", 'echo "$HOME"', "echo `id`", "ls *.py", "a; b",
        "A=1 b", "cd x", "exit 3", "echo ~", "echo {a,b}", "a > b", "echo a\\ b", "a # b", "'open",
        "if x", "! a", "",
    ],
)  # fmt: skip
def test_what_is_for_a_shell_goes_whole_into_the_container(command: str) -> None:
    words = program(command)
    assert words[:2] == ("sh", "-c")
    assert words[3:] == (command,)


@pytest.mark.parametrize(
    ("command", "other"),
    [
        ("[[ -f x ]] && y", True), ("diff <(a) <(b)", True), ("a &> log", True), ("a |& b", True),
        ("for i in {1..3}; do x; done", True), ("cp a.{x,y} b", True), ("a=(1 2); echo b", True),
        ('echo "${a[0]}"', True), ('echo "${!a}"', True), ("echo $'a\\tb'", True),
        ("((i++)); a", True), ("declare -A a; b", True), ("tr a b <<< c", True),
        ("a && b", False), ("a > b 2>&1", False), ("echo $((1 + 2))", False), ("(a; b) | c", False),
        ('a "{\\"x\\":1,\\"y\\":2}" && b', False), ("a '[[ x ]]' && b", False),
        ('echo "${a:-b}" ${a%c}', False), ("a && { b; c; }", False), ("python x.py > o &", False),
    ],
)  # fmt: skip
def test_what_only_bash_knows_is_for_bash(command: str, other: bool) -> None:
    assert needs_bash(command) == other


def test_plain_words_are_what_bash_makes_of_them() -> None:
    command = "printf '%s.' 'a  b' c\"d e\"f '' 'x;y'"
    done = subprocess.run(("bash", "-c", command), capture_output=True, check=True, timeout=30)
    assert subprocess.run(
        program(command), capture_output=True, check=True, timeout=30
    ).stdout == done.stdout  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize(
    ("command", "python"), [("python a.py 'x  y'", False), ("cd . && python a.py 'x  y'", True)]
)
@pytest.mark.parametrize("there", ["python", "python3"])
def test_python3_is_found_as_python(
    tmp_path: Path, command: str, python: bool, shell: str, there: str
) -> None:
    for name in {"sh", shell}:
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    (tmp_path / there).write_text(f"#!/bin/sh\nprintf '<%s>' {there} \"$@\"\nexit 3\n")
    (tmp_path / there).chmod(0o755)
    for words, environ in (
        (program(command, python=python), {}),
        (program_of_variable(command), {COMMAND: command}),
    ):
        done = subprocess.run(
            (tmp_path / "sh", *words[1:]), env={"PATH": str(tmp_path), **environ},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (3, f"<{there}><a.py><x  y>", "")


def test_arguments_have_mlflows_meaning() -> None:
    assert arguments((("gpus", "all"), ("v", "/a:/b"), ("v", "/c:/d"), ("privileged", True))) == (
        "--gpus", "all", "-v", "/a:/b", "-v", "/c:/d", "--privileged",
    )  # fmt: skip


def test_name_of_the_users_choice_is_the_containers() -> None:
    assert container_name(("--gpus", "all", "--name", "mine", "--rm")) == (
        "mine",
        ("--gpus", "all"),
    )
    assert container_name(("--name=mine", "-t")) == ("mine", ("-t",))
    assert container_name(("-t",)) == (None, ("-t",))


@pytest.mark.parametrize("given", [("d", True), ("detach", True), ("detach", "true")])
def test_container_that_would_run_on_alone_is_refused(given: tuple[str, str | bool]) -> None:
    with pytest.raises(UsageError, match="alone"):
        refuse_unfit(arguments((given,)))


@pytest.mark.parametrize("words", [("-u", "1"), ("--user", "1"), ("--user=1",)])
def test_user_of_the_callers_choice_is_seen(words: tuple[str, ...]) -> None:
    assert sets_user(words)
    assert not sets_user(("--label", "user"))


CONTAINER = Container(
    "buildrun-1", "sha256:ab", ("train",), {"TOKEN": "s3cret", "PATH": "/in"}, ("--gpus", "all"),
    ("/a:/b",), (("buildrun", "1"),),
)  # fmt: skip


def test_values_are_not_in_the_list_of_processes() -> None:
    argv = run_argv(CONTAINER, stdin=True, terminal=False)
    assert not any("s3cret" in word for word in argv)
    assert argv[argv.index("TOKEN") - 1] == "--env"
    assert cli_environ({"PATH": "/out"}, CONTAINER) == {"PATH": "/out", "TOKEN": "s3cret"}
    assert "PATH=/in" in argv


def test_container_runs_the_image_by_id_and_is_removed() -> None:
    argv = run_argv(CONTAINER, stdin=False, terminal=False)
    assert argv[:3] == ("docker", "run", "--rm")
    assert argv[-2:] == ("sha256:ab", "train")
    assert argv[argv.index("--pull") + 1] == "never"
    assert "-i" not in argv
    assert "-t" not in argv
    assert argv.index("--gpus") < argv.index("sha256:ab")
    assert create_argv(CONTAINER)[:2] == ("docker", "create")


@pytest.mark.parametrize(
    ("uri", "seen", "place"),
    [
        ("http://host:5000", "http://host:5000", None),
        ("databricks", "databricks", None),
        ("file:///data/runs", "file:///mlflow/tmp/mlruns", "/data/runs"),
        ("runs", "file:///mlflow/tmp/mlruns", "{cwd}/runs"),
        ("sqlite:///db.sqlite", "sqlite:////mlflow/tmp/mlruns", "{cwd}/db.sqlite"),
        ("sqlite:////data/db", "sqlite:////mlflow/tmp/mlruns", "/data/db"),
    ],
)
def test_tracking_store_on_this_machine_is_mounted(
    uri: str, seen: str, place: str | None, tmp_path: Path
) -> None:
    given = container_mounts.tracking({"MLFLOW_TRACKING_URI": uri}, str(tmp_path))
    assert given.environ == {"MLFLOW_TRACKING_URI": seen}
    expected = (f"{place.format(cwd=tmp_path)}:/mlflow/tmp/mlruns",) if place else ()
    assert given.volumes == expected


def test_default_store_is_mounted_where_it_is(tmp_path: Path) -> None:
    assert container_mounts.tracking({}, str(tmp_path)) == container_mounts.HostAccess({}, ())
    (tmp_path / "mlruns").mkdir()
    given = container_mounts.tracking({}, str(tmp_path))
    assert given.volumes == (f"{tmp_path}/mlruns:/mlflow/tmp/mlruns",)


def test_credentials_for_artifacts_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    given = container_mounts.credentials(
        {
            "HOME": str(tmp_path),
            "AWS_ACCESS_KEY_ID": "a",
            "AZURE_STORAGE_ACCESS_KEY": "b",
            "GOOGLE_APPLICATION_CREDENTIALS": "/keys/g.json",
            "OTHER": "c",
        }
    )
    assert given.environ == {
        "AWS_ACCESS_KEY_ID": "a",
        "AZURE_STORAGE_ACCESS_KEY": "b",
        "GOOGLE_APPLICATION_CREDENTIALS": "/.gcs",
    }
    assert given.volumes == (f"{tmp_path}/.aws:/.aws:ro", "/keys/g.json:/.gcs:ro")


def test_declared_variables_are_data(tmp_path: Path) -> None:
    environment = (("A", "x y; echo INJECTED"), "B")
    given = container_mounts.declared_mounts((), environment, {"B": "$(id)"}, str(tmp_path))
    assert given.environ == {"A": "x y; echo INJECTED", "B": "$(id)"}


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("${NAME}", "tea"), ("a-$NAME.b", "a-tea.b"), ("${NONE:-1}", "1"), ("${EMPTY:-1}", "1"),
        ("${EMPTY-1}", ""), ("${NAME:-1}", "tea"), ("${UID}", str(os.getuid())), ("$PWD", "{root}"),
        ("~/x", "/home/x"), ("\\$NAME", "$NAME"), ("$5", "$5"), ("$CODE", "$(id) `id`"),
        ("$(id)", "$(id)"), ("a $NAME", "a $NAME"), ("'$NAME'", "'$NAME'"),
    ],
)  # fmt: skip
def test_variables_in_values_are_what_they_are_for_the_caller(
    value: str, seen: str, tmp_path: Path
) -> None:
    environ = {"NAME": "tea", "EMPTY": "", "HOME": "/home", "CODE": "$(id) `id`", "PWD": "/else"}
    given = container_mounts.declared_mounts((), (("A", value),), environ, str(tmp_path))
    assert given.environ == {"A": seen.format(root=tmp_path)}


@pytest.mark.parametrize(
    ("volumes", "environment", "fact", "hint"),
    [
        ((), (("A", "${NOWHERE}"),), "`A` holds the variable `NOWHERE`", "export NOWHERE="),
        ((), ("B",), "takes the variable `B` from its caller", "export B="),
        (("$NOWHERE:/models",), (), "`NOWHERE`, and it is not set", "export NOWHERE="),
        (("/no/where:/a",), (), "there is no such file or directory", "make it"),
    ],
)
def test_what_the_caller_lacks_is_an_error(
    volumes: tuple[str, ...], environment: tuple[str | tuple[str, str], ...], fact: str, hint: str
) -> None:
    with pytest.raises(ProjectError, match=re.escape(fact)) as caught:
        container_mounts.declared_mounts(volumes, environment, {}, "/")
    assert hint in (caught.value.hint or "")


def test_volumes_are_taken_relative_to_the_project(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    environ = {"HOME": str(tmp_path), "D": str(tmp_path / "data")}
    volumes = ("./data:/a", "$D:/b:ro", "${D}:/c", "~/data:/d", "named:/e", "/anonymous")
    given = container_mounts.declared_mounts(volumes, (), environ, str(tmp_path))
    data = tmp_path / "data"
    assert given.volumes == (
        f"{data}:/a", f"{data}:/b:ro", f"{data}:/c", f"{data}:/d", "named:/e", "/anonymous",
    )  # fmt: skip


def test_container_that_comes_late_is_removed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        f"#!/bin/sh\necho $DOCKER_HOST > {tmp_path}/engine\n"
        f"rm {tmp_path}/there 2> /dev/null && echo left || echo No such container: left >&2\n"
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    directory = str(tmp_path / "containers")
    code = (
        "import os, sys; from buildrun.executors import docker_reaper\n"
        "docker_reaper.lease(sys.argv[1], 'left', {'DOCKER_HOST': 'tcp://b'}); os._exit(1)"
    )
    held = docker_reaper.lease(directory, "held", {"DOCKER_HOST": "tcp://a"})
    subprocess.run([sys.executable, "-c", code, directory], check=False)
    assert docker_reaper.reap_abandoned(directory, os.environ) == []
    (tmp_path / "there").touch()
    assert docker_reaper.reap_abandoned(directory, os.environ) == ["left"]
    assert (tmp_path / "engine").read_text() == "tcp://b\n"
    assert os.listdir(directory) == ["held"]
    held.end()
    assert os.listdir(directory) == []
    assert not (tmp_path / "there").exists()
    (tmp_path / "containers/old").touch()
    os.utime(tmp_path / "containers/old", (0, 0))
    assert docker_reaper.reap_abandoned(directory, os.environ) == ["old"]
    assert os.listdir(directory) == []
