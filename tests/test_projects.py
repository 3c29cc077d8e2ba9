"""Many projects of one repository: found, chosen by what has changed, and run one after another."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Buildrun

LOCAL = ("--env-manager", "local")
STEP = """\
entry_points:
  main: {inputs: [in.txt], outputs: [out.txt], command: cp in.txt out.txt}
  fail: {command: "echo failing; exit 7"}
"""
# Root may read everything, unless it gives that up.
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
ECHO = "entry_points: {main: {command: 'echo %s'}}\n"


def git(directory: Path, *arguments: str) -> str:
    command = ("git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with the projects `a`, `b` and `b/within`, and a file of none."""
    directory = tmp_path / "repository"
    directory.mkdir()
    git(directory, "init", "-q", "-b", "main")
    write(
        directory,
        {
            "a/MLproject": ECHO % "a",
            "b/MLproject": ECHO % "b",
            "b/within/mlproject": "conda_env: ../../envs/train.yaml\n" + ECHO % "within",
            "envs/train.yaml": "dependencies: [python=3.11]\n",
            "README.md": "text\n",
        },
    )
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "first")
    return directory


Found = Callable[..., list[str]]


@pytest.fixture
def found(buildrun: Buildrun) -> Found:
    """Return a function that gives the projects of which `plan --all` shows the plan."""

    def call(directory: Path, *arguments: str, cwd: Path | None = None) -> list[str]:
        words = ("plan", "--all", "--format", "json", *LOCAL, *arguments)
        done = buildrun(*words, cwd=cwd or directory)
        assert done.code == 0, done.err
        assert done.data["version"] == 1
        roots = [project["project"]["root"] for project in done.data["projects"]]
        return [os.path.relpath(root, directory) for root in roots]

    return call


# -- found -------------------------------------------------------------------------------------


def test_projects_within_projects_are_found(repository: Path, found: Found) -> None:
    assert found(repository) == ["a", "b", "b/within"]
    assert found(repository, "b") == ["b", "b/within"]
    assert found(repository, cwd=repository / "b") == ["b", "b/within"]


@pytest.mark.parametrize("has_git", [True, False])
def test_what_git_ignores_is_no_project(repository: Path, found: Found, has_git: bool) -> None:
    write(
        repository,
        {
            ".gitignore": "build/\n",
            "build/copy/MLproject": ECHO % "copy",
            "new/MLproject": ECHO % "new",
            "mlruns/0/MLproject": ECHO % "artifact",
        },
    )
    if not has_git:
        (repository / ".git").rename(repository.parent / "elsewhere")
    assert found(repository) == ["a", "b", "b/within", "new"]
    assert found(repository / "build") == ["copy"]  # whoever asks for it means it


@pytest.mark.parametrize("has_git", [True, False])
def test_odd_trees_do_no_harm(repository: Path, buildrun: Buildrun, has_git: bool) -> None:
    for name in ("line\nbreak#'", os.fsdecode(b"by\xffte"), "deep/" * 40):
        write(repository, {f"{name}/MLproject": ECHO % "odd"})
    (repository / "loop").symlink_to(".")
    (repository / "gone").mkdir()
    (repository / "gone/MLproject").symlink_to("nowhere")
    (repository / "closed").mkdir(mode=0)
    (repository / "a/MLproject").unlink()  # git still knows it
    if not has_git:
        (repository / ".git").rename(repository.parent / "elsewhere")
    done = buildrun("run", "--all", *LOCAL, cwd=repository)
    assert done.code == 1
    assert sorted(done.out.splitlines()) == ["b", "odd", "odd", "odd", "within"]
    assert "gone/MLproject:1:1: no such file" in done.err
    assert "6 projects: 5 ok, 1 failed" in done.err


def test_project_in_a_directory_that_cannot_be_read_is_not_passed_over(repository: Path) -> None:
    (repository / "b").chmod(0)
    done = subprocess.run(
        (*UNPRIVILEGED, sys.executable, "-m", "buildrun", "validate"),
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    (repository / "b").chmod(0o755)
    assert done.returncode == 1
    assert "b:1:1: error[unreadable-file]: the directory cannot be read" in done.stdout


def test_directory_without_projects_is_an_error(tmp_path: Path, buildrun: Buildrun) -> None:
    fact = f"{tmp_path}: there is no MLproject file in this directory or below"
    for verb in ("run", "plan", "lock"):
        buildrun(verb, "--all", cwd=tmp_path).refused(fact)
    buildrun("run", "--all", "absent", cwd=tmp_path).refused("this must be a directory")


# -- chosen ------------------------------------------------------------------------------------


def test_since_keeps_projects_with_a_change(repository: Path, found: Found) -> None:
    git(repository, "switch", "-q", "-c", "branch")
    assert found(repository, "--since", "main") == []
    write(repository, {"README.md": "changed\n", "a/new.txt": ""})
    assert found(repository, "--since", "main") == ["a"]
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "second")
    write(repository, {"b/within/data": ""})
    assert found(repository, "--since", "main") == ["a", "b", "b/within"]
    assert found(repository, "--since", "HEAD") == ["b", "b/within"]
    git(repository, "switch", "-q", "main")
    write(repository, {"b/other": ""})
    git(repository, "add", "b/other")
    git(repository, "commit", "-q", "-m", "of main alone")
    git(repository, "clean", "-fdq")
    git(repository, "switch", "-q", "branch")
    assert found(repository, "--since", "main") == ["a"]


