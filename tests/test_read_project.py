"""Projects are read by MLflow's rules, and what is odd about them is said."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import REPOSITORY, Buildrun, Project

from buildrun.errors import ProjectError
from buildrun.project.locate import find_mlproject
from buildrun.project.model import (
    CondaEnv,
    DockerEnv,
    EntryPoint,
    Parameter,
    ProjectSpec,
    PythonEnv,
)
from buildrun.project.read import Reading, check_files, read_project
from buildrun.project.rules.environments import as_python_env
from buildrun.store.memo import DependencyTracker

CASES = Path(__file__).parent / "cases"
EXPECT = re.compile(r"^# expect: (.*)$", re.MULTILINE)


def read(directory: Path) -> Reading:
    return read_project(str(directory), DependencyTracker({}))


def spec_of(directory: Path) -> ProjectSpec:
    spec = read(directory).spec
    assert spec is not None
    return spec


def codes(directory: Path) -> list[str]:
    return [found.code for found in read(directory).diagnostics]


def expected_in(directory: Path) -> dict[str, list[str]]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    found = {str(path): sorted(EXPECT.findall(path.read_text())) for path in files}
    return {path: expected for path, expected in found.items() if expected}


@pytest.mark.parametrize(
    "directory", sorted(CASES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_case_has_exactly_its_findings(directory: Path) -> None:
    found = defaultdict(list)
    rows = check_files([str(directory)], "/", DependencyTracker({}))
    for item in (item for row in rows for item in row.diagnostics):
        found[item.path].append(f"{item.severity} {item.code} {item.line}:{item.column}")
        assert item.hint, item
        assert not item.message.endswith(".")
    assert {path: sorted(items) for path, items in found.items()} == expected_in(directory)
    assert all(row.is_valid() for row in rows) is (directory.parent.name == "valid")


def test_every_code_has_a_test() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "buildrun/project").rglob("*.py"))
    declared = set(re.findall(r'(?:error|warning)(?:\(|", )\s*"([a-z0-9-]+)"', source))
    declared |= set(re.findall(r'(?:Error|_finding)\((?:path, )?"([a-z0-9-]+)"', source))
    for path in (REPOSITORY / "schemas").glob("*.json"):
        declared |= set(re.findall(r'"code": "([a-z0-9-]+)"', path.read_text()))
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    tested = set(re.findall(r'"([a-z0-9-]+)"', tests))
    for path in CASES.rglob("*"):
        tested |= set(
            re.findall(r"# expect: \w+ (\S+)", path.read_text() if path.is_file() else "")
        )
    assert len(declared) > 45
    assert not declared - tested


def test_documented_project_is_read_whole() -> None:
    directory = CASES / "valid" / "documentation"
    assert spec_of(directory) == ProjectSpec(
        "My Project",
        str(directory),
        str(directory / "MLproject"),
        (
            EntryPoint(
                "main",
                (Parameter("data_file", "path"), Parameter("regularization", "float", "0.1")),
                "python train.py -r {regularization} {data_file}",
            ),
            EntryPoint(
                "validate", (Parameter("data_file", "path"),), "python validate.py {data_file}"
            ),
        ),
        PythonEnv(
            str(directory / "python_env.yaml"),
            "3.8.15",
            ("pip", "setuptools", "wheel==0.37.1"),
            ("mlflow==2.3", "scikit-learn==1.0.2"),
        ),
    )


@pytest.mark.parametrize("name", ["MLproject", "mlproject", "MLPROJECT", "MlProject"])
def test_mlproject_is_found_in_any_letter_case(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("name: found\n")
    assert find_mlproject(str(tmp_path)) == str(tmp_path / name)
    assert spec_of(tmp_path).name == "found"


def test_usual_spelling_wins_and_a_suffix_is_none(tmp_path: Path) -> None:
    (tmp_path / "MLproject.yaml").touch()
    assert find_mlproject(str(tmp_path)) is None
    (tmp_path / "MLPROJECT").touch()
    (tmp_path / "MLproject").touch()
    assert find_mlproject(str(tmp_path)) == str(tmp_path / "MLproject")


def test_mlproject_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlproject").mkdir()
    for directory, code in ((tmp_path, "not-a-file"), (tmp_path / "absent", "unreadable-file")):
        reading = read(directory)
        assert reading.spec is None
        assert [found.code for found in reading.diagnostics] == [code]


def test_directory_without_mlproject_is_a_project(tmp_path: Path) -> None:
    directory = tmp_path / "my project"
    directory.mkdir()
    reading = read(directory)
    assert reading.spec == ProjectSpec("my project", str(directory), None, (), PythonEnv())
    assert reading.diagnostics == ()


@pytest.mark.parametrize("text", ["", "entry_points: {}\n", "name:\n"])
def test_name_is_by_default_the_directorys(project: Project, text: str) -> None:
    assert spec_of(project(text, name="directory")).name == "directory"


@pytest.mark.parametrize(
    ("text", "name"), [("name: 010\n", "8"), ("name: yes\n", "True"), ("name: 5\n", "5")]
)
def test_name_is_the_text_of_its_value(project: Project, text: str, name: str) -> None:
    assert spec_of(project(text)).name == name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"), ("''", ""), ("False", "False"), ("no", "False"), ("null", None), ("~", None),
        ("1e-1", "1e-1"), (".0", "0.0"), ("010", "8"), ("12:30", "750"), ("[1, 2]", "[1, 2]"),
        ("2020-01-01", "2020-01-01"), ("1_000", "1000"), ("{a: b}", "{'a': 'b'}"),
    ],
)  # fmt: skip
def test_default_is_the_text_of_its_value(project: Project, value: str, text: str | None) -> None:
    spec = spec_of(
        project(
            "entry_points:\n  main:\n    parameters:\n"
            f"      a: {{default: {value}}}\n    command: echo {{a}}\n"
        )
    )
    assert spec.entry_points[0].parameters == (Parameter("a", "string", text),)


@pytest.mark.parametrize(
    ("declared", "parameter"),
    [
        ("a: path", Parameter("a", "path")),
        ("a: int", Parameter("a", "int")),
        ("a:", Parameter("a")),
        ("a: {}", Parameter("a")),
        ("a: {type: }", Parameter("a", "None")),
        ("a: {type: float, default: 1}", Parameter("a", "float", "1")),
        ("a: {type:int, default:10}", Parameter("a")),
        ("1: {default: 2}", Parameter("1", "string", "2")),
    ],
)
def test_parameter_is_read(project: Project, declared: str, parameter: Parameter) -> None:
    text = f"entry_points:\n  main:\n    parameters:\n      {declared}\n    command: echo\n"
    reading = read(project(text))
    assert reading.spec is not None
    assert reading.spec.entry_points[0].parameters == (parameter,)
    assert all(found.severity == "warning" for found in reading.diagnostics)


def test_entry_points_without_command_are_left_out(project: Project) -> None:
    spec = spec_of(project("entry_points:\n  a: {}\n  b: {command: echo}\n  c: 5\n"))
    assert [entry_point.name for entry_point in spec.entry_points] == ["b"]


def test_error_in_a_repeated_value_is_found_for_each(project: Project) -> None:
    text = "entry_points:\n  a: &same {command: 'echo {x}'}\n  b: *same\n"
    found = read(project(text)).diagnostics
    assert [item.pointer for item in found] == [
        "/entry_points/a/command",
        "/entry_points/b/command",
    ]
    assert {(item.code, item.line) for item in found} == {("unknown-placeholder", 2)}


def test_last_of_two_keys_counts(project: Project) -> None:
    assert spec_of(project("name: first\nname: second\n")).name == "second"


PYTHON, CONDA = 'python: "3.12"\n', "dependencies: [python=3.10]\n"


@pytest.mark.parametrize(
    ("text", "files", "kind", "file"),
    [
        ("docker_env: {image: x}\nname: a\n", ("python_env.yaml",), DockerEnv, None),
        ("python_env: p.yaml\n", ("p.yaml", "conda.yaml"), PythonEnv, "p.yaml"),
        ("conda_env: c.yaml\n", ("c.yaml", "python_env.yaml"), CondaEnv, "c.yaml"),
        ("name: a\n", ("conda.yaml", "python_env.yaml"), PythonEnv, "python_env.yaml"),
        ("name: a\n", ("conda.yaml",), CondaEnv, "conda.yaml"),
        ("name: a\nunknown: b\n", ("conda.yaml",), CondaEnv, "conda.yaml"),
        ("name: a\n", (), PythonEnv, None),
        ("python_env:\n", ("conda.yaml",), CondaEnv, "conda.yaml"),
        ("docker_env: {}\n", ("conda.yaml",), CondaEnv, "conda.yaml"),
        (None, ("conda.yaml", "python_env.yaml"), PythonEnv, "python_env.yaml"),
        (None, ("conda.yaml",), CondaEnv, "conda.yaml"),
    ],
)
def test_environment_is_chosen_in_mlflows_order(
    project: Project, text: str | None, files: tuple[str, ...], kind: type, file: str | None
) -> None:
    directory = project(text)
    for name in files:
        (directory / name).write_text(CONDA if name.startswith("c") else PYTHON)
    environment = spec_of(directory).environment
    assert isinstance(environment, kind)
    path = getattr(environment, "path", None)
    assert path == (None if file is None else str(directory / file))


def test_environment_file_may_lie_outside(project: Project, tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text(PYTHON)
    reading = read(project("python_env: ../shared.yaml\nname: a\n"))
    assert not reading.diagnostics
    assert reading.spec is not None
    assert isinstance(reading.spec.environment, PythonEnv)
    assert reading.spec.environment.python == "3.12"


def test_file_that_appears_or_changes_is_noticed(project: Project) -> None:
    directory = project("python_env: env.yaml\nname: a\n")
    reader = DependencyTracker({})
    read_project(str(directory), reader)
    assert DependencyTracker({}).is_current(reader.files, reader.variables)
    (directory / "env.yaml").write_text(PYTHON)
    assert not DependencyTracker({}).is_current(reader.files, reader.variables)


def test_conda_file_is_read_whole(project: Project) -> None:
    directory = project(
        conda__yaml="name: a\nchannels: [c]\nvariables: {T: 4}\n"
        "dependencies: [python=3.10, numpy, pip: [x==1]]\n"
    )
    assert spec_of(directory).environment == CondaEnv(
        str(directory / "conda.yaml"),
        "a",
        ("c",),
        ("python=3.10", "numpy"),
        ("x==1",),
        (("T", "4"),),
    )


def test_docker_environment_is_read_whole(project: Project) -> None:
    directory = project(
        'name: a\ndocker_env: {image: x, volumes: ["/a:/b"], environment: [[P, 8080], HOME]}\n'
    )
    assert spec_of(directory).environment == DockerEnv("x", ("/a:/b",), (("P", "8080"), "HOME"))


@pytest.mark.parametrize(
    ("value", "version"),
    [
        ("3.10", "3.10"),
        ("3", "3"),
        ("3.12.1", "3.12.1"),
        ('"3.8"', "3.8"),
        ('""', None),
        ("", None),
    ],
)
def test_python_version_is_read_as_written(
    project: Project, value: str, version: str | None
) -> None:
    directory = project(python_env__yaml=f"python: {value}\n")
    environment = spec_of(directory).environment
    assert isinstance(environment, PythonEnv)
    assert environment.python == version


def test_number_that_is_no_version_is_an_error(project: Project) -> None:
    reading = read(project(python_env__yaml="python: 3:10\n"))
    assert {found.code for found in reading.diagnostics} == {"unquoted-version", "wrong-type"}


def test_pip_section_in_python_env_is_read_as_lines(project: Project) -> None:
    directory = project(python_env__yaml="dependencies: [pip, pip: [a, b]]\n")
    environment = spec_of(directory).environment
    assert isinstance(environment, PythonEnv)
    assert environment.dependencies == ("pip", "a", "b")


def test_requirements_files_lie_in_the_projects_root(project: Project) -> None:
    directory = project("name: a\npython_env: env/p.yaml\n")
    (directory / "env").mkdir()
    (directory / "env" / "p.yaml").write_text("dependencies: [-r requirements.txt]\n")
    (directory / "env" / "requirements.txt").touch()
    assert codes(directory) == ["missing-requirements-file"]
    (directory / "requirements.txt").touch()
    assert codes(directory) == []


def test_empty_environment_files_are_harmless(project: Project) -> None:
    assert codes(project(python_env__yaml="", name="a")) == ["empty-file"]
    assert codes(project(conda__yaml="# later\n", name="b")) == ["empty-file"]


@pytest.mark.parametrize(
    ("job", "extra"),
    [
        ("{}", ""),
        ("{python_file: a}", "entry_points: {main: {command: a}}"),
        ("{}", "entry_points: {main: {command: 'a {b}', parameters: {b: path}}}"),
        ("{python_file: a}", "docker_env: {image: x}"),
        ("{python_file: a}", "python_env: p.yaml"),
        ("{python_file: a}", "conda_env: c.yaml"),
    ],
)
def test_databricks_jobs_are_refused_as_by_mlflow(project: Project, job: str, extra: str) -> None:
    found = codes(project(f"name: a\ndatabricks_spark_job: {job}\n{extra}\n"))
    assert "bad-databricks-job" in found


def test_conda_becomes_mlflows_virtualenv() -> None:
    conda = CondaEnv(
        "/c.yaml",
        dependencies=("python=3.8", "numpy=1", "pip=22.0", "wheel", "defaults::python=3.9"),
        pip=("x==1",),
    )
    assert as_python_env(conda) == (
        PythonEnv("/c.yaml", "3.8", ("pip==22.0", "wheel"), ("x==1",)),
        ("numpy=1", "defaults::python=3.9"),
    )


@pytest.mark.parametrize("pin", ["python", "python<3.8", "python>3.8", "python!=3.8", "python3"])
def test_pins_that_mlflow_refuses(pin: str) -> None:
    with pytest.raises(ProjectError, match=re.escape(pin)):
        as_python_env(CondaEnv("c", dependencies=(pin,)))


@pytest.mark.parametrize(
    ("pin", "version"),
    [(f"python{operator}3.8", "3.8") for operator in (">=", "<=", "==", "=")] + [("pip", None)],
)
def test_pins_that_mlflow_takes(pin: str, version: str | None) -> None:
    assert as_python_env(CondaEnv("c", dependencies=(pin,)))[0].python == version


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("echo {a} {b!r:>10} {a[0]} {b:{a}}", []),
        ("echo '{a}' {b}", ["quoted-placeholder"]),
        ('echo "x {a}" {b}', ["quoted-placeholder"]),
        ('echo "$(cat {a})" {b} # it\'s', []),
        ("# it's {a}\necho {b}", []),
        ("echo \\'{a}\\' {b}", []),
        ("echo {a}\n--x {b}", ["cut-command"]),
        ("echo {a}\n\n--x {b}", ["cut-command"]),
        ("echo {a} \\\n--x {b}", []),
        ("echo {a} \\ \n--x {b}", ["cut-command"]),
        ("echo {a}\npython {b}", []),
        ("echo {a} {b} {{c}} }}", []),
        ("echo {a} {b} {", ["bad-template"]),
        ("echo {a} {b} {c}", ["unknown-placeholder"]),
        ("echo {a} {b} {}", ["bad-template"]),
        ("echo {a!x} {b}", ["bad-template"]),
        ("echo {a.nothing} {b}", ["bad-template"]),
        ("echo {a:{c}} {b}", ["unknown-placeholder"]),
        ("echo {a:999999999} {b}", ["bad-template"]),
        ("echo {a}", ["unused-parameter"]),
        ("echo ${a} {b}", ["unsafe-placeholder"]),
        ("echo $(( {a} + 1 )) {b}", ["unsafe-placeholder"]),
        ('echo "${{HOME:-{b}}}" {a}', ["unsafe-placeholder"]),
        ("cat <<EOF\n$(cat {a})\nEOF\necho {b}", ["unsafe-placeholder"]),
        ('cat <<EOF\nit\'s "{a}"\nEOF\necho {b}', []),
    ],
)
def test_command_is_checked(project: Project, command: str, found: list[str]) -> None:
    lines = "".join(f"      {line}\n" for line in command.split("\n"))
    head = "name: x\nentry_points:\n  main:\n    parameters: {a: string, b: string}\n"
    assert codes(project(f"{head}    command: |-\n{lines}")) == found


INVALID, IGNORED = "invalid-requirement", "ignored-option"


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("", ["numpy", "numpy==1.2", "numpy>=1,<2", "a[b,c] ~= 1.0", "a==1.*", "a===x", "a (>=1)",
              "a; python_version<'3'", "a==1.0.post1.dev2+local", "a @ https://x/y.whl", "./local",
              "a==1 # why", "# only this", "a==1 --hash=sha256:ab", "", "-r file.txt", "a==1,",
              "git+https://x/y", "${PACKAGE}", "a==1!2.0", "--no-index -f x", "-r file.txt -f x",
              "a --config-settings x=y -C z=1 --global-option=q"]),
        (INVALID, ["mlflow == 2..7.1", "a=1", "a b", "==1", "a>=", "a[b", "a>=1.*"]),
        (IGNORED, ["a==1 --extra-index-url https://x/y", "-e . --pre",
                   "a -f x --no-binary a --hash=sha256:ab"]),
    ],
)  # fmt: skip
def test_requirement_is_judged_as_by_pip(project: Project, code: str, lines: list[str]) -> None:
    directory = project()
    (directory / "file.txt").touch()
    for line in lines:
        (directory / "python_env.yaml").write_text(f"dependencies:\n  - {line!r}\n")
        assert codes(directory) == ([code] if code else []), line


def test_default_that_the_shell_would_evaluate_is_an_error(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project(
        "name: x\nentry_points:\n  main:\n    parameters: {v: {default: 'a b'}}\n"
        "    command: echo ${v}\n"
    )
    outcome = buildrun("validate", directory)
    assert outcome.code == 1
    assert (
        "MLproject:5:20: error[unsafe-placeholder]: the shell would read its default for `{v}`"
        in outcome.out
    )
    assert "write `${{v}}`" in outcome.out
