"""A Job's log of many lines, against kubectl on the same cluster."""

from __future__ import annotations

import shutil

from benchmarks.case import Outcome, compare
from benchmarks.cluster import play, project
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

TITLE = "a Job's log of 400,000 lines, from the command to its end"
ROUNDS = 7
NEEDS = ("buildrun",)

_LOGS = "`buildrun runs logs`"
_KUBECTL = "`kubectl logs`"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed, also where there is no engine."""
    with play(bench, "log") as playing:
        directory, ours = project(bench, playing, "  main: {command: 'true'}\n")
        own = {"KUBECONFIG": playing.kubeconfig}

        def sample(*words: str) -> Sample:
            return bench.followed(*words, cwd=directory, environ=own).whole

        try:
            bench.output(*ours, "--detach", cwd=directory, environ=own)
            runners = [Runner(_LOGS, lambda: sample(bench.buildrun, "runs", "logs"))]
            if shutil.which("kubectl") is not None:
                words = ("kubectl", "get", "pods", "-o", "name")
                pod = bench.output(*words, cwd=directory, environ=own).strip()
                runners.append(Runner(_KUBECTL, lambda: sample("kubectl", "logs", pod)))
            rows = bench.rounds_of(runners)
        finally:
            bench.output(bench.buildrun, "cache", "clear", cwd=directory)
    claims = [compare(rows, _LOGS, _KUBECTL, 1.2)] if _KUBECTL in rows else []
    note = "The cluster is the tests' stand-in, and the log is prepared."
    return Outcome(rows, claims, (note,))
