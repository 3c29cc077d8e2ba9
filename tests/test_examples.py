"""Every example runs, is valid, and is told of in the README."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conftest import REPOSITORY, Buildrun
from example_helpers import play
from remote_helpers import bucket

EXAMPLES = REPOSITORY / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())


@pytest.fixture
def example(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies an example, so that runs leave nothing in the checkout."""
    return lambda name: Path(shutil.copytree(EXAMPLES / name, tmp_path / name))


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_valid_without_warnings(buildrun: Buildrun, name: str) -> None:
    outcome = buildrun("validate", "--strict", EXAMPLES / name)
    assert outcome.code == 0, outcome.out


@pytest.mark.parametrize("name", NAMES)
def test_readme_tells_of_every_example(name: str) -> None:
    assert f"(examples/{name})" in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_example_is_explained_in_few_lines(name: str) -> None:
    assert 8 <= len((EXAMPLES / name / "README.md").read_text().splitlines()) <= 14


# Those in containers and on a cluster are run beside their other tests.
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hello", "Hello, world!"),
        ("no_mlproject", "30"),
        ("text_tools", "24 words\nlongest: without"),
        ("diabetes", "alpha=0.1 l1_ratio=0.5\nrmse="),
        ("pipeline", '"mean_absolute_error": '),
        ("tuning", "good enough: rate 0.1, trained by run "),
    ],
)
def test_line_of_the_readme_runs_the_example(
    example: Callable[[str], Path], name: str, said: str
) -> None:
    assert said in play(example(name))


def test_hello_greets(buildrun: Buildrun, example: Callable[[str], Path]) -> None:
    directory = example("hello")
    assert buildrun("-q", directory).out == "Hello, world!\n"
    twice = buildrun("-q", directory, "-P", "name=Ada L.", "-P", "times=2")
    assert twice.out == "Hello, Ada L.!\n" * 2


def test_no_mlproject_runs_scripts(buildrun: Buildrun, example: Callable[[str], Path]) -> None:
    directory = example("no_mlproject")
    assert int(buildrun("-q", directory, "-e", "count_words.py").out) > 10
    assert "count_words.py" in buildrun("-q", directory, "-e", "list_files.sh").out


def test_text_tools_has_several_entry_points(
    buildrun: Buildrun, example: Callable[[str], Path]
) -> None:
    directory = example("text_tools")
    assert buildrun("-q", ".", cwd=directory).out == "24 words\nlongest: without\n"
    counted = buildrun("-q", ".", "-e", "count", "-P", "text=poem.txt", "-P", "unit=lines",
                       cwd=directory)  # fmt: skip
    assert counted.out == "4 lines\n"


def test_diabetes_trains_a_model(buildrun: Buildrun, example: Callable[[str], Path]) -> None:
    directory = example("diabetes")
    outcome = buildrun("-q", directory, "-P", "alpha=0.5")
    assert outcome.code == 0, outcome.err
    assert re.match(r"alpha=0.5 l1_ratio=0.5\nrmse=[0-9.]+ r2=", outcome.out)
    assert (directory / "model.joblib").stat().st_size > 100


def states(
    buildrun: Buildrun, directory: Path, *arguments: str, environ: Mapping[str, str | None]
) -> str:
    """Run the pipeline, and return the states of its steps, which are five with `main`."""
    report = directory.parent / "report.json"
    outcome = buildrun("run", directory, "--report", report, *arguments, environ=environ)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics.keys() == {"mean_absolute_error", "r2"}
    assert f'"r2": {metrics["r2"]}' in outcome.out
    return " ".join(step["state"] for step in json.loads(report.read_text())["steps"])


def test_pipeline_runs_only_what_changed_here_and_through_s3(
    buildrun: Buildrun, example: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = example("pipeline")
    with bucket(tmp_path) as shared:
        environ = {**shared.environ, "BUILDRUN_REMOTE_CACHE": shared.url}
        first = {**environ, "BUILDRUN_REMOTE_CACHE_WRITE": "1"}
        assert states(buildrun, directory, "-j2", environ=first) == "ok ok ok ok ok"
        metrics = (directory / "metrics.json").read_bytes()
        assert states(buildrun, directory, environ=first) == (
            "up-to-date up-to-date up-to-date up-to-date ok"
        )
        assert states(buildrun, directory, "-P", "alpha=2", environ=first) == (
            "up-to-date up-to-date ok ok ok"
        )
        assert states(buildrun, directory, environ=first) == (
            "up-to-date up-to-date cached cached ok"
        )
        assert (directory / "metrics.json").read_bytes() == metrics
        # Another machine: nothing is there but the sources.
        other = Path(shutil.copytree(EXAMPLES / "pipeline", tmp_path / "other" / "pipeline"))
        second = {**environ, "BUILDRUN_HOME": str(tmp_path / "other" / "store")}
        before = shared.names()
        assert states(buildrun, other, environ=second) == "cached cached cached cached ok"
        assert (other / "metrics.json").read_bytes() == metrics
        assert shared.names() == before
