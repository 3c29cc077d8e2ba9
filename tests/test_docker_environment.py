"""Virtualenv and conda projects in containers: the image with the environment, what it keeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import conda_channel
import pytest
from conda_channel import Package
from conftest import Buildrun, Outcome, Project
from docker_helpers import BASE, an_engine, docker, imported  # noqa: F401
from environment_harness import Serve, served_files  # noqa: F401
from wheels import write_source, write_wheel

from buildrun.environments.images import derive
from buildrun.environments.images.engine import Engine
from buildrun.store.home import Home

pytestmark = pytest.mark.usefixtures("engine")

CONFIG = json.dumps({"docker_base": BASE})
PREFIX = "/opt/buildrun/env"
SECRET = "hunter2-in-an-index"
SHOW = "import sys, alpha; print(sys.prefix, alpha.VERSION)"
PROJECT = f"""\
name: inside
python_env: python_env.yaml
entry_points:
  main: {{command: "python -c '{SHOW}'"}}
  where: {{command: "pwd; ls"}}
  make:
    inputs: [MLproject]
    outputs: [made]
    command: "python -c 'import alpha; print(alpha.VERSION)' > made"
  use:
    depends_on: [make]
    inputs: [MLproject]
    outputs: [used]
    command: "cat made | tee used"
"""


@pytest.fixture(autouse=True)
def nothing_is_left(engine: Engine, store: Path) -> Iterator[None]:
    """See to it that no container outlives its test."""
    del engine
    yield
    assert building(store) == set()
    assert not list((store / "containers").glob("*"))


def building(store: Path) -> set[str]:
    """Return the containers in which environments of a store are made, by their names."""
    label = "label=buildrun.environment"
    there = docker("ps", "-a", "--filter", label, "--format", "{{.Names}}").split()
    return {path.name for path in (store / "containers").glob("*")}.intersection(there)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Return a directory with two versions of `alpha`."""
    for version in ("1.0", "2.0"):
        write_wheel(tmp_path / "wheels", "alpha", version)
    return tmp_path / "wheels"


Run = Callable[..., Outcome]


@pytest.fixture
def run(buildrun: Buildrun, wheels: Path) -> Run:
    """Return buildrun with `-b docker`, the base, and packages from the wheels alone."""
    settings: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith(("PIP_", "UV_", "CONDA", "MLFLOW"))
    }
    settings |= {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}

    def call(
        *words: str | os.PathLike[str],
        environ: Mapping[str, str | None] | None = None,
        config: str = CONFIG,
    ) -> Outcome:
        return buildrun(
            *words, "-b", "docker", "-c", config, environ={**settings, **(environ or {})}
        )

    return call


def environments(store: Path) -> set[str]:
    """Return the ids of the images with environments that a store has made."""
    home = Home(str(store))
    found = [derive.read(home, key) for key in derive.keys(home)]
    return {one.id for one in found if one and one.reference.startswith("buildrun/environment:")}


def test_locked_packages_come_from_the_indexes_that_requirements_name(
    project: Project, run: Run, buildrun: Buildrun, wheels: Path
) -> None:
    page = wheels.parent / "simple" / "alpha" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="alpha-1.0-py3-none-any.whl">alpha-1.0-py3-none-any.whl</a>')
    (wheels / "alpha-1.0-py3-none-any.whl").rename(page.parent / "alpha-1.0-py3-none-any.whl")
    lines = f"dependencies: ['--index-url file://{page.parent.parent}', alpha==1.0]\n"
    directory = project(PROJECT, python_env__yaml=f"python: '3.11'\n{lines}")
    named = {"PIP_FIND_LINKS": None, "PIP_NO_INDEX": None}
    bare = {name: None for name in os.environ if name.startswith(("PIP_", "UV_"))}
    locked = buildrun("lock", directory, environ={**bare, "PIP_CONFIG_FILE": os.devnull})
    assert locked.code == 0, locked.err
    outcome = run(directory, "--locked", environ=named)
    assert (outcome.code, outcome.out) == (0, f"{PREFIX} 1.0\n"), outcome.err


def test_command_runs_in_its_environment_and_code(
    project: Project, run: Run, store: Path, tmp_path: Path
) -> None:
    directory = project(PROJECT, python_env__yaml="python: '3.11'\ndependencies: [alpha==1.0]\n")
    first = run(directory)
    assert (first.code, first.out) == (0, f"{PREFIX} 1.0\n"), first.err
    assert "making the virtualenv environment" in first.err
    again = run(directory)
    assert (again.code, again.out) == (0, f"{PREFIX} 1.0\n")
    assert "making" not in again.err
    (made,) = environments(store)

    # Other code: the environment stays as it is.
    (directory / "more.py").write_text("pass\n")
    where = run(directory, "-e", "where")
    assert where.out == "/mlflow/projects/code\nMLproject\nmore.py\npython_env.yaml\n"
    assert "making" not in where.err
    assert environments(store) == {made}

    # Steps, whose results hang on the environment.
    report = tmp_path / "report.json"
    assert run("-q", directory, "-e", "use").out == "1.0\n"
    run("-q", directory, "-e", "use", "--report", report)
    states = [step["state"] for step in json.loads(report.read_text())["steps"]]
    assert states == ["up-to-date", "up-to-date"]
    assert _environment(run("plan", directory, "-e", "use", "--format", "json"))["ready"] is True

    (directory / "python_env.yaml").write_text("dependencies: [alpha==2.0]\n")
    planned = run("plan", directory, "-e", "use", "--format", "json")
    assert _environment(planned)["ready"] is False
    reasons = planned.data["steps"][0]["cache"]["reasons"]
    assert [reason["code"] for reason in reasons] == ["environment-changed"]
    assert run("-q", directory, "-e", "use").out == "2.0\n"
    assert (directory / "used").read_text() == "2.0\n"
    assert len(environments(store)) == 2


