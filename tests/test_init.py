"""`buildrun init` from scripts and templates: what it proposes runs, and nothing is overwritten."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import command_line
import pytest
import yaml
from conftest import REPOSITORY, Buildrun
from docker_helpers import BASE, a_slim, engine

FIXTURES = (engine, a_slim)

TEMPLATES = sorted(path.name for path in (REPOSITORY / "templates").iterdir())

GUARD = 'if __name__ == "__main__":\n    '

ARGPARSE = """\
import argparse
from pathlib import Path

parser = argparse.ArgumentParser()
group = parser.add_argument_group("numbers")
group.add_argument("--alpha", "-a", type=float, default=0.1)
group.add_argument("--offset", type=float, default=-2.5)
parser.add_argument("--l1-ratio", type=float, default=1e-05)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--text", default="it's {a} $HOME \\\\ \\"b\\"\\n: c")
parser.add_argument("--zip", default="010")
parser.add_argument("--empty", default="")
parser.add_argument("--odd", default="a\\x85b\\u2028\\tc ")
parser.add_argument("--out", type=Path, default=Path("out/model.pkl"))
parser.add_argument("-n", type=int, default=5)
parser.add_argument("--token", default="none")
# What has no parameter:
parser.add_argument("--untyped", default=0.3)
parser.add_argument("--none")
parser.add_argument("--flag", action="store_true")
parser.add_argument("--several", nargs="+", default=["a"])
parser.add_argument("--truth", type=bool, default=False)
parser.add_argument("--computed", default=str(1 + 1))
either = parser.add_mutually_exclusive_group()
either.add_argument("--this", default="1")
either.add_argument("--that", default="2")
parser.add_argument("place", nargs="?", default="here")
for name in ("x", "y"):
    parser.add_argument("--" + name, default="z")
if parser.prog:
    parser.add_argument("--perhaps", default="z")
print(parser.parse_args())
"""

CLICK = """\
import click

@click.command()
@click.option("--rate", default=0.5, help="how much")
@click.option("--count", "-c", "number", default=2, type=int, show_default=True)
@click.option("--kind", type=click.Choice(["a", "b"]), default="b")
@click.option("--share", type=click.FloatRange(0, 1), default=1)
@click.option("--none", type=int)
@click.option("--loud/--quiet", default=True)
@click.option("--flag", is_flag=True)
@click.option("--many", multiple=True)
@click.option("--user", envvar="USER", default="me")
@click.argument("place", default="here")
def command(**options):
    print(sorted(options.items()))

