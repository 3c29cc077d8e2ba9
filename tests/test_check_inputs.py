"""Programs that read what their steps do not declare are found, and their results not kept."""

from __future__ import annotations

import json
import os
import py_compile
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Outcome
from needs import missing, need_program
from planted_programs import PLANTED, SCIENCE, STATIC
from step_helpers import Gate, a_gate
from watch_helpers import Step, Watched, a_watched, science

__all__ = ["a_gate", "a_watched", "science"]

READ = "[main] the command read "
ADD = "hint: add to `inputs`: "


def told(done: Outcome, path: str = "secret.cfg") -> None:
    """Check that the read of a file is told, with its place and the line to add."""
    assert done.code == 0, done
    assert "MLproject:" in done.err, done
    assert READ in done.err, done
    assert f"`{path}`" in done.err, done
    assert ADD in done.err, done
    assert f"`- {path}`" in done.err, done


def found(watched: Watched, step: Step, path: str = "secret.cfg", **environ: str) -> Path:
    """Check that a step's read of a file is found, and that its result is not kept."""
    directory = watched.put(step)
    told(watched.run(directory, **environ), path)
    assert watched.state(directory) == "miss"
    return directory


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_read_is_found(name: str, watched: Watched) -> None:
    found(
        watched, PLANTED[name], "secret/secret.cfg" if name == "proc-after-chdir" else "secret.cfg"
    )


@pytest.mark.parametrize("name", SCIENCE)
def test_a_read_by_a_library_in_c_is_found(name: str, watched: Watched, science: Path) -> None:
    path = f"{science}/bin:{os.environ['PATH']}"
    found(watched, Step("python prog.py", {"prog.py": SCIENCE[name]}), PATH=path)


def test_a_static_program_without_a_library_is_found(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "static.c").write_text(STATIC)
    program = tmp_path / "static"
    words = (need_program("gcc"), "-static", "-o", program, tmp_path / "static.c")
    if subprocess.run(words, capture_output=True, check=False).returncode != 0:
        missing("there is no static C library")
    step = Step("./static")
    directory = watched.put(step)
    program.rename(directory / "static")
    text = (directory / "MLproject").read_text().replace('["a.txt"]', '["a.txt", "static"]')
    (directory / "MLproject").write_text(text)
    told(watched.run(directory))
    assert watched.state(directory) == "miss"


def test_an_undeclared_program_is_found(watched: Watched) -> None:
    tool = {"secret-tool": "#!/bin/sh\ncp a.txt out.txt\n"}
    found(watched, Step("./secret-tool", tool), "secret-tool")


def test_an_undeclared_module_is_found(watched: Watched) -> None:
    code = {"prog.py": "import secret_module\nsecret_module.go()\n"}
    code["secret_module.py"] = "def go(): open('out.txt', 'w').close()\n"
    found(watched, Step("python prog.py", code), "secret_module.py")


def test_the_source_of_a_compiled_module_is_named(watched: Watched) -> None:
    code = {"prog.py": "import secret_module\nsecret_module.go()\n"}
    code["secret_module.py"] = "def go(): open('out.txt', 'w').close()\n"
    directory = watched.put(Step("python prog.py", code))
    py_compile.compile(str(directory / "secret_module.py"), doraise=True)
    told(watched.run(directory), "secret_module.py")
    assert watched.state(directory) == "miss"


def test_a_link_and_what_it_leads_to_are_both_named(watched: Watched) -> None:
    done = watched.run(watched.put(PLANTED["link-in-project"]))
    told(done)
    told(done, "name.cfg")


