"""Virtualenvs through the command line: what they are made of, and what goes wrong."""

from __future__ import annotations

import ensurepip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Buildrun, Outcome, Project
from wheels import Call, only_wheels, some_wheels, write_source, write_wheel  # noqa: F401

from buildrun.environments import local_metadata
from buildrun.environments.installed_files import File, detach_from_cache

MLPROJECT = """\
name: packages
python_env: python_env.yaml
entry_points:
  main:
    command: python -c "import sys, alpha; print(alpha.VERSION, sys.prefix)"
"""

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


def key(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return str(outcome.data["key"])


def test_build_says_whether_it_was_there(project: Project, offline: Call, store: Path) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: [alpha==1.0]\n")
    first = offline("build", directory, "--format=json").data
    second = offline("build", directory, "--format=json").data
    anew = offline("build", directory, "--refresh", "--format=json").data
    assert (first["kind"], first["reused"], second["reused"]) == ("environment", False, True)
    assert (anew["reused"], anew["path"], anew["key"]) == (False, first["path"], first["key"])
    assert second == {**first, "reused": True}
    assert offline("-q", directory).out == f"1.0 {first['path']}\n"
    assert Path(first["path"]).parent == store / "envs"
    marker = json.loads(Path(first["path"], ".buildrun.json").read_text())
    assert marker["parts"]["run"] == [{"text": "alpha==1.0"}]
    assert marker["key"].startswith("blake3:")


def test_plan_builds_nothing_and_writes_nothing(
    project: Project, offline: Call, store: Path
) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: [alpha]\n")
    before = offline("plan", directory, "--format=json").data["steps"][0]["environment"]
    assert list(store.iterdir()) == []
    offline("build", directory)
    after = offline("plan", directory, "--format=json").data["steps"][0]["environment"]
    assert (before["manager"], before["ready"], before["lock"]) == ("virtualenv", False, "unlocked")
    assert after == {**before, "ready": True}


def test_files_named_by_requirements_count_from_the_projects_root(
    project: Project, offline: Call
) -> None:
    directory = project(MLPROJECT.replace("python_env.yaml", "conf/env.yaml"))
    (directory / "conf").mkdir()
    (directory / "conf" / "env.yaml").write_text("dependencies: ['-r requirements.txt']\n")
    (directory / "requirements.txt").write_text("-r more/inner.txt  # inner\n-c pins.txt\n")
    (directory / "more").mkdir()
    (directory / "more" / "inner.txt").write_text("alpha\n")
    (directory / "pins.txt").write_text("alpha<2\n")
    first = key(offline("build", directory, "--format=json"))
    assert offline("-q", directory).out.startswith("1.0 ")
    (directory / "pins.txt").write_text("alpha<3\n")
    assert key(offline("build", directory, "--format=json")) != first
    assert offline("-q", directory).out.startswith("2.0 ")


def test_lines_are_read_as_pip_reads_them(project: Project, offline: Call, tmp_path: Path) -> None:
    for name in ("gamma", "delta", "epsilon", "zeta", "eta"):
        write_wheel(tmp_path / "more", name, "1.0")
        write_wheel(tmp_path / "more", name, "2.0rc1")
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {command: python versions.py}}\n",
        python_env__yaml="dependencies:\n  - -r odd.txt --extra-index-url https://127.0.0.1:1/simple\n"
        "  - ${SOME_NAME} --no-binary alpha\n",
        odd__txt="--prefer-binary --trusted-host 127.0.0.1\n"
        "-f${MORE}\n"
        "alpha \\\n  ==1.0 --extra-index-url https://127.0.0.1:1/simple -f https://127.0.0.1:1/x\n"
        "beta\\\n# a comment ends it\ngamma==${VERSION} \\\n\n"
        "delta>=0.5.* --config-settings a=b -C c=d --global-option=e;\n"
        '-r "so me.txt" --pre\n',
        versions__py="from importlib.metadata import distributions as d\n"
        "found = {each.name: each.version for each in d()}\n"
        "print(*(f'{name}={found[name]}' for name in sorted(found) if len(found[name]) < 7\n"
        "        and name not in ('pip', 'setuptools')))\n",
    )
    (directory / "so me.txt").write_bytes("epsilon\r\nzeta;\r\n".encode("utf-16"))
    outcome = offline(
        "-q", directory, MORE=str(tmp_path / "more"), VERSION="2.0rc1", SOME_NAME="eta"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out == (
        "alpha=1.0 beta=1.5 delta=1.0 epsilon=1.0 eta=1.0 gamma=2.0rc1 zeta=1.0\n"
    )


def test_bounds_are_no_hindrance_where_hashes_are_required(
    project: Project, offline: Call, links: Path, tmp_path: Path
) -> None:
    (tmp_path / "site.txt").write_text("alpha<2\nother==1\n")
    made = hashlib.sha256((links / "alpha-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    directory = project(
        MLPROJECT,
        python_env__yaml="dependencies: [--require-hashes, -r r.txt]\n",
        r__txt=f"alpha==1.0 \\\n    --hash=sha256:{made}\n",
    )
    outcome = offline("-q", directory, PIP_CONSTRAINT=str(tmp_path / "site.txt"))
    assert outcome.out.startswith("1.0 "), outcome.err
    assert offline("lock", directory).code == 0
    (directory / "r.txt").write_text("alpha==1.0\n")
    outcome = offline("build", directory)
    assert outcome.code == 1
    assert "must have a hash" in outcome.err


def test_locked_packages_come_from_where_the_requirements_say(
    project: Project, offline: Call, tmp_path: Path
) -> None:
    write_wheel(tmp_path / "apart", "theta", "1.0")
    directory = project(
        MLPROJECT,
        python_env__yaml=f"dependencies: [alpha==1.0, theta, -f {tmp_path}/apart]\n",
    )
    assert offline("lock", directory).code == 0
    outcome = offline("-q", directory, "--locked")
    assert outcome.out.startswith("1.0 "), outcome.err


def test_option_for_previews_counts(project: Project, offline: Call, links: Path) -> None:
    write_wheel(links, "alpha", "3.0rc1")
    directory = project(MLPROJECT, python_env__yaml="dependencies: [--pre --no-index, alpha]\n")
    assert offline("-q", directory).out.startswith("3.0rc1 ")


def test_build_dependencies_come_first(project: Project, offline: Call) -> None:
    directory = project(
        MLPROJECT, python_env__yaml="build_dependencies: [beta]\ndependencies: [alpha==1.0]\n"
    )
    environment = offline("build", directory, "--format=json").data["path"]
    installed = {path.name for path in Path(environment).glob("lib/python*/site-packages/*.py")}
    assert {"alpha.py", "beta.py"} <= installed


# Prints what an installed package holds; not from the project, where the module may lie as well.
ELSEWHERE = """\
python_env: python_env.yaml
entry_points:
  main:
    command: cd / && python -c "import alpha; print(alpha.VERSION)"
"""


def edit_unseen(path: Path, text: str) -> None:
    """Write a file anew with its old times."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit_counts(run: Callable[[], Outcome], file: Path) -> None:
    """See to it that a run prints what the file held before and after an edit."""
    assert run().out == "7\n"
    edit_unseen(file, "VERSION = 10\n")
    outcome = run()
    assert outcome.out == "10\n", outcome.err


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("./local", {}),
        (".", {}),
        ("-r r.txt", {"r.txt": "./local\n"}),
        ("-r sub/r.txt", {"sub/r.txt": "../local\n"}),
        ("alpha @ file://{root}/local", {}),
        ("-e ./local", {}),
        ("-r r.txt", {"r.txt": "-e ./local\n"}),
        ("alpha @ file://{root}/lo%20cal", {}),
        ("file://{root}/lo%20cal", {}),
        ("-e file://{root}/lo%20cal", {}),
    ],
)
def test_edit_of_a_local_package_is_what_is_installed(
    line: str, files: dict[str, str], project: Project, offline: Call
) -> None:
    directory = project(ELSEWHERE)
    (directory / "python_env.yaml").write_text(f"dependencies: ['{line.format(root=directory)}']\n")
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    name = "lo cal" if "%20" in line else "local"
    module = write_source(directory if line == "." else directory / name)
    edit_counts(lambda: offline("-q", directory), module)


@pytest.mark.parametrize("line", ["./local", "alpha @ file://{root}/lo%20cal"])
def test_edit_of_the_code_of_a_locked_local_package_leaves_the_lock_fresh(
    line: str, project: Project, offline: Call
) -> None:
    directory = project(ELSEWHERE)
    line = line.format(root=directory)
    (directory / "python_env.yaml").write_text(f"dependencies: ['{line}']\n")
    module = write_source(directory / ("local" if line == "./local" else "lo cal"))
    assert offline("lock", directory).code == 0
    lock = json.loads((directory / "python_env.lock").read_text())
    assert [[item["line"] for item in items] for items in lock["platforms"].values()] == [[line]]
    edit_counts(lambda: offline("-q", "--locked", directory), module)
    with (module.parent / "pyproject.toml").open("a") as file:
        file.write("dependencies = ['beta']\n")
    outcome = offline("--locked", directory)
    assert (outcome.code, outcome.out) == (1, "")
    assert f"the lock is stale: what `{line}` requires changed" in outcome.err


def test_edit_of_a_locked_package_whose_code_says_what_it_requires_makes_the_lock_stale(
    project: Project, offline: Call
) -> None:
    directory = project(ELSEWHERE, python_env__yaml="dependencies: ['./local']\n")
    module = write_source(directory / "local")
    with (directory / "local" / "pyproject.toml").open("a") as file:
        file.write("dynamic = ['dependencies']\n")
    assert offline("lock", directory).code == 0
    assert offline("-q", "--locked", directory).out == "7\n"
    edit_unseen(module, "VERSION = 10\n")
    assert offline("-q", "--locked", directory).code == 1


PLAIN = "from setuptools import setup\nsetup(install_requires=['beta'])\n"
DYNAMIC = """\
[project]
dynamic = ["version", "dependencies"]
[tool.setuptools.dynamic]
version = {attr = "alpha.VERSION"}
dependencies = {file = ["needs/base.txt"]}
"""


@pytest.mark.parametrize(
    ("name", "text", "edited", "counts"),
    [
        ("pyproject.toml", "[project]\nname = 'alpha'\n", "alpha.py", False),
        ("pyproject.toml", "[project]\nname = 'alpha'\n", "pyproject.toml", True),
        ("pyproject.toml", DYNAMIC, "alpha.py", False),
        ("pyproject.toml", DYNAMIC, "needs/base.txt", True),
        ("pyproject.toml", "[project]\ndynamic = ['dependencies']\n", "alpha.py", True),
        ("pyproject.toml", "[project]\n[tool.x]\nb = { path = '../b' }\n", "alpha.py", True),
        ("pyproject.toml", "[build-system]\nrequires = ['odd']\n", "alpha.py", True),
        ("pyproject.toml", "[build-system]\nbuild-backend = 'poetry.core.x'\n", "alpha.py", False),
        ("pyproject.toml", "[project]\n[tool.hatch.version]\npath = 'a.py'\n", "alpha.py", False),
        ("pyproject.toml", "[project", "alpha.py", True),
        ("setup.py", PLAIN, "alpha.py", False),
        ("setup.py", PLAIN, "setup.py", True),
        ("setup.py", f"import os\n{PLAIN}", "alpha.py", True),
        ("setup.py", f"{PLAIN}x = open('README.md').read()\n", "README.md", False),
        ("setup.py", f"{PLAIN}x = open('needs/base.txt').read().split()\n", "alpha.py", False),
        ("setup.py", f"{PLAIN}x = open('needs/base.txt').read().split()\n", "needs/base.txt", True),
        ("setup.py", f"{PLAIN}x = open(name).read()\n", "alpha.py", True),
        ("setup.py", "not Python (", "alpha.py", True),
        ("setup.cfg", "[metadata]\nversion = attr: alpha.VERSION\n", "alpha.py", False),
        ("setup.cfg", "[options]\ninstall_requires = file: needs/base.txt\n", "alpha.py", True),
        ("other.py", "nothing says how to build it", "alpha.py", True),
    ],
)
def test_metadata_of_a_local_package_counts_with(
    name: str, text: str, edited: str, *, counts: bool, tmp_path: Path
) -> None:
    (tmp_path / "needs").mkdir()
    for each in ("alpha.py", "README.md", "needs/base.txt"):
        (tmp_path / each).write_text("one\n")
    (tmp_path / name).write_text(text)
    before = local_metadata.content(str(tmp_path), "whole before")
    with (tmp_path / edited).open("a") as file:
        file.write("# two\n")
    assert (local_metadata.content(str(tmp_path), "whole after") != before) == counts


def test_package_that_a_uv_lock_has_by_its_path_counts_by_its_content(
    project: Project, offline: Call
) -> None:
    directory = project(ELSEWHERE, python_env__yaml="dependencies: []\n")
    module = write_source(directory / "local")
    (directory / "pyproject.toml").write_text(
        "[project]\nname = 'p'\nversion = '1'\nrequires-python = '>=3.10'\n"
        "dependencies = ['alpha']\n[tool.uv.sources]\nalpha = { path = 'local' }\n"
    )
    from uv import find_uv_bin

    subprocess.run((find_uv_bin(), "lock", "--quiet"), cwd=directory, check=True, timeout=120)
    edit_counts(lambda: offline("-q", directory, "--env-manager=uv"), module)


def test_package_beside_a_local_package_that_it_needs_counts(
    project: Project, offline: Call
) -> None:
    directory = project(ELSEWHERE, python_env__yaml="dependencies: ['./outer']\n")
    module = write_source(directory / "local")
    outer = directory / "outer"
    write_source(outer)
    (outer / "alpha.py").rename(outer / "outer.py")
    backend = (outer / "backend.py").read_text().replace("alpha", "outer")
    needs = "Version: 7\\nRequires-Dist: alpha\\n"
    (outer / "backend.py").write_text(backend.replace("Version: 7\\n", needs))
    (outer / "pyproject.toml").write_text(
        (outer / "pyproject.toml").read_text().replace("alpha", "outer")
        + "dependencies = ['alpha']\n[tool.uv.sources]\nalpha = { path = '../local' }\n"
    )
    edit_counts(lambda: offline("-q", directory), module)


def test_file_that_a_link_in_a_local_package_leads_to_counts(
    project: Project, offline: Call
) -> None:
    directory = project(ELSEWHERE, python_env__yaml="dependencies: ['./local']\n")
    module = write_source(directory / "local")
    shared = module.rename(directory / "shared.py")
    module.symlink_to("../shared.py")
    edit_counts(lambda: offline("-q", directory), shared)


def test_file_that_the_build_of_an_editable_package_names_counts(
    project: Project, offline: Call
) -> None:
    directory = project(ELSEWHERE, python_env__yaml="dependencies: ['-e ./local']\n")
    write_source(directory / "local")
    with (directory / "local" / "pyproject.toml").open("a") as file:
        file.write("readme = 'README.md'\n[tool.needs]\nfile = 'needs.txt'\n")
    (directory / "local" / "needs.txt").write_text("beta\n")
    (directory / "local" / "README.md").write_text("This\n")
    first = key(offline("build", directory, "--format=json"))
    (directory / "local" / "README.md").write_text("That\n")
    assert key(offline("build", directory, "--format=json")) == first
    (directory / "local" / "needs.txt").write_text("beta<9\n")
    assert key(offline("build", directory, "--format=json")) != first


@pytest.mark.parametrize("line", [".", "-e ."])
def test_untouched_project_that_installs_itself_is_up_to_date(
    line: str, project: Project, offline: Call
) -> None:
    directory = project(
        ELSEWHERE.replace("cd / && ", "").rstrip() + " > out.txt\n    outputs: [out.txt]\n",
        python_env__yaml=f"dependencies: ['{line}']\n",
    )
    write_source(directory)
    (directory / ".gitignore").write_text("*.tmp\n")
    before = {path.name for path in directory.iterdir()}
    first = offline(directory)
    assert first.code == 0, first.err
    left = {path.name for path in directory.iterdir()}
    assert left - before - {"__pycache__"} == {"out.txt"}
    # What git ignores, and metadata that others have built here, is no part of the package.
    (directory / "scratch.tmp").write_text("?")
    (directory / "alpha.egg-info").mkdir()
    (directory / "alpha.egg-info" / "left").write_text("?")
    (step,) = offline("plan", directory, "--format=json").data["steps"]
    assert (step["environment"]["ready"], step["cache"]["state"]) == (True, "up-to-date")


def test_what_an_older_build_has_left_is_not_built_in(project: Project, offline: Call) -> None:
    directory = project(ELSEWHERE, python_env__yaml="dependencies: ['.']\n")
    module = write_source(directory)
    backend = (directory / "backend.py").read_text()
    (directory / "backend.py").write_text(
        backend.replace('open("alpha.py")', 'open(min(["build/lib/old.py", "alpha.py"], '
                        "key=lambda name: not os.path.exists(name)))")
    )  # fmt: skip
    (directory / "build" / "lib").mkdir(parents=True)
    (directory / "build" / "lib" / "old.py").write_text("VERSION = 'old'\n")
    assert offline("-q", directory).out == "7\n", module


@pytest.mark.parametrize(
    "shell", ["{} > run.log 2>&1", "{} 2>&1 | tee run.log", "{} 2>&1 | cat | tee -a run.log"]
)
def test_output_may_be_kept_in_a_project_that_installs_itself(
    shell: str, project: Project, store: Path
) -> None:
    directory = project(
        ELSEWHERE.rstrip() + " > $OLDPWD/out.txt\n    outputs: [out.txt]\n",
        python_env__yaml="dependencies: ['.']\n",
    )
    write_source(directory)
    command = shell.format(f"{sys.executable} -m buildrun .")
    said = []
    for _ in range(2):
        done = subprocess.run(
            ("bash", "-o", "pipefail", "-c", command),
            cwd=directory, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        said.append((directory / "run.log").read_text())
        assert done.returncode == 0, said
    assert "up to date" in said[-1]
    assert len([path for path in (store / "envs").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("version", [MINOR, ">=3.10", "3", ">=3.8,<4"])
def test_python_is_chosen_by_version(project: Project, offline: Call, version: str) -> None:
    directory = project(
        MLPROJECT.replace("print(alpha.VERSION, ", "print('%d.%d' % sys.version_info[:2], "),
        python_env__yaml=f"python: '{version}'\ndependencies: [alpha]\n",
    )
    outcome = offline("-q", directory)
    assert outcome.code == 0, outcome.err
    assert version != MINOR or outcome.out.split()[0] == MINOR


@pytest.mark.parametrize(
    ("dependencies", "files", "said"),
    [
        ("[-r r.txt]", {"r.txt": "alpha\nbeta --upgrade\n"},
         "r.txt:2: pip cannot read `beta --upgrade`: option --upgrade not rec"),
        ("\n  - alpha\n  - no-such-thing", {}, "python_env.yaml:3:5: the environment could not be"),
        ("[alpha==1.0, gamma]", {}, "gamma"),
        ("[-r r.txt]", {"r.txt": f"alpha==1.0 --hash=sha256:{'0' * 64}\n"}, "r.txt:1"),
        ("[-r a]", {"a": "-r b\n"}, "a:1: `-r b` names a file that cannot be read"),
        ("[-r a]", {"a": "-r b\n", "b": "-r a\n"}, "include each other: a -> b -> a"),
        ("['alpha @ http://127.0.0.1:9/a-1-py3-none-any.whl']", {}, "without `--offline`"),
        ("[]\npython: '3.99'", {}, "python_env.yaml:2:10: Python 3.99 is not on this machine"),
        ("[]\npython: '3.99'", {}, ".".join(str(part) for part in sys.version_info[:3])),
    ],
)  # fmt: skip
def test_what_cannot_be_installed_is_placed_and_told(
    dependencies: str, files: dict[str, str], said: str, project: Project, offline: Call,
    links: Path,
) -> None:  # fmt: skip
    write_wheel(links, "gamma", requires=("alpha>5",))
    directory = project(MLPROJECT, python_env__yaml=f"dependencies: {dependencies}\n", **files)
    words = ["--offline"] if "http" in dependencies else []
    outcome = offline(directory, *words, UV_PYTHON_DOWNLOADS="never")
    assert outcome.code == 1
    assert said in outcome.err
    assert "hint:" in outcome.err


def test_cache_of_uv_that_cannot_be_written_is_named(project: Project, offline: Call) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: [alpha]\n")
    (file := directory / "file").touch()
    outcome = offline(directory, UV_CACHE_DIR=str(file))
    assert outcome.code == 1
    assert "hint: set UV_CACHE_DIR to a directory that can be written" in outcome.err


def test_pip_conf_is_honoured(project: Project, buildrun: Buildrun, links: Path) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: [alpha==1.0]\n")
    config = links.parent / "pip.conf"
    config.write_text(f"[global]\nno-index = true\nfind-links = {links}\n")
    environ = {name: None for name in os.environ if name.startswith("PIP_") and name != "PIP_CERT"}
    outcome = buildrun("-q", directory, environ={**environ, "PIP_CONFIG_FILE": str(config)})
    assert outcome.out.startswith("1.0 ")


def test_credentials_of_indexes_are_kept_out_of_the_store(
    project: Project, offline: Call, store: Path
) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: [alpha]\n")
    outcome = offline("build", directory, PIP_EXTRA_INDEX_URL="https://me:hunter2@127.0.0.1:9/s")
    assert "hunter2" not in outcome.out + outcome.err
    held = b"".join(
        path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.stat().st_size < 1e6
    )
    assert b"hunter2" not in held


def test_pip_is_there_as_in_a_virtualenv(project: Project, offline: Call) -> None:
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {command: python -m pip --version}}\n",
        python_env__yaml="dependencies: []\n",
    )
    assert offline("-q", directory).out.startswith("pip ")
    assert offline("-q", directory, PIP_REQUIRE_HASHES="1").out.startswith("pip ")


def test_activation_is_that_of_a_virtualenv(project: Project, offline: Call) -> None:
    directory = project(
        "entry_points: {main: {command: 'echo $VIRTUAL_ENV; command -v python; echo $PYTHONHOME'}}"
    )
    prefix, python, home = offline("-q", directory, PYTHONHOME=None).out.split("\n")[:3]
    assert python == f"{prefix}/bin/python"
    assert home == ""


def test_conda_project_under_virtualenv_drops_conda_packages(
    project: Project, offline: Call
) -> None:
    directory = project(
        MLPROJECT.replace("python_env: python_env.yaml", "conda_env: conda.yaml"),
        conda__yaml="dependencies:\n  - numpy=1.2\n  - pip:\n    - alpha==1.0\n",
    )
    outcome = offline(directory, "--env-manager=virtualenv")
    assert outcome.out.startswith("1.0 ")
    assert "a virtualenv leaves out: `numpy=1.2`" in outcome.err


def test_python_env_under_conda_is_refused(project: Project, offline: Call) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: []\n")
    outcome = offline(directory, "--env-manager=conda")
    assert outcome.code == 1
    assert "python_env project cannot be executed using conda" in outcome.err
    assert "`virtualenv` or `local`" in outcome.err


def test_uv_manager_follows_a_uv_lock(project: Project, offline: Call, links: Path) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: [no-such-thing]\n")
    (directory / "pyproject.toml").write_text(
        "[project]\nname = 'p'\nversion = '1'\nrequires-python = '>=3.10'\n"
        f"dependencies = ['alpha==1.0']\n[tool.uv]\nno-index = true\nfind-links = ['{links}']\n"
    )
    from uv import find_uv_bin

    subprocess.run((find_uv_bin(), "lock", "--quiet"), cwd=directory, check=True, timeout=120)
    outcome = offline("-q", directory, "--env-manager=uv")
    assert outcome.out.startswith("1.0 "), outcome.err


def test_no_uv_is_told(project: Project, tmp_path: Path) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: []\n")
    (tmp_path / "stub" / "uv").mkdir(parents=True)
    (tmp_path / "stub" / "uv" / "__init__.py").write_text("raise ImportError\n")
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "bash").symlink_to(shutil.which("bash") or "/bin/bash")
    # An interpreter that has no uv beside it, as with a system-wide installation.
    (bare / "python").symlink_to(os.path.realpath(sys.executable))
    search = os.pathsep.join([str(tmp_path / "stub"), *(path for path in sys.path if path)])
    outcome = subprocess.run(
        (bare / "python", "-m", "buildrun", directory),
        env={**os.environ, "PATH": str(bare), "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 1
    assert "the uv program is not installed" in outcome.stderr


def test_failed_refresh_keeps_what_was_there(
    project: Project, offline: Call, links: Path, store: Path
) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: [alpha==1.0]\n")
    assert offline("build", directory).code == 0
    (prefix,) = (path for path in (store / "envs").iterdir() if path.is_dir())
    shutil.rmtree(links)
    failed = offline("build", directory, "--refresh", UV_CACHE_DIR=str(store / "empty"))
    assert failed.code == 1
    assert [path for path in (store / "envs").iterdir() if path.is_dir()] == [prefix]
    assert offline("-q", directory).out.startswith("1.0 ")


def test_whatever_lies_in_its_place_is_replaced(
    project: Project, offline: Call, store: Path
) -> None:
    directory = project(MLPROJECT, python_env__yaml="dependencies: [alpha==1.0]\n")
    prefix = Path(offline("build", directory, "--format=json").data["path"])
    shutil.rmtree(prefix)
    prefix.touch()
    assert offline("-q", directory).out.startswith("1.0 ")
    shutil.rmtree(prefix)
    prefix.symlink_to(store / "nowhere")
    assert offline("-q", directory).out.startswith("1.0 ")


def test_package_that_wants_another_pip_gets_it(
    project: Project, offline: Call, links: Path
) -> None:
    write_wheel(links, "pip", "99.0")
    write_wheel(links, "alpha", "3.0", requires=("pip>=99",))
    directory = project(MLPROJECT, python_env__yaml="dependencies: [alpha==3.0]\n")
    assert offline("-q", directory).out.startswith("3.0 ")


def test_locked_run_of_a_project_without_dependencies_needs_no_lock(
    project: Project, offline: Call
) -> None:
    directory = project("entry_points: {main: {command: echo fine}}\n")
    assert offline("-q", "--locked", directory).out == "fine\n"
    assert offline("lock", "--check", directory).code == 0


@pytest.mark.parametrize(
    ("requirements", "found"),
    [
        ("[alpha]", "pip=own setuptools=own"),
        ("[]", "pip=own setuptools=own"),
        ("[setuptools, pip-tool]", "pip=own setuptools=own"),
        ("['setuptools<40']", "pip=own setuptools=39.0"),
        ("[wants]", "pip=own setuptools=39.0"),
    ],
)
def test_virtualenv_has_what_venv_brings(
    project: Project, offline: Call, links: Path, requirements: str, found: str
) -> None:
    write_wheel(links, "setuptools", "39.0")
    write_wheel(links, "setuptools", "999.0")
    write_wheel(links, "pip_tool", "1.0")
    write_wheel(links, "wants", requires=("setuptools<40",))
    own = Path(ensurepip.__file__).parent / "_bundled"
    bundled = {path.name.split("-")[0]: path.name.split("-")[1] for path in own.glob("*.whl")}
    if "setuptools" not in bundled:
        pytest.skip("this Python brings none, or keeps the wheels of ensurepip elsewhere")
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {command: python versions.py}}\n",
        python_env__yaml=f"dependencies: {requirements}\n",
        versions__py="from importlib.metadata import distributions as d\n"
        "found = {each.name: each.version for each in d()}\n"
        "print(*(f'{name}={found[name]}' for name in ('pip', 'setuptools') if name in found))\n",
    )
    outcome = offline("-q", directory)
    assert outcome.code == 0, outcome.err
    for name, version in bundled.items():
        found = found.replace(f"{name}=own", f"{name}={version}")
    assert outcome.out.split() == found.split()


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (5 << 19) + 1])
def test_link_becomes_a_file_of_its_own_with_all_that_it_had(size: int, tmp_path: Path) -> None:
    cached, link = tmp_path / "cached", tmp_path / "prefix" / "link"
    cached.write_bytes(b"text\n" * (size // 5) + b"." * (size % 5))
    cached.chmod(0o666)  # the umask takes bits away
    os.utime(cached, ns=(1, 5_000_000_001))
    link.parent.mkdir()
    os.link(cached, link)
    right = hashlib.sha256(cached.read_bytes()).hexdigest()
    known = [File("right", "link", None, right), File("gone", "gone", None, right)]
    assert detach_from_cache(str(link.parent), known) == ["gone"]
    before, after = cached.stat(), link.stat()
    assert (after.st_nlink, before.st_nlink) == (1, 1)
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert link.read_bytes() == cached.read_bytes()
    assert detach_from_cache(str(link.parent), [File("wrong", "link", None, "00")]) == ["wrong"]
