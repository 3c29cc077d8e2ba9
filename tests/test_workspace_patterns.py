"""Patterns of inputs: which paths they mean, by their text and on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workspace_helpers import fresh, write

from buildrun.workspace.glob import exists, matches, prefix


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.csv", "a.csv"), ("./data//a.csv", "data/a.csv"), ("*.csv", "a.csv"), ("*", ".env"),
        ("d/*", "d/.a"), ("?.csv", "é.csv"), ("[a-c]?", "b1"), ("[!a]x", "bx"), ("[]]", "]"),
        ("**/*.csv", "a.csv"), ("**/*.csv", "d/e/a.csv"), ("a/**/b", "a/b"), ("a/**/b", "a/c/d/b"),
        ("a/**", "a/b/c"), ("a/**/*", "a/b/c"), ("**/**/a", "b/c/a"), ("**/*/a", "b/c/a"),
        ("data", "data/x/y"), ("data/", "data/x"), ("data/", "data"),
        ("data", "data/"), ("d*", "data/x"), ("*.d", "a.d/b.txt"), ("**", "a/b"), (".", "a/b"),
        ("\\*", "*"), ("[*]", "*"), ("a\nb", "a\nb"), ("*", "a\nb"), ("\udcff*", "\udcffx"),
    ],
)  # fmt: skip
def test_a_pattern_means_a_path(pattern: str, path: str) -> None:
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*.csv", "d/a.csv"), ("a?b", "a/b"), ("a[/]b", "a/b"), ("a[!x]b", "a/b"), ("a.csv", "b"),
        ("data", "data2"), ("d/*.csv", "d/e/a.csv"), ("a/**", "a"), ("a**b", "a/b"), ("A", "a"),
        ("/a", "a"), ("../a", "../a"), ("a/..", "a"), ("", "a"), ("[a", "[a"), ("\\*", "a"),
        ("a\0", "a\0"), ("**/*/a", "a"), ("\ud800", "\ud800"), ("**/*/a", "b/c"),
        ("*.csv", "a.csv\n"),
    ],
)  # fmt: skip
def test_a_pattern_does_not_mean_a_path(pattern: str, path: str) -> None:
    assert not matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "directory"),
    [
        ("a.csv", ""), ("data/a.csv", "data"), ("data/", "data"), ("data/raw/*.csv", "data/raw"),
        ("*/a", ""), ("./a/b/**/c", "a/b"), ("**", ""), ("a/**", "a"), (".", ""), ("", ""),
    ],
)  # fmt: skip
def test_everything_that_matches_lies_beneath_the_prefix(pattern: str, directory: str) -> None:
    assert prefix(pattern) == directory


def paths_of(root: Path, *patterns: str) -> list[str]:
    taken = fresh(root).inputs(patterns, ())
    assert not taken.problems
    return [entry.path for entry in taken.entries()]


def test_existing_is_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "d/b.txt")
    (tmp_path / "dangling").symlink_to("nowhere")
    for pattern in ("a.txt", "*.txt", "d", "d/", "**/b.txt", "d/**", "dangling", "."):
        assert exists(str(tmp_path), pattern), pattern
    for pattern in ("a.txt/", "a.txt/x", "*.csv", "dangling/", "../*", "x/**", "d/*/"):
        assert not exists(str(tmp_path), pattern), pattern


def test_patterns_win_over_rules_of_git(tmp_path: Path) -> None:
    write(tmp_path, "data/a.csv", "data/b.csv")
    (tmp_path / ".gitignore").write_text("data\n")
    assert paths_of(tmp_path, "data/*.csv") == ["data/a.csv", "data/b.csv"]
    assert paths_of(tmp_path, "data/b.csv", "data") == ["data/a.csv", "data/b.csv"]


def test_leftovers_count_only_where_a_pattern_spells_them(tmp_path: Path) -> None:
    write(tmp_path, "src/a.py", "src/__pycache__/a.pyc", "src/.DS_Store", "src/.git/x")
    write(tmp_path, "mlruns/0/meta.yaml", ".git/config", ".buildrun-1/x")
    assert paths_of(tmp_path, "src") == ["src/a.py"]
    assert paths_of(tmp_path, "**/a.py*") == ["src/a.py"]
    assert paths_of(tmp_path, "*") == ["src/a.py"]
    assert paths_of(tmp_path, "mlruns/0") == ["mlruns/0/meta.yaml"]
    assert paths_of(tmp_path, "src/__pycache__/*") == []
    assert paths_of(tmp_path, "src/__pycache__/a.pyc") == ["src/__pycache__/a.pyc"]
    for pattern in (".git", ".git/config", "src/.git/x", ".buildrun-1", ".buildrun-1/*"):
        assert not exists(str(tmp_path), pattern), pattern


def test_a_directory_that_is_a_link_is_entered_where_a_part_names_it(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(tmp_path, "elsewhere/a.csv", "elsewhere/b.txt")
    root.mkdir()
    (root / "data").symlink_to("../elsewhere")
    assert paths_of(root, "data/*.csv") == ["data/a.csv"]
    assert paths_of(root, "d*/a.csv") == ["data/a.csv"]
    assert exists(str(root), "data/")


def test_any_depth_enters_links_that_lead_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(tmp_path, "elsewhere/a.csv", "elsewhere/d/b.csv", "elsewhere/c.txt", "project/d/a.csv")
    (root / "data").symlink_to("../elsewhere")
    (root / "again").symlink_to("../elsewhere")
    (root / "inside").symlink_to("d")
    (root / "up").symlink_to(".")
    (tmp_path / "elsewhere" / "back").symlink_to("../project")
    assert exists(str(root), "**/b.csv")
    assert not exists(str(root), "**/absent.csv")
    # The links count as well: where they lead to decides what lies beneath them.
    assert paths_of(root, "**/*.csv") == [
        "again", "again/a.csv", "again/back", "again/d/b.csv", "d/a.csv", "data", "inside", "up",
    ]  # fmt: skip


names = st.sampled_from(["a", "b", "ab", ".c", "d.e", "é", "[a]"])
trees = st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8)
parts = st.sampled_from(["a", "b", "*", "**", "?", "a*", "*b", "[ab]", "[!a]", ".*", "\\[a]", "é"])


@given(trees, st.lists(parts, min_size=1, max_size=3).map("/".join))
@settings(max_examples=150, deadline=None)
def test_the_disk_and_the_text_agree(
    tmp_path_factory: pytest.TempPathFactory, tree: list[str], pattern: str
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path in tree:
        try:
            write(root, path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    every = {
        os.path.relpath(os.path.join(directory, name), root)
        for directory, _, files in os.walk(root)
        for name in files
    }
    assert set(paths_of(root, pattern)) == {path for path in every if matches(pattern, path)}
