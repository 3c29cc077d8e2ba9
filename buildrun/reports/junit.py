"""A report for whatever shows the results of tests: JUnit's XML, each step a test case."""

from __future__ import annotations

import time
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from buildrun.console import printable
from buildrun.reports import log_end
from buildrun.reports.model import RunReport, StepReport

# Bytes of a log's end.
LOG = 65536


def render(report: RunReport) -> str:
    """Return the report as XML; what is up to date or restored passes, and took no time."""
    project = printable(report.get("project", "buildrun"))
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(report.get("started", 0)))
    suite = Element("testsuite", name=project, timestamp=began)
    properties = SubElement(suite, "properties")
    for name, value in (("run_id", report["run_id"]), ("status", report["status"])):
        SubElement(properties, "property", name=name, value=printable(value))
    for step in report["steps"]:
        suite.append(_case(step, project))
    if report["status"] == "failed" and suite.find("testcase/failure") is None:
        suite.append(_failed_run(report, project))
    return document(suite, "buildrun", time=f"{report.get('seconds', 0):.3f}")


def document(suite: Element, name: str, **more: str) -> str:
    """Return XML with one suite of test cases, which are counted; more: attributes of all."""
    paths = {"tests": "testcase", "failures": "testcase/failure", "errors": "testcase/error"}
    counts = {each: str(len(suite.findall(path))) for each, path in paths.items()} | more
    suite.attrib.update(counts, skipped=str(len(suite.findall("testcase/skipped"))))
    suites = Element("testsuites", {"name": name, **counts})
    suites.append(suite)
    ElementTree.indent(suites)
    text: bytes = ElementTree.tostring(suites, "us-ascii", xml_declaration=True)
    return text.decode() + "\n"


def _case(step: StepReport, project: str) -> Element:
    state, code = step["state"], step["exit_code"]
    seconds = 0.0 if state in ("up-to-date", "cached") else step["seconds"]
    case = Element("testcase", name=printable(step["id"]), classname=project, time=f"{seconds:.3f}")
    log = log_end.read(step, LOG)
    if state == "failed":
        found = SubElement(case, "failure", type="failed", message=log_end.failure(step))
        found.text = log
    elif state == "cancelled" and code is not None:
        SubElement(case, "error", type="cancelled", message="the run was interrupted")
    elif state in ("skipped", "cancelled", "submitted"):
        why = "; ".join(reason["detail"] for reason in step["reasons"])
        SubElement(case, "skipped", message=printable(f"{state}: {why}"))
    if log:
        SubElement(case, "system-out").text = log
    return case


def _failed_run(report: RunReport, project: str) -> Element:
    """Return what stands for a run that no step has made fail."""
    case = Element("testcase", name="(run)", classname=project, time="0.000")
    SubElement(
        case, "error", type="failed", message=printable(report.get("error", "the run failed"))
    )
    return case
