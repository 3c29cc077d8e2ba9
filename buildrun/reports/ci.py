"""What services of continuous integration understand: folds in a log, summaries, annotations.

GitHub: https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
GitLab: https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from buildrun.console import Console, printable
from buildrun.reports import log_end, markdown
from buildrun.reports.model import RunReport
from buildrun.store.files import open_to_append

# Bytes that GitHub takes of a summary, and that are shown of a log's end.
SUMMARY, _LOG = 1 << 20, 2048
# Lines of a log in an annotation.
_LINES = 10


class Folds:
    """Makes the lines between which a service folds up what a step writes; one fold at a time."""

    def __init__(self, service: str) -> None:
        """Take the service, ``github`` or ``gitlab``."""
        self._is_github = service == "github"
        self._count = 0
        self._section = ""

    def begin(self, step: str, began: float, *, collapsed: bool) -> bytes:
        """Return the line before it; began: when the step did, in seconds since the epoch.

        collapsed: GitLab shows it only to who asks for it; GitHub does so in any case.
        """
        name = printable(step)
        if self._is_github:
            return f"::group::{_data(name)}\n".encode()
        self._count += 1
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        self._section = f"buildrun_{self._count}_{safe}"
        how = "[collapsed=true]" if collapsed else ""
        start = f"section_start:{int(began)}:{self._section}{how}"
        return f"\x1b[0K{start}\r\x1b[0K{name}\n".encode()

    def end(self) -> bytes:
        """Return the line behind it."""
        if self._is_github:
            return b"::endgroup::\n"
        return f"\x1b[0Ksection_end:{int(time.time())}:{self._section}\r\x1b[0K\n".encode()


def folds(environ: Mapping[str, str]) -> Folds | None:
    """Return what folds the output of steps, None outside of the services that can."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return Folds("github")
    return Folds("gitlab") if environ.get("GITLAB_CI") == "true" else None


def tell(report: RunReport, environ: Mapping[str, str], console: Console) -> None:
    """Annotate a job of GitHub with what went wrong, and add to its summary.

    A failure is told, and changes nothing about how the run ended.
    """
    name = report.get("project", "buildrun")
    if "error" in report:
        console.raw(_error(name, report["error"]))
    for step in report["steps"]:
        if step["state"] == "failed":
            lines = log_end.read(step, _LOG).splitlines()[-_LINES:]
            text = "\n".join([log_end.failure(step), *lines])
            console.raw(_error(f"{name}: {step['id']} failed", text))
    if path := environ.get("GITHUB_STEP_SUMMARY"):
        try:
            _add_summary(path, report)
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) else error
            console.warn(f"{path}: the summary could not be written: {reason}")


def _error(title: str, text: str) -> bytes:
    return annotation("error", text, {"title": title}).encode()


def annotation(severity: str, text: str, properties: Mapping[str, str]) -> str:
    """Return the line that makes a message on a job's page of GitHub; text: printable.

    Escapes: https://github.com/actions/toolkit, packages/core/src/command.ts.
    """
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{severity} {listed}::{_data(text)}\n"


def _add_summary(path: str, report: RunReport) -> None:
    with open_to_append(path, create=True) as file:
        room = SUMMARY - os.fstat(file.fileno()).st_size
        if text := markdown.render(report, room - 1):
            file.write(f"{text}\n".encode(errors="backslashreplace"))


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return printable(_data(text).replace(":", "%3A").replace(",", "%2C"))