def test_a_file_read_on_the_second_run_alone_is_found_then(watched: Watched) -> None:
    step = Step("cat a.txt > out.txt; if [ -e secret.cfg ]; then cat secret.cfg >> out.txt; fi")
    directory = watched.put(step)
    (directory / "secret.cfg").unlink()
    first = watched.run(directory)
    assert (first.code, "warning" in first.err) == (0, False), first
    assert watched.state(directory) == "up-to-date"
    (directory / "a.txt").write_text("other\n")
    (directory / "secret.cfg").write_text("secret\n")
    told(watched.run(directory))
    assert watched.state(directory) == "miss"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("cat override.cfg > out.txt 2>&1 || cp a.txt out.txt", "override.cfg"),
        ("[ -e sub/override.cfg ]; cp a.txt out.txt", "sub/override.cfg"),
        ("python -c \"import os; os.path.exists('no'); open('out.txt', 'w')\"", "no"),
        ("python -c \"import colorsys; open('out.txt', 'w')\"", "colorsys.py"),
        ("PYTHONPATH=sub:$PYTHONPATH python -c \"import csv; open('out.txt', 'w')\"", "sub/csv.py"),
        ("make -s", "out.c"),
        ("PYTHONPATH=sub python -c \"import json; open('out.txt', 'w')\"", "more.py"),
        ("python -I -c \"import os; os.listdir('sub'); open('out.txt', 'w')\"", "sub/more"),
    ],
)
def test_what_was_looked_for_and_appears_has_the_step_run(
    command: str, name: str, watched: Watched
) -> None:
    files = {"sub/b.txt": "", "Makefile": "out.txt:\n\t@cat $(wildcard *.c) /dev/null > out.txt\n"}
    directory = watched.put(Step(command, files))
    done = watched.run(directory)
    assert (done.code, "warning" in done.err) == (0, False), done
    assert watched.state(directory) == "up-to-date"
    (directory / "unrelated").mkdir()
    if "python -c" in command and "PYTHONPATH=sub python" not in command:
        (directory / "unrelated.py").write_text("")
    (directory / "sub" / "__pycache__").mkdir()
    (directory / "unrelated").rmdir()
    assert watched.state(directory) == "up-to-date"
    (directory / name).write_text("now\n")
    found = watched.plan(directory)["cache"]
    assert found["state"] == "miss", found
    assert "lookup-changed" in {each["code"] for each in found["reasons"]}, found


def test_an_ignored_file_is_found_without_inputs(watched: Watched) -> None:
    step = Step("cat secret.cfg > out.txt", {".gitignore": "*.cfg\n"}, inputs=None)
    directory = watched.put(step)
    done = watched.run(directory)
    assert "the command read `secret.cfg`, which is no input" in done.err, done
    assert "it is ignored; name the step's inputs" in done.err
    assert "`- secret.cfg`" in done.err
    assert watched.state(directory) == "miss"


def test_a_result_that_was_not_kept_is_the_reason(watched: Watched) -> None:
    directory = watched.put(Step("cat secret.cfg > out.txt"))
    assert "the result is not cached" in watched.run(directory).err
    for text in ("a", "other"):
        (directory / "a.txt").write_text(text)
        reasons = watched.plan(directory)["cache"]["reasons"]
        assert [reason["code"] for reason in reasons] == ["not-kept"]


def test_several_ignored_files_are_told_as_several(watched: Watched) -> None:
    files = {".gitignore": "*.cfg\n", "b.cfg": "b"}
    done = watched.run(watched.put(Step("cat secret.cfg b.cfg > out.txt", files, inputs=None)))
    assert "which are no input" in done.err, done
    assert "they are ignored; name the step's inputs" in done.err


def test_what_version_control_knows_is_found(watched: Watched) -> None:
    directory = watched.put(Step("cat .git/HEAD > out.txt", {".git/HEAD": "ref\n"}, ["a.txt"]))
    done = watched.run(directory)
    assert "the command read `.git/HEAD`, which `inputs` does not name" in done.err, done
    assert "hand it in as a parameter" in done.err
    assert watched.state(directory) == "miss"


OTHER = """\
  first:
    inputs: [a.txt]
    outputs: [first.txt]
    command: cp a.txt first.txt
"""


def test_the_output_of_another_step_takes_depends_on(watched: Watched) -> None:
    directory = watched.put(
        Step("cat first.txt > out.txt", {"first.txt": "1"}, ["a.txt"], more=OTHER)
    )
    done = watched.run(directory)
    assert (
        "the command read `first.txt`, which `first` makes, and does not depend on it" in done.err
    )
    assert "add `- first` to `depends_on`, and `- first.txt` to `inputs`" in done.err
    assert watched.state(directory) == "miss"


