"""Reports of runs: JUnit's XML, Markdown, traces, and what CI services are told."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from conftest import Buildrun, Outcome, Project

from buildrun.console import Console
from buildrun.reports import report_file
from buildrun.reports.model import RunReport, StepReport
from buildrun.store.home import Home

LOCAL = "--env-manager=local"
HOSTILE = "a|b <i>`x`</i> [l](u) *s* _e_ & $p #1"
FORMS = ("r.json", "r.xml", "r.md", "r.trace.json")
REPORTS = tuple(word for name in FORMS for word in ("--report", name))

# What its failing command writes: control characters, fences, and what XML and HTML end with.
STEPS = f"""\
name: {HOSTILE!r}
entry_points:
  good: {{outputs: [a], inputs: [MLproject], command: "echo fine; echo made > a"}}
  bad:
    depends_on: [good]
    outputs: [b]
    inputs: [MLproject]
    command: |
      printf '\\033[31mred\\033[0m \\001\\377 ]]>\\n````\\n``` </b>\\n10%%\\r100%%\\n'; exit 3
  after: {{depends_on: [bad], outputs: [c], command: "touch c"}}
"""


def run_report(*steps: StepReport, **more: Any) -> RunReport:
    report: RunReport = {
        "version": 1, "run_id": "abc", "status": "ok", "exit_code": 0, "project": "p",
        "root": "/p", "entry_point": "main", "started": 1000.0, "seconds": 9.0,
        "steps": list(steps),
    }  # fmt: skip
    return {**report, **more}  # type: ignore[typeddict-item]


def step_report(name: str, started: float | None = None, seconds: float = 0.0) -> StepReport:
    return {
        "id": name, "entry_point": name, "state": "ok", "exit_code": 0, "seconds": seconds,
        "log": None, "reasons": [{"code": "forced", "detail": "why"}], "started": started,
    }  # fmt: skip


def rendered(tmp_path: Path, name: str, report: RunReport) -> str:
    report_file.write(str(tmp_path / name), report, Home(str(tmp_path / "store")), Console({}))
    return (tmp_path / name).read_text()


def test_reports_in_the_project_are_no_inputs_of_its_steps(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {outputs: [out], command: date > out}}\n")
    reports = ("--report", directory / "r.html", "--report", directory / "r.json")
    assert "1 ran" in buildrun(directory, LOCAL).err
    for arguments in (reports, reports, ()):
        assert "1 up to date" in buildrun(directory, LOCAL, *arguments).err
    buildrun("runs", "report", "--output", directory / "again.xml", cwd=directory).printed()
    assert "1 up to date" in buildrun(directory, LOCAL).err
    (directory / "r.html").write_text("data of the user's own")
    assert "1 ran" in buildrun(directory, LOCAL).err


def test_store_in_the_project_is_no_input_of_its_steps(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {outputs: [out], command: date > out}}\n")
    environ = {"BUILDRUN_HOME": str(directory / ".store")}
    first = buildrun(directory, LOCAL, environ=environ)
    assert ("1 ran" in first.err, "not cached" in first.err) == (True, False)
    assert "1 up to date" in buildrun(directory, LOCAL, environ=environ).err


def test_timeout_and_tries_are_in_every_report(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {timeout: 0.05, retries: 1, command: sleep 60}}\n")
    names = ("r.json", "r.xml", "r.md", "r.html")
    reports = [word for name in names for word in ("--report", directory / name)]
    assert buildrun(directory, LOCAL, *reports).code == 124
    for name in names:
        text = (directory / name).read_text()
        assert "ended after its timeout of 0.05 s, in the last of 2 tries" in text


# -- JUnit -------------------------------------------------------------------------------------


def is_junit(root: Element) -> bool:
    """Return whether it is what Jenkins's schema `junit-10.xsd` describes, as far as we use it."""
    counts = {"tests", "failures", "errors", "time", "name"}
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert root.attrib.keys() == counts
    assert suite.attrib.keys() == counts | {"skipped", "timestamp"}
    properties, *cases = suite
    assert all(each.attrib.keys() == {"name", "value"} for each in properties)
    for case in cases:
        assert case.attrib.keys() == {"name", "classname", "time"}
        assert re.fullmatch(r"\d+\.\d{3}", case.attrib["time"])
        order = [each.tag for each in case]
        assert order in (
            [], ["skipped"], ["failure"], ["error"], ["system-out"], ["failure", "system-out"],
            ["error", "system-out"], ["skipped", "system-out"],
        )  # fmt: skip
    for attribute, path in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[attribute]) == len(suite.findall(f"testcase/{path}"))
    return int(suite.attrib["tests"]) == len(cases)


