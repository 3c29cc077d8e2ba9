"""What README and docs show is true: each block is run or checked, each link leads somewhere."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from conftest import REPOSITORY, Buildrun, Project
from step_helpers import LIMIT

import buildrun as api
from buildrun import cli
from buildrun.commands.parser import parser_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/*/README.md", "benchmarks/*.md")
    for path in REPOSITORY.glob(pattern)
)
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)

# Programs of others that a console block may call.
OTHERS = {
    "cosign",
    "databricks",
    "docker",
    "eval",
    "export",
    "git",
    "kubectl",
    "mlflow",
    "pip",
    "python",
    "uv",
}


# What stands in the form of a command, for something else.
_FORM = re.compile(r"[…|\[*]|\\|\b(NAME|SHELL|slurm)\b")


class Block(NamedTuple):
    page: str
    line: int
    info: str
    text: str
    before: str  # the paragraph before it

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def is_for_ci(self) -> bool:
        """Return whether it is a file of a CI service, which test_ci.py checks."""
        told = self.info + self.before + self.text.partition("\n")[0]
        return self.page == "docs/ci.md" or ".github" in told or ".gitlab" in told


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        yield Block(
            str(path.relative_to(REPOSITORY)),
            before.count("\n") + 1,
            found["info"].strip(),
            textwrap.dedent(found["text"]),
            before.rstrip().rpartition("\n\n")[2],
        )


BLOCKS = [block for path in PAGES for block in blocks(path)]


def block_with(page: str, language: str, part: str) -> Block:
    (found,) = [
        block
        for block in BLOCKS
        if (block.page, block.language) == (page, language) and part in block.text
    ]
    return found


def commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell's line."""
    words: list[str] = []
    lexer = shlex.shlex(re.sub(r"(^|\s)#\s.*", "", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    for word in [*lexer, ";"]:
        if word in (";", "&&", "||", "|", "&"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def check_command(words: list[str]) -> None:
    name, *arguments = words[: words.index(">")] if ">" in words else words
    if name == "buildrun":
        verb = arguments.pop(0) if arguments and arguments[0] in cli.COMMANDS else "run"
        assert parser_of(verb, "").parse_args(cli._joined(arguments))
    elif "/" in name:
        assert os.access(REPOSITORY / name, os.X_OK), name
    else:
        assert name in OTHERS, name


def check_console(block: Block, _: Path, __: Buildrun) -> None:
    lines = block.text.replace("\\\n", " ").splitlines()
    shown = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    assert shown, "a block of a console shows a command behind `$ `"
    for line in shown:
        for words in commands(line):
            check_command(words)


def check_yaml(block: Block, directory: Path, buildrun: Buildrun) -> None:
    if yaml.compose(block.text) is None:
        assert re.fullmatch(r"# yaml-language-server: \$schema=\S+\n", block.text)
        return
    if block.is_for_ci:
        return
    value = yaml.safe_load(block.text)
    if "repos" in value:
        check_pre_commit(block, directory)
    elif "entry_points" in value or "databricks_spark_job" in value:
        check_mlproject(block.text, value, directory, buildrun)
    elif value.get("kind", "Job") == "Job":
        check_job(value, directory, buildrun)
    else:
        assert value["apiVersion"].partition("/")[0] == "rbac.authorization.k8s.io"
        assert {"metadata", "rules"} <= value.keys()


def check_pre_commit(block: Block, directory: Path) -> None:
    (directory / "config.yaml").write_text(block.text)
    subprocess.run(
        (sys.executable, "-m", "pre_commit", "validate-config", "config.yaml"),
        cwd=directory, check=True, timeout=LIMIT,
    )  # fmt: skip
    manifest = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    used = {hook["id"] for repo in yaml.safe_load(block.text)["repos"] for hook in repo["hooks"]}
    assert used <= {hook["id"] for hook in manifest}


def check_mlproject(text: str, value: Any, directory: Path, buildrun: Buildrun) -> None:
    """Validate an MLproject, to which the files are given that it speaks of."""
    (directory / "MLproject").write_text(text)
    for key in ("python_env", "conda_env"):
        if key in value:
            (directory / value[key]).write_text("dependencies: []\n")
    for point in value.get("entry_points", {}).values():
        for pattern in point.get("inputs", ()):
            name = pattern.replace("**", "any").replace("*", "any")
            path = directory / (f"{name}any" if name.endswith("/") else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    outcome = buildrun("validate", "--strict", cwd=directory)
    assert (outcome.code, outcome.out) == (0, "")


def check_job(value: Any, directory: Path, buildrun: Buildrun) -> None:
    """Validate a Job, or the template of its pod, as what a backend config names."""
    job = value if "kind" in value else {"kind": "Job", "spec": {"template": value}}
    (directory / "job.yaml").write_text(yaml.safe_dump(job))
    config = {"repository-uri": "team/churn", "kube-job-template-path": "job.yaml"}
    (directory / "config.json").write_text(json.dumps(config))
    outcome = buildrun("validate", "config.json", cwd=directory)
    assert (outcome.code, outcome.out) == (0, "")


def check_json(block: Block, directory: Path, buildrun: Buildrun) -> None:
    value = json.loads(block.text)
    if not value.keys().isdisjoint(("new_cluster", "existing_cluster_id", "serverless")):
        (directory / "cluster.json").write_text(block.text)
        outcome = buildrun("validate", "--strict", "cluster.json", cwd=directory)
        assert (outcome.code, outcome.out) == (0, "")
    elif not block.is_for_ci and "repository-uri" in value:
        template = value.get("kube-job-template-path")
        if template:
            job = block_with(block.page, "yaml", "namespace: mlflow\nspec")
            (directory / template).write_text(job.text)
        (directory / "config.json").write_text(block.text)
        outcome = buildrun("validate", "config.json", cwd=directory)
        assert (outcome.code, outcome.out) == (0, "")


def check_python(block: Block, _: Path, __: Buildrun) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), block.page, "exec"), {})
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("buildrun."):
            called = getattr(api, ast.unparse(node.func).removeprefix("buildrun."))
            names = [keyword.arg or "" for keyword in node.keywords]
            inspect.signature(called).bind(*node.args, **dict.fromkeys(names))
        elif isinstance(node, ast.Attribute):
            owner = {"buildrun": api, "run": api.Run}.get(ast.unparse(node.value))
            assert owner is None or hasattr(owner, node.attr), node.attr


def check_toml(block: Block, _: Path, __: Buildrun) -> None:
    assert tomllib.loads(block.text)


def check_shell(block: Block, _: Path, __: Buildrun) -> None:
    done = subprocess.run(
        ("bash", "-n"), input=block.text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def check_recipe(block: Block, _: Path, __: Buildrun) -> None:
    assert block.is_for_ci, f"`{block.language}` is only for files of CI services"


CHECKS = {
    "bash": check_shell,
    "console": check_console,
    "groovy": check_recipe,
    "json": check_json,
    "python": check_python,
    "sh": check_shell,
    "toml": check_toml,
    "yaml": check_yaml,
}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_block_is_right(block: Block, tmp_path: Path, buildrun: Buildrun) -> None:
    assert block.language in CHECKS, f"{block.page}:{block.line}: unknown language {block.info!r}"
    CHECKS[block.language](block, tmp_path, buildrun)


def test_every_fence_is_a_block() -> None:
    fences = sum(len(re.findall("^ *```", path.read_text(), re.MULTILINE)) for path in PAGES)
    assert fences == 2 * len(BLOCKS) > 0


def prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_in_prose_are_understood(path: Path) -> None:
    for span in re.findall(r"(?<!`)`(buildrun [^`]*)`(?!`)", prose(path)):
        line = " ".join(span.split())
        if line.removeprefix("buildrun ") in cli.COMMANDS or _FORM.search(line):
            continue
        for words in commands(line):
            check_command(words)
    assert path.is_file()


def anchors(path: Path) -> set[str]:
    """Return what GitHub calls the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"(?:\]\(|<img src=\")([^)\s\"]+)[)\"]", prose(path)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


def test_readme_names_every_command() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert [verb for verb in cli.COMMANDS if f"`buildrun {verb} " not in text] == []


def test_findings_are_those_of_the_readme(project: Project, buildrun: Buildrun) -> None:
    sample = block_with("README.md", "console", "unknown-placeholder").text
    directory = project(
        "name: churn\nentry_points:\n  main:\n    parameters:\n"
        '      alpha: {type: flaot, default: 0.1}\n    command: "python train.py {alhpa}"\n'
    )
    outcome = buildrun("validate", cwd=directory)
    assert (outcome.code, f"$ buildrun validate\n{outcome.out}") == (1, sample)


@pytest.fixture
def complete(project: Project) -> Path:
    """Return the complete project of docs/mlproject.md, with scripts that do what it says."""
    scripts = {
        "prepare": "open('data/clean.csv', 'w').write(sys.argv[2])",
        "features": "os.mkdir('data/features'); open('data/features/a', 'w').write('0')",
        "train": "open('model.pkl', 'w').write(sys.argv[2] + open('data/features/a').read())",
        "evaluate": "os.mkdir('metrics'); open('metrics/a', 'w')",
    }
    files = {f"{name}__py": f"import os, sys\n{text}\n" for name, text in scripts.items()}
    mlproject = block_with("docs/mlproject.md", "yaml", "name: wine-quality").text
    directory = project(mlproject, python_env__yaml="dependencies: []\n", **files)
    for name in ("raw", "data"):
        (directory / name).mkdir()
    (directory / "raw/1.csv").touch()
    return directory


def test_readme_begins_with_commands_that_work(complete: Path, buildrun: Buildrun) -> None:
    for line in block_with("README.md", "console", "instead of `mlflow run .`").text.splitlines():
        for words in commands(line.removeprefix("$ ")):
            outcome = buildrun(*words[1:], cwd=complete)
            assert outcome.code == 0, outcome.err


def test_complete_project_runs_as_its_page_says(complete: Path, buildrun: Buildrun) -> None:
    def states(*arguments: str) -> dict[str, str]:
        report = complete.parent / "report.json"
        outcome = buildrun(".", "--env-manager=local", "--report", report, *arguments, cwd=complete)
        assert outcome.code == 0, outcome.err
        return {step["id"]: step["state"] for step in json.loads(report.read_text())["steps"]}

    assert set(states().values()) == {"ok"}
    assert set(states().values()) == {"up-to-date"}
    assert states("-P", "alpha=0.1") == {
        "prepare": "up-to-date", "features": "up-to-date", "train": "ok", "main": "ok",
    }  # fmt: skip
    features = complete / "features.py"
    features.write_text(features.read_text().replace("'0'", "'1'"))
    assert states("-P", "alpha=0.1") == {
        "prepare": "up-to-date", "features": "ok", "train": "ok", "main": "ok",
    }  # fmt: skip