def test_environment_file_that_is_named_is_a_change(repository: Path, found: Found) -> None:
    write(repository, {"envs/train.yaml": "dependencies: [python=3.12]\n"})
    assert found(repository, "--since", "HEAD") == ["b/within"]
    (repository / "envs/moved.yaml").write_text("dependencies: [python=3.11]\n")
    git(repository, "checkout", "-q", "envs/train.yaml")
    assert found(repository, "--since", "HEAD") == []
    (repository / "b/within/mlproject").write_text("conda_env: link.yaml\n" + ECHO % "within")
    (repository / "b/within/link.yaml").symlink_to("../../envs/moved.yaml")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "second")
    (repository / "envs/moved.yaml").write_text("dependencies: [python=3.12]\n")
    assert found(repository, "--since", "HEAD") == ["b/within"]


def test_since_is_never_a_silent_pass(repository: Path, tmp_path: Path, buildrun: Buildrun) -> None:
    write(repository, {"a/more": ""})
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "second")
    first = git(repository, "rev-parse", "HEAD~1")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repository}", str(shallow))
    for words in (("run", "--all"), ("plan", "--all"), ("validate",)):
        done = buildrun(*words, "--since", first, cwd=shallow)
        done.refused(f"git knows no commit `{first}`, and the clone is shallow", "fetch-depth: 0")
        assert "git fetch --unshallow" in done.err
        buildrun(*words, "--since", "nope", cwd=repository).refused("git knows no commit `nope`")
        buildrun(*words, "--since", "HEAD", cwd=tmp_path).refused("this is no git repository")
    git(shallow, "fetch", "-q", "--depth=1", "origin", f"{first}:refs/heads/old")
    buildrun("validate", "--since", "old", cwd=shallow).refused(
        "git finds no commit that `old` and HEAD have in common, and the clone is shallow"
    )


def test_nothing_has_changed(repository: Path, buildrun: Buildrun) -> None:
    done = buildrun("run", "--all", "--since", "HEAD", cwd=repository)
    assert (done.code, done.err) == (0, "0 of 3 projects changed since `HEAD`\n")
    done = buildrun("validate", "--since", "HEAD", cwd=repository)
    assert (done.code, done.err) == (0, "no project has changed since `HEAD`\n")


def test_shards_are_all_projects_each_once(
    repository: Path, found: Found, buildrun: Buildrun
) -> None:
    shares = [found(repository, "--shard", f"{share}/4") for share in (1, 2, 3, 4)]
    assert sorted(itertools.chain(*shares)) == ["a", "b", "b/within"]
    assert shares[0] == found(repository, "--shard", "1/4")
    done = buildrun("plan", "--all", "--shard", "2/2", *LOCAL, cwd=repository)
    assert "3 projects; share 2 of 2 has 1 of 3\n" in done.err


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", ""])
def test_shares_that_are_none(share: str, repository: Path, buildrun: Buildrun) -> None:
    done = buildrun("run", "--all", f"--shard={share}", cwd=repository)
    done.refused("is not a share", code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("--since", "HEAD"),
        ("--shard", "1/2"),
        ("--all", "--report", "x.json"),
        ("--all", "--run-id", "x"),
        ("--all", "--watch"),
        ("--all", "-v", "main"),
        ("--all", "-P", "x"),
        ("--all", "-j", "x"),
    ],
)
def test_options_that_do_not_go_together(
    words: tuple[str, ...], repository: Path, buildrun: Buildrun
) -> None:
    done = buildrun("run", *words, cwd=repository)
    done.refused("error: ", code=2)
    assert done.err.count("error: ") == 1


# -- run ---------------------------------------------------------------------------------------


def test_failure_does_not_stop_the_others(repository: Path, buildrun: Buildrun) -> None:
    write(repository, {"a/MLproject": STEP, "c/MLproject": "entry_points: [\n"})
    write(repository, {"b/MLproject": "entry_points: {fail: {command: 'echo b'}}\n"})
    done = buildrun("--all", "-e", "fail", *LOCAL, cwd=repository)
    assert (done.code, done.out) == (7, "failing\nb\n")
    assert "[3/4] b/within\nskipped: could not find `fail` among the entry points" in done.err
    assert "error: c/MLproject:2:1: " in done.err
    assert "4 projects: 1 ok, 2 failed, 1 skipped" in done.err
    assert done.err.endswith("error: 2 of 4 projects failed: `a`, `c`\n")