def _environment(planned: Outcome) -> Any:
    return planned.data["steps"][-1]["environment"]


def test_same_lock_makes_the_same_image(
    project: Project, run: Run, buildrun: Buildrun, wheels: Path, store: Path, tmp_path: Path
) -> None:
    directory = project(PROJECT, python_env__yaml="python: '3.11'\ndependencies: [alpha]\n")
    unlocked = run(directory, "--locked")
    assert unlocked.code == 1
    assert "is not locked" in unlocked.err
    settings = {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    assert buildrun("lock", directory, environ=settings).code == 0
    first = run("build", directory, "--locked", "--format", "json").data
    assert first["reused"] is False
    made = environments(store)
    docker("rmi", "--force", first["digest"], *made)
    another = tmp_path / "another store"
    other = {"BUILDRUN_HOME": str(another)}
    second = run("build", directory, "--locked", "--format", "json", environ=other).data
    assert second["reused"] is False
    assert second["digest"] == first["digest"]
    assert environments(another) == made

    # Nothing but what was locked is installed.
    write_wheel(wheels, "alpha", "2.0", files={"alpha.py": "VERSION = 'other'\n"})
    docker("rmi", "--force", first["digest"], *made)
    refused = run(directory, "--locked")
    assert refused.code == 1
    assert "do not install it" in refused.err


def test_credentials_are_in_no_image(
    project: Project, run: Run, wheels: Path, store: Path, serve: Serve
) -> None:
    pages = wheels.parent / "index"
    (pages / "alpha").mkdir(parents=True)
    for wheel in wheels.iterdir():
        (pages / "alpha" / wheel.name).write_bytes(wheel.read_bytes())
    address = serve(pages, secret=f"me:{SECRET}").replace("//localhost", f"//me:{SECRET}@127.0.0.1")
    directory = project(PROJECT, python_env__yaml="dependencies: [alpha]\n")
    environ = {"PIP_NO_INDEX": None, "PIP_FIND_LINKS": None, "PIP_INDEX_URL": address}
    outcome = run(directory, environ=environ)
    assert (outcome.code, outcome.out) == (0, f"{PREFIX} 2.0\n"), outcome.err
    assert SECRET not in outcome.err
    (made,) = environments(store)
    saved = subprocess.run(
        ("docker", "save", made), capture_output=True, check=True, timeout=120
    ).stdout
    assert b"alpha" in saved
    assert SECRET.encode() not in saved
    assert SECRET not in docker("inspect", made) + docker("history", "--no-trunc", made)


def test_local_projects_are_built_in_the_container(
    project: Project, run: Run, wheels: Path
) -> None:
    write_wheel(wheels, "beta")
    directory = project(
        PROJECT.replace("import sys, alpha", "import sys, alpha, beta"),
        python_env__yaml="dependencies: ['./lib  # here', '-r more.txt']\n",
        more__txt="beta==1.0\n",
    )
    module = write_source(directory / "lib")
    outcome = run("-q", directory)
    assert outcome.out == f"{PREFIX} 7\n", outcome.err
    files = sorted(path.name for path in module.parent.iterdir())
    assert files == ["alpha.py", "backend.py", "pyproject.toml"]


def test_container_of_a_killed_build_is_removed(project: Project, run: Run, store: Path) -> None:
    directory = project(PROJECT, python_env__yaml="dependencies: [./lib]\n")
    backend = write_source(directory / "lib").parent / "backend.py"
    backend.write_text("import time\ntime.sleep(600)\n")
    process = subprocess.Popen(
        (sys.executable, "-m", "buildrun", directory, "-b", "docker", "-c", CONFIG),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (made := building(store)) and time.monotonic() < deadline:
        time.sleep(0.05)  # nothing tells when an engine has made a container
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert len(made) == 1
    (directory / "python_env.yaml").write_text("dependencies: []\n")
    assert run("-q", directory, "-e", "where").code == 0
    assert not made.intersection(docker("ps", "-a", "--format", "{{.Names}}").split())


def test_base_without_the_python_is_refused(project: Project, run: Run) -> None:
    directory = project(PROJECT, python_env__yaml="python: '3.10'\n")
    outcome = run(directory)
    assert outcome.code == 1
    assert "has Python 3.11." in outcome.err
    assert "python_env.yaml" in outcome.err
    assert '"docker_base": "python:3.10-slim"' in outcome.err
    name = "buildrun-test-no-python:latest"
    imported(name, "no python")
    try:
        outcome = run(directory, config=json.dumps({"docker_base": name}))
        assert outcome.code == 1
        assert f"`{name}` has no Python" in outcome.err
    finally:
        docker("rmi", "--force", name)


def test_base_in_a_file_may_change(project: Project, run: Run, tmp_path: Path) -> None:
    directory = project(
        PROJECT.replace(f"python -c '{SHOW}'", "cat /which || echo neither"),
        python_env__yaml="dependencies: []\n",
    )
    name, file = "buildrun-test-which:latest", tmp_path / "config.json"
    dockerfile = f"FROM {BASE}\nRUN echo other > /which\n"
    docker("build", "-q", "-t", name, "-", data=dockerfile.encode())
    try:
        for base, said in ((BASE, "neither\n"), (name, "other\n"), (BASE, "neither\n")):
            file.write_text(json.dumps({"docker_base": base}))
            for _ in range(2):
                words = ("-q", directory, "--env-manager", "local")
                assert run(*words, config=str(file)).out == said
    finally:
        docker("rmi", "--force", name)


def test_base_has_to_be_a_name(project: Project, run: Run) -> None:
    directory = project(PROJECT, python_env__yaml="dependencies: []\n")
    outcome = run(directory, config='{"docker_base": 3}')
    assert outcome.code == 2
    assert "`docker_base`" in outcome.err


def test_package_that_is_not_there_is_named(project: Project, run: Run) -> None:
    directory = project(PROJECT, python_env__yaml="dependencies:\n- no-such-package-anywhere\n")
    outcome = run(directory)
    assert outcome.code == 1
    assert "python_env.yaml:2" in outcome.err
    assert "no-such-package-anywhere" in outcome.err
    assert "hint: check the name" in outcome.err


def test_local_manager_takes_what_the_base_has(project: Project, run: Run, store: Path) -> None:
    directory = project(
        PROJECT.replace(f"python -c '{SHOW}'", "which python3; pwd"),
        python_env__yaml="dependencies: [alpha]\n",
    )
    outcome = run("-q", directory, "--env-manager", "local")
    assert outcome.out == "/usr/bin/python3\n/mlflow/projects/code\n"
    assert environments(store) == set()


CONDA = """\
name: inside
conda_env: conda.yaml
entry_points:
  main: {command: "echo $CONDA_PREFIX $TOOL_PATH $TOOL_KIND $OWN $GIVEN; tool-says;
    head -1 $CONDA_PREFIX/linked"}
  pip: {command: "python -c 'import sys, alpha; print(sys.prefix, alpha.VERSION)'"}
"""


def _python() -> Package:
    """Return a conda package whose Python is the one of the base, pip and all."""
    return Package(
        "python", "3.11.2",
        files={
            "bin/python3.11": "#!/bin/bash\nexec -a "
            f'"{conda_channel.PLACEHOLDER}/bin/python3.11" /usr/bin/python3.11 "$@"\n',
            "pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = true\n",
            "lib/python3.11/site-packages/README.txt": "packages go here\n",
        },
        links={"bin/python": "python3.11"}, programs=("bin/python3.11",),
    )  # fmt: skip


def test_conda_environment_is_at_its_place(
    project: Project, run: Run, store: Path, tmp_path: Path
) -> None:
    given = 'if [ -d "$CONDA_PREFIX/tool" ]; then export GIVEN=there; fi\n'
    linked = 'echo "linked $PKG_NAME $PKG_VERSION" > "$PREFIX/linked"\n'
    packages = [
        *(one for one in conda_channel.default_packages() if one.name == "tool"),
        Package("given", files={"etc/conda/activate.d/given.sh": given}),
        Package("after", "3.0", files={"bin/.after-post-link.sh": linked}),
        _python(),
    ]
    channel = conda_channel.make(tmp_path / "channel", packages)
    directory = project(
        CONDA,
        conda__yaml=f"channels: ['{channel}']\ndependencies: [tool, given, after, python, "
        "{pip: [alpha==1.0]}]\nvariables: {OWN: w}\n",
    )
    first = run("-q", directory)
    assert first.out == (
        f"{PREFIX} {PREFIX}/tool: hammer w there\ntool in {PREFIX}\nlinked after 3.0\n"
    ), first.err
    assert run("-q", directory, "-e", "pip").out == f"{PREFIX} 1.0\n"
    # An active conda of the caller changes nothing.
    active = run("-q", directory, environ={"CONDA_EXE": "/nowhere/bin/conda"})
    assert active.out == first.out, active.err
    (made,) = environments(store)
    kept = docker("run", "--rm", made, "sh", "-c", f"cat {PREFIX}/conda-meta/*.json")
    assert '"name": "tool"' in kept
    assert str(store) not in kept
    assert "extracted_package_dir" not in kept
