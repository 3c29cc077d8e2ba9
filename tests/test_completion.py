"""Completion in real shells: commands, options, choices, entry points and parameters."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from needs import need_program
from step_helpers import LIMIT

MLPROJECT = """\
entry_points:
  main:
    parameters:
      alpha: {type: float, default: 0.1}
      api_key: {default: hunter2}
    command: echo {alpha} {api_key}
  data prep:
    description: cleans the data
    parameters: {rows: float}
    command: echo {rows}
  "it's $(touch evil)": {command: echo}
  stage:load: {command: echo}
"""

# The shell's own words: what is written where its line would be run, to a file.
INTERACTIVE = {
    "bash": (
        ("bash", "--norc", "--noprofile", "-i"),
        'shown() {{ printf %s "$READLINE_LINE" >{}; exit; }}; bind -x \'"\\C-x": shown\'; '
        'eval "$(buildrun completion bash)"',
    ),
    "zsh": (
        ("zsh", "-f", "-i"),
        "shown() {{ print -rn -- $BUFFER >{}; exit }}; zle -N shown; bindkey '^X' shown; "
        'autoload -U compinit; compinit -D -u; eval "$(buildrun completion zsh)"',
    ),
}

Typed = Callable[[str], str]


@pytest.fixture
def directory(project: Project) -> Path:
    return project(MLPROJECT)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(tmp_path), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


@pytest.fixture(params=INTERACTIVE)
def typed(
    request: pytest.FixtureRequest, directory: Path, environ: dict[str, str], tmp_path: Path
) -> Typed:
    """Return a function that types a line and Tab in a shell, and returns what the line becomes."""
    command, setup = INTERACTIVE[request.param]
    need_program(command[0])

    def types(line: str) -> str:
        result = tmp_path / "line"
        keys = f" {setup.format(shlex.quote(str(result)))}\n{line}\t\x18"
        reader, writer = pty.openpty()
        shell = subprocess.Popen(
            command, stdin=writer, stdout=writer, stderr=writer, cwd=directory, env=environ,
            start_new_session=True,
        )  # fmt: skip
        os.close(writer)
        drain = threading.Thread(target=_drain, args=(reader,))
        drain.start()
        try:
            os.write(reader, keys.encode())
            shell.wait(LIMIT)
        finally:
            shell.kill()
            shell.wait()
            drain.join()
            os.close(reader)
        return result.read_text()

    return types


def _drain(descriptor: int) -> None:
    with suppress(OSError):  # the terminal's other end is closed
        while os.read(descriptor, 4096):
            pass


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("buildrun vali", "buildrun validate "),
        ("buildrun . -e da", r"buildrun . -e data\ prep "),
        ("buildrun run --entry-point=ma", "buildrun run --entry-point=main "),
        ("buildrun -e stage:", "buildrun -e stage:load "),
        ("buildrun -e 'data ", "buildrun -e 'data prep' "),
        ("buildrun . -e it", r"buildrun . -e it\'s\ \$\(touch\ evil\) "),
        ("buildrun . -P al", "buildrun . -P alpha="),
        ("buildrun . -e 'data prep' -P r", "buildrun . -e 'data prep' -P rows="),
        ("buildrun plan --format=js", "buildrun plan --format=json "),
        ("buildrun cache cl", "buildrun cache clear "),
        ("buildrun . -e nothing-of-ours", "buildrun . -e nothing-of-ours"),
        ("buildrun MLp", "buildrun MLproject "),
    ],
)
def test_tab_completes(typed: Typed, directory: Path, line: str, becomes: str) -> None:
    assert typed(line) == becomes
    assert not (directory / "evil").exists()


def fish(line: str, directory: Path, environ: dict[str, str]) -> list[str]:
    script = f"buildrun completion fish | source; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        (need_program("fish"), "--no-config", "-c", script),
        cwd=directory, env=environ, capture_output=True, text=True, check=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_fish_shows_what_each_word_means(directory: Path, environ: dict[str, str]) -> None:
    assert fish("buildrun . -e da", directory, environ) == ["data prep\tcleans the data"]
    assert fish("buildrun . -P a", directory, environ) == [
        "alpha=\tfloat, default: 0.1",
        "api_key=\tstring",
    ]
    assert fish("buildrun vali", directory, environ) == [
        "validate\tcheck project and environment files"
    ]
    assert fish("buildrun MLp", directory, environ) == ["MLproject"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("buildrun . --env-manager v", ["virtualenv"]),
        ("buildrun --remote-cache-", ["--remote-cache-write"]),
        ("buildrun cache ", ["info", "ls", "gc", "verify", "clear"]),
        ("buildrun runs show --f", ["--format"]),
        ("buildrun completion ", ["bash", "zsh", "fish"]),
        ("buildrun . -Pal", ["-Palpha="]),
        ("buildrun . --force ma", ["main"]),
        ("buildrun project -e ma", []),
        ("buildrun ../project -e ma", ["main"]),
        ("buildrun ../project/MLproject -e ma", ["main"]),
        ("buildrun ../scripts -e ", ["one.py", "two.sh"]),
        ("buildrun git@host:x/y -e ", []),
        ("buildrun . -e 'no such' -P ", []),
        ('buildrun "', ["run"]),
        ("A=1 ~/bin/buildrun . -e ma", ["main"]),
        ("alias-of-ours . -e ma", ["main"]),
    ],
)
def test_words_that_may_stand_there(
    directory: Path, project: Project, buildrun: Buildrun, line: str, words: list[str]
) -> None:
    project(None, name="scripts", one__py="", two__sh="", three__txt="")
    outcome = buildrun("__complete", "fish", line, cwd=directory)
    assert outcome.err == ""
    assert [each.partition("\t")[0] for each in outcome.out.splitlines()][
        : len(words) or 1
    ] == words


@pytest.mark.parametrize("text", ["entry_points: [", "entry_points: 3\n", "- a\n", "\0"])
def test_broken_files_are_passed_over_in_silence(
    project: Project, buildrun: Buildrun, text: str
) -> None:
    outcome = buildrun("__complete", "bash", "buildrun . -e ", cwd=project(text))
    assert (outcome.out, outcome.err) == ("", "")


def test_hostile_words_and_texts_do_no_harm(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        'entry_points: {"a\\e[31m": {command: x},'
        ' b: {description: "\\e[31m\\n\\tred", command: x}}\n'
    )
    outcome = buildrun("__complete", "fish", "buildrun . -e ", cwd=directory)
    assert outcome.out == "b\t\\x1b[31m red\n"


def test_unknown_shell_is_refused(buildrun: Buildrun) -> None:
    buildrun("completion", "tcsh").refused("invalid choice: 'tcsh'", code=2)
    assert buildrun("__complete").err == ""


def test_tab_loads_nothing_heavy(directory: Path) -> None:
    script = (
        "import json, os, sys\nfrom buildrun.cli import main\n"
        "main(['__complete', 'fish', 'buildrun . -P al'], os.environ)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        (sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{script}"),
        cwd=directory, capture_output=True, text=True, check=True, timeout=LIMIT,
    )  # fmt: skip
    word, modules = done.stdout.splitlines()
    assert word == "alpha=\tfloat, default: 0.1"
    heavy = {"asyncio", "blake3", "docker", "fsspec", "jsonschema", "kubernetes", "ssl", "uv"}
    assert not heavy & set(json.loads(modules))
