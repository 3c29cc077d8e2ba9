"""The check of a whole plan by file signatures alone, for runs in which nothing changed."""

import os
import stat
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import xxhash

from buildrun.store import memo, stat_signature
from buildrun.store.memo import DependencyTracker, Memo

if TYPE_CHECKING:
    from buildrun.planning.context import RunContext
    from buildrun.planning.model import Outcome, Plan
    from buildrun.workspace.fingerprints import Fingerprints
    from buildrun.workspace.select import FileSet


# Those of the results of a plan's steps, and the outputs that they leave out; JSON values.
Conditions = tuple[Sequence[Mapping[str, str]], Sequence[str]]


class Watched(NamedTuple):
    """What a look is at; JSON values.

    name: tells plans of a project apart. plan: the digest of the plan and of all that decides the
    keys beside files. root: the project's directory. files: inputs that are no patterns, less the
    outputs. outputs: as declared, of all steps. patterns: the other inputs. whole: whether a step
    reads every file of the project. without: the outputs of all entry points, if so.
    """

    name: str
    plan: str
    root: str
    files: Sequence[str]
    outputs: Sequence[str]
    patterns: Sequence[str]
    whole: bool
    without: Sequence[str]


def watched(plan: "Plan", identity: str) -> Watched | None:
    """Return what tells whether a plan's steps are up to date, or None where files do not.

    identity: see ``Watched.plan``.
    """
    from buildrun.workspace import glob

    if any(not step.outputs or step.paths or step.downloads for step in plan.steps):
        return None
    texts = {pattern.text for step in plan.steps for pattern in step.inputs or ()}
    outputs = sorted({path for step in plan.steps for path in step.outputs})
    files: set[str] = set()
    for text in tuple(texts):
        if not glob.is_glob(text) and not text.endswith("/"):
            texts.discard(text)
            files.add("/".join(glob.split(text) or (".",)))
    whole = any(step.inputs is None for step in plan.steps)
    last = plan.steps[-1]
    return Watched(
        "\0".join(("up to date", plan.root, last.id, *map(repr, last.parameters))),
        identity,
        plan.root,
        sorted(files.difference(outputs)),
        outputs,
        sorted(texts),
        whole,
        plan.outputs if whole else (),
    )


class QuickCheck:
    """A look at all files that a plan's steps read and make, before anything is done.

    is_up_to_date: whether all steps are known to be; then seconds tells what they once took.
    """

    def __init__(self, watched: Watched, context: "RunContext") -> None:
        """Look."""
        self._watched = watched
        self._context = context
        self._memo = Memo(context.home.memo)
        self._subject = [watched.plan, context.environ.get("BUILDRUN_SALT")]
        self._token, self._racy = self._look()
        self.is_up_to_date = False
        self.seconds = 0.0
        if self._token is not None:
            known = memo.get(self._memo, watched.name, context.environ, subject=self._subject)
            if known is not None and known["token"] == self._token:
                self.is_up_to_date = _hold(watched.root, *known["conditions"])
                self.seconds = float(known["seconds"])

    def note(self, outcomes: "Collection[Outcome]", conditions: Callable[[], Conditions]) -> None:
        """Remember that all steps are up to date, if they are, and the files as at first.

        conditions: returns those under which the results of the steps count.
        """
        if (
            self._token is None
            or self._racy  # a file may change again without that being seen
            or any(outcome.state != "up-to-date" for outcome in outcomes)
            or self._look()[0] != self._token
        ):
            return
        tracker = DependencyTracker(self._context.environ)
        record = {
            "token": self._token,
            "seconds": sum(outcome.saved for outcome in outcomes),
            "conditions": conditions(),
        }
        memo.put(self._memo, self._watched.name, tracker, record, subject=self._subject)

    def _look(self) -> tuple[str | None, bool]:
        """Return a digest of what is on the disk, and whether a file of it is racy.

        The digest is None where a look does not tell.
        """
        began, watched = time.time_ns(), self._watched
        seen: list[bytes] = []
        try:
            other_files = _stat(watched.root, watched.files, seen)
            other_outputs = _stat(watched.root, watched.outputs, seen)
        except OSError:
            return None, False
        parts = [xxhash.xxh3_128_hexdigest(b"".join(seen)), *other_files, "", *other_outputs, ""]
        if other_files or other_outputs or watched.patterns or watched.whole:
            from buildrun.planning.state import fingerprints_of

            fingerprints = fingerprints_of(watched.root, self._context.home)
            others = _others(watched, fingerprints, other_files, other_outputs)
            fingerprints.save()
            if others is None:
                return None, False
            parts += others
        token = xxhash.xxh3_128_hexdigest("\0".join(parts).encode("utf-8", "surrogateescape"))
        return token, any(stat_signature.is_racy(each, began) for each in seen)


def _hold(root: str, conditions: Sequence[Mapping[str, str]], outputs: Sequence[str]) -> bool:
    if not conditions:
        return True
    from buildrun.workspace.conditions import broken

    return all(broken(root, each, outputs) is None for each in conditions)


def _stat(root: str, paths: Sequence[str], seen: list[bytes]) -> list[str]:
    """Add the signatures of plain files to ``seen`` and return the paths of all else.

    Raises OSError for what is absent, or lies behind a link.
    """
    others: list[str] = []
    above: set[str] = set()
    lstat, sign, is_regular = os.lstat, stat_signature.of, stat.S_ISREG
    base = root.rstrip("/") + "/"
    for path in paths:
        above.add(path.rpartition("/")[0])
        status = lstat(base + path)
        if is_regular(status.st_mode) and path[-1] != "/":
            seen.append(sign(status))
        else:
            others.append(path)
    for directory in _and_above(above):
        if not stat.S_ISDIR(lstat(base + directory).st_mode):
            raise NotADirectoryError(directory)
    return others


def _and_above(directories: set[str]) -> set[str]:
    found: set[str] = set()
    for directory in directories:
        here = directory
        while here and here not in found:
            found.add(here)
            here = here.rpartition("/")[0]
    return found


def _others(
    watched: Watched,
    fingerprints: "Fingerprints",
    files: Sequence[str],
    outputs: Sequence[str],
) -> list[str] | None:
    """Return digests of what is no plain file, or None where there is trouble."""
    taken: list[FileSet] = []
    if outputs:
        made = fingerprints.outputs(tuple(outputs))
        if any(stat_signature.is_link(each) for each in made.selection.signatures):
            return None  # what it leads to may be an input
        taken.append(made)
    if files or watched.patterns:
        taken.append(fingerprints.inputs((*files, *watched.patterns), ()))
    if watched.whole:
        taken.append(fingerprints.inputs(None, tuple(watched.without)))
    if any(each.problems or each.unmatched for each in taken):
        return None
    return [each.digest for each in taken]
