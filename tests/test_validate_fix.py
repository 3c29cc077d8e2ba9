"""`buildrun validate --fix` mends what is certain, and changes nothing else."""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, Buildrun, Project
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from buildrun.errors import ProjectError
from buildrun.project import fix
from buildrun.project.read import Row, check_files
from buildrun.store.memo import DependencyTracker

CASES = Path(__file__).parent / "cases"
CORPUS = REPOSITORY.parent / "shared" / "corpus"
NAME = "name: x\n"


def flow(parameters: str, command: str) -> str:
    """Return a project in YAML's flow style."""
    return (
        NAME + f"entry_points: {{main: {{parameters: {{{parameters}}}, command: '{command}'}}}}\n"
    )


def fixed(buildrun: Buildrun, directory: Path, text: str, name: str = "MLproject") -> str:
    """Return what `--fix` makes of a file, and see to it that a second time changes nothing."""
    path = directory / name
    path.write_bytes(text.encode())
    buildrun("validate", "--fix", path, cwd=directory)
    once = path.read_bytes()
    done = buildrun("validate", "--fix", path, cwd=directory)
    assert "fixed[" not in done.err
    assert path.read_bytes() == once
    return once.decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("nmae: x\n", "name: x\n"),
        ("Name: x\n", "name: x\n"),
        ("'nmae' :  x  # nmae\n", "'name' :  x  # nmae\n"),
        (NAME + "entry_points: {main: {command: a, key_evn: [A], sandbox: {netwrok: false}}}\n",
         NAME + "entry_points: {main: {command: a, key_env: [A], sandbox: {network: false}}}\n"),
        ("entrypoints: {main: {command: a}}\n", "entry_points: {main: {command: a}}\n"),
        (NAME + "entry_points:\n  main:\n    comand: |\n      a\n       b\n",
         NAME + "entry_points:\n  main:\n    command: |\n      a\n       b\n"),
        (NAME + "entry_points:\n  main:\n    paramters:\n      a: flaot\n    comand: x {a}\n",
         None),  # what the misspelt key hides is wrong as well
        (NAME + "entry_points:\n  main:\n    paramters: {a: float}\n    comand: x {a}\n",
         NAME + "entry_points:\n  main:\n    parameters: {a: float}\n    command: x {a}\n"),
        (flow("a: flaot, b: {type: 'flaot'}", "{a} {b}"),
         flow("a: float, b: {type: 'float'}", "{a} {b}")),
        (flow("a: {tpye: flaot}", "{a}"), flow("a: {type: float}", "{a}")),
        (flow("a: {type:flaot}", "{a}"), flow("a: {type: float}", "{a}")),
        (flow("a: {type:float, default:1}", "{a}"), flow("a: {type: float, default: 1}", "{a}")),
        (flow("", "x").replace("command: ", "command:").replace("'", ""),
         flow("", "x").replace("'", "")),
    ],
)  # fmt: skip
def test_certain_mistakes_are_mended(
    buildrun: Buildrun, tmp_path: Path, before: str, after: str | None
) -> None:
    assert fixed(buildrun, tmp_path, before) == (before if after is None else after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("python: 3.10\n", 'python: "3.10"\n'),
        (
            "{python: 3.10, dependencies: []} # 3.10\n",
            '{python: "3.10", dependencies: []} # 3.10\n',
        ),
        ("python: &version 3.10\n", None),
        ("python: !!float 3.10\n", None),
        ("python: 3.1e1\n", None),
        ("python: 3_1\n", None),
        ("pyhton: 3.10\n", 'python: "3.10"\n'),
        ("pyhton: [3.10]\n", None),
        ('pyhton: "3.10"\n', 'python: "3.10"\n'),
        ("dependencies: []\ndependancies: [a]\n", None),  # which of the two?
        ("x: &a 3.10\npython: *a\n", None),
    ],
)
def test_environments_are_mended(
    buildrun: Buildrun, tmp_path: Path, before: str, after: str | None
) -> None:
    expected = before if after is None else after
    assert fixed(buildrun, tmp_path, before, "python_env.yaml") == expected


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nnmae: y\n",  # it is there
        "name: x\nenvironment: conda.yaml\n",  # another word is no slip
        "name: 010\n",  # the text may be meant, or the number
        flow("a: int, b: url, c: urn", "{a} {b} {c}"),
        flow("a: {type int}", "{a}"),
        flow("a: {type: float, type:float}", "{a}"),
        flow("a: {'type:float'}", "{a}"),
        NAME + "entry_points: {main: {command: x, inptus: [absent.txt]}}\n",  # a new error
        "name: x\nnote: |\n  a\x85nmae: y\n",
    ],
)  # fmt: skip
def test_what_is_not_certain_stays(buildrun: Buildrun, tmp_path: Path, text: str) -> None:
    assert fixed(buildrun, tmp_path, text) == text


