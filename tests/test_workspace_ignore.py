"""The rules of git and our own: which files of a tree belong to a project."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from workspace_helpers import fresh, write

QUIET = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(directory: Path | str, *arguments: str) -> bytes:
    argv = ("git", "-c", "core.excludesFile=", "-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        (*argv, *arguments), cwd=directory, env=QUIET, capture_output=True, check=True, timeout=60
    )
    return done.stdout


def default_inputs(root: Path) -> set[str]:
    taken = fresh(root).inputs(None, ())
    assert not taken.problems
    return {entry.path for entry in taken.entries()}


def visible_to_git(root: Path) -> set[str]:
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return {
        os.fsdecode(path)
        for path in listed.split(b"\0")
        if path and os.path.lexists(os.path.join(os.fsencode(root), path))
    }


NAMES = ("a", "b", "ab", "a.o", "b.o", "x y", "[a]", "#a", "!b", "a\\b", "é", " ", "a ", "*")
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
pieces = st.sampled_from(
    (
        "a", "b", "ab", "*", "**", "***", "?", "/", "/", "/", "[ab]", "[!a]", "[^b]", "[a-b]",
        "[[:alpha:]]", "[[:nope:]]", "[", "]", "[]a]", "[\\]a]", "[a", "\\", "\\*", "\\a", "\\/",
        ".o", "*.o", " ", "\\ ", "#", "!", "é", "é"[:1], "[b-a]", "[*]", "[a-]",
        "[--b]", "[[:alpha:]-z]",
    )
)  # fmt: skip
rules = st.tuples(
    st.sampled_from(("", "", "", "!", "/", "!/", "**/", "#")),
    st.lists(pieces, min_size=1, max_size=5).map("".join),
    st.sampled_from(("", "", "/", "/**", " ", "\r", "\t")),
).map("".join)
files_of_rules = st.lists(rules, max_size=5).map("\n".join)


def lay_out(root: Path, tree: Sequence[str]) -> list[str]:
    """Make the files that fit: a name may be a file in one path and a directory in another."""
    made = []
    for path in tree:
        try:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch(exist_ok=False)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        made.append(path)
    return made


@given(
    tree=st.lists(paths, max_size=14),
    top=files_of_rules,
    inner=st.dictionaries(st.sampled_from(("a", "b", "a/a", "ab")), files_of_rules, max_size=2),
    exclude=files_of_rules,
    tracked=st.sets(st.integers(0, 13), max_size=4),
    below=st.sampled_from(("", "", "a", "a/b")),
)
@example(["a/x y/b"], "a**/b", {}, "", set(), "")
@example(["a/b", "a/ab/b"], "a/**\n!a/**/", {}, "", {0}, "")
@settings(
    max_examples=int(os.environ.get("BUILDRUN_TEST_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_the_files_are_those_that_git_does_not_ignore(
    tree: list[str], top: str, inner: dict[str, str], exclude: str, tracked: set[int], below: str
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        git(root, "init", "-q")
        made = lay_out(root, tree)
        for number in sorted(tracked):
            if number < len(made):
                git(root, "update-index", "--add", "--", made[number])
        (root / ".gitignore").write_text(top)
        (root / ".git" / "info").mkdir(exist_ok=True)
        (root / ".git" / "info" / "exclude").write_text(exclude)
        for place, text in inner.items():
            if (root / place).is_dir():
                (root / place / ".gitignore").write_text(text)
        project = root / below
        if not project.is_dir():
            project = root
        if project != root and is_ignored(root, below):
            return  # which rules count there is said elsewhere
        assert default_inputs(project) == visible_to_git(project)


def is_ignored(root: Path, path: str) -> bool:
    argv = ("git", "check-ignore", "-q", "--no-index", "--", path)
    done = subprocess.run(argv, cwd=root, env=QUIET, check=False, timeout=60)
    return done.returncode == 0


def test_what_programs_leave_behind_is_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        "keep.py", ".hg/x", ".svn/x", "a/__pycache__/b.pyc", "c.pyc", "mlruns/0/meta.yaml",
        "mlartifacts/x", "mlflow.db", "mlflow.db-wal", ".ipynb_checkpoints/x", ".pytest_cache/x",
        ".mypy_cache/x", ".ruff_cache/x", ".DS_Store", "a/.DS_Store", "env/pyvenv.cfg", "env/lib/x",
        "conda/conda-meta/history", "conda/bin/python", ".buildrun-12/x", ".git/x", "MLproject",
        "inner/MLproject", "src/keep.egg-info/PKG-INFO",
    )  # fmt: skip
    assert default_inputs(tmp_path) == {"keep.py", "inner/MLproject"}


def test_rules_count_without_a_repository(tmp_path: Path) -> None:
    write(tmp_path, "a.log", "b.txt", "sub/c.txt", "sub/a.log")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "sub" / ".gitignore").write_text("c.txt\n!a.log\n")
    assert default_inputs(tmp_path) == {".gitignore", "b.txt", "sub/.gitignore", "sub/a.log"}


def test_own_rules_win_over_those_of_git(tmp_path: Path) -> None:
    write(tmp_path, "data/a.csv", "docs/b.md", "tracked.txt", "notes.txt")
    (tmp_path / ".gitignore").write_text("data/\n")
    (tmp_path / ".buildrunignore").write_text("!/data/\ndocs\n*.txt\n!notes.txt\n")
    expected = {".gitignore", ".buildrunignore", "data/a.csv", "notes.txt"}
    assert default_inputs(tmp_path) == expected


def test_own_rules_leave_out_tracked_files(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    write(tmp_path, "sub/a.txt", "sub/b.txt", "c.txt")
    (tmp_path / ".gitignore").write_text("sub/\nc.txt\n")
    (tmp_path / ".buildrunignore").write_text("b.txt\n")
    git(tmp_path, "add", "-f", ".")
    assert default_inputs(tmp_path) == {".gitignore", ".buildrunignore", "sub/a.txt", "c.txt"}


def test_a_file_that_becomes_tracked_is_noticed_with_an_index(tmp_path: Path) -> None:
    root, index = tmp_path / "project", tmp_path / "index"
    write(root, "a.txt", "b.txt")
    git(root, "init", "-q")
    (root / ".gitignore").write_text("*.txt\n")

    def listed() -> set[str]:
        prints = fresh(root, index)
        found = {entry.path for entry in prints.inputs(None, ()).entries()}
        prints.save()
        return found

    assert listed() == {".gitignore"}
    git(root, "add", "-f", "a.txt")
    assert listed() == {".gitignore", "a.txt"}
    (root / ".gitignore").write_text("b*\n")
    git(root, "add", "-f", "b.txt")
    assert listed() == {".gitignore", "a.txt", "b.txt"}
    git(root, "rm", "-q", "--cached", "b.txt")
    assert listed() == {".gitignore", "a.txt"}


def test_rules_above_the_project_count_unless_they_ignore_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("*.log\n/scratch/\n/project/sub/x\n")
    for name in ("project", "scratch"):
        write(tmp_path / name, "a.log", "b", "sub/x")
    assert default_inputs(tmp_path / "project") == {"b"}
    assert default_inputs(tmp_path / "scratch") == {"a.log", "b", "sub/x"}


def test_the_exclude_file_of_a_worktree_is_that_of_its_repository(tmp_path: Path) -> None:
    main, tree = tmp_path / "main", tmp_path / "tree"
    main.mkdir()
    git(main, "init", "-q")
    write(main, "a", ".hidden")
    git(main, "add", "a")
    git(main, "commit", "-q", "-m", "a")
    git(main, "worktree", "add", "-q", str(tree))
    (main / ".git" / "info").mkdir(exist_ok=True)
    (main / ".git" / "info" / "exclude").write_text("*.secret\n")
    write(tree, "b", "c.secret")
    assert default_inputs(tree) == {"a", "b"} == visible_to_git(tree)


def test_the_rules_of_the_user_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules").write_text("*.txt\n")
    (tmp_path / "config").write_text(f"[core]\n\texcludesFile = {tmp_path}/rules\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    root = tmp_path / "project"
    write(root, "a.txt")
    git(root, "init", "-q")
    assert default_inputs(root) == {"a.txt"}


def test_a_file_of_rules_that_is_no_file_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "a", "rules")
    (tmp_path / "rules").write_text("a\n")
    os.mkfifo(tmp_path / ".buildrunignore")
    (tmp_path / ".gitignore").symlink_to("rules")
    assert default_inputs(tmp_path) == {"a", "rules", ".gitignore"}
