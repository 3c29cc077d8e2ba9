"""Plans in all their formats, of graphs with any names, and what `--force` makes of them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from step_helpers import LOCAL, Run, a_run  # noqa: F401

from buildrun.planning import model
from buildrun.planning.plan_cache import dump_plan, load_plan
from buildrun.project.model import Sandbox
from buildrun.project.read import read_project
from buildrun.store.memo import DependencyTracker

FORMATS = ("text", "json", "mermaid", "dot")
DIAMOND = """\
name: diamond
entry_points:
  top: {inputs: [MLproject], outputs: [t], command: echo t > t}
  left: {depends_on: [top], inputs: [t], outputs: [l], command: echo l > l}
  right: {depends_on: [top], inputs: [t], outputs: [r], command: echo r > r}
  main: {depends_on: [left, right], inputs: [l, r], outputs: [m], command: cat l r > m}
"""
TWICE = """\
entry_points:
  part: {parameters: {p: string}, command: "echo {p}"}
  other: {parameters: {p: string}, depends_on: [{entry_point: part, parameters: {p: "{p}"}}],
    command: "true"}
  main: {parameters: {p: string}, command: "true",
    depends_on: [{entry_point: other, parameters: {p: "{p}"}},
                 {entry_point: part, parameters: {p: plain}}]}
