"""Docker projects on a real engine: what the command sees, what comes back, what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from docker_helpers import BASE, containers, engine  # noqa: F401

pytestmark = pytest.mark.usefixtures("engine")

ENTRY = "docker_env: {image: '" + BASE + "'}\nname: inside\nentry_points:\n"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """See to it that no container outlives its test."""
    before = containers()
    yield
    assert containers() - before == set()


def test_whole_command_runs_in_the_container(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(
        ENTRY + '  main: {command: "true && touch /made-inside; ls -d /made-inside | cat\\n'
        'cat /etc/hostname > /dev/null; echo last"}\n'
    )
    outcome = buildrun("-q", directory)
    assert (outcome.code, outcome.out) == (0, "/made-inside\nlast\n")
    assert not Path("/made-inside").exists()
    assert os.listdir(tmp_path) == ["project"]


def test_exit_code_is_the_commands(project: Project, buildrun: Buildrun) -> None:
    directory = project(ENTRY + "  main: {command: 'exit 7'}\n  none: {command: nosuchprogram}\n")
    assert buildrun("-q", directory).code == 7
    assert buildrun("-q", directory, "-e", "none").code == 127


def test_values_stay_data(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    directory = project(
        "docker_env: {image: '"
        + BASE
        + "', environment: [[A, 'x y; touch {0}'], B]}\n"
        "name: inside\nentry_points:\n  main:\n"
        '    parameters: {p: string}\n    command: \'echo "$A" "$B" {p}\'\n'.replace(
            "{0}", str(tmp_path / "INJECTED")
        )
    )
    outcome = buildrun("-q", directory, "-P", "p=$(id) 'q'", environ={"B": "`id`\nline"})
    assert outcome.out == f"x y; touch {tmp_path}/INJECTED `id`\nline $(id) 'q'\n"
    assert not (tmp_path / "INJECTED").exists()


def test_unset_variable_of_the_caller_stops_the_run(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "docker_env: {image: '" + BASE + "', environment: [NOT_SET_ANYWHERE]}\n"
        "name: inside\nentry_points: {main: {command: 'true'}}\n"
    )
    outcome = buildrun(directory)
    assert outcome.code == 1
    assert "`NOT_SET_ANYWHERE`" in outcome.err
    assert "export NOT_SET_ANYWHERE=" in outcome.err


def test_volumes_and_arguments_reach_docker(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in").write_text("seen\n")
    directory = project(
        "docker_env: {image: '" + BASE + "', volumes: ['" + f"{tmp_path}/data:/data" + "']}\n"
        "name: inside\nentry_points:\n"
        "  main: {command: 'cat /data/in; echo out > /data/out; hostname'}\n"
    )
    outcome = buildrun("-q", directory, "-A", "hostname=chosen")
    assert outcome.out == "seen\nchosen\n"
    assert (tmp_path / "data/out").read_text() == "out\n"


def test_path_parameter_means_the_same_file_inside(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("content\n")
    directory = project(ENTRY + "  main: {parameters: {f: path}, command: 'cat {f}'}\n")
    assert buildrun("-q", directory, "-P", "f=a file").out == "content\n"


def test_local_tracking_store_is_mounted(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    directory = project(
        ENTRY + "  main: {command: 'echo $MLFLOW_TRACKING_URI $MLFLOW_EXPERIMENT_NAME; "
        "touch /mlflow/tmp/mlruns/logged'}\n"
    )
    outcome = buildrun(
        "-q", directory, "--experiment-name", "e", environ={"MLFLOW_TRACKING_URI": "store"}
    )
    assert outcome.out == "file:///mlflow/tmp/mlruns e\n"
    assert (tmp_path / "store/logged").exists()


def test_image_of_another_content_is_run_at_once(project: Project, buildrun: Buildrun) -> None:
    name = "buildrun-test-moved:latest"
    directory = project(
        "docker_env: {image: '" + name + "'}\nname: inside\n"
        "entry_points: {main: {command: 'cat /which'}}\n"
    )
    try:
        for text in ("one", "two"):
            dockerfile = f"FROM {BASE}\nRUN echo {text} > /which\n"
            subprocess.run(
                ("docker", "build", "-q", "-t", name, "-"), input=dockerfile.encode(),
                check=True, capture_output=True, timeout=300,
            )  # fmt: skip
            for _ in range(2):
                assert buildrun("-q", directory).out == f"{text}\n"
    finally:
        subprocess.run(("docker", "rmi", "-f", name), capture_output=True, check=False, timeout=60)


def test_second_tag_of_the_image_makes_no_difference(project: Project, buildrun: Buildrun) -> None:
    other = "buildrun-test-second:tag"
    subprocess.run(("docker", "tag", BASE, other), check=True, timeout=60)
    try:
        directory = project(ENTRY + "  main: {command: 'echo fine'}\n")
        assert buildrun("-q", directory).out == "fine\n"
    finally:
        subprocess.run(("docker", "rmi", other), capture_output=True, check=False, timeout=60)


def test_entrypoint_of_the_image_gets_plain_words(project: Project, buildrun: Buildrun) -> None:
    name = "buildrun-test-entry:latest"
    dockerfile = f'FROM {BASE}\nENTRYPOINT ["python3", "-c", "import sys; print(sys.argv[1:])"]\n'
    subprocess.run(
        ("docker", "build", "-q", "-t", name, "-"), input=dockerfile.encode(),
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    try:
        directory = project(
            "docker_env: {image: '" + name + "'}\nname: inside\n"
            "entry_points: {main: {command: 'train 0.5'}}\n"
        )
        assert buildrun("-q", directory).out == "['train', '0.5']\n"
    finally:
        subprocess.run(("docker", "rmi", "-f", name), capture_output=True, check=False, timeout=60)


STEPS = (
    ENTRY
    + """\
  make:
    inputs: [MLproject]
    outputs: [out/, model.bin]
    env: {MODE: fast}
    command: "mkdir out; echo $MODE > out/a; ln -s a out/l; chmod +x out/a; echo m > model.bin; echo made"
  use:
    depends_on: [make]
    inputs: [MLproject]
    outputs: [used]
    command: "cat out/l model.bin | tee used"
