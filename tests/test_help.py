"""`--help`: what each command is for, its options in groups, and examples that are right."""

from __future__ import annotations

import shlex

import pytest
from conftest import Buildrun

from buildrun import cli
from buildrun.commands.examples import EXAMPLES, USES
from buildrun.commands.parser import parser_of

WIDTHS = (40, 80)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("verb", cli.COMMANDS)
def test_help_ends_with_examples_and_fits(verb: str, columns: int, buildrun: Buildrun) -> None:
    lines = buildrun(verb, "--help", environ={"COLUMNS": str(columns)}).printed().splitlines()
    shown = lines[lines.index("examples:") + 1 :]
    assert 2 <= len(EXAMPLES[verb]) <= 4
    assert [line.strip() for line in shown if line[2] != " "] == [
        line for line, _ in EXAMPLES[verb]
    ]
    # The choices of an option are one word.
    assert all(len(line) <= columns for line in lines if "{" not in line)


@pytest.mark.parametrize("columns", WIDTHS)
def test_overview_shows_uses_and_commands(columns: int, buildrun: Buildrun) -> None:
    lines = buildrun("--help", environ={"COLUMNS": str(columns)}).printed().splitlines()
    assert all(f"  {line}" in lines for line, _ in USES)
    assert [verb for verb in cli.COMMANDS if any(line.startswith(f"  {verb} ") for line in lines)]
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(
    "line", [line for group in (USES, *EXAMPLES.values()) for line, _ in group]
)
def test_examples_are_understood(line: str) -> None:
    first, *arguments = shlex.split(line.removeprefix('eval "$(').removesuffix(')"'))
    arguments = arguments[: arguments.index("|")] if "|" in arguments else arguments
    assert first == "buildrun"
    verb = arguments.pop(0) if arguments[0] in cli.COMMANDS else "run"
    assert parser_of(verb, "").parse_args(arguments)


@pytest.mark.parametrize("verb", ["run", "plan", "build", "lock"])
def test_long_lists_of_options_are_grouped(verb: str, buildrun: Buildrun) -> None:
    lines = buildrun(verb, "--help").printed().splitlines()
    assert lines[0].startswith(f"usage: buildrun {verb} [URI")
    assert lines[0].endswith("] [OPTIONS]")
    for title in ("the project:", "the environment:", "how and where it runs:", "MLflow:"):
        assert lines.count(title) == 1
