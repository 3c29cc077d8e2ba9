"""Projects from git: which version runs, where, and what is fetched for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Buildrun
from source_helpers import (
    LOCAL,
    Repository,
    daemon,
    files,
    http_backend,
    plain_git,
    repository,
    working_directories,
)
from step_helpers import Gate, Start, a_gate, a_start

assert all((a_gate, a_start, plain_git))  # fixtures


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Repository]:
    made = repository(tmp_path / "served" / "team" / "churn")
    with daemon(tmp_path / "served") as url:
        yield Repository(made.path, f"{url}/team/churn")


Run = Callable[..., list[str]]


@pytest.fixture
def run(buildrun: Buildrun) -> Run:
    """Return a function that runs a project, and returns the lines that it prints."""
    return lambda *words, **more: lines(buildrun(*words, LOCAL, **more).printed())


def paused(first: str, then: str = "true") -> str:
    """Return an MLproject whose command tells what the first prints, and waits before the next."""
    command = f"{first} > $UP; read _ < $GO; {then}"
    return f"name: p\nentry_points: {{main: {{command: '{command}'}}}}\n"


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_remote_head_runs_in_a_directory_of_its_own(
    served: Repository, run: Run, store: Path
) -> None:
    where, data = run(served.url)
    assert data == "one"
    assert Path(where).name == "churn"
    assert not Path(where).exists()
    assert working_directories(store) == []


@pytest.mark.parametrize("how", ["branch", "tag", "annotated", "whole", "short", "ref"])
def test_version_is_a_branch_a_tag_or_a_commit(served: Repository, run: Run, how: str) -> None:
    served.git("switch", "--quiet", "--create", "side")
    commit = served.commit(data__txt="side\n")
    served.git("tag", "plain")
    served.git("tag", "--annotate", "--message", "x", "noted")
    served.git("switch", "--quiet", "main")
    version = {
        "branch": "side", "tag": "plain", "annotated": "noted", "whole": commit,
        "short": commit[:8], "ref": "refs/heads/side",
    }[how]  # fmt: skip
    for _ in range(2):
        assert run(served.url, "-v", version)[1] == "side"


def test_branch_comes_before_a_tag_of_the_same_name(served: Repository, run: Run) -> None:
    served.git("tag", "both")
    served.git("branch", "both")
    served.git("switch", "--quiet", "both")
    served.commit(data__txt="branch\n")
    assert run(served.url, "-v", "both")[1] == "branch"


@pytest.mark.parametrize("length", [40, 8])
def test_second_run_of_a_commit_fetches_nothing(
    served: Repository, buildrun: Buildrun, run: Run, length: int
) -> None:
    version = served.git("rev-parse", "HEAD")[:length]
    assert buildrun(served.url, LOCAL, "-v", version).code == 0
    shutil.rmtree(served.path)  # nobody could fetch from it
    assert run(served.url, "-v", version)[1] == "one"


def test_branch_is_asked_for_news_once_a_run(tmp_path: Path, buildrun: Buildrun, run: Run) -> None:
    made = repository(tmp_path / "served" / "p")
    with http_backend(tmp_path / "served") as server:
        assert buildrun(f"{server.url}/p/.git", LOCAL, "-v", "main").code == 0
        server.seen.clear()
        assert buildrun(f"{server.url}/p/.git", LOCAL, "-v", "main").code == 0
        asked = [path for path, _ in server.seen]
        assert len([path for path in asked if "info/refs" in path]) == 1
        made.commit(data__txt="two\n")
        assert run(f"{server.url}/p/.git", "-v", "main")[1] == "two"


def test_offline_uses_what_was_fetched(served: Repository, buildrun: Buildrun, run: Run) -> None:
    commit = served.git("rev-parse", "HEAD")
    buildrun(served.url, LOCAL, "--offline").refused("was never fetched")
    assert buildrun(served.url, LOCAL).code == 0
    served.commit(data__txt="two\n")
    for version in ([], ["-v", "main"], ["-v", commit], ["-v", commit[:7]]):
        assert run(served.url, "--offline", *version)[1:] == ["one"]
    assert buildrun(served.url, LOCAL, "--offline", "-v", "other").code == 1


def test_subdirectory_of_a_repository(served: Repository, buildrun: Buildrun) -> None:
    served.commit(**{"deep.er--MLproject": "name: d\nentry_points: {main: {command: pwd}}\n"})
    for subdirectory in ("deep.er", "/deep.er/"):
        assert (
            buildrun(f"{served.url}#{subdirectory}", LOCAL).printed().endswith("/churn/deep.er\n")
        )


@pytest.mark.parametrize("subdirectory", ["..", "a/../..", "/etc", "missing"])
def test_subdirectory_that_is_elsewhere_is_refused(
    served: Repository, buildrun: Buildrun, store: Path, subdirectory: str
) -> None:
    buildrun(f"{served.url}#{subdirectory}", LOCAL).refused("subdirectory")
    assert working_directories(store) == []


def test_subdirectory_that_is_a_link_out_is_refused(
    served: Repository, buildrun: Buildrun, store: Path
) -> None:
    (served.path / "out").symlink_to("/etc")
    served.commit()
    buildrun(f"{served.url}#out", LOCAL, "-e", "x.sh").refused("is a link out of the project")
    assert working_directories(store) == []


def test_version_of_a_checkout_leaves_it_alone(tmp_path: Path, buildrun: Buildrun) -> None:
    made = repository(tmp_path / "p")
    first = made.git("rev-parse", "HEAD")
    made.commit(data__txt="two\n")
    (made.path / "data.txt").write_text("being edited\n")
    before = made.git("status", "--porcelain=v2", "--branch")
    state = sorted(os.walk(made.path / ".git"))
    for version in (first, first[:7], "HEAD"):
        outcome = buildrun(made.path, LOCAL, "-v", version)
        assert outcome.code == 0, outcome.err
        assert lines(outcome.out)[1] == ("two" if version == "HEAD" else "one")
        assert not lines(outcome.out)[0].startswith(str(made.path))
    assert made.git("status", "--porcelain=v2", "--branch") == before
    assert sorted(os.walk(made.path / ".git")) == state
    assert made.git("remote") == ""


def test_checkout_without_version_runs_in_place(tmp_path: Path, run: Run) -> None:
    made = repository(tmp_path / "p")
    (made.path / "data.txt").write_text("being edited\n")
    for uri in (str(made.path), f"file://{made.path}"):
        assert run(uri) == [str(made.path), "being edited"]


def test_version_of_a_directory_in_a_checkout(tmp_path: Path, run: Run) -> None:
    made = repository(tmp_path / "p", **{"sub--data__txt": "sub\n"})
    (made.path / "sub" / "MLproject").write_text(
        "name: s\nentry_points: {main: {command: 'pwd; cat data.txt'}}\n"
    )
    made.commit()
    for uri in (str(made.path / "sub"), f"{made.path}#sub"):
        where, data = run(uri, "-v", "main")
        assert (Path(where).parts[-2:], data) == (("p", "sub"), "sub")


def test_bare_repository_is_git_wherever_it_lies(tmp_path: Path, buildrun: Buildrun) -> None:
    made = repository(tmp_path / "p")
    bare = tmp_path / "bare.git"
    made.git("clone", "--quiet", "--bare", made.path, bare)
    for arguments in ([str(bare)], [f"file://{bare}"], [str(bare), "-v", "main"]):
        outcome = buildrun(*arguments, LOCAL)
        assert outcome.code == 0, outcome.err
        assert lines(outcome.out)[1] == "one"
        assert Path(lines(outcome.out)[0]).name == "bare"


def test_command_sees_a_repository_of_its_own(served: Repository, run: Run) -> None:
    served.commit(
        MLproject="name: p\nentry_points:\n  main:\n    command: |\n"
        "      git rev-parse HEAD && git status --porcelain && git branch mine &&"
        " git commit -q --allow-empty -m x && git remote get-url origin\n"
    )
    assert run(served.url) == [
        served.git("rev-parse", "HEAD"),
        served.url,
    ]
    assert served.git("branch", "--list", "mine") == ""
    assert "mine" not in subprocess.run(
        ["git", "ls-remote", served.url], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


def test_variables_of_a_hook_lead_git_nowhere_else(
    served: Repository, run: Run, tmp_path: Path
) -> None:
    other = repository(tmp_path / "other")
    environ = {
        "GIT_DIR": str(other.path / ".git"),
        "GIT_WORK_TREE": str(other.path),
        "GIT_INDEX_FILE": str(other.path / ".git" / "index"),
    }
    before = sorted(os.walk(other.path))
    assert run(served.url, "-v", "main", environ=environ)[1:] == ["one"]
    assert sorted(os.walk(other.path)) == before


def test_submodules_are_there(tmp_path: Path, buildrun: Buildrun, run: Run) -> None:
    inner = repository(tmp_path / "served" / "inner")
    middle = repository(tmp_path / "served" / "middle")
    outer = repository(tmp_path / "served" / "outer")
    with daemon(tmp_path / "served") as url:
        middle.git("submodule", "--quiet", "add", f"{url}/inner", "in/side")
        middle.commit()
        outer.git("submodule", "--quiet", "add", f"{url}/middle", "mid")
        outer.git("config", "-f", ".gitmodules", "submodule.mid.url", "../middle")
        commit = outer.commit(
            MLproject="name: p\nentry_points:\n  main:\n"
            "    command: 'cat mid/in/side/data.txt && git -C mid rev-parse HEAD'\n"
        )
        inner.commit(data__txt="newer\n")
        for _ in range(2):
            assert run(f"{url}/outer", "-v", commit) == [
                "one",
                middle.git("rev-parse", "HEAD"),
            ]
    again = buildrun(f"{url}/outer", LOCAL, "-v", commit)  # nobody answers any more
    assert again.code == 0, again.err


def test_submodule_of_elsewhere_cannot_name_files_of_this_machine(
    served: Repository, buildrun: Buildrun, tmp_path: Path, store: Path
) -> None:
    secret = repository(tmp_path / "secret")
    served.git("submodule", "--quiet", "add", secret.path, "stolen")
    served.commit()
    buildrun(served.url, LOCAL).refused("submodule `stolen`", "is a path of this machine")
    assert working_directories(store) == []


# Stands for git-lfs: speaks to git as it does, see gitattributes(5), and writes in capitals.
GIT_LFS = """#!{python}
import sys

