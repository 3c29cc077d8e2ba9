"""The recipes of docs/ci.md: by the services' schemas, and by running what they run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
import yaml
from conftest import REPOSITORY, Buildrun
from source_helpers import Repository, plain_git  # noqa: F401
from wheels import write_wheel

PAGE = REPOSITORY / "docs" / "ci.md"
GITHUB, GITLAB = ".github/workflows/buildrun.yml", ".gitlab-ci.yml"
SCHEMAS = {GITHUB: "vendor.github-workflows", GITLAB: "vendor.gitlab-ci"}

# What a service does, and what its machines install: it is not run here.
NOT_RUN = {
    'pip install "buildrun[s3]"',
    "actions/cache@v4",
    "actions/checkout@v4",
    "actions/setup-python@v5",
    "actions/upload-artifact@v4",
    "github/codeql-action/upload-sarif@v3",
}
READ = "https://cache.example.org/buildrun"
MAKE = """\
name: {name}
{env}entry_points:
  main:
    inputs: [make.py]
    outputs: [made]
    command: python make.py
"""


def _text(name: str) -> str:
    """Return the file that a block of the page shows."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(f"# {name}\n")]
    return str(found)


def _recipe(name: str) -> dict[str, Any]:
    # YAML 1.1 takes `on` for a truth.
    return {
        "on" if key is True else key: value for key, value in yaml.safe_load(_text(name)).items()
    }


class Command(NamedTuple):
    """A line of a job, or the action that stands for one."""

    text: str
    environ: Mapping[str, str]


class Job(NamedTuple):
    """A job as a service would run it, once for each of its shares."""

    name: str
    commands: tuple[Command, ...]


class Place(NamedTuple):
    """A repository, its clone, and the caches that jobs read and write."""

    clone: Path
    cache: Path
    base: str

    @property
    def values(self) -> dict[str, str]:
        """Return what the services and their owners fill in."""
        return {
            "github.workspace": str(self.clone),
            "github.event.pull_request.base.sha": self.base,
            "secrets.BUILDRUN_REMOTE_CACHE": self.cache.as_uri(),
            "CI_PROJECT_DIR": str(self.clone),
            "CI_MERGE_REQUEST_DIFF_BASE_SHA": self.base,
            "CACHE_TO_WRITE": self.cache.as_uri(),
        }

    def run(self, job: Job) -> str:
        """Run all lines of a job that can be run here; return what they write."""
        said = ""
        for command in job.commands:
            if command.text in NOT_RUN:
                continue
            done = subprocess.run(
                ("bash", "-eo", "pipefail", "-c", command.text),
                cwd=self.clone,
                env=self._environ(command),
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert done.returncode == 0, (command.text, done.stdout, done.stderr)
            said += done.stdout + done.stderr
        return said

    def _environ(self, command: Command) -> dict[str, str]:
        given = {
            name: text.replace(READ, self.cache.as_uri()) for name, text in command.environ.items()
        }
        given["GITHUB_STEP_SUMMARY"] = os.devnull
        path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))
        kept = {name: text for name, text in os.environ.items() if not name.startswith("BUILDRUN_")}
        return {**kept, "PATH": path, "PIP_NO_INDEX": "1", **given}


@pytest.fixture
def place(tmp_path: Path, buildrun: Buildrun) -> Place:
    """Return a clone of a repository with two projects, of which one has changed since `base`."""
    origin = Repository(tmp_path / "origin")
    origin.path.mkdir()
    origin.git("init", "-q", "-b", "main")
    for name, env in (("train", "python_env: python_env.yaml\n"), ("other", "")):
        (origin.path / name).mkdir()
        (origin.path / name / "MLproject").write_text(MAKE.format(name=name, env=env))
        (origin.path / name / "make.py").write_text("open('made', 'w').write('1')\n")
    write_wheel(origin.path / "train" / "wheels", "alpha")
    (origin.path / "train" / "python_env.yaml").write_text(
        "dependencies: [--find-links ./wheels, alpha]\n"
    )
    buildrun("lock", origin.path / "train", environ={"PIP_NO_INDEX": "1"}).printed()
    base = origin.commit(**{".gitignore": ".buildrun/\nmade\nreports/\n"})
    (origin.path / "other" / "make.py").write_text("open('made', 'w').write('2')\n")
    origin.commit()
    origin.git("clone", "-q", origin.path, tmp_path / "clone")
    (tmp_path / "cache").mkdir()
    return Place(tmp_path / "clone", tmp_path / "cache", base)