def test_layout_line_ends_and_byte_order_mark_stay(buildrun: Buildrun, tmp_path: Path) -> None:
    before = "\ufeffnmae:  x # é🎉\r\n\r\nentry_points :\r\n  'main': {comand : 'a'}\r\n\r\n# end"
    expected = before.replace("nmae:  x", "name:  x").replace("comand", "command")
    assert fixed(buildrun, tmp_path, before) == expected


def test_what_was_mended_is_said_and_the_rest_decides(buildrun: Buildrun, project: Project) -> None:
    directory = project("nmae: x\npython_env: e.yaml\nother: y\n", e__yaml="python: 3.10\n")
    first = buildrun("validate", "--strict", cwd=directory)
    assert first.err == "2 files checked: 0 errors, 3 warnings; `--fix` may mend 2 of them\n"
    done = buildrun("validate", "--fix", "--strict", cwd=directory)
    assert done.code == 1
    assert done.err.splitlines() == [
        "MLproject:1:1: fixed[unknown-key]: `nmae` is now `name`",
        'e.yaml:1:9: fixed[unquoted-version]: `3.10` is now `"3.10"`',
        "2 files checked: 0 errors, 1 warning",
    ]
    assert done.out.startswith("MLproject:3:1: warning[unknown-key]")
    assert buildrun("validate", "--fix", "-q", cwd=directory).err == ""


def test_diff_shows_and_writes_nothing(buildrun: Buildrun, project: Project) -> None:
    directory = project("# top\nnmae: x")
    done = buildrun("validate", "--fix", "--diff", directory, cwd=directory.parent)
    assert done.out == (
        "--- a/project/MLproject\n+++ b/project/MLproject\n@@ -1,2 +1,2 @@\n # top\n"
        "-nmae: x\n\\ No newline at end of file\n+name: x\n\\ No newline at end of file\n"
    )
    assert (directory / "MLproject").read_text() == "# top\nnmae: x"
    assert done.code == 0
    assert buildrun("validate", "--diff", "--strict", directory).code == 1
    refused = buildrun("validate", "--diff", "--format", "json", directory)
    assert refused.code == 2
    assert "`--diff`" in refused.err


def test_json_marks_what_can_be_mended(buildrun: Buildrun, project: Project) -> None:
    done = buildrun("validate", "--format", "json", project("nmae: x\nother: y\n"))
    first, second = done.data["files"][0]["diagnostics"]
    assert first["fixable"] is True
    assert "fixable" not in second
    assert "fix" not in first


def test_rights_and_links_stay(buildrun: Buildrun, project: Project) -> None:
    directory = project(name="project")
    real = directory / "real"
    real.write_text("nmae: x\n")
    real.chmod(0o640)
    os.chown(real, -1, os.getgroups()[-1] if os.getuid() else 7)
    before = real.stat()
    (directory / "MLproject").symlink_to("real")
    assert buildrun("validate", "--fix", directory).code == 0
    assert real.read_text() == "name: x\n"
    assert (directory / "MLproject").is_symlink()
    now = real.stat()
    assert (stat.S_IMODE(now.st_mode), now.st_gid) == (0o640, before.st_gid)
    assert [path.name for path in directory.iterdir() if path.name.endswith("tmp")] == []


def test_file_that_changed_meanwhile_is_left_alone(project: Project) -> None:
    directory = project("nmae: x\n")
    rows = check_files([str(directory)], "/", DependencyTracker({}))
    (mended,) = fix.mend(rows, "/", {})
    (directory / "MLproject").write_text("nmae: y\n")
    with pytest.raises(ProjectError, match="was changed"):
        fix.write(mended)
    assert (directory / "MLproject").read_text() == "nmae: y\n"


