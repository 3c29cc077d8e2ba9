"""Docker projects on a real engine: what the command sees, what comes back, what is left."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from docker_helpers import BASE, containers, docker, engine
from needs import missing

from buildrun.environments.images.engine import Engine

assert engine  # a fixture

pytestmark = pytest.mark.usefixtures("engine")


def inside(main: str, *, image: str = BASE, more: str = "", others: str = "") -> str:
    """Return a project that runs in the image: its main entry point, and others, line by line."""
    return (
        f"docker_env: {{image: '{image}'{more}}}\nname: inside\nentry_points:\n"
        f"  main: {{{main}}}\n{others}"
    )


@pytest.fixture(autouse=True)
def nothing_is_left(engine: Engine, tmp_path: Path) -> Iterator[None]:
    """See to it that no container outlives its test."""
    del engine
    yield
    assert containers(tmp_path) == set()


def test_whole_command_runs_in_the_container(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(
        inside(
            'command: "true && touch /made-inside; ls -d /made-inside | cat\\n'
            'cat /etc/hostname > /dev/null; echo last"'
        )
    )
    outcome = buildrun("-q", directory)
    assert (outcome.code, outcome.out) == (0, "/made-inside\nlast\n")
    assert not Path("/made-inside").exists()
    assert os.listdir(tmp_path) == ["project"]


def test_exit_code_is_the_commands(project: Project, buildrun: Buildrun) -> None:
    directory = project(inside("command: exit 7", others="  none: {command: nosuchprogram}\n"))
    assert buildrun("-q", directory).code == 7
    assert buildrun("-q", directory, "-e", "none").code == 127


def test_values_stay_data(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    environment = f", environment: [[A, 'x y; touch {tmp_path}/INJECTED'], B]"
    entry = 'parameters: {p: string}, command: \'echo "$A" "$B" {p}\''
    directory = project(inside(entry, more=environment))
    outcome = buildrun("-q", directory, "-P", "p=$(id) 'q'", environ={"B": "`id`\nline"})
    assert outcome.out == f"x y; touch {tmp_path}/INJECTED `id`\nline $(id) 'q'\n"
    assert not (tmp_path / "INJECTED").exists()


def test_variable_in_a_value_is_the_callers(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        inside(
            "outputs: [o], command: 'echo $A > o; printenv A B'",
            more=", environment: [[A, '${TEA}-x'], [B, '$5; $TEA']]",
        )
    )
    for tea, code in (("$(id)", "miss"), ("oolong", "miss"), ("oolong", "up-to-date")):
        plan = buildrun("plan", directory, "--format", "json", environ={"TEA": tea})
        assert json.loads(plan.out)["steps"][0]["cache"]["state"] == code
        outcome = buildrun("-q", directory, environ={"TEA": tea})
        assert (directory / "o").read_text() == f"{tea}-x\n", outcome.err


def test_volumes_and_arguments_reach_docker(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in").write_text("seen\n")
    directory = project(
        inside(
            "command: 'cat /data/in; echo out > /data/out; hostname; echo $A1$B2'",
            more=f", volumes: ['{tmp_path}/data:/data']",
        )
    )
    again = ("-A", "e=A1=x y", "-A", "e=B2=2")
    outcome = buildrun("-q", directory, "-A", "hostname=chosen", *again)
    assert outcome.out == "seen\nchosen\nx y2\n"
    assert (tmp_path / "data/out").read_text() == "out\n"


def test_path_parameter_means_the_same_file_inside(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("content\n")
    directory = project(inside("parameters: {f: path}, command: 'cat {f}'"))
    assert buildrun("-q", directory, "-P", "f=a file").out == "content\n"


def test_local_tracking_store_is_mounted(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    directory = project(
        inside(
            "command: 'echo $MLFLOW_TRACKING_URI $MLFLOW_EXPERIMENT_NAME; "
            "touch /mlflow/tmp/mlruns/logged'"
        )
    )
    outcome = buildrun(
        "-q", directory, "--experiment-name", "e", "--tracking", "off",
        environ={"MLFLOW_TRACKING_URI": "store"},
    )  # fmt: skip
    assert outcome.out == "file:///mlflow/tmp/mlruns e\n"
    assert (tmp_path / "store/logged").exists()


Build = Callable[..., str]


@pytest.fixture
def build() -> Iterator[Build]:
    """Return a function that builds an image above the base, and gives its name or its id."""
    built: set[str] = set()

    def call(*lines: str, name: str = "") -> str:
        recipe = "\n".join((f"FROM {BASE}", *lines, "")).encode()
        image = docker("build", "-q", *(("-t", name) if name else ()), "-", data=recipe)
        built.add(name or image)
        return name or image

    yield call
    for each in built:
        docker("rmi", "-f", each, check=False)


def test_image_of_another_content_is_run_at_once(
    project: Project, buildrun: Buildrun, build: Build
) -> None:
    name = "buildrun-test-moved:latest"
    directory = project(inside("command: cat /which", image=name))
    for text in ("one", "two"):
        build(f"RUN echo {text} > /which", name=name)
        for _ in range(2):
            assert buildrun("-q", directory).out == f"{text}\n"


def test_image_that_has_no_name_is_run_by_its_id(
    project: Project, buildrun: Buildrun, build: Build
) -> None:
    directory = project(inside("command: cat /mine", image=build("RUN echo mine > /mine")))
    assert buildrun("-q", directory).out == "mine\n"


def test_second_tag_of_the_image_makes_no_difference(project: Project, buildrun: Buildrun) -> None:
    other = "buildrun-test-second:tag"
    docker("tag", BASE, other)
    try:
        assert buildrun("-q", project(inside("command: echo fine"))).out == "fine\n"
    finally:
        docker("rmi", other, check=False)


def test_entrypoint_of_the_image_gets_plain_words(
    project: Project, buildrun: Buildrun, build: Build
) -> None:
    image = build('ENTRYPOINT ["python3", "-c", "import sys; print(sys.argv[1:])"]')
    directory = project(inside("command: 'train 0.5'", image=image))
    assert buildrun("-q", directory).out == "['train', '0.5']\n"


STEPS = inside(
    "command: 'true'",
    others="""\
  make:
    inputs: [MLproject]
    outputs: [out/, model.bin]
    env: {MODE: fast}
    command: |
      mkdir out; echo $MODE > out/a; ln -s a out/l; chmod +x out/a
      echo m > model.bin; echo made
  use:
    depends_on: [make]
    inputs: [MLproject]
    outputs: [used]
    command: "cat out/l model.bin | tee used"