def test_a_file_that_was_made_first_is_no_read(watched: Watched) -> None:
    step = Step("cp a.txt made.txt; cat made.txt > out.txt")
    directory = watched.put(step)
    done = watched.run(directory)
    assert READ not in done.err, done
    assert "the command wrote `made.txt`, which `outputs` does not name" in done.err
    assert "add to `outputs`: `- made.txt`; or write it below `$TMPDIR`" in done.err


def test_a_write_besides_the_outputs_is_told(watched: Watched) -> None:
    directory = watched.put(Step("mkdir -p deep; cp a.txt out.txt; cp a.txt deep/more.txt"))
    done = watched.run(directory)
    assert done.code == 0
    assert "the command wrote `deep/more.txt`, which `outputs` does not name" in done.err, done


def test_a_listed_directory_is_told_with_what_is_no_input(watched: Watched) -> None:
    files = {"data/one.csv": "", "data/two.csv": ""}
    directory = watched.put(Step("ls data > out.txt", files, ["data/one.csv"]))
    done = watched.run(directory)
    assert "listed the directory `data`, in which `two.csv` is no input" in done.err, done
    assert "add to `inputs`: `- data/**`" in done.err


def test_a_fully_declared_directory_may_be_listed(watched: Watched) -> None:
    files = {"data/one.csv": "", "data/two.csv": ""}
    directory = watched.put(Step("ls data > out.txt", files, ["data"]))
    assert "warning" not in watched.run(directory).err
    assert watched.state(directory) == "up-to-date"


def test_files_out_of_the_project_are_told_and_the_result_is_kept(watched: Watched) -> None:
    place = watched.place / "elsewhere"
    place.mkdir()
    (place / "x.csv").write_text("x\n")
    (Path(watched.environ["HOME"]) / ".netrc").write_text("machine a\n")
    directory = watched.put(Step(f"cat {place}/x.csv $HOME/.netrc > out.txt"))
    done = watched.run(directory)
    assert f"the command used `{place}/x.csv`" in done.err, done
    assert ".netrc`, out of the project" in done.err
    assert "declare a parameter of the type `path`" in done.err
    assert watched.state(directory) == "up-to-date"


def test_variables_that_python_reads_are_told(watched: Watched) -> None:
    code = (
        "import os\n"
        "usual = [os.environ.get(name) for name in ('HOME', 'PATH', 'LANG', 'TMPDIR', 'CI')]\n"
        "every = dict(os.environ)\n"
        "open('out.txt', 'w').write(os.getenv('API_URL') + os.environ['MODEL'])\n"
    )
    directory = watched.put(Step("python prog.py", {"prog.py": code}))
    done = watched.run(directory, API_URL="http://a", MODEL="m", NEVER_READ="1")
    assert "read the variables `API_URL`, `MODEL`, which are no part of the key" in done.err
    assert "add to `key_env`: `- API_URL`, `- MODEL`" in done.err
    assert "NEVER_READ" not in done.err
    (directory / "prog.py").write_text(code.replace("os.environ['MODEL']", "''"))
    done = watched.run(directory, API_URL="http://a")
    assert "read the variable `API_URL`, which is no part of the key" in done.err
    assert "`pass_env`, where it decides nothing" in done.err


def test_a_program_with_a_changed_root_is_said_to_be_unseen(watched: Watched) -> None:
    code = "import os\nos.chroot('.')\nopen('/out.txt', 'w').write(open('/secret.cfg').read())\n"
    directory = watched.put(Step("python prog.py", {"prog.py": code}))
    done = watched.run(directory)
    if os.geteuid() != 0:
        assert done.code != 0
        missing("only root may change a program's root")
    assert "not all that it reads was seen: `chroot` has changed what paths mean" in done.err, done


