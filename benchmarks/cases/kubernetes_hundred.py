"""A hundred Jobs at once: what the cluster is asked, and what that takes of the client."""

from __future__ import annotations

from collections import Counter

from benchmarks.case import Claim, Outcome, Unit
from benchmarks.cluster import Playing, play, project
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

COUNT = 100
TITLE = f"{COUNT} steps as Jobs that run at the same time, each with a log of 100 lines"
ROUNDS = 5
NEEDS = ("buildrun",)

_OURS = f"`buildrun run . -b kubernetes -j {COUNT}`"

# Why a pod does not come is asked after a second; on a machine as busy as this one that may be.
_LISTS, _EVENTS = "lists of Jobs and pods", "looks at events"
_LIMITS = {"watches of Jobs": 1, "watches of pods": 1, _LISTS: 2, _EVENTS: 10}


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed, also where there is no engine."""
    peaks: list[float] = []
    asked: list[Counter[str]] = []
    with play(bench, str(COUNT)) as playing:
        names = [f"step-{number:03}" for number in range(COUNT)]
        points = "".join(f"  {name}: {{command: echo {name}}}\n" for name in names)
        last = f"  main: {{depends_on: [{', '.join(names)}], command: echo main}}\n"
        directory, words = project(bench, playing, points + last)
        own = {"KUBECONFIG": playing.kubeconfig}

        def ours() -> Sample:
            found = bench.followed(*words, "-j", str(COUNT), cwd=directory, environ=own)
            peaks.append(found.peak)
            asked.append(_asked(playing))
            return found.whole

        try:
            rows = bench.rounds_of((Runner(_OURS, ours),))
        finally:
            bench.output(bench.buildrun, "cache", "clear", cwd=directory)
    claims = [
        _most(what, [float(found[what]) for found in asked], limit, "requests")
        for what, limit in _LIMITS.items()
    ]
    note = "The cluster is the tests' stand-in; its pods are played, and end once all run."
    return Outcome(rows, (*claims, _most("peak memory", peaks, 150, "MB")), (note,))


def _most(text: str, found: list[float], limit: float, unit: Unit) -> Claim:
    return Claim(f"most {text}", max(found), min(found), limit, unit)


def _asked(playing: Playing) -> Counter[str]:
    """Return how many requests of a kind the last run has made."""
    found: Counter[str] = Counter()
    for request in playing.requests():
        if request.method != "GET" or request.path.endswith("/log"):
            continue
        if "watch" in request.query:
            found[f"watches of {'Jobs' if '/jobs' in request.path else 'pods'}"] += 1
        else:
            found[_EVENTS if request.path.endswith("/events") else _LISTS] += 1
    return found