"""
)


def test_outputs_come_out_and_go_into_the_next_step(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(STEPS)
    outcome = buildrun("-q", directory, "-e", "use")
    assert (outcome.code, outcome.out) == (0, "made\nfast\nm\n"), outcome.err
    assert (directory / "used").read_text() == "fast\nm\n"
    assert (directory / "out/l").readlink() == Path("a")
    assert os.access(directory / "out/a", os.X_OK)
    assert (directory / "out/a").stat().st_uid == os.getuid()
    report = tmp_path / "r.json"
    buildrun("-q", directory, "-e", "use", "--report", report)
    states = [step["state"] for step in json.loads(report.read_text())["steps"]]
    assert states == ["up-to-date", "up-to-date"]
    for name in ("used", "model.bin"):
        (directory / name).unlink()
    assert buildrun("-q", directory, "-e", "use").out == "made\nfast\nm\n"
    assert (directory / "model.bin").read_text() == "m\n"


def test_failed_step_leaves_old_outputs(project: Project, buildrun: Buildrun) -> None:
    directory = project(STEPS)
    assert buildrun("-q", directory, "-e", "make").code == 0
    text = (directory / "MLproject").read_text()
    (directory / "MLproject").write_text(text.replace("mkdir out;", "exit 9;"))
    assert buildrun("-q", directory, "-e", "make").code == 9
    assert (directory / "model.bin").read_text() == "m\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_container(
    number: signal.Signals, project: Project, tmp_path: Path
) -> None:
    directory = project(
        ENTRY + "  main: {command: \"trap 'echo ended; exit 5' INT TERM; echo ready; "
        'while :; do read -t 1 x <> <(:); done"}\n'
    )
    child = subprocess.Popen(
        (sys.executable, "-m", "buildrun", "-q", directory),
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(number)
    assert child.stdout.read() == b"ended\n"
    assert child.wait(60) in (5, 128 + number)


def test_container_of_a_killed_run_is_removed_by_the_next(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(
        ENTRY + "  main: {command: 'echo ready; sleep 600'}\n  next: {command: 'true'}\n"
    )
    before = containers()
    child = subprocess.Popen(
        (sys.executable, "-m", "buildrun", "-q", directory),
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    assert len(containers() - before) == 1
    os.kill(child.pid, signal.SIGKILL)
    child.wait(60)
    assert buildrun("-q", directory, "-e", "next").code == 0
    assert containers() == before


def test_missing_engine_is_told(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    directory = project(ENTRY + "  main: {command: 'true'}\n")
    outcome = buildrun(directory, environ={"DOCKER_HOST": f"unix://{tmp_path}/no.sock"})
    assert outcome.code == 1
    assert "docker" in outcome.err
    assert "no.sock" in outcome.err
    assert "defect" not in outcome.err


def test_missing_image_is_told(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "docker_env: {image: 'localhost:1/no/such:image'}\nname: inside\n"
        "entry_points: {main: {command: 'true'}}\n"
    )
    outcome = buildrun(directory)
    assert outcome.code == 1
    assert "localhost:1/no/such:image" in outcome.err
    assert "defect" not in outcome.err
