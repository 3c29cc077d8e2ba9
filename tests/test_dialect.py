"""What buildrun adds to entry points is read as written, checked as a whole, and documented."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, Buildrun, Project
from hypothesis import given, settings
from hypothesis import strategies as st

from buildrun.project import codec
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.model import (
    Dependency,
    EntryPoint,
    Parameter,
    Pattern,
    ProjectSpec,
    Sandbox,
)
from buildrun.project.read import check_files, read_project
from buildrun.project.rules.dependencies import cycles, graph_of, needed
from buildrun.project.rules.entry_points import seconds
from buildrun.project.rules.inputs import unmatched, unmatched_diagnostic
from buildrun.store.memo import DependencyTracker

DIALECT = Path(__file__).parent / "cases" / "valid" / "dialect"


def read(directory: Path) -> tuple[ProjectSpec, tuple[Diagnostic, ...]]:
    reading = read_project(str(directory), DependencyTracker({}))
    assert reading.spec is not None
    return reading.spec, reading.diagnostics


def entry_point(project: Project, lines: str, *, more: str = "") -> EntryPoint:
    """Return the entry point of a project that has these lines, and no error."""
    text = "name: x\nentry_points:\n  main:\n    command: run\n"
    spec, found = read(
        project(text + "".join(f"    {line}\n" for line in lines.split("\n")) + more)
    )
    assert not [item for item in found if item.severity == "error"]
    return spec.entry_points[0]


def codes(directory: Path) -> list[str]:
    return [item.code for item in read(directory)[1]]


def steps(project: Project, entry_points: dict[str, Any], **files: str) -> Path:
    """Return a project whose entry points say this, each with a command."""
    value = {name: {"command": "run", **keys} for name, keys in entry_points.items()}
    text = yaml.safe_dump({"name": "x", "entry_points": value}, sort_keys=False)
    return project(text, **files)


def test_entry_point_is_read_whole() -> None:
    spec, found = read(DIALECT)
    assert not found
    prepare, features = spec.entry_points[:2]
    assert prepare == EntryPoint(
        "prepare",
        (Parameter("rows", "float", "100"), Parameter("source", "path", "raw.csv")),
        "python prepare.py {rows} {source}",
        (),
        (Pattern("prepare.py", 7, 14), Pattern("raw.csv", 7, 26)),
        ("data/",),
        (("MODE", "fast"), ("OMP_NUM_THREADS", "4"), ("EMPTY", ""), ("RATE", "0.5")),
        ("AWS_PROFILE", "_x"),
        5400.0,
        1,
        ("API_URL",),
        True,
        Sandbox(network=False, allow=("~/.netrc", "/data/models")),
    )
    assert features.depends_on == (
        Dependency("prepare", (("rows", "{rows}"), ("source", "raw.csv"))),
    )
    assert features.timeout == 90.0
    assert (features.key_env, features.check_inputs, features.sandbox) == ((), False, None)
    assert spec.entry_points[-1].inputs is None


def test_what_is_read_can_be_remembered() -> None:
    spec, _ = read(DIALECT)
    assert codec.load_project(codec.dump_project(spec)) == spec


def test_entry_point_of_mlflow_has_no_steps() -> None:
    spec, _ = read(DIALECT.parent / "documentation")
    for item in spec.entry_points:
        assert item == EntryPoint(item.name, item.parameters, item.command)


@pytest.mark.parametrize(
    ("written", "output"),
    [
        ("model.pkl", "model.pkl"), ("./model.pkl", "model.pkl"), ("a//b/", "a/b/"),
        ("a/../b", "b"), ("metrics/.", "metrics/"), ("metrics///", "metrics/"), ("a b", "a b"),
        ("'{{x}'", "{{x}"), ("..a/b..", "..a/b.."), ("dir/[1]", "dir/[1]"), ("mlruns/", "mlruns/"),
    ],
)  # fmt: skip
def test_output_is_normalised(project: Project, written: str, output: str) -> None:
    assert entry_point(project, f"outputs: ['{written}']" if "'" not in written
                       else f"outputs: [{written}]").outputs == (output,)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("fast", "fast"), ("4", "4"), ("0.5", "0.5"), ("true", "True"), ("no", "False"),
        ("'yes'", "yes"), ("''", ""), ("010", "8"), ("1e3", "1e3"), ("'a\nb'", "a b"),
    ],
)  # fmt: skip
def test_variable_is_the_text_of_its_value(project: Project, value: str, text: str) -> None:
    assert entry_point(project, f"env: {{A: {value}}}").env == (("A", text),)


@pytest.mark.parametrize(
    ("value", "text"), [("5", "5"), ("'{a}'", "{a}"), ("true", "True"), ("x y", "x y")]
)
def test_value_handed_down_is_the_text_of_its_value(
    project: Project, value: str, text: str
) -> None:
    lines = f"depends_on: [{{entry_point: b, parameters: {{p: {value}}}}}]\nparameters: {{a: path}}"
    more = "  b: {parameters: {p: }, command: 'run {p}'}\n"
    found = entry_point(project, lines, more=more).depends_on
    assert found == (Dependency("b", (("p", text),)),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90), ("'90s'", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1h30m", 5400),
        ("1d2h3m4s", 93784), ("1h5", 3605), ("007m", 420), ("0.5", 0.5), ("1.50", 1.5),
        ("", None),
    ],
)  # fmt: skip
def test_timeout_is_read_in_seconds(project: Project, text: str, expected: float | None) -> None:
    assert entry_point(project, f"timeout: {text}").timeout == expected


@pytest.mark.parametrize(
    "text", ["", " 9", "9 ", "s", "1.5h", "-1", "1m1h", "1w", "1H", "٣", "9\n", "1e3", "9" * 200]
)
def test_what_is_no_time(text: str) -> None:
    assert seconds(text) is None


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("100", 100), ("1.0", 1), ("", 0)])
def test_retries_are_read(project: Project, value: str, expected: int) -> None:
    found = entry_point(project, f"retries: {value}").retries
    assert found == expected
    assert isinstance(found, int)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("true", Sandbox()), ("false", None), ("", None), ("{}", Sandbox()),
        ("auto", Sandbox(required=False)), ("{network: false}", Sandbox(network=False)),
        ("{network: true, allow: [/a]}", Sandbox(allow=("/a",))),
    ],
)  # fmt: skip
def test_sandbox_is_read(project: Project, value: str, expected: Sandbox | None) -> None:
    assert entry_point(project, f"sandbox: {value}").sandbox == expected


def test_pattern_knows_its_place(project: Project) -> None:
    found = entry_point(project, 'inputs:\n  - MLproject\n  - "*"\noutputs: [a]').inputs
    assert found == (Pattern("MLproject", 6, 9), Pattern("*", 7, 9))


def test_parameter_that_is_handed_down_is_used(project: Project) -> None:
    directory = steps(
        project,
        {
            "prepare": {"parameters": {"rows": "float"}, "command": "run {rows}"},
            "train": {
                "parameters": {"rows": {"type": "float", "default": 5}},
                "depends_on": [{"entry_point": "prepare", "parameters": {"rows": "{rows}"}}],
            },
        },
    )
    assert codes(directory) == []


def test_same_entry_point_may_be_needed_with_other_parameters(project: Project) -> None:
    prepare = {"parameters": {"rows": "float"}, "command": "run {rows}"}
    depends_on = [{"entry_point": "prepare", "parameters": {"rows": rows}} for rows in (1, 2)]
    directory = steps(project, {"prepare": prepare, "train": {"depends_on": depends_on}})
    spec, found = read(directory)
    assert not found
    assert len(spec.entry_points[1].depends_on) == 2


def test_cycle_is_named_whole_and_from_its_first_entry_point(project: Project) -> None:
    directory = steps(
        project,
        {
            "last": {"depends_on": ["c"]},
            "a": {"depends_on": ["b"]},
            "b": {"depends_on": ["x", "c"]},
            "c": {"depends_on": ["a"]},
            "x": {},
        },
    )
    (found,) = read(directory)[1]
    assert found.code == "dependency-cycle"
    assert found.message.endswith(": a -> b -> c -> a")
    assert found.pointer == "/entry_points/a/depends_on/0"


def test_chain_longer_than_pythons_stack(project: Project) -> None:
    chain: dict[str, Any] = {
        f"s{number}": {"depends_on": [f"s{number - 1}"] if number else []} for number in range(1500)
    }
    spec, found = read(steps(project, chain))
    assert not found
    assert len(needed(graph_of(spec), "s1499")) == 1500
    chain["s0"] = {"depends_on": ["s1499"]}
    (cycle,) = read(steps(project, chain))[1]
    assert cycle.code == "dependency-cycle"


GRAPHS = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefx"), max_size=3), max_size=6
)


@settings(max_examples=300, deadline=None)
@given(graph=GRAPHS)
def test_cycles_are_real_and_none_is_missed(graph: dict[str, list[str]]) -> None:
    found = list(cycles(graph))
    for cycle in found:
        for name, following in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
            assert following in graph[name]
        order = list(graph)
        assert order.index(cycle[0]) == min(order.index(name) for name in cycle)
    in_a_cycle = {
        name for name in graph if any(name in needed(graph, following) for following in graph[name])
    }
    reached = {name for cycle in found for name in cycle}
    assert reached <= in_a_cycle
    for name in in_a_cycle:
        knot = {other for other in needed(graph, name) if name in needed(graph, other)}
        assert reached & knot


@pytest.mark.parametrize(
    ("pattern", "output"),
    [
        ("data", "data/"), ("data/", "data/"), ("data/x.csv", "data/"), ("data/*.csv", "data/"),
        ("data/*.csv", "data/x.csv"), ("data/**/*.csv", "data/clean/"), ("**", "data/"),
        (".", "model"), ("*/x.csv", "data/"), ("models", "models/best/model.pkl"),
        ("**/*.csv", "data/x.csv"), ("**/x/*.csv", "data/x/"), ("[dm]ata/?.csv", "data/1.csv"),
        ("./data//x", "data/x"),
    ],
)  # fmt: skip
def test_input_that_another_makes_is_depended_on(
    project: Project, pattern: str, output: str
) -> None:
    user: dict[str, Any] = {"inputs": [pattern], "outputs": ["result"]}
    assert codes(steps(project, {"a": {"outputs": [output]}, "b": user})) == [
        "undeclared-dependency"
    ]
    user["depends_on"] = ["between"]
    between = {"depends_on": ["a"]}
    directory = steps(project, {"a": {"outputs": [output]}, "between": between, "b": user})
    assert codes(directory) == []
    assert not unmatched(read(directory)[0])


@pytest.mark.parametrize(
    ("pattern", "output"),
    [
        ("data/*.csv", "data/x.txt"), ("data", "data-2/"), ("*.csv", "data/"), ("**/*.py", "data/"),
        ("*.csv", "data/x.csv"), ("data/x/y", "data/x.csv"), ("data/*/x", "model/"),
    ],
)  # fmt: skip
def test_input_that_nobody_makes_needs_no_dependency(
    project: Project, pattern: str, output: str
) -> None:
    user = {"inputs": [pattern], "outputs": ["result"]}
    assert codes(steps(project, {"a": {"outputs": [output]}, "b": user})) == []


def test_own_outputs_do_not_disturb_a_wide_pattern(project: Project) -> None:
    assert codes(steps(project, {"a": {"inputs": ["*", "data/"], "outputs": ["data/x"]}})) == []


def test_inputs_are_of_use_to_a_dependent(project: Project) -> None:
    a: dict[str, Any] = {"inputs": ["MLproject"]}
    assert codes(steps(project, {"a": a})) == ["no-effect"]
    assert codes(steps(project, {"a": a, "b": {"depends_on": ["a"]}})) == []
    assert codes(steps(project, {"a": {**a, "outputs": ["x"]}})) == []


def test_many_overlaps_are_each_found(project: Project) -> None:
    outputs = ["a/", "a/b/c", "a/b", "a-b", "d", "d"]
    directory = steps(project, {f"s{n}": {"outputs": [item]} for n, item in enumerate(outputs)})
    found = read(directory)[1]
    assert {item.code for item in found} == {"overlapping-outputs"}
    assert sorted(item.pointer.split("/")[2] for item in found) == ["s1", "s2", "s5"]


def test_unmatched_input_is_told_by_validate_alone(buildrun: Buildrun, project: Project) -> None:
    directory = steps(project, {"main": {"inputs": ["*.csv"], "outputs": ["x"]}})
    assert codes(directory) == []
    done = buildrun("validate", "--format", "json", directory)
    (item,) = done.data["files"][0]["diagnostics"]
    assert (item["code"], item["severity"], item["pointer"]) == (
        "unmatched-input", "error", "/entry_points/main/inputs/0",
    )  # fmt: skip
    assert done.code == 1
    for form in ("text", "github", "sarif"):
        assert "unmatched-input" in buildrun("validate", "--format", form, directory).out
    assert "unmatched-input" in buildrun("validate", directory / "MLproject").out
    (directory / "data.csv").touch()
    assert buildrun("validate", "--strict", directory).code == 0


def test_unmatched_input_has_its_index_and_place(project: Project) -> None:
    directory = steps(project, {"a/b": {"inputs": ["MLproject", "no"], "outputs": ["x"]}})
    spec = read(directory)[0]
    (found,) = unmatched(spec)
    assert found.pointer == "/entry_points/a~1b/inputs/1"
    text = (directory / "MLproject").read_text().split("\n")[found.line - 1]
    assert text[found.column - 1 :] == "'no'"
    inputs = spec.entry_points[0].inputs
    assert inputs is not None
    assert unmatched_diagnostic(spec, spec.entry_points[0], inputs[1]) == found


@pytest.mark.parametrize("name", ["line\nbreak", os.fsdecode(b"by\xffte"), "émoji 🎉", "a*b"])
def test_unusual_names_are_matched(project: Project, name: str) -> None:
    directory = project("name: x\nentry_points:\n  a: {inputs: ['?*[ati *]?'], command: x}\n")
    assert [item.code for item in unmatched(read(directory)[0])] == ["unmatched-input"]
    (directory / name).touch()
    assert not unmatched(read(directory)[0])


def test_broken_link_is_there(project: Project) -> None:
    directory = steps(project, {"a": {"inputs": ["link"], "outputs": ["x"]}})
    (directory / "link").symlink_to("nowhere")
    assert not unmatched(read(directory)[0])


BROKEN = """\
name: x
entry_points:
  prepare: {outputs: [/abs], command: 'true'}
  train: {depends_on: [prepare], command: 'true'}
  evaluate: {depends_on: [train], command: 'true'}
  other: {command: 'true'}