def _github(job: str, values: Mapping[str, str]) -> Iterator[Job]:
    """Yield a job of the recipe for GitHub, once for each cell of its matrix."""
    recipe = _recipe(GITHUB)
    found = recipe["jobs"][job]
    for shard in found.get("strategy", {}).get("matrix", {}).get("shard", [0]):
        cell = {**values, "matrix.shard": str(shard)}
        commands = []
        for step in found["steps"]:
            given = {**recipe["env"], **found.get("env", {}), **step.get("env", {})}
            environ = {name: _filled(str(text), cell) for name, text in given.items()}
            text = step.get("run") or step["uses"]
            assert "${{" not in text, "a value of others is no part of a script"
            commands.append(Command(text, {**environ, "GITHUB_ACTIONS": "true"}))
        yield Job(job, tuple(commands))


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its expressions replaced; of secrets that are not needed here, nothing."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        return values.get(name, "") if name.startswith("secrets.") else values[name]

    return re.sub(r"\$\{\{ ([\w.]+) \}\}", value, text)


def _gitlab(job: str, values: Mapping[str, str]) -> Iterator[Job]:
    """Yield a job of the recipe for GitLab, once for each of its parallel ones."""
    recipe = _recipe(GITLAB)
    found, total = recipe[job], recipe[job].get("parallel", 1)
    for number in range(1, total + 1):
        own = {**values, "CI_NODE_INDEX": str(number), "CI_NODE_TOTAL": str(total)}
        given = {**recipe["variables"], **found.get("variables", {})}
        environ = {name: _expanded(text, own) for name, text in given.items()}
        lines = [*recipe["default"]["before_script"], *found["script"]]
        yield Job(
            job, tuple(Command(line, {**own, **environ, "GITLAB_CI": "true"}) for line in lines)
        )


def _expanded(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], text)


JOBS = {GITHUB: _github, GITLAB: _gitlab}
UNTRUSTED = {GITHUB: "pull-request", GITLAB: "merge-request"}


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_recipe_is_what_the_service_accepts(name: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yml"
    file.write_text(_text(name))
    tool = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        (tool, "--builtin-schema", SCHEMAS[name], file), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_jobs_check_the_files_and_report(name: str, place: Place) -> None:
    for job in JOBS[name]("check", place.values):
        place.run(job)
    for file in ("buildrun.sarif", "gl-code-quality-report.json"):
        if (place.clone / file).exists():
            json.loads((place.clone / file).read_text())
    for job in JOBS[name]("train", place.values):
        place.run(job)
    reports = place.clone / "reports"
    assert ElementTree.parse(reports / "train.xml").getroot().tag.startswith("testsuite")
    assert "<html" in (reports / "train.html").read_text()
    assert json.loads((reports / "provenance.json").read_text())["subject"]


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_trusted_jobs_write_what_untrusted_ones_read(name: str, place: Place) -> None:
    untrusted = list(JOBS[name](UNTRUSTED[name], place.values))
    assert len(untrusted) == 2
    for job in untrusted:
        place.run(job)
    assert list(place.cache.iterdir()) == [], "an untrusted job has written"
    for job in JOBS[name]("main", place.values):
        place.run(job)
    kept = {path for path in place.cache.rglob("*") if path.is_file()}
    assert kept
    _forget(place.clone)
    said = "".join(place.run(job) for job in untrusted)
    assert "1 from the cache" in said
    assert (place.clone / "other" / "made").exists()
    assert not (place.clone / "train" / "made").exists(), "nothing has changed there"
    assert {path for path in place.cache.rglob("*") if path.is_file()} == kept


def _forget(clone: Path) -> None:
    """Remove the store and what was made, as on a new machine."""
    Repository(clone).git("clean", "-qfdX")


def test_every_line_is_run_or_listed() -> None:
    values = dict.fromkeys(Place(Path("/"), Path("/"), "").values, "")
    lines = {
        command.text
        for name, names in ((GITHUB, _recipe(GITHUB)["jobs"]), (GITLAB, _gitlab_jobs()))
        for job in names
        for each in JOBS[name](job, values)
        for command in each.commands
    }
    assert {line for line in lines if not line.startswith(("buildrun ", "mkdir "))} == NOT_RUN


def _gitlab_jobs() -> list[str]:
    return [name for name, value in _recipe(GITLAB).items() if "script" in value]


def test_secrets_and_the_right_to_write_are_for_trusted_jobs_alone() -> None:
    recipe = _recipe(GITHUB)
    trusted = {
        name for name, job in recipe["jobs"].items()
        if "secrets." in json.dumps(job) or "--remote-cache-write" in json.dumps(job)
    }  # fmt: skip
    assert trusted == {"main"}
    assert "refs/heads/main" in recipe["jobs"]["main"]["if"]
    assert recipe["permissions"] == {"contents": "read"}
    assert recipe["on"].keys() == {"push", "pull_request"}, "`pull_request_target` has secrets"
    writers = {
        name for name in _gitlab_jobs() if "cache-write" in json.dumps(_recipe(GITLAB)[name])
    }
    assert writers == {"main"}
    (rule,) = _recipe(GITLAB)["main"]["rules"]
    assert rule == {"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}
