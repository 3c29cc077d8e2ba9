"""The benchmarks' own parts; how fast anything is, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Buildrun

sys.path.insert(0, str(REPOSITORY))

from benchmarks import report
from benchmarks.case import Claim, Outcome, compare
from benchmarks.cases import CASES
from benchmarks.process import Failed, timed, total
from benchmarks.projects import varied_projects
from benchmarks.subjects import NAMES, environment
from benchmarks.summary import Sample, ratio, ratio_of_differences, summarize


def test_list_names_every_case() -> None:
    done = subprocess.run(
        (sys.executable, "-m", "benchmarks", "--list"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "warm-run",
        "first-environment",
        "validate-300",
        "many-projects",
        "warm-check",
        "twenty-at-once",
        "first-conda",
        "one-step",
        "thousand-steps",
        "fingerprint-tree",
        "fingerprint-large",
        "restore",
        "checked-inputs",
        "docker-context",
        "docker-run",
        "tracked-run",
        "git-again",
        "kubernetes-first-line",
        "kubernetes-hundred",
        "kubernetes-log",
    ]


@pytest.mark.parametrize("name", CASES)
def test_case_says_what_it_needs(name: str) -> None:
    case = CASES[name]
    assert case.ROUNDS >= 5
    assert case.NEEDS[0] == "buildrun"
    assert set(case.NEEDS) <= set(NAMES)


def test_summary_of_an_even_number_of_samples() -> None:
    summary = summarize([Sample(4.0, 1.0), Sample(1.0, 3.0), Sample(2.0, 2.0), Sample(3.0, 4.0)])
    assert summary.rounds == 4
    assert summary.median == 2.5
    assert summary.minimum == 1.0
    assert (summary.low, summary.high) == (1.75, 3.25)
    assert summary.cpu == 2.5


def test_median_does_not_heed_an_outlier() -> None:
    assert summarize([Sample(1.0), Sample(1.2), Sample(60.0)]).median == 1.2


def test_one_sample_is_its_own_summary() -> None:
    summary = summarize([Sample(2.0)])
    assert (summary.low, summary.median, summary.high) == (2.0, 2.0, 2.0)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        summarize([])


def test_ratio() -> None:
    assert ratio(3.0, 2.0) == 1.5
    with pytest.raises(ValueError, match="above 0"):
        ratio(1.0, 0.0)


@pytest.mark.parametrize(
    ("value", "reference"), [(1.0, -0.1), (1.0, 0.0), (-1.0, 2.0), (-1.0, -2.0)]
)
def test_difference_that_noise_hides_is_told(value: float, reference: float) -> None:
    assert ratio_of_differences(3.0, 2.0) == 1.5
    hidden = ratio_of_differences(value, reference)
    claim = Claim("a step more", hidden, 1.5, 1.25)
    assert (hidden, claim.met) == (None, None)
    summary = summarize([Sample(1.0)])
    case = report.encode(
        Outcome({"one": summary}, (claim,)),
        title="steps", date="2020-01-02", load=(0.5, 1.25), versions={}, machine={},
    )  # fmt: skip
    lines = report.lines_of("steps", json.loads(json.dumps(case)))
    (line,) = (line for line in lines if line.startswith("| a step more"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["a step more", "-", "1.50×", "≤ 1.25×", "hidden by noise: measure more rounds"]


def test_comparison_is_of_medians_and_of_minima() -> None:
    rows = {
        "a": summarize([Sample(2.0), Sample(3.0), Sample(9.0)]),
        "b": summarize([Sample(1.0), Sample(2.0), Sample(3.0)]),
    }
    claim = compare(rows, "a", "b", 1.6)
    assert (claim.value, claim.best) == (1.5, 2.0)
    assert claim.met is True
    assert compare(rows, "a", "b", 1.4).met is False
    assert compare(rows, "a", "b").met is None


def test_times_are_added_up() -> None:
    assert total([Sample(1.0, 0.5), Sample(2.0, 0.25)]) == Sample(3.0, 0.75)


def test_table_is_aligned() -> None:
    assert report.table(("name", "median"), [("a", "1.0 ms"), ("longer", "10.0 ms")]) == [
        "| name   |  median |",
        "| ------ | ------: |",
        "| a      |  1.0 ms |",
        "| longer | 10.0 ms |",
    ]


def test_report_says_met_and_missed_and_survives_json() -> None:
    rows = {"one": summarize([Sample(0.0123)]), "other": summarize([Sample(2.5)])}
    claims = (
        Claim("fast enough", 1 / 50, 1 / 48, 1 / 40),
        Claim("too slow", 1.2, 1.1, 1.15),
        Claim("in time", 4.0, 3.0, 5.0, "ms"),
        Claim("only shown", 2.0, 2.0),
    )
    case = report.encode(
        Outcome(rows, claims, ("A remark.",)),
        title="two things",
        date="2020-01-02",
        load=(0.5, 1.25),
        versions={"buildrun": "1.2.3"},
        machine={"CPU": "an abacus"},
    )
    cases = report.from_json(report.to_json({"case": case}))
    assert cases == {"case": case}
    page = report.markdown(cases)
    found = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in page.splitlines() if line.startswith("|"))
    }
    assert found["one"][:2] == ["1", "12.3 ms"]
    assert found["other"][1] == "2.50 s"
    assert found["fast enough"] == ["1/50.0", "1/48.0", "≤ 1/40.0", "met"]
    assert found["too slow"] == ["1.20×", "1.10×", "≤ 1.15×", "MISSED"]
    assert found["in time"] == ["4.00 ms", "3.00 ms", "≤ 5.00 ms", "met"]
    assert found["only shown"] == ["2.00×", "2.00×", "", ""]
    for text in ("2020-01-02", "buildrun 1.2.3", "0.5 before, 1.25 after", "abacus", "A remark."):
        assert text in page


def test_damaged_results_are_begun_anew() -> None:
    assert report.from_json("{") == {}
    assert report.from_json('{"version": 99, "cases": {"a": 1}}') == {}


def test_failed_command_says_what_it_said(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    argv = (sys.executable, "-c", "import sys; print('no luck'); sys.exit(3)")
    with pytest.raises(Failed, match=r"exit code 3\n.*no luck"):
        timed(argv, cwd=str(tmp_path), environ={}, log=log)


def test_several_commands_run_at_once(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    argv = ("bash", "-c", "echo started")
    sample = timed(argv, cwd=str(tmp_path), environ={}, log=log, count=3)
    assert sample.seconds > 0
    assert (tmp_path / "log").read_text() == "started\n" * 3


def test_subjects_do_not_see_what_would_steer_them() -> None:
    given = {
        "PATH": "p",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BUILDRUN_HOME": "h",
        "MLFLOW_RUN_ID": "r",
    }
    assert environment(given) == {"PATH": "p"}


def test_varied_projects_are_valid(tmp_path: Path, buildrun: Buildrun) -> None:
    projects = varied_projects(40)
    assert len({json.dumps(files) for files in projects.values()}) == 40
    for name, files in projects.items():
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    outcome = buildrun("validate", *projects)
    assert outcome.code == 0, outcome.out