"""


@pytest.mark.parametrize("name", ["prepare", "train", "evaluate"])
def test_error_in_what_is_needed_stops_a_plan(
    buildrun: Buildrun, project: Project, name: str
) -> None:
    buildrun("plan", "-e", name, "--env-manager", "local", project(BROKEN)).refused(
        "output-outside"
    )


def test_error_elsewhere_is_of_no_concern(buildrun: Buildrun, project: Project) -> None:
    done = buildrun("plan", "-e", "other", "--env-manager", "local", project(BROKEN))
    assert done.code == 0, done.err
    assert "output-outside" not in done.err


KEYS = (
    "depends_on", "inputs", "outputs", "env", "pass_env", "key_env", "timeout", "retries",
    "check_inputs", "sandbox",
)  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["a", "b", "../x", "*", "**/x", "[", "~", "{p}", "{", "1h", "s3://x", "/"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["entry_point", "parameters", "p", "A", "allow", "network"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    a=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    b=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
)
def test_whatever_is_written_ends_in_findings(
    tmp_path_factory: pytest.TempPathFactory, a: dict[str, Any], b: dict[str, Any]
) -> None:
    directory = tmp_path_factory.mktemp("project")
    declared = {"a": {**a, "command": "x", "parameters": {"p": None}}, "b": {**b, "command": "y"}}
    text = yaml.safe_dump({"name": "x", "entry_points": declared})
    (directory / "MLproject").write_text(text)
    rows = check_files([str(directory)], "/", DependencyTracker({}))
    for item in (item for row in rows for item in row.diagnostics):
        assert item.message
        assert item.line >= 1


TABLE = re.compile(r"^\| `([a-z0-9-]+)` \| (error|warning|either) \| (\S.*) \|$", re.MULTILINE)


def codes_of_the_source() -> dict[str, set[str]]:
    """Return the severities that the source gives to each code."""
    found: dict[str, set[str]] = {}
    for path in (REPOSITORY / "buildrun/project").rglob("*.py"):
        text = path.read_text()
        for severity, code in re.findall(
            r'(error|warning)"?(?:\(|,)\s*"([a-z0-9]+(?:-[a-z0-9]+)+)"', text
        ):
            found.setdefault(code, set()).add(severity)
        for code in re.findall(r'get\(str\(error\.validator\), "([a-z-]+)"', text):
            found.setdefault(code, set()).add("error")
        for code in re.findall(r'(?:Error|_finding)\((?:path, )?"([a-z0-9-]+)"', text):
            found.setdefault(code, set()).add("error")
    return found


def rules(value: Any) -> list[dict[str, Any]]:
    """Return every report that a schema describes, with what its cases take over from it."""
    if isinstance(value, list):
        return [rule for item in value for rule in rules(item)]
    if not isinstance(value, dict):
        return []
    found = [rule for key, item in value.items() if key != "x-buildrun" for rule in rules(item)]
    for keyword, rule in value.get("x-buildrun", {}).items():
        cases = [case for case in rule.values() if isinstance(case, dict) and keyword == "type"]
        found += [rule, *({**rule, **case} for case in cases)]
    return found


def test_documents_list_every_code_with_its_severity() -> None:
    from buildrun.project import schemas

    told = codes_of_the_source()
    for name in schemas.NAMES:
        for rule in rules(schemas.load(name)):
            if rule.get("severity") != "ignore" and "code" in rule:
                told.setdefault(rule["code"], set()).add(rule.get("severity", "error"))
    table = TABLE.findall((REPOSITORY / "docs" / "mlproject.md").read_text())
    documented = {
        code: {"error", "warning"} if severity == "either" else {severity}
        for code, severity, _ in table
    }
    assert len(documented) == len(table)
    assert documented == told


def test_documented_project_is_in_order(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "mlproject.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (whole,) = [block for block in blocks if block.startswith("name: ")]
    (tmp_path / "MLproject").write_text(whole)
    (tmp_path / "python_env.yaml").write_text("dependencies: []\n")
    assert read(tmp_path)[1] == ()
    spec = read(tmp_path)[0]
    assert len(spec.entry_points) == 4
    for block in blocks:
        if block.startswith("entry_points:"):
            (tmp_path / "MLproject").write_text("name: x\n" + block)
            assert [item for item in read(tmp_path)[1] if item.severity == "error"] == [], block