def test_each_step_is_a_test_case(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    directory = project(STEPS)
    assert buildrun("run", directory, LOCAL, "-e", "after", "--report", "r.xml").code == 3
    root = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert is_junit(root)
    good, bad, after = root.iter("testcase")
    assert good.attrib["classname"] == HOSTILE
    assert good.findtext("system-out") == "fine\n"
    failure = bad.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "exit code 3"
    assert failure.text == bad.findtext("system-out") == "red \\x01� ]]>\n````\n``` </b>\n100%\n"
    skipped = after.find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "skipped: `bad` failed"


def test_restored_step_passes_and_takes_no_time(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(STEPS)
    words = ("run", directory, LOCAL, "-e", "good", "--report", "r.xml")
    for state in ("ok", "cached", "up-to-date"):
        if state == "cached":
            (directory / "a").unlink()
        assert buildrun(*words).code == 0
        root = ElementTree.parse(tmp_path / "r.xml").getroot()
        assert is_junit(root)
        (case,) = root.iter("testcase")
        assert [each.tag for each in case] == ([] if state == "up-to-date" else ["system-out"])
        assert state == "ok" or case.attrib["time"] == "0.000"


def test_run_that_could_not_begin_is_an_error(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {parameters: {v: path}, command: 'echo {v}'}}\n")
    assert buildrun("run", directory, LOCAL, *REPORTS).code == 1
    root = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert is_junit(root)
    error = root.find("testsuite/testcase/error")
    assert error is not None
    assert "'v'" in error.attrib["message"]
    assert "'v'" in (tmp_path / "r.md").read_text()
    assert "'v'" in json.loads((tmp_path / "r.json").read_text())["error"]


def test_what_xml_cannot_hold_is_escaped(tmp_path: Path) -> None:
    hostile, log = "\0\ufffe\ud800]]>\x1b[1m&", tmp_path / "log"
    log.write_bytes(hostile.encode(errors="surrogatepass"))
    step: StepReport = {**step_report(hostile), "log": str(log), "state": "skipped"}
    report = run_report(step, project=hostile, status="failed", error=hostile, run_id=hostile)
    root = ElementTree.fromstring(rendered(tmp_path, "r.xml", report))
    assert is_junit(root)
    shown = "\\x00\\ufffe\\ud800]]>\\x1b[1m&"
    assert [case.attrib["name"] for case in root.iter("testcase")] == [shown, "(run)"]


def test_long_log_is_cut_at_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    text = rendered(tmp_path, "r.xml", run_report({**step_report("a"), "log": str(log)}))
    told = ElementTree.fromstring(text).findtext("testsuite/testcase/system-out")
    assert told is not None
    head, *lines = told.splitlines()
    assert head == "[the beginning of the log is left out]"
    assert lines == [f"line {number}" for number in range(100_000 - len(lines), 100_000)]
    assert 60_000 < len(told) < 70_000


# -- Markdown ----------------------------------------------------------------------------------


def test_markdown_shows_steps_and_the_log_of_the_failure(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    assert buildrun("run", project(STEPS), LOCAL, "-e", "after", "--report", "r.md").code == 3
    text = (tmp_path / "r.md").read_text()
    head, summary, table, title, log = re.split(r"\n{2,}", text.strip(), maxsplit=4)
    assert head.startswith("### ❌ a&#124;b &#60;i&#62;&#96;x&#96;")
    assert head.endswith(", after: failed (exit code 3)")
    assert summary.startswith("1 ran, 1 failed, 1 skipped · ")
    rows = [row.strip("|").split("|") for row in table.splitlines()]
    assert {len(row) for row in rows} == {7}
    assert [row[1].strip() for row in rows[2:]] == ["good", "bad", "after"]
    assert re.fullmatch(r" \d+\.\d+ s ", rows[2][4])
    assert re.fullmatch(r" \d+\.\d MB ", rows[2][5])
    assert title == "#### bad failed: exit code 3"
    assert log == "`````text\nred \\x01� ]]>\n````\n``` </b>\n100%\n`````"
    assert not set("<>*") & set("".join((head, summary, table, title)))


@pytest.mark.parametrize("text", [HOSTILE, "x\n\n# y", "\\|", "<!--", "~~~\n", "a\tb"])
def test_no_text_breaks_out_of_the_table(tmp_path: Path, text: str) -> None:
    step = step_report(text)
    step["reasons"] = [{"code": "error", "detail": text}]
    told = rendered(tmp_path, "r.md", run_report({**step, "state": "failed"}, project=text))
    lines = told.splitlines()
    (row,) = (line for line in lines if line.startswith("| ❌"))
    assert row.count("|") == 8
    assert "\\|" not in row
    assert len([line for line in lines if line.startswith("#")]) == 2
    assert not re.search(r"[<>`*~]", told)


# -- traces ------------------------------------------------------------------------------------


def events(text: str) -> list[dict[str, Any]]:
    """Return the complete events, once all is as the Trace Event Format wants it."""
    value = json.loads(text)
    assert value["displayTimeUnit"] == "ms"
    found = {"M": [], "X": []}  # type: dict[str, list[dict[str, Any]]]
    for event in value["traceEvents"]:
        assert {"name", "ph", "ts", "pid", "tid", "args"} <= event.keys()
        found[event["ph"]].append(event)
    names = {(event["name"], event["tid"]) for event in found["M"]}
    assert ("process_name", 0) in names
    for event in found["X"]:
        assert ("thread_name", event["tid"]) in names
        assert event["dur"] >= 0
        assert all(type(event[key]) is int for key in ("ts", "dur", "pid", "tid"))
    for tid in {event["tid"] for event in found["X"]}:
        row = sorted((e["ts"], e["ts"] + e["dur"]) for e in found["X"] if e["tid"] == tid)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(row))
    return found["X"]


def test_steps_that_ran_at_once_are_on_tracks_of_their_own(tmp_path: Path) -> None:
    steps = (
        step_report("a", 1000.0, 2.0),
        step_report("b", 1000.5, 3.0),
        step_report("c", 1001.999, 1.0),  # seems to begin before `a` ends
        step_report("d", 1004.0, 0.0),
        step_report("never"),
    )
    found = events(rendered(tmp_path, "r.trace.json", run_report(*steps)))
    assert [(event["name"], event["tid"]) for event in found] == [
        ("a", 1), ("b", 2), ("c", 1), ("d", 1)
    ]  # fmt: skip
    assert (found[1]["ts"], found[1]["dur"]) == (500_000, 3_000_000)
    assert found[2]["ts"] == 2_000_000


def test_trace_of_a_run_has_what_is_known_of_its_steps(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    assert buildrun("run", project(STEPS), LOCAL, "-e", "after", "-j2", *REPORTS).code == 3
    good, bad = events((tmp_path / "r.trace.json").read_text())
    assert (good["name"], good["cat"], bad["cat"]) == ("good", "ok", "failed")
    assert good["ts"] + good["dur"] <= bad["ts"] + 1000
    assert bad["args"]["exit_code"] == 3
    assert bad["args"]["reasons"] == "it has not run yet"


# -- the file ----------------------------------------------------------------------------------


def test_remembered_plans_write_each_report_too(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(STEPS)
    for _ in range(4):
        assert buildrun("run", directory, LOCAL, "-e", "good", *REPORTS).code == 0
        texts = [(tmp_path / name).read_text() for name in FORMS]
        assert all("good" in text for text in texts)
        for name in FORMS:
            (tmp_path / name).unlink()
    assert "up to date" in texts[2]


def test_one_report_that_is_lost_costs_no_other(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    directory = project(f"entry_points: {{main: {{command: 'rmdir {tmp_path}/out; exit 7'}}}}\n")
    outcome = buildrun("run", directory, LOCAL, "--report", "out/r.md", "--report", "r.xml")
    assert outcome.code == 7
    assert "out/r.md: the report could not be written: No such file" in outcome.err
    assert is_junit(ElementTree.parse(tmp_path / "r.xml").getroot())


@pytest.mark.parametrize("name", FORMS)
def test_secrets_are_in_no_report(
    project: Project, buildrun: Buildrun, tmp_path: Path, name: str
) -> None:
    command = "true {api_key} https://me:hunter2@example.invalid; echo https://me:hunter2@e.invalid"
    directory = project(
        f"entry_points: {{main: {{parameters: {{api_key: string}}, command: '{command}; exit 1'}}}}"
    )
    words = ("-P", "api_key=sesame", "--output", "stream", "--report", name)
    assert buildrun("run", directory, LOCAL, *words).code == 1
    text = (tmp_path / name).read_text()
    assert "main" in text
    assert "sesame" not in text
    assert "hunter2" not in text


# Where a log is cut, its URLs are too: each line's place is another one.
URLS = """\
import sys
line = "connecting to https://bob:SECRETWORD%04d@h.example/ ok"
print(*(line % number for number in range(3000)), sep=sys.argv[1])
sys.exit(3)
"""


@pytest.mark.parametrize("blank", ["\n", " ", "\r", "_"])
def test_logs_are_not_cut_within_urls(project: Project, tmp_path: Path, blank: str) -> None:
    mlproject = {"entry_points": {"main": {"command": 'python main.py "$BLANK"'}}}
    directory = project(json.dumps(mlproject), main__py=URLS)
    names = (*FORMS, "r.html")
    words = [word for name in names for word in ("--report", str(tmp_path / name))]
    environ = {**github(tmp_path), "BLANK": blank}
    outcome = in_ci(environ, directory, *words, "--output", "errors")
    assert outcome.code == 3
    annotations = [line for line in outcome.err.splitlines() if line.startswith("::error")]
    files = [(tmp_path / name).read_text() for name in (*names, "summary.md")]
    assert len(annotations) == 1
    for text in (*annotations, *files):
        assert "SECRETWORD" not in text
    assert blank == "_" or all("h.example" in text for text in files[1:3])


# -- CI ----------------------------------------------------------------------------------------


def in_ci(
    environ: Mapping[str, str], directory: Path, *words: str, output: Path | None = None
) -> Outcome:
    """Run in a CI job, where both streams are pipes unless the output goes to a file."""
    argv = [sys.executable, "-m", "buildrun", "run", str(directory), LOCAL, *words]
    done = subprocess.run(
        argv,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if output is None else output.open("wb"),
        stderr=subprocess.PIPE,
        check=False,
        timeout=120,
    )
    return Outcome(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())


GRAPH = """\
name: graph
entry_points:
  one: {outputs: [a], inputs: [MLproject], command: "printf here; printf there >&2; touch a"}
  two: {outputs: [b], inputs: [MLproject], command: "echo 100%; exit 4"}
  both: {depends_on: [one, two], outputs: [c], command: touch c}
"""
ONE, TWO = "::group::one\nherethere\n::endgroup::\n", "::group::two\n100%\n::endgroup::\n"


def github(tmp_path: Path) -> Mapping[str, str]:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    return {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}


def test_github_gets_groups_annotations_and_a_summary(project: Project, tmp_path: Path) -> None:
    outcome = in_ci(github(tmp_path), project(GRAPH), "-e", "both")
    assert (outcome.code, outcome.out) == (4, ONE + TWO)
    annotations = [line for line in outcome.err.splitlines() if line.startswith("::")]
    assert annotations == ["::error title=graph%3A two failed::exit code 4%0A100%25"]
    before, summary = (tmp_path / "summary.md").read_text().split("\n", 1)
    assert before == "before"
    assert summary.startswith("### ❌ graph, both: failed (exit code 4)\n")
    assert "#### two failed: exit code 4\n\n```text\n100%\n```\n" in summary


def test_groups_of_steps_that_run_at_once_are_whole(project: Project, tmp_path: Path) -> None:
    outcome = in_ci(github(tmp_path), project(GRAPH), "-e", "both", "-j2", "-k")
    assert (outcome.code, outcome.out) in ((4, ONE + TWO), (4, TWO + ONE))


def test_restored_log_is_a_group_too(project: Project, tmp_path: Path) -> None:
    directory = project(GRAPH)
    for _ in range(2):
        assert in_ci(github(tmp_path), directory, "-e", "one").out == ONE
        (directory / "a").unlink()


def test_up_to_date_steps_are_in_the_summary(project: Project, tmp_path: Path) -> None:
    for _ in range(4):
        outcome = in_ci(github(tmp_path), project(GRAPH), "-e", "one")
    assert (outcome.code, outcome.out) == (0, "")
    assert (
        "| ✅ | one | up to date |  |  |  | nothing has changed"
        in (tmp_path / "summary.md").read_text()
    )


def test_output_of_a_lone_command_is_its_own(project: Project, tmp_path: Path) -> None:
    directory = project("entry_points: {main: {command: echo '::group::x'; exit 5}}\n")
    outcome = in_ci(github(tmp_path), directory)
    assert (outcome.code, outcome.out) == (5, "::group::x\n")
    assert "::error title=project%3A main failed::exit code 5%0A::group::x\n" in outcome.err


def test_output_in_a_file_or_as_the_user_wants_it_has_no_groups(
    project: Project, tmp_path: Path
) -> None:
    directory, output = project(GRAPH), tmp_path / "output"
    in_ci(github(tmp_path), directory, "-e", "one", output=output)
    assert output.read_text() == "here"
    assert in_ci(github(tmp_path), directory, "-e", "two", "--output=stream").out == "100%\n"


def test_summary_has_no_more_than_github_takes(project: Project, tmp_path: Path) -> None:
    environ = github(tmp_path)
    summary = tmp_path / "summary.md"
    for size in (2**20 - 200, 2**20 - 2, 2**20 + 5):
        summary.write_bytes(b"x" * size)
        assert in_ci(environ, project(GRAPH), "-e", "two").code == 4
        added = summary.read_text()[size:]
        assert len(added.encode()) <= max(0, 2**20 - size)
        assert ("The rest is left out" in added) == (size == 2**20 - 200)


def test_what_stopped_the_run_is_an_annotation(project: Project, tmp_path: Path) -> None:
    outcome = in_ci(github(tmp_path), project(GRAPH), "-e", "none")
    assert outcome.code == 1
    told = re.findall(r"(?m)^::error title=(\w+)::(.+)$", outcome.err)
    assert [title for title, _ in told] == ["buildrun"]
    assert "`none`" in told[0][1]
    assert "&#96;none&#96;" in (tmp_path / "summary.md").read_text()


def test_summary_that_cannot_be_written_is_said(project: Project, tmp_path: Path) -> None:
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path)}
    outcome = in_ci(environ, project(GRAPH), "-e", "one")
    assert outcome.code == 0
    assert "the summary could not be written: Is a directory" in outcome.err
    os.mkfifo(tmp_path / "unread")
    outcome = in_ci({**environ, "GITHUB_STEP_SUMMARY": str(tmp_path / "unread")}, project(GRAPH))
    assert "unread: the summary could not be written: No such device" in outcome.err


def test_gitlab_gets_sections(project: Project) -> None:
    outcome = in_ci({"GITLAB_CI": "true"}, project(GRAPH), "-e", "both", "-j2", "-k")
    section = (
        r"\x1b\[0Ksection_start:\d+:(buildrun_\d_\w+)(\[collapsed=true\])?\r\x1b\[0K(\w+)\n"
        r"([^\x1b]*)\x1b\[0Ksection_end:\d+:\1\r\x1b\[0K\n"
    )
    found = re.findall(section, outcome.out)
    assert sorted(each[1:] for each in found) == [
        ("", "two", "100%\n"),
        ("[collapsed=true]", "one", "herethere\n"),
    ]
    assert re.sub(section, "", outcome.out) == ""
    assert "::error" not in outcome.err
    assert "collapsed" not in in_ci({"GITLAB_CI": "true"}, project(GRAPH), "-e", "two").out