def test_what_a_command_leaves_running_is_said_to_be_unseen(watched: Watched, gate: Gate) -> None:
    later = "sh -c 'read _ < $GO; cat secret.cfg; echo > $UP' > /dev/null 2>&1 &"
    directory = watched.put(Step(f"{later} cp a.txt out.txt"))
    done = watched.run(directory, **gate.environ)
    gate.open()
    assert done.code == 0
    assert "not all that it reads was seen: it has left processes running" in done.err, done


def test_packages_of_the_user_are_part_of_the_environment(watched: Watched) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    place = Path(watched.environ["HOME"], ".local/lib", version, "site-packages")
    place.mkdir(parents=True)
    (place / "of_user.py").write_text("")
    python = Path(sys.base_prefix, "bin", version)
    directory = watched.put(Step(f"{python} -c \"import of_user; open('out.txt', 'w')\""))
    for option in ("--check-inputs", "--sandbox"):
        done = watched.run(directory, option)
        assert (done.code, "warning" in done.err) == (0, False), done
        (directory / "a.txt").write_text("other\n")


def test_what_was_seen_lies_beside_the_log(watched: Watched) -> None:
    directory = watched.put(PLANTED["cat"])
    told(watched.run(directory))
    runs = Path(os.environ["BUILDRUN_HOME"]) / "runs"
    (record,) = runs.rglob("*.accesses.json")
    seen = json.loads(record.read_bytes())
    assert str(directory / "secret.cfg") in seen["read"]
    assert str(directory / "out.txt") in seen["written"]


@pytest.mark.parametrize("way", ["variable", "key"])
def test_it_can_be_asked_for_otherwise(way: str, watched: Watched) -> None:
    directory = watched.put(PLANTED["cat"])
    file = directory / "MLproject"
    if way == "key":
        file.write_text(file.read_text() + "    check_inputs: true\n")
    environ = {"BUILDRUN_CHECK_INPUTS": "1"} if way == "variable" else {}
    told(watched.run(directory, "--quiet", **environ))


def test_a_failed_command_is_told_of_as_well(watched: Watched) -> None:
    done = watched.run(watched.put(Step("cat secret.cfg > out.txt; exit 7")))
    assert done.code == 7
    assert "the command read `secret.cfg`" in done.err


def test_names_that_yaml_would_take_otherwise_are_quoted(watched: Watched) -> None:
    files = {"secret: it's #1.cfg": "x\n"}
    done = watched.run(watched.put(Step("cat secret:* > out.txt", files)))
    line, *_ = re.findall("add to `inputs`: `(.*?)` ", done.err)
    assert yaml.safe_load(line) == ["secret: it's #1.cfg"]


def test_size_of_a_file_that_is_no_input_is_a_condition(watched: Watched) -> None:
    directory = watched.put(Step("stat -c %s secret.cfg > out.txt"))
    assert "warning" not in watched.run(directory).err
    assert watched.state(directory) == "up-to-date"
    (directory / "secret.cfg").write_text("of another size, that is\n")
    assert watched.state(directory) == "miss"


def test_forced_run_without_a_check_keeps_the_conditions(watched: Watched) -> None:
    directory = watched.put(Step("test -f override.cfg && echo 1 > out.txt || echo 2 > out.txt"))
    watched.run(directory)
    watched.run(directory, "--force")
    assert watched.state(directory) == "up-to-date"
    (directory / "override.cfg").touch()
    assert watched.state(directory) == "miss"


def test_a_result_that_was_kept_before_the_undeclared_read_was_seen_is_dropped(
    watched: Watched,
) -> None:
    directory = watched.put(Step("cat a.txt secret.cfg > out.txt"))
    watched.run(directory, "--quiet")
    assert watched.state(directory) == "up-to-date"
    (directory / "secret.cfg").write_text("new\n")
    watched.run(directory, "--force", "--check-inputs")
    assert "new" in (directory / "out.txt").read_text()
    assert watched.state(directory) == "miss"
    watched.run(directory, "--quiet")
    assert "new" in (directory / "out.txt").read_text()