command()
"""


# For commands that run in the tests' own Python.
LOCAL = {"PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))}


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def mlproject(directory: Path) -> Any:
    return yaml.safe_load((directory / "MLproject").read_text())


def state(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("name", "text"), [("train.py", ARGPARSE), ("tool.py", CLICK)])
def test_entry_point_gives_a_program_the_values_that_it_has_by_itself(
    buildrun: Buildrun, tmp_path: Path, name: str, text: str
) -> None:
    directory = write(tmp_path / "scripts", **{name.replace(".", "__"): text})
    buildrun("init", directory).printed()
    buildrun("validate", "--strict", directory).printed()
    alone = subprocess.run(
        (sys.executable, name), cwd=directory, capture_output=True, text=True, check=True
    )
    outcome = buildrun("-q", "--env-manager=local", directory, environ=LOCAL)
    assert outcome.printed() == alone.stdout


def test_argparse_options_become_parameters_with_type_and_default(
    buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = write(tmp_path / "scripts", train__py=ARGPARSE)
    outcome = buildrun("init", directory)
    entry_point = mlproject(directory)["entry_points"]["main"]
    assert entry_point["parameters"] == {
        "alpha": {"type": "float", "default": 0.1},
        "offset": {"type": "float", "default": -2.5},
        "l1_ratio": {"type": "float", "default": "1e-05"},
        "epochs": {"type": "float", "default": 3},
        "text": {"type": "string", "default": 'it\'s {a} $HOME \\ "b"\n: c'},
        "zip": {"type": "string", "default": "010"},
        "empty": {"type": "string", "default": ""},
        "odd": {"type": "string", "default": "a\x85b\u2028\tc "},
        "out": {"type": "string", "default": "out/model.pkl"},
        "n": {"type": "float", "default": 5},
        "token": {"type": "string", "default": "none"},
        "place": {"type": "string", "default": "here"},
    }
    assert entry_point["command"].startswith("python train.py --alpha={alpha} --offset={offset} ")
    assert entry_point["command"].endswith(" -n {n} --token={token} {place}")
    text = (directory / "MLproject").read_text()
    for note in (
        "`--untyped` has the default `0.3`, which no text gives back",
        "`--none` has no default: `-P none=VALUE` hands one over",
        "`--flag` is a flag, no parameter: add it to the command, or to that of another entry",
        "`--several` takes several values",
        "`--truth` is a truth value, which every text is but an empty one",
        "`--computed` has a default that is computed",
        "`--this` excludes others",
        "`--that` excludes others",
        "`--perhaps` is declared under a condition or in a loop",
    ):
        assert f"    # {note}" in text
        assert note in outcome.err


def test_undeclared_option_can_be_handed_over_as_the_note_says(
    buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = write(tmp_path / "scripts", train__py=ARGPARSE)
    buildrun("init", directory).printed()
    arguments = ("-q", "--env-manager=local", directory, "-P", "none=some", "-P", "place=-1")
    printed = buildrun(*arguments, environ=LOCAL).printed()
    assert "none='some'" in printed
    assert "place='-1'" in printed


def test_click_options_become_parameters(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = write(tmp_path / "scripts", tool__py=CLICK)
    outcome = buildrun("init", directory)
    entry_point = mlproject(directory)["entry_points"]["main"]
    assert entry_point["parameters"] == {
        "rate": {"type": "float", "default": 0.5},
        "count": {"type": "float", "default": 2},
        "kind": {"type": "string", "default": "b"},
        "share": {"type": "float", "default": 1},
        "place": {"type": "string", "default": "here"},
    }
    for note in ("`--loud/--quiet` is a flag", "`--flag` is a flag", "`--many` has `multiple`",
                 "`--user` has `envvar`", "`--none` has no default"):  # fmt: skip
        assert note in outcome.err


def test_path_is_declared_only_where_the_program_asks_for_what_exists(
    buildrun: Buildrun, tmp_path: Path
) -> None:
    text = (
        "import click\n@click.command()\n"
        '@click.argument("data", type=click.Path(exists=True))\n'
        '@click.option("--out", type=click.Path(), required=True)\n'
        '@click.option("--maybe", type=click.Path(exists=True), default="x")\n'
        "def main(**options): pass\nmain()\n"
    )
    directory = write(tmp_path / "scripts", tool__py=text)
    buildrun("init", directory).printed()
    parameters = mlproject(directory)["entry_points"]["main"]["parameters"]
    assert parameters["data"] == "path"
    assert parameters["out"] == "string"
    assert parameters["maybe"]["type"] == "string"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("p = argparse.ArgumentParser()\np.add_subparsers()\n", "it has `add_subparsers`"),
        ("p = argparse.ArgumentParser(prefix_chars='+')\n", "it has `prefix_chars`"),
        ("p = argparse.ArgumentParser()\np.set_defaults(a=2)\n", "it has `set_defaults`"),
        ("p = argparse.ArgumentParser()\nargparse.ArgumentParser()\n", "it has `2 parsers`"),
        ("import sys\nprint(sys.argv[1])\n", "it reads `sys.argv`"),
        ("import fire\nfire.Fire()\n", "what it reads by `fire` is not known"),
    ],
)
def test_options_that_cannot_be_read_are_told_and_not_guessed(
    buildrun: Buildrun, tmp_path: Path, text: str, note: str
) -> None:
    text = f"import argparse\n{text}try:\n    p.add_argument('--a', default='1')\nexcept: pass\n"
    directory = write(tmp_path / "scripts", train__py=text)
    assert note in buildrun("init", directory).err
    assert note in (directory / "MLproject").read_text()


def test_programs_are_found_among_modules_tests_and_what_git_ignores(
    buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = write(
        tmp_path / "scripts",
        guarded__py=f"{GUARD}print(1)\n",
        plain__py="import helper\nprint(helper.value)\n",
        helper__py="value = 1\nprint(value)\n",
        constants__py="a = 1\ndef f(): pass\n",
        test_plain__py="print(1)\n",
        setup__py="print(1)\n",
        ignored__py="print(1)\n",
        main__sh="#!/bin/bash\necho main\n",
        sourced__sh="export A=1\n",
        odd__sh="#!/bin/sh -c {x}\necho odd\n",
        tool="#!/usr/bin/env python3\nprint('tool')\n",
        notes="text\n",
    )
    (directory / ".gitignore").write_text("ignored.py\n")
    write(directory / "tests", check__py="print(1)\n")
    write(directory / "venv", pyvenv__cfg="", activate__py="print(1)\n")
    package = write(directory / "package", __init____py="", run__py="from . import a\nprint(a)\n")
    (package / "__init__.py").write_text("")
    outcome = buildrun("init", directory)
    found = mlproject(directory)["entry_points"]
    assert {name: item["command"] for name, item in found.items()} == {
        "main": "bash main.sh",
        "guarded": "python guarded.py",
        "plain": "python plain.py",
        "run": "python -m package.run",
        "tool": "python tool",
    }
    assert next(iter(found)) == "main"
    assert outcome.code == 0
    buildrun("validate", "--strict", directory).printed()


HOSTILE = [
    "it's.py", "{x}.py", 'a "b".py', "-v.py", "$(touch oops).py", "ü.py", "a b.sh", "`ls`.py",
    "#c.py", "yes.py", "01.py", "a: b.py", "*.py", "a\\b.py", "{{}}.py", "%s.py", "x;y.py",
]  # fmt: skip


def test_hostile_names_are_quoted(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = tmp_path / "scripts"
    directory.mkdir()
    for name in HOSTILE:
        start = "#!/bin/sh\necho done" if name.endswith(".sh") else f"{GUARD}print('done')"
        (directory / name).write_text(start + "\n")
    buildrun("init", directory).printed()
    buildrun("validate", "--strict", directory).printed()
    names = list(mlproject(directory)["entry_points"])
    assert len(names) == len(HOSTILE)
    before = state(directory)
    for name in names:
        arguments = ("run", "-q", "--env-manager=local", f"-e{name}", directory)
        assert buildrun(*arguments, environ=LOCAL).printed() == "done\n", name
    assert state(directory) == before


def test_what_cannot_be_read_is_passed_over_and_said(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = write(tmp_path / "scripts", good__py="print('good')\n", broken__py="x = (\n")
    (directory / "latin.py").write_bytes(b"print('\xe9')\n")
    (directory / "declared.py").write_bytes(b"# coding: latin-1\nprint('\xe9')\n")
    (directory / "zero.py").write_bytes(b"print(\0)\n")
    (directory / "deep.py").write_text("print(" + "(" * 5000 + ")" * 5000 + ")\n")
    (directory / "new\nline.py").write_text("print(1)\n")
    (directory / os.fsdecode(b"\xff.py")).write_text("print(1)\n")
    (directory / "large.py").write_text("print(1)\n" + "#" * (1 << 20))
    (directory / "out.py").symlink_to("/etc/passwd")
    os.mkfifo(directory / "pipe.py")
    outcome = buildrun("init", directory)
    assert set(mlproject(directory)["entry_points"]) == {"good", "declared"}
    for name in ("broken.py", "latin.py", "zero.py", "deep.py", "new\\nline.py", "\\xff.py",
                 "large.py", "out.py"):  # fmt: skip
        assert f"{name}: passed over" in outcome.err
        assert f"# {name}: passed over" in (directory / "MLproject").read_text()
    assert "it is a symbolic link" in outcome.err
    buildrun("validate", "--strict", directory).printed()


def test_directory_that_cannot_be_read_is_told(
    buildrun: Buildrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, main__py="print(1)\n")
    (tmp_path / "locked").mkdir()
    list_names = os.listdir

    def refuse(path: Any) -> Any:  # root may read any directory
        if os.fsencode(path).endswith(b"locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return list_names(path)

    monkeypatch.setattr(os, "listdir", refuse)
    outcome = buildrun("init")
    assert "`locked` cannot be read: Permission denied, so it is passed over" in outcome.err


def test_directory_without_programs_names_the_templates(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = write(tmp_path / "scripts")
    buildrun("init", directory).refused("no Python or shell script here", "--template sklearn")
    write(directory, constants__py="a = 1\n")
    buildrun("init", directory).refused("no Python or shell script here looks like a program")
    assert list(state(directory)) == ["constants.py"]
    buildrun("init", tmp_path / "absent").refused("there is no such directory")


def test_too_many_scripts_and_programs_are_refused(buildrun: Buildrun, tmp_path: Path) -> None:
    for number in range(501):
        (tmp_path / f"program{number}.py").write_text("print(1)\n")
    buildrun("init").refused("more than 500 programs", "name the directory of one project")
    for number in range(1500):
        (tmp_path / f"module{number}.py").write_text("a = 1\n")
    buildrun("init").refused("more than 2000 scripts")


@pytest.mark.parametrize(
    ("file", "text", "key"),
    [
        ("python_env.yaml", "dependencies: [numpy]\n", "python_env"),
        ("conda.yaml", "channels: [conda-forge]\ndependencies: [numpy]\n", "conda_env"),
        ("environment.yml", "channels: [conda-forge]\ndependencies: [numpy]\n", "conda_env"),
    ],
)
def test_environment_file_that_is_there_is_used(
    buildrun: Buildrun, tmp_path: Path, file: str, text: str, key: str
) -> None:
    directory = write(tmp_path / "scripts", a__py="import numpy\nprint(1)\n")
    (directory / file).write_text(text)
    buildrun("init", directory).printed()
    assert mlproject(directory)[key] == file
    assert sorted(state(directory)) == sorted(["MLproject", "a.py", file])


def test_requirements_are_named_by_a_new_environment_file(
    buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = write(tmp_path / "scripts", a__py="print(1)\n", requirements__txt="numpy\n")
    buildrun("init", directory).printed()
    assert yaml.safe_load((directory / "python_env.yaml").read_text()) == {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "dependencies": ["-r requirements.txt"],
    }
    buildrun("validate", "--strict", directory).printed()


def test_packages_are_those_that_imports_certainly_mean(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = write(
        tmp_path / "scripts",
        a__py="import os, sklearn.svm, b\nfrom PIL import Image\nimport mystery.part\nprint(1)\n",
        b__py="import yaml\n",
    )
    outcome = buildrun("init", directory)
    text = (directory / "python_env.yaml").read_text()
    assert yaml.safe_load(text)["dependencies"] == ["pillow", "PyYAML", "scikit-learn"]
    note = "`import mystery` (a.py:3): name the package that it comes from"
    assert f"# {note}\n" in text
    assert note in outcome.err
    buildrun("validate", "--strict", directory).printed()


def test_shell_scripts_alone_need_no_environment(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = write(tmp_path / "scripts", a__sh="#!/usr/bin/env -S bash -e\nfalse\necho $1\n")
    outcome = buildrun("init", directory)
    assert set(mlproject(directory)) == {"name", "entry_points"}
    assert mlproject(directory)["entry_points"]["main"]["command"] == "bash -e a.sh"
    assert "it reads arguments" in outcome.err
    assert buildrun("-q", directory).code == 1


def test_dry_run_prints_what_would_be_written(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = write(tmp_path / "scripts", a__py="print(1)\n")
    printed = buildrun("init", "--dry-run", directory).printed()
    assert list(state(directory)) == ["a.py"]
    buildrun("init", directory).printed()
    for name in ("MLproject", "python_env.yaml"):
        assert f"==> {name} <==\n{(directory / name).read_text()}\n" in printed
    assert buildrun("init", "--dry-run", directory).code == 0


@pytest.mark.parametrize("taken", ["MLproject", "mlproject", "train.py", "python_env.yaml"])
def test_nothing_is_written_where_a_file_is_there(
    buildrun: Buildrun, tmp_path: Path, taken: str
) -> None:
    directory = write(tmp_path / "project")
    (directory / taken).write_text("mine\n")
    outcome = buildrun("init", "--template", "sklearn", directory)
    outcome.refused(f"`{taken}` would be overwritten", "nothing was written")
    assert state(directory) == {taken: b"mine\n"}


def test_every_file_in_the_way_is_named(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = write(tmp_path / "project", train__py="mine\n")
    (directory / "MLproject").symlink_to("nowhere")
    outcome = buildrun("init", "--template", "sklearn", directory)
    outcome.refused("`MLproject`, `train.py` would be overwritten")


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    done = 0

    def fail(event: str, arguments: Any) -> None:
        nonlocal done
        del arguments
        if event == "os.link":
            done += 1
            if done == 2:
                raise OSError(errno.ENOSPC, "No space left on device")

    words = ("init", "--template", "sklearn", tmp_path / "starter")
    outcome = command_line.call(words, tmp_path, dict(os.environ), at=fail)
    outcome.refused("cannot be written: No space left on device", "nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_kill_leaves_whole_files_and_the_mlproject_last(tmp_path: Path) -> None:
    whole = {
        path.name: path.read_bytes() for path in (REPOSITORY / "templates/sklearn").iterdir()
    } | {"python_env.yaml": b""}
    for step in range(100):
        directory = tmp_path / str(step)
        seen = 0

        def kill(event: str, arguments: Any, step: int = step) -> None:
            nonlocal seen
            del event, arguments
            seen += 1
            if seen > step:
                os.kill(os.getpid(), 9)

        words = ("init", "--template", "sklearn", directory)
        outcome = command_line.call(words, tmp_path, dict(os.environ), at=kill)
        found = {name: text for name, text in state(directory).items() if "/" not in name}
        for name, text in found.items():
            assert text == whole[name] or (not whole[name] and text.endswith(b"<2\n"))
        assert "MLproject" not in found or found.keys() == whole.keys()
        if outcome.code == 0:
            assert step > 5
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_valid_without_warnings(
    buildrun: Buildrun, tmp_path: Path, name: str
) -> None:
    image = ("--image", "example/base: x") if name == "docker" else ()
    directory = tmp_path / "deep" / name
    buildrun("init", "--template", name, *image, directory).printed()
    outcome = buildrun("validate", "--strict", directory)
    assert outcome.code == 0, outcome.out
    text = "".join(path.read_text() for path in directory.iterdir())
    assert ('image: "example/base: x"' in text or "'example/base: x'" in text) == bool(image)


def test_pipeline_template_runs_as_the_readme_shows_it(buildrun: Buildrun, tmp_path: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    _, _, sample = readme.partition("$ buildrun init --template pipeline && buildrun .\n")
    first, second = (
        sample.partition("```")[0].split("$ buildrun . -P alpha=10\n")[1].split("$ buildrun .\n")
    )
    buildrun("init", "--template", "pipeline").printed()
    assert '"mean_absolute_error": ' in buildrun(".").printed()
    assert (tmp_path / "predictions.png").read_bytes().startswith(b"\x89PNG")
    assert timeless(buildrun(".", "-P", "alpha=10").err) == timeless(first)
    assert timeless(buildrun(".").err) == timeless(second)


def timeless(text: str) -> str:
    return re.sub(r"[\d.]+ s\b", "N s", text)


def test_sklearn_template_runs_as_it_is(buildrun: Buildrun, tmp_path: Path) -> None:
    buildrun("init", "--template", "sklearn", "starter").printed()
    assert "alpha=0.1 l1_ratio=0.5 {'rmse':" in buildrun(cwd=tmp_path / "starter").printed()
    assert "1 up to date" in buildrun(cwd=tmp_path / "starter").err


def test_docker_template_runs_in_the_image_that_is_named(
    buildrun: Buildrun, tmp_path: Path, slim: str
) -> None:
    assert slim
    buildrun("init", "--template", "docker", "starter").refused("needs a base image", code=2)
    buildrun("init", "--template", "docker", "--image", BASE, "starter").printed()
    arguments = ("-q", "starter", "--build-image", "-P", "name=Ada")
    assert buildrun(*arguments, cwd=tmp_path).printed().startswith("Hello, Ada! This is Python 3")