def test_entry_point_that_no_project_has(repository: Path, buildrun: Buildrun) -> None:
    done = buildrun("run", "--all", "-e", "nope", *LOCAL, cwd=repository)
    done.refused("of 3 projects none has this entry point")


def test_script_that_one_project_has(repository: Path, buildrun: Buildrun) -> None:
    write(repository, {"a/one.sh": "echo script\n"})
    done = buildrun("run", "--all", "-e", "one.sh", *LOCAL, cwd=repository)
    assert (done.code, done.out) == (0, "script\n")
    assert "3 projects: 1 ok, 2 skipped" in done.err


def test_unchanged_projects_are_up_to_date(repository: Path, buildrun: Buildrun) -> None:
    for name in ("a", "b"):
        write(repository, {f"{name}/MLproject": STEP, f"{name}/in.txt": name})
    write(repository, {"b/within/mlproject": STEP, "b/within/in.txt": "within"})
    for state in ("ran", "up to date", "up to date", "up to date"):
        done = buildrun("run", "--all", *LOCAL, cwd=repository)
        assert done.code == 0, done.err
        assert done.err.count(f"1 step: 1 {state}") == 3
    write(repository, {"b/in.txt": "new"})
    done = buildrun("run", "--all", "--since", "main", "--shard", "1/1", *LOCAL, cwd=repository)
    assert (repository / "b/out.txt").read_text() == "new"
    assert (done.err.count("1 up to date"), done.err.count("1 ran")) == (2, 1)


def test_options_are_for_each_project(repository: Path, buildrun: Buildrun) -> None:
    texts = {f"{name}/MLproject": "entry_points: {main: {command: 'echo {x}'}}\n" for name in "ab"}
    write(repository, {name: text.replace("{command", "{parameters: {x: string}, command")
                       for name, text in texts.items()})  # fmt: skip
    words = ("run", "--all", "-q", *LOCAL, "-P", "x=$(one) 'two'")
    first, second = (buildrun(*words, cwd=repository) for _ in range(2))
    assert first.out == second.out == "$(one) 'two'\n" * 2 + "within --x $(one) 'two'\n"
    dry = buildrun("run", "--all", "--dry-run", "--force", ".", *LOCAL, "-P", "x=1", cwd=repository)
    assert dry.code == 0, dry.err
    assert dry.out.count("uncached") == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_all(repository: Path, number: signal.Signals) -> None:
    write(repository, {"a/MLproject": "entry_points: {main: {command: 'echo up; sleep 1000'}}\n"})
    words = (sys.executable, "-m", "buildrun", "run", "--all", "-q", *LOCAL)
    with subprocess.Popen(words, cwd=repository, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.send_signal(number)
        assert child.wait(timeout=60) == 128 + number
        assert child.stdout.read() == b""


def test_plans_of_all_are_shown_one_after_another(repository: Path, buildrun: Buildrun) -> None:
    done = buildrun("plan", "--all", *LOCAL, cwd=repository)
    assert [line for line in done.out.splitlines() if line.endswith(")")] == [
        f"{os.path.basename(name)} ({repository / name})" for name in ("a", "b", "b/within")
    ]
    one = buildrun("plan", "a", "--format", "json", *LOCAL, cwd=repository)
    all_ = buildrun("plan", "--all", "--format", "json", *LOCAL, cwd=repository)
    assert json.loads(all_.out)["projects"][0] == one.data
    buildrun("plan", "--all", "--format", "dot", cwd=repository).refused("one project", code=2)


def test_locks_of_all_are_checked(repository: Path, buildrun: Buildrun) -> None:
    for name, packages in (("a", ""), ("b", "one")):
        write(repository, {f"{name}/python_env.yaml": f"dependencies: [{packages}]\n"})
    write(repository, {"b/within/mlproject": "docker_env: {image: x}\n" + ECHO % "x"})
    write(repository, {"c/MLproject": ECHO % "without an environment"})
    assert buildrun("lock", "a", cwd=repository).code == 0
    done = buildrun("lock", "--check", "--all", cwd=repository)
    assert done.code == 1
    assert f"{repository}/a/python_env.lock: fresh\n" in done.out
    assert f"{repository}/b/python_env.lock: there is no lock\n" in done.out
    assert "hint: `buildrun lock b` makes a fresh one" in done.err
    write(repository, {"b/python_env.yaml": "dependencies: []\n"})
    assert buildrun("lock", "--all", cwd=repository).code == 0
    assert buildrun("lock", "--check", "--all", cwd=repository).code == 0
    buildrun("lock", "--check", "a", "b", cwd=repository).refused("name one project", code=2)
    buildrun("lock", "--all", "--format=json", cwd=repository).refused("one project", code=2)
