"""Values in commands as bash sees them: exact, and never evaluated."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Buildrun, Project

from buildrun.errors import ParameterError
from buildrun.project.quoting import fill

VALUES = (
    "$(touch PWN)", "`touch PWN`", "; touch PWN #", "' ; touch PWN ; '", '" ; touch PWN ; "',
    "\n touch PWN\n", "\ntouch PWN\nEOF\ntouch PWN\n", "EOF", "x y", "", "a", "\\", "\\'", '\\"',
    "a\\", "$HOME", "a[$(touch PWN)]", "') ; touch PWN ; ('", '"); touch PWN; ("', "} $(touch PWN)",
    "\\' ; touch PWN ; '", "\\`touch PWN\\`", "*", "{a,b}", "\tEOF", "'", '"', "$'\\x41'", "#",
    "\r",
    ")) ; touch PWN ; ((", "esac; touch PWN", "é\U0001f600", "!!", "~",
)  # fmt: skip

_ARGV = "argv() { printf '%s\\0' \"$@\"; printf '\\1'; }\n"

Wanted = Callable[[str], list[str]]

# Commands, with what the last call of `argv` is to get.
EXACT: dict[str, Wanted] = {
    "argv {v}": lambda v: [v],
    "argv --v={v}": lambda v: [f"--v={v}"],
    'argv "x {v} y"': lambda v: [f"x {v} y"],
    "argv 'x {v} y'": lambda v: [f"x {v} y"],
    "argv $'{v}' $\"{v}\"": lambda v: [v, v],
    "argv 'a'\"{v}\"'{v}'$'{v}'": lambda v: ["a" + v * 3],
    'argv \\{v} "\\\\{v}" \\\'{v}': lambda v: [v, "\\" + v, "'" + v],
    'argv "it\'s {v}" "\\"{v}\\"" "\\${v}"': lambda v: ["it's " + v, f'"{v}"', "$" + v],
    'argv "$(printf %s "{v}"; echo .)"': lambda v: [v + "."],
    "argv \"$(printf %s '{v}'; echo .)\"": lambda v: [v + "."],
    'argv "$(printf %s {v}; echo .)"': lambda v: [v + "."],
    'argv "`printf %s {v}; echo .`"': lambda v: [v + "."],
    "argv \"`printf %s '{v}'; echo .`\"": lambda v: [v + "."],
    "argv a # it's \"{v}\nargv b {v}": lambda v: ["b", v],
    'argv `#{v}` "{v}"': lambda v: [v],
    'x={v} y="{v}"; argv "$x" "$y"': lambda v: [v, v],
    'argv "{v}" <<<"{v}"': lambda v: [v],
    '(argv "{v}")': lambda v: [v],
    'f() {{ argv "$1"; }}; f "{v}"': lambda v: [v],
    'for i in {v}; do argv "$i"; done': lambda v: [v],
    "case {v} in *) argv '{v}' ;; esac": lambda v: [v],
    'argv $#"{v}" a#{v}': lambda v: ["0" + v, "a#" + v],
    "x=$((1<<2)); argv \"{v}\" '{v}'": lambda v: [v, v],
    'cat <<EOF >&2\nit\'s "{v}"\nEOF\nargv "{v}"': lambda v: [v],
    "cat <<-'EOF' >&2\n\t{v} x\n\tEOF\nargv {v}": lambda v: [v],
    'argv "$(cat <<EOF\n{v}.\nEOF\n)"': lambda v: [v + "."],
}

# Commands in which only plain words can stand, and such as no shell takes.
REFUSED = (
    "argv $(( 1 + {v} ))", 'argv "${v}" ${v}', 'argv "${{HOME:+{v}}}"',
    "echo \"${{Q:-it's}}\" '{v}'",
    'echo "$(case x in x) argv {v};; esac)"', 'echo "`echo \\`echo {v}\\``"', "echo it's {v}",
    'echo "`echo "{v}"`"', "cat <<EOF\n$(echo {v}) `echo {v}`\nEOF",
    'echo "a {v}', "cat <<EOF\n{v}",
    "argv {v[0]} {v}", "argv {v:.3}; argv {v}", 'argv "{v!r}" {v!r}', "argv '{v!r:>20}'",
)  # fmt: skip


def run(text: str, where: Path) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", _ARGV + text],
        check=False,
        cwd=where,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    calls = done.stdout.decode(errors="surrogateescape").split("\1")[:-1]
    return calls[-1].split("\0")[:-1] if calls else []


@pytest.mark.parametrize("template", EXACT)
def test_value_arrives_whole_and_is_never_evaluated(template: str, tmp_path: Path) -> None:
    refused = 0
    for value in VALUES:
        try:
            text = fill(template, {"v": value}, {})
        except ParameterError:
            refused += 1
            continue
        assert run(text, tmp_path) == EXACT[template](value), text
        assert not list(tmp_path.iterdir()), text
    assert refused <= (6 if "<<E" in template or "<<-" in template else 0)


@pytest.mark.parametrize("template", REFUSED)
def test_value_is_refused_rather_than_evaluated(template: str, tmp_path: Path) -> None:
    for value in VALUES:
        try:
            text = fill(template, {"v": value}, {})
        except (ParameterError, IndexError):
            continue
        run(text, tmp_path)
        assert not list(tmp_path.iterdir()), text


@pytest.mark.parametrize(
    "command",
    [
        "argv",
        "argv # c",
        "argv 'a",
        'argv "a',
        "cat <<EOF\na\nEOF",
        "argv \\",
        "cat <<EOF",
        "argv $",
    ],
)
def test_further_parameters_are_never_evaluated(command: str, tmp_path: Path) -> None:
    for value in VALUES:
        try:
            text = fill(command, {}, {"e": value})
        except ParameterError:
            continue
        run(text, tmp_path)
        assert not list(tmp_path.iterdir()), text


@pytest.mark.parametrize("value", VALUES)
def test_bare_placeholder_gets_mlflows_text(value: str) -> None:
    template = "python a.py --x {v} --y={v} | tee {v} # end"
    assert (
        fill(template, {"v": value}, {"w": value}).splitlines()[0]
        == (template.format(v=shlex.quote(value)) + f" --w {shlex.quote(value)}").splitlines()[0]
    )


def test_authors_quotes_keep_a_value_from_the_shell(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points:\n  main:\n    parameters: {v: string}\n"
        "    command: \"printf '%s|' \\\"{v}\\\" '{v}' 'a {v}'\"\n"
    )
    value = "$(touch PWN) 'x' \"y\""
    assert (
        buildrun("run", directory, "--env-manager=local", "-P", f"v={value}").printed()
        == f"{value}|{value}|a {value}|"
    )
    assert not (directory / "PWN").exists()


def test_place_that_no_quoting_helps_is_refused(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points:\n  main:\n    parameters: {v: string}\n    command: echo $(( {v} + 1 ))\n"
    )
    arguments = ("run", directory, "--env-manager=local", "-P")
    assert buildrun(*arguments, "v=41").out == "42\n"
    outcome = buildrun(*arguments, "v=a[$(touch PWN)]")
    assert outcome.code == 1
    assert "entry point `main`: the shell would read the value of `v`" in outcome.err
    assert "`v={v}`" in outcome.err
    assert "PWN" not in outcome.err
    assert not (directory / "PWN").exists()
