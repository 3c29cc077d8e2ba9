"""Which run ``buildrun runs`` is about where no id is given."""

from __future__ import annotations

import os

from buildrun import runs
from buildrun.errors import UsageError
from buildrun.kubernetes.cluster import Submitted, recorded
from buildrun.printable import printable
from buildrun.runs import Record


def latest(directory: str, cwd: str, *, is_ending: bool) -> Record:
    """Return the latest submitted run of a directory, else the latest; raises UsageError.

    directory: of all runs. is_ending: it is to be ended, so it must not have ended yet, and one
    that runs is as good as a submitted one.
    """
    everything = runs.survey(directory)
    if not everything:
        raise UsageError("no run is recorded yet", hint="`buildrun .` makes one")
    here = _nearest(everything, cwd)
    found = _outstanding(directory, here)
    if is_ending:
        found += [record for record in here if record.status == "running"]
    elif not found:
        found = here[:1]
    if not found:
        what = "is running or submitted" if is_ending else "is recorded"
        raise UsageError(
            f"no run of this directory {what}",
            hint="`buildrun runs ls` lists those of all directories; give the beginning of an id",
        )
    if len({(record.root, record.status == "running") for record in found}) > 1:
        listed = "; ".join(
            f"`{printable(record.run_id[:12])}` of {printable(record.root)}, {record.status}"
            for record in found
        )
        raise UsageError(f"several runs may be meant: {listed}", hint="give the id of one")
    return found[0]


def _nearest(everything: list[Record], cwd: str) -> list[Record]:
    """Return the runs of the project that a directory lies in, else of those beneath it.

    Projects that are fetched from elsewhere lie in no directory, so they count everywhere.
    """
    here, elsewhere = os.path.realpath(cwd), []
    around, beneath = [], []
    for record in everything:
        root = os.path.realpath(record.root) if os.path.isabs(record.root) else ""
        if not root:
            elsewhere.append(record)
        elif f"{here}/".startswith(f"{root}/"):
            around.append(record)
        elif root.startswith(f"{here}/"):
            beneath.append(record)
    found = {id(record) for record in (around or beneath) + elsewhere}
    return [record for record in everything if id(record) in found]


def _outstanding(directory: str, records: list[Record]) -> list[Record]:
    """Return the runs with Jobs on a cluster that no later run has followed."""
    followed: set[Submitted] = set()
    found = []
    for record in records:
        jobs = recorded(runs.directory(directory, record.run_id))
        if record.status in ("submitted", "lost") and not followed.issuperset(jobs):
            found.append(record)
        followed.update(jobs)
    return found