def test_file_that_two_projects_share_is_mended_once(buildrun: Buildrun, project: Project) -> None:
    one, two = (project(NAME + "python_env: e.yaml\n", name=name) for name in ("one", "two"))
    (one / "e.yaml").write_text("python: 3.10\n")
    (two / "e.yaml").symlink_to(one / "e.yaml")
    done = buildrun("validate", "--fix", "--strict", "one", "two", cwd=one.parent)
    assert done.code == 0
    assert done.err.count("fixed[") == 1
    assert (one / "e.yaml").read_text() == 'python: "3.10"\n'


def test_kubernetes_configuration_is_mended(buildrun: Buildrun, tmp_path: Path) -> None:
    text = '{\n\t"repository-uri": "a/b",\n\t"namespce": "c"\n}\n'
    assert fixed(buildrun, tmp_path, text, "k8s.json") == text.replace("namespce", "namespace")


def check(path: Path) -> tuple[Row, ...]:
    return check_files([str(path)], "/", DependencyTracker({}))


def mended_only_where_found(path: Path) -> None:
    """See to it that mending the file makes nothing worse, and touches no line without finding."""
    before = check(path)
    found = {(item.path, item.line) for row in before for item in row.diagnostics}
    for mended in fix.mend(before, "/", {}):
        lines = itertools.zip_longest(mended.before.split(b"\n"), mended.after.split(b"\n"))
        touched = {number for number, (old, new) in enumerate(lines, 1) if old != new}
        assert touched <= {line for name, line in found if name == mended.path}
        fix.write(mended)
    after = check(path)
    for strict in (False, True):
        fails = not all(row.is_valid(strict=strict) for row in after)
        assert not fails or not all(row.is_valid(strict=strict) for row in before)
    assert sum(len(row.diagnostics) for row in after) <= sum(len(row.diagnostics) for row in before)
    assert fix.mend(after, "/", {}) == ()


def shapes() -> Iterator[object]:
    """Yield the files of the corpus, where it is, and of our own cases: names and texts."""
    for name in ("mlproject_cases.json", "env_cases.json") if CORPUS.is_dir() else ():
        for case in json.loads((CORPUS / name).read_text()):
            file = f"{case['kind']}.yaml" if "kind" in case else "MLproject"
            text = case["text"] if "kind" in case else case["mlproject"]
            yield pytest.param(file, text, id=case["id"])
    for path in sorted(CASES.glob("*/*/*")):
        if path.is_file():
            yield pytest.param(path.name, path.read_text(), id=f"{path.parent.name}-{path.name}")


@pytest.mark.parametrize(("name", "text"), list(shapes()))
def test_no_file_gets_worse(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    mended_only_where_found(tmp_path / name)


KEYS = ["name", "nmae", "Name", "entry_points", "entry_point", "python_env", "pythn_env", "x"]
POINT_KEYS = ["command", "comand", "parameters", "paramters", "parameter", "timeout", "time_out"]
TYPES = ["float", "flaot", "strng", "path", "pth", "int", "whatever", "a b", "type:flaot"]


def scalars() -> st.SearchStrategy[object]:
    return st.one_of(
        st.sampled_from([*TYPES, "echo {a}", "python {aa}", "x: y", "# no comment", "", "é"]),
        st.sampled_from([None, 3.1, 10, True]),
    )


def projects() -> st.SearchStrategy[object]:
    parameter = st.one_of(
        scalars(),
        st.dictionaries(st.sampled_from(["type", "typ", "tpye", "default", "defualt"]), scalars()),
    )
    parameters = st.dictionaries(st.sampled_from(["a", "aa", "b"]), parameter)
    point = st.dictionaries(st.sampled_from(POINT_KEYS), st.one_of(scalars(), parameters))
    points = st.dictionaries(st.sampled_from(["main", "other"]), st.one_of(scalars(), point))
    return st.dictionaries(st.sampled_from(KEYS), st.one_of(scalars(), points))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example({"entry_points": {"main": {"paramters": {"a": "flaot"}, "comand": "{a}"}}}, True, "\r\n")
@given(projects(), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_no_generated_project_gets_worse(
    tmp_path: Path, value: object, flow: bool, end: str
) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, sort_keys=False, width=40)
    text = text.replace("type: ", "type:") if flow else text
    (tmp_path / "MLproject").write_bytes(text.replace("\n", end).encode())
    mended_only_where_found(tmp_path)