""",
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


def test_declared_inputs_go_into_the_container(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        inside("inputs: ['raw/*.csv'], outputs: [n], command: 'ls raw | wc -l > n; cat raw/* n'"),
        __gitignore="raw/\n",
    )
    (directory / "raw").mkdir()
    (directory / "raw/a.csv").write_text("a\n")
    for arguments in ((), ("--build-image",)):
        outcome = buildrun("-q", directory, *arguments)
        assert (outcome.code, outcome.out) == (0, "a\n1\n"), outcome.err


def test_container_has_the_users_name(project: Project, buildrun: Buildrun) -> None:
    directory = project(STEPS)
    name = f"buildrun-test-{os.getpid()}"
    outcome = buildrun("-q", directory, "-e", "make", "-A", f"name={name}", "-A", "rm")
    assert outcome.code == 0, outcome.err
    assert docker("ps", "-aq", "--filter", f"name={name}") == ""


def test_misspelt_backend_config_is_told(project: Project, buildrun: Buildrun) -> None:
    directory = project(inside("command: 'true'"))
    outcome = buildrun(directory, "-c", '{"docker_bas": "x"}')
    assert outcome.code == 0
    assert "did you mean `docker_base`?" in outcome.err


def test_failed_step_leaves_old_outputs(project: Project, buildrun: Buildrun) -> None:
    directory = project(STEPS)
    assert buildrun("-q", directory, "-e", "make").code == 0
    text = (directory / "MLproject").read_text()
    (directory / "MLproject").write_text(text.replace("mkdir out;", "exit 9;"))
    assert buildrun("-q", directory, "-e", "make").code == 9
    assert (directory / "model.bin").read_text() == "m\n"


READY = inside("command: 'echo ready; sleep 600'", others="  next: {command: 'true'}\n")


def started(directory: Path, **environ: str) -> subprocess.Popen[bytes]:
    """Return a run whose command has written "ready"."""
    child = subprocess.Popen(
        (sys.executable, "-m", "buildrun", "-q", directory),
        cwd=directory.parent, env={**os.environ, **environ}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_container(number: signal.Signals, project: Project) -> None:
    directory = project(
        inside(
            "command: \"trap 'echo ended; exit 5' INT TERM; echo ready; "
            'while :; do read -t 1 x <> <(:); done"'
        )
    )
    child = started(directory)
    child.send_signal(number)
    assert child.communicate(timeout=60)[0] == b"ended\n"
    assert child.returncode in (5, 128 + number)


def test_container_of_a_killed_run_is_removed_by_the_next(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(READY)
    child = started(directory)
    assert len(containers(tmp_path)) == 1
    child.kill()
    child.communicate(timeout=60)
    assert buildrun("-q", directory, "-e", "next").code == 0
    assert containers(tmp_path) == set()


def test_missing_engine_is_told(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    directory = project(inside("command: 'true'"))
    outcome = buildrun(directory, environ={"DOCKER_HOST": f"unix://{tmp_path}/no.sock"})
    assert outcome.code == 1
    assert "docker" in outcome.err
    assert "no.sock" in outcome.err
    assert "defect" not in outcome.err


def test_missing_image_is_told(project: Project, buildrun: Buildrun) -> None:
    directory = project(inside("command: 'true'", image="localhost:1/no/such:image"))
    outcome = buildrun(directory)
    assert outcome.code == 1
    assert "localhost:1/no/such:image" in outcome.err
    assert "defect" not in outcome.err


def test_command_gets_a_terminal_where_there_is_one(project: Project, tmp_path: Path) -> None:
    directory = project(inside("command: 'test -t 0 && test -t 1 && echo both'"))
    main, other = pty.openpty()
    child = subprocess.Popen(
        (sys.executable, "-m", "buildrun", "-q", directory),
        cwd=tmp_path, stdin=other, stdout=other, stderr=other, start_new_session=True,
    )  # fmt: skip
    os.close(other)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal has no more users
        while chunk := os.read(main, 4096):
            shown += chunk
    os.close(main)
    assert child.wait(60) == 0, shown
    assert b"both" in shown


def test_image_without_a_shell_runs_plain_words(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    program = shutil.which("docker-init")  # a static program that every engine brings along
    if program is None:
        missing("there is no docker-init")
    (tmp_path / "bin").mkdir()
    for place in ("init", "bin/python"):
        shutil.copyfile(program, tmp_path / place)
        (tmp_path / place).chmod(0o755)
    name = f"buildrun-test-bare:{os.getpid()}"
    archive = subprocess.run(
        ("tar", "-C", tmp_path, "-c", "init", "bin"), capture_output=True, check=True
    ).stdout
    docker("import", "-", name, data=archive)
    try:
        directory = project(
            inside(
                "command: /init --version",
                image=name,
                others="  shell: {command: '/init --version && true'}\n"
                "  python: {command: python --version}\n",
            )
        )
        for entry in ("main", "python"):
            assert buildrun("-q", directory, "-e", entry).out.startswith("tini version")
        buildrun(directory, "-e", "shell").refused("exec sh failed", code=127)
    finally:
        docker("rmi", "-f", name, check=False)


def test_image_without_bash_runs_what_sh_can(
    project: Project, buildrun: Buildrun, build: Build
) -> None:
    directory = project(
        inside(
            "parameters: {p: {default: a b}}, command: 'echo {p} && echo $0; exit 3'",
            image=build("RUN rm /bin/bash"),
            others="  arrays: {command: 'a=(1 2); echo ${{a[1]}}'}\n",
        )
    )
    outcome = buildrun("-q", directory)
    assert (outcome.code, outcome.out) == (3, "a b\nsh\n"), outcome.err
    outcome = buildrun("-q", directory, "-e", "arrays")
    assert (outcome.code, outcome.out) == (127, "")
    assert "the command is written for bash, and the image has no bash" in outcome.err


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_image_with_python3_alone_runs_python(
    project: Project, buildrun: Buildrun, build: Build, shell: str
) -> None:
    recipe = "RUN rm -f /usr/bin/python" + (" /bin/bash" if shell == "sh" else "")
    directory = project(
        inside(
            "parameters: {p: {default: a b}}, command: 'python code.py {p}'",
            image=build(recipe),
            others="  shell: {command: 'true && python code.py; exit 4'}\n"
            "  made: {inputs: [code.py], outputs: [out], command: 'python code.py | tee out'}\n",
        ),
        code__py="import sys\nprint('trained', sys.argv[1:])\nsys.exit(len(sys.argv[1:]))\n",
    )
    for options, code, out in (
        ((), 1, "trained ['a b']\n"),
        ((), 1, "trained ['a b']\n"),  # from its record
        (("-P", "p=$x"), 1, "trained ['$x']\n"),
        (("-e", "code.py"), 0, "trained []\n"),
        (("-e", "shell"), 4, "trained []\n"),
        (("-e", "made"), 0, "trained []\n"),
    ):
        outcome = buildrun("-q", directory, "--build-image", *options)
        assert (outcome.code, outcome.out) == (code, out), outcome.err


def test_files_in_mounted_directories_belong_to_the_caller(
    project: Project, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        missing("only root can become somebody else")
    data = tmp_path / "data"
    data.mkdir()
    directory = project(
        inside("command: 'echo x > /data/made'", more=f", volumes: ['{data}:/data']")
    )
    home = tmp_path / "home"
    home.mkdir()
    for path in (data, home):
        os.chown(path, 12345, 12345)
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    # The first run, as root, loads what another user may not be able to read.
    script = (
        "import os, sys; from buildrun.cli import main\n"
        "group, home, project = int(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "assert main(['-q', project], os.environ) == 0\n"
        "os.unlink(sys.argv[4])\n"
        "os.setgroups([group]); os.setgid(12345); os.setuid(12345)\n"
        "sys.exit(main(['-q', project], {**os.environ, 'BUILDRUN_HOME': home, 'HOME': home}))\n"
    )
    group = os.stat("/var/run/docker.sock").st_gid
    subprocess.run(
        (sys.executable, "-c", script, str(group), home, directory, data / "made"),
        cwd=directory, check=True, timeout=300,
    )  # fmt: skip
    assert (data / "made").stat().st_uid == 12345


def test_engine_that_goes_away_is_told_and_tidied_up_after(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(READY)
    through = tmp_path / "engine.sock"
    engine_proxy = Proxy(through)
    child = started(directory, DOCKER_HOST=f"unix://{through}")
    engine_proxy.close()
    _, said = child.communicate(timeout=120)
    assert child.returncode not in (0, 3), said
    assert b"defect" not in said
    assert len(containers(tmp_path)) == 1
    with Proxy(through):
        assert buildrun("-q", directory, "-e", "next").code == 0
    assert containers(tmp_path) == set()


class Proxy:
    """The engine's socket at another place, until it is closed."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect("/var/run/docker.sock")
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)


def test_lone_command_clears_up_after_a_killed_run(project: Project, buildrun: Buildrun) -> None:
    directory = project(inside("command: echo fine"))
    for _ in range(2):  # the second from its record
        (directory / ".buildrun-0123456789ab/new").mkdir(parents=True)
        outcome = buildrun("-q", directory)
        assert (outcome.code, outcome.out) == (0, "fine\n"), outcome.err
        assert not list(directory.glob(".buildrun-*"))