"""
HOSTILE = [
    'say "hi"',
    "a\nb",
    "back\\slash",
    "back\\nslash\\",
    "]-->x[",
    "<b>bold</b> & #35; `code` {x}",
    "\x1b[31mred\x07",
    "größe Δ 日本",
    'end"]; evil --> s0; x["',
    "%% comment",
    "click s0 href",
]

# Graphviz's grammar of a quoted name: only a backslash before a quote is special.
_QUOTED = r'"(?:[^"\\\n]|\\.)*"'
_DOT = re.compile(rf"    ({_QUOTED}) (?:\[label=({_QUOTED})\]|-> ({_QUOTED}));")
_MERMAID = re.compile(r'    (s\d+)(?:\["([^"]*)"\]| --> (s\d+))')


def plan(buildrun: Buildrun, directory: Path, form: str, *arguments: str) -> str:
    outcome = buildrun("plan", directory, LOCAL, f"--format={form}", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out


def dot_of(text: str) -> tuple[list[str], set[tuple[str, str]]]:
    """Return the nodes of a graph of Graphviz and its edges; each line has to be one."""
    first, *lines, last = text.splitlines()
    assert (first, last) == ("digraph plan {", "}")
    found = [_DOT.fullmatch(line) for line in lines]
    assert all(found), text
    nodes = [item[1] for item in found if item and item[2]]
    return nodes, {(item[1], item[3]) for item in found if item and item[3]}


def mermaid_of(text: str) -> tuple[dict[str, str], set[tuple[str, str]]]:
    """Return the labels of a Mermaid flowchart and its edges; each line has to be one."""
    first, *lines = text.splitlines()
    assert first == "flowchart TD"
    found = [_MERMAID.fullmatch(line) for line in lines]
    assert all(found), text
    labels = {item[1]: item[2] for item in found if item and item[2] is not None}
    return labels, {(item[1], item[3]) for item in found if item and item[3]}


def test_graph_has_every_step_once_and_every_edge(project: Project, buildrun: Buildrun) -> None:
    directory = project(DIAMOND)
    nodes, edges = dot_of(plan(buildrun, directory, "dot"))
    assert nodes == ['"top"', '"left"', '"right"', '"main"']
    assert edges == {
        ('"top"', '"left"'),
        ('"top"', '"right"'),
        ('"left"', '"main"'),
        ('"right"', '"main"'),
    }
    labels, arrows = mermaid_of(plan(buildrun, directory, "mermaid"))
    assert labels == {
        "s0": "top: miss",
        "s1": "left: miss",
        "s2": "right: miss",
        "s3": "main: miss",
    }
    assert arrows == {("s0", "s1"), ("s0", "s2"), ("s1", "s3"), ("s2", "s3")}


def test_states_are_those_of_the_steps(project: Project, buildrun: Buildrun) -> None:
    directory = project(DIAMOND)
    assert buildrun("run", directory, LOCAL).code == 0
    (directory / "l").unlink()
    labels, _ = mermaid_of(plan(buildrun, directory, "mermaid"))
    assert list(labels.values()) == [
        "top: up-to-date",
        "left: hit",
        "right: up-to-date",
        "main: up-to-date",
    ]
    text = plan(buildrun, directory, "text")
    assert "\nleft: hit, on local, " in text
    assert "because output `l` is missing\n" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_names_break_no_format(name: str, project: Project, buildrun: Buildrun) -> None:
    directory = project(TWICE)
    arguments = ("-P", f"p={name}")
    texts = {form: plan(buildrun, directory, form, *arguments) for form in FORMATS}
    steps = json.loads(texts["json"])["steps"]
    ids = [step["id"] for step in steps]
    assert [re.sub(r"\[[0-9a-f]{8}\]", "[…]", text) for text in ids] == [
        "part[…]", "other", "part[…]", "main",
    ]  # fmt: skip
    nodes, edges = dot_of(texts["dot"])
    assert len(set(nodes)) == 4
    assert edges == {(nodes[0], nodes[1]), (nodes[1], nodes[3]), (nodes[2], nodes[3])}
    labels, arrows = mermaid_of(texts["mermaid"])
    assert len(set(labels.values())) == 4
    assert arrows == {("s0", "s1"), ("s1", "s3"), ("s2", "s3")}
    for form in FORMATS:
        assert not [char for char in texts[form] if not char.isprintable() and char != "\n"]
    assert "<b>" not in texts["mermaid"]


def test_names_that_look_alike_stay_apart(project: Project, buildrun: Buildrun) -> None:
    directory = project(TWICE.replace("p: plain", 'p: "a\\\\nb"'))
    nodes, _ = dot_of(plan(buildrun, directory, "dot", "-P", "p=a\nb"))
    assert len(set(nodes)) == 4


def test_undecodable_names_break_no_format(project: Project, buildrun: Buildrun) -> None:
    directory = project(TWICE)
    for form in FORMATS:
        text = plan(buildrun, directory, form, "-P", os.fsdecode(b"p=\xff\xfe"))
        assert text.encode(), "only what can be written"
        shown = {"json": "\\udcff\\udcfe", "text": "\\xff\\xfe"}  # graphs show no values
        assert shown.get(form, "part[") in text


def test_input_with_a_hostile_name_is_told_on_one_line(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {outputs: [o], command: touch o}}\n")
    name = os.fsdecode(b"new\n\x1b[31m\xff")
    assert buildrun("run", directory, LOCAL).code == 0
    (directory / name).write_text("")
    (line,) = [line for line in plan(buildrun, directory, "text").splitlines() if "because" in line]
    assert line == "  because input `new\\n\\x1b[31m\\xff` is new"


# -- what is to run in any case ---------------------------------------------------------------


def states(buildrun: Buildrun, directory: Path, *arguments: str) -> dict[str, str]:
    outcome = buildrun("plan", LOCAL, "--format=json", *arguments, cwd=directory)
    assert outcome.code == 0, outcome.err
    return {step["id"]: step["cache"]["state"] for step in outcome.data["steps"]}


ALL = {"top": "miss", "left": "miss", "right": "miss", "main": "miss"}
RIGHT = {"top": "up-to-date", "left": "up-to-date", "right": "miss", "main": "miss"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((".", "--force"), ALL),
        (("--force", "."), ALL),
        (("--force", "--", "."), ALL),
        (("--force", ".", "-e", "main"), ALL),
        ((".", "--force=right"), RIGHT),
        (("--force=right", "."), RIGHT),
        (("--force", "right", "."), RIGHT),
        ((".", "--force", "right"), RIGHT),
        (("--force", ".", "--force=right"), ALL),
        (("--force=right", "--force", "."), ALL),
        (("--force", ".", "--force", "right"), ALL),
        ((".", "--force=left", "--force=right"), {**RIGHT, "left": "miss"}),
    ],
)
def test_force_in_any_order(
    arguments: tuple[str, ...], expected: dict[str, str], project: Project, buildrun: Buildrun
) -> None:
    directory = project(DIAMOND)
    assert buildrun("run", directory, LOCAL).code == 0
    assert states(buildrun, directory, *arguments) == expected


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_forced_step_that_is_not_there_is_an_error(
    verb: str, project: Project, buildrun: Buildrun
) -> None:
    directory = project(DIAMOND)
    buildrun(verb, directory, LOCAL, "-e", "left", "--force=right").refused(
        "there is no step `right`", "`top`, `left`", code=2
    )
    assert not (directory / "t").exists()


def test_uri_is_asked_for(buildrun: Buildrun) -> None:
    buildrun("plan", "--force").refused("URI is missing", code=2)


def test_forced_step_runs_and_what_it_makes_anew_counts(project: Project, run: Run) -> None:
    directory = project(DIAMOND)
    assert run(directory).code == 0
    forced = run(directory, "--force=top")
    assert list(forced.states.values()) == ["ok", "up-to-date", "up-to-date", "up-to-date"]
    assert [reason["code"] for reason in forced.report["steps"][0]["reasons"]] == ["forced"]


def test_no_cache_runs_everything_and_keeps_nothing(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(DIAMOND)
    for _ in range(2):
        outcome = buildrun("run", directory, LOCAL, "--no-cache")
        assert "4 steps: 4 ran" in outcome.err
    assert not list((store / "results").rglob("*"))
    assert states(buildrun, directory, ".", "--no-cache") == ALL
    assert set(states(buildrun, directory, ".").values()) == {"miss"}


def test_dry_run_is_the_plan(project: Project, buildrun: Buildrun, store: Path) -> None:
    directory = project(DIAMOND)
    dry = buildrun("run", directory, LOCAL, "--dry-run")
    assert (dry.code, dry.out) == (0, plan(buildrun, directory, "text"))
    assert not (directory / "t").exists()
    assert list(store.iterdir()) == []
    assert buildrun("run", directory, LOCAL).code == 0
    assert "main: up-to-date" in buildrun("run", directory, LOCAL, "--dry-run").out
    assert "because `--force` was given" in (
        buildrun("run", directory, LOCAL, "--dry-run", "--force=main").out
    )


@pytest.mark.parametrize(
    ("declared", "sandbox", "expected"),
    [
        ("", False, None),
        ("", True, Sandbox()),
        ("sandbox: auto, ", False, Sandbox(required=False)),
        ("sandbox: auto, ", True, Sandbox()),
        ("sandbox: {allow: [/a]}, ", True, Sandbox(allow=("/a",))),
        ("sandbox: false, ", True, Sandbox()),
    ],
)
@pytest.mark.parametrize("check_inputs", [True, False])
def test_options_add_to_what_steps_declare(
    project: Project, declared: str, sandbox: bool, expected: Sandbox | None, check_inputs: bool
) -> None:
    directory = project(f"entry_points: {{main: {{{declared}key_env: [A, B], command: x}}}}\n")
    spec = read_project(str(directory), DependencyTracker({})).spec
    assert spec is not None
    request = model.PlanRequest("main", {}, str(directory), {"A": ""})
    made = model.make_plan(spec, request, model.EnvironmentState("local", None, True))
    made = model.guarded(made, check_inputs=check_inputs, sandbox=sandbox)
    (step,) = made.steps
    assert (step.check_inputs, step.sandbox) == (check_inputs, expected)
    assert step.task().pass_env == ("A", "B")
    assert [bool(digest) for _, digest in step.key_env] == [True, False]
    remembered = load_plan(json.loads(json.dumps(dump_plan(made))))
    assert remembered == made._replace(spec=None)


@pytest.mark.parametrize(
    ("words", "shown", "check_inputs"),
    [
        (("--check-inputs",), "first: miss, inputs to be checked, on local", False),
        (("--strict-cache",), "first: miss, inputs to be checked, on local", True),
        (("--sandbox",), "first: miss, in a sandbox, on local", False),
        ((), "first: miss, on local", False),
    ],
)
def test_what_is_checked_or_sandboxed_is_shown(
    project: Project, buildrun: Buildrun, words: tuple[str, ...], shown: str, check_inputs: bool
) -> None:
    root = project(
        "entry_points:\n"
        "  first: {inputs: [a], outputs: [b], command: cp a b}\n"
        "  main: {depends_on: [first], sandbox: auto, outputs: [c], command: cp b c}\n",
        a="a",
    )
    lines = buildrun("run", root, LOCAL, "--dry-run", *words).out
    assert shown in lines
    assert "main: miss, in a sandbox, on local" in lines
    strict = [word for word in words if word == "--strict-cache"]
    steps = buildrun("plan", root, LOCAL, *strict, "--format", "json").data["steps"]
    seen = [(step["check_inputs"], step["sandbox"]) for step in steps]
    assert seen == [(check_inputs, False), (check_inputs, True)]