def read():
    found = []
    while size := int(sys.stdin.buffer.read(4) or b"0000", 16):
        found.append(sys.stdin.buffer.read(size - 4))
    return found

def write(*lines):
    for line in lines:
        sys.stdout.buffer.write(b"%04x" % (len(line) + 4) + line)
    sys.stdout.buffer.write(b"0000")
    sys.stdout.buffer.flush()

read(), write(b"git-filter-server\\n", b"version=2\\n")
read(), write(b"capability=smudge\\n")
while read():
    content = b"".join(read())
    write(b"status=success\\n")
    write(content.upper())
    write()
"""


def test_files_of_git_lfs_are_had_from_it(
    served: Repository, buildrun: Buildrun, tmp_path: Path, store: Path
) -> None:
    served.commit(
        __gitattributes="*.bin filter=lfs\n",
        model__bin="pointer\n",
        MLproject="name: p\nentry_points: {main: {command: cat model.bin}}\n",
    )
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("git", "bash", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    environ = {"PATH": str(tools)}
    buildrun(served.url, LOCAL, environ=environ).refused("install git-lfs")
    assert working_directories(store) == []
    (tools / "git-lfs").write_text(GIT_LFS.format(python=sys.executable))
    (tools / "git-lfs").chmod(0o755)
    for _ in range(2):
        assert buildrun(served.url, LOCAL, environ=environ).printed() == "POINTER\n"


def test_kept_directory_stays_and_is_told(
    served: Repository, buildrun: Buildrun, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    outcome = buildrun(served.url, LOCAL, "--keep-workdir", environ={"TMPDIR": str(temporary)})
    where = Path(lines(outcome.out)[0])
    assert (where / "data.txt").read_text() == "one\n"
    assert where.is_relative_to(temporary)
    assert f"the working directory is kept: {where}" in outcome.err


@pytest.mark.parametrize("version", ["main", "whole"])
@pytest.mark.parametrize("known", [False, True])
def test_runs_at_once_have_directories_of_their_own(
    served: Repository, start: Start, gate: Gate, store: Path, version: str, known: bool
) -> None:
    commit = served.commit(MLproject=paused("pwd"))
    options = (served.url, "-v", commit if version == "whole" else version)
    if known:
        gate.open()
        assert start(*options).wait().code == 0
        gate.wait()
    lives = [start(*options) for _ in range(3)]
    assert len(gate.wait_for(3)) == 3
    gate.open(3)
    assert [live.wait().code for live in lives] == [0, 0, 0]
    assert working_directories(store) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_directory(
    served: Repository, start: Start, gate: Gate, store: Path, number: signal.Signals
) -> None:
    served.commit(MLproject=paused("pwd"))
    live = start(served.url)
    assert Path(gate.wait()).is_dir()
    live.send(number)
    assert live.wait().code == 128 + number
    assert working_directories(store) == []


def test_what_a_killed_run_leaves_is_removed_by_a_later_one(
    served: Repository, start: Start, gate: Gate, buildrun: Buildrun, store: Path, tmp_path: Path
) -> None:
    other = repository(tmp_path / "other")
    served.commit(MLproject=paused("pwd"))
    live = start(served.url)
    where = Path(gate.wait())
    live.process.kill()
    gate.open()
    live.wait()  # the command has ended as well
    assert where.is_dir()
    # Any project that is fetched will do.
    assert buildrun(other.path, LOCAL, "-v", "main").code == 0
    assert not where.exists()
    assert working_directories(store) == []


def test_results_of_a_repository_are_cached(
    served: Repository, buildrun: Buildrun, tmp_path: Path
) -> None:
    served.commit(
        MLproject="name: p\nentry_points:\n  make:\n"
        "    inputs: [data.txt]\n    outputs: [out.txt]\n"
        "    command: 'cat data.txt data.txt > out.txt'\n"
        "  main:\n    depends_on: [make]\n    command: 'cat out.txt'\n"
    )
    report = tmp_path / "report.json"

    def states(*more: str) -> dict[str, str]:
        outcome = buildrun(served.url, LOCAL, "--report", str(report), *more)
        assert outcome.code == 0, outcome.err
        return {step["id"]: step["state"] for step in json.loads(report.read_text())["steps"]}

    assert states() == {"make": "ok", "main": "ok"}
    assert states() == {"make": "cached", "main": "ok"}
    served.commit(README="no input\n")
    assert states() == {"make": "cached", "main": "ok"}
    assert buildrun(served.url, LOCAL).out.endswith("one\none\n")
    # The same as of a directory of this machine: no key holds a path.
    found = [
        buildrun("plan", uri, LOCAL, "--format=json").data["steps"][0]["cache"]
        for uri in (served.url, served.path)
    ]
    assert [item["state"] for item in found] == ["hit", "hit"]
    assert found[0]["key"] == found[1]["key"]
    served.commit(data__txt="two\n")
    assert states() == {"make": "ok", "main": "ok"}


def test_plan_and_build_leave_no_directory(
    served: Repository, buildrun: Buildrun, store: Path
) -> None:
    for verb in ("plan", "build"):
        assert buildrun(verb, served.url, LOCAL).code == 0
        assert working_directories(store) == []


def test_lock_and_watch_of_a_fetched_project_are_refused(
    served: Repository, buildrun: Buildrun, store: Path
) -> None:
    served.commit(python_env__yaml="dependencies: []\n")
    for arguments in (("lock", served.url), (served.url, "--watch")):
        buildrun(*arguments).refused("checkout", code=2)
        assert working_directories(store) == []


def test_damaged_mirror_is_fetched_again(
    served: Repository, buildrun: Buildrun, run: Run, store: Path
) -> None:
    commit = served.git("rev-parse", "HEAD")
    assert buildrun(served.url, LOCAL, "-v", commit).code == 0
    (mirror,) = (store / "sources" / "git").glob("*/mirror.git")
    for path in [*mirror.glob("objects/pack/*"), *mirror.glob("objects/??/*")]:
        path.unlink()
    assert run(served.url, "-v", commit)[1] == "one"


def test_killed_fetch_leaves_nothing_in_the_way(
    served: Repository, buildrun: Buildrun, run: Run, store: Path
) -> None:
    assert buildrun(served.url, LOCAL).code == 0
    (mirror,) = (store / "sources" / "git").glob("*/mirror.git")
    for name in ("shallow.lock", "packed-refs.lock", "objects/pack/tmp_pack_x"):
        (mirror / name).write_text("")
    served.commit(data__txt="two\n")
    assert run(served.url)[1:] == ["two"]
    assert not (mirror / "shallow.lock").exists()


def test_known_commit_runs_again_without_being_read_anew(
    served: Repository, buildrun: Buildrun, tmp_path: Path, store: Path
) -> None:
    commit = served.git("rev-parse", "HEAD")
    script = tmp_path / "modules.py"
    script.write_text(
        "import os, sys\n"
        "from buildrun.cli import main\n"
        f"code = main(['-q', {served.url!r}, '-v', {commit!r}, {LOCAL!r}], os.environ)\n"
        "heavy = {'argparse', 'subprocess', 'tempfile', 'urllib', 'yaml', 'pathlib'}\n"
        "print(code, sorted(heavy & set(sys.modules)))\n"
    )
    assert buildrun("-q", served.url, "-v", commit, LOCAL).code == 0
    shutil.rmtree(served.path)

    def run() -> list[str]:
        return lines(subprocess.check_output((sys.executable, script), cwd=tmp_path, text=True))

    first, second = run(), run()
    assert first == second
    assert second[1:] == ["one", "0 []"]
    assert working_directories(store) == []
    shutil.rmtree(next((store / "sources" / "git").glob("*/mirror.git")))
    assert buildrun("-q", served.url, "-v", commit, LOCAL).code == 1


def test_changed_settings_of_a_known_commit_are_noticed(
    served: Repository, buildrun: Buildrun
) -> None:
    version = served.git("rev-parse", "HEAD")
    for _ in range(2):
        assert buildrun(served.url, "-v", version, LOCAL).code == 0
    outcome = buildrun(served.url, "-v", version, LOCAL, environ={"SHELL": "/bin/sh"})
    assert lines(outcome.out)[1:] == ["one"]


def test_record_of_a_run_tells_the_repository_and_the_commit(
    served: Repository, buildrun: Buildrun
) -> None:
    commit = served.git("rev-parse", "HEAD")
    for _ in range(2):
        assert buildrun(served.url, "-v", commit, LOCAL).code == 0
        assert f"p ({served.url} at {commit[:12]}), main" in buildrun("runs", "show").out


def test_clearing_the_cache_removes_what_was_fetched(
    served: Repository, buildrun: Buildrun
) -> None:
    assert buildrun(served.url, LOCAL).code == 0
    assert buildrun("cache", "info", "--format=json").data["sources"]["count"] == 1
    assert buildrun("cache", "gc").code == 0
    assert buildrun(served.url, LOCAL, "--offline").code == 0
    assert buildrun("cache", "clear").code == 0
    assert buildrun("cache", "info", "--format=json").data["sources"]["count"] == 0
    assert buildrun(served.url, LOCAL).code == 0


def test_mirror_in_use_is_not_removed(
    served: Repository, start: Start, gate: Gate, buildrun: Buildrun, store: Path
) -> None:
    served.commit(MLproject=paused("pwd", "git log --oneline"))
    live = start(served.url)
    gate.wait()
    assert buildrun("cache", "clear").code == 0
    assert len(working_directories(store)) == 1
    gate.open()
    assert live.wait().printed().endswith(" x\n")


@pytest.mark.parametrize("form", ["a@host:{path}", "host:{path}", "ssh://a@host{path}"])
def test_repository_over_ssh(tmp_path: Path, buildrun: Buildrun, run: Run, form: str) -> None:
    made = repository(tmp_path / "served" / "churn")
    # Stands for ssh: the last word is the command for the other side.
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$@" >> "$0.log"\nfor last; do :; done\neval "$last"\n')
    ssh.chmod(0o755)
    assert run(form.format(path=made.path), environ={"GIT_SSH_COMMAND": str(ssh)})[1] == "one"
    named = buildrun(
        form.format(path=made.path), LOCAL, environ={"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    assert named.code == 0, named.err
    # Nobody is asked for a passphrase or whether a host is trusted.
    assert "BatchMode=yes" in (tmp_path / "ssh.log").read_text()


def test_server_that_gives_no_single_commits(tmp_path: Path, run: Run) -> None:
    made = repository(tmp_path / "p")
    made.commit(data__txt="two\n")
    first = made.git("rev-parse", "HEAD~1")
    made.git("clone", "--quiet", "--bare", made.path, tmp_path / "served" / "p.git")
    made.git("-C", tmp_path / "served" / "p.git", "update-server-info")
    with files(tmp_path / "served") as server:  # only files, as a plain web server has them
        for version, data in (("main", "two"), (first, "one")):
            assert run(f"{server.url}/p.git", "-v", version)[1:] == [data]


def test_repository_with_sha256(tmp_path: Path, run: Run) -> None:
    made = repository(tmp_path / "served" / "p")
    shutil.rmtree(made.path / ".git")
    made.git("init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    commit = made.commit()
    with daemon(tmp_path / "served") as url:
        for arguments in ([f"{url}/p"], [f"{url}/p", "-v", commit], [str(made.path), "-v", "main"]):
            assert run(*arguments)[1:] == ["one"]


def test_shallow_checkout_has_versions_as_well(tmp_path: Path, run: Run) -> None:
    made = repository(tmp_path / "p")
    made.commit(data__txt="two\n")
    made.git("clone", "--quiet", "--depth=1", f"file://{made.path}", tmp_path / "shallow")
    assert run(tmp_path / "shallow", "-v", "main")[1:] == ["two"]


def test_worktree_has_versions_as_well(tmp_path: Path, run: Run) -> None:
    made = repository(tmp_path / "p")
    made.git("worktree", "add", "--quiet", "-b", "side", tmp_path / "side")
    Repository(tmp_path / "side").commit(data__txt="side\n")
    for version, data in (("main", "one"), ("side", "side")):
        assert run(tmp_path / "side", "-v", version)[1:] == [data]


def test_names_that_a_terminal_or_a_shell_would_act_on_are_data(
    tmp_path: Path, buildrun: Buildrun
) -> None:
    made = repository(tmp_path / "a b$(touch hacked)\x1b[31m;'\"é")
    assert buildrun(made.path, LOCAL, "-v", "main").printed().endswith("one\n")
    assert not list(tmp_path.rglob("hacked"))


def test_parameters_of_a_fetched_project_are_relative_to_the_caller(
    served: Repository, buildrun: Buildrun, tmp_path: Path
) -> None:
    served.commit(
        MLproject="name: p\nentry_points:\n  main:\n    parameters: {file: path}\n"
        "    command: 'cat {file}'\n"
    )
    (tmp_path / "mine.txt").write_text("mine\n")
    assert buildrun(served.url, LOCAL, "-P", "file=mine.txt").out == "mine\n"
