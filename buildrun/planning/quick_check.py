"""The check of a whole plan by file signatures alone, for runs in which nothing changed."""

import os
import stat
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import xxhash

from buildrun.store import memo, stat_signature
from buildrun.store.home import Home
from buildrun.store.memo import DependencyTracker, Memo

if TYPE_CHECKING:
    from buildrun.planning.context import RunContext
    from buildrun.planning.model import Outcome, Plan
    from buildrun.workspace.fingerprints import Fingerprints
    from buildrun.workspace.select import FileSet


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


class Look(NamedTuple):
    """What was seen. young: whether a file may change again without that being seen."""

    token: str
    young: bool


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
        "\0".join(("up to date", plan.project.root, last.id, *map(repr, last.parameters))),
        identity,
        plan.project.root,
        sorted(files.difference(outputs)),
        outputs,
        sorted(texts),
        whole,
        plan.outputs if whole else (),
    )


def look(wanted: Watched, open_fingerprints: "Callable[[], Fingerprints]") -> Look | None:
    """Return what is on the disk now, or None where that needs more than a look.

    open_fingerprints: is called where there is more than plain files.
    """
    began = time.time_ns()
    seen: list[bytes] = []
    try:
        other_files = _stat(wanted.root, wanted.files, seen)
        other_outputs = _stat(wanted.root, wanted.outputs, seen)
    except OSError:
        return None
    parts = [xxhash.xxh3_128_hexdigest(b"".join(seen)), *other_files, "", *other_outputs, ""]
    if other_files or other_outputs or wanted.patterns or wanted.whole:
        fingerprints = open_fingerprints()
        more = _others(wanted, fingerprints, other_files, other_outputs)
        fingerprints.save()
        if more is None:
            return None
        parts += more
    token = xxhash.xxh3_128_hexdigest("\0".join(parts).encode("utf-8", "surrogateescape"))
    return Look(token, any(stat_signature.is_racy(each, began) for each in seen))


def recall(home: Home, wanted: Watched, found: Look, environ: Mapping[str, str]) -> Any:
    """Return what was noted when all steps were up to date with the same files, or None."""
    value = memo.get(Memo(home.memo), wanted.name, environ, subject=_subject(wanted, environ))
    return value["value"] if value is not None and value["token"] == found.token else None


def note(
    home: Home,
    wanted: Watched,
    found: Look,
    again: Look | None,
    environ: Mapping[str, str],
    value: Any,
) -> None:
    """Note that all steps are up to date with the files that were seen before that was known.

    again: what was seen afterwards. value: JSON that ``recall`` gives back.
    """
    if again is not None and again.token == found.token and not found.young:
        record = {"token": found.token, "value": value}
        subject = _subject(wanted, environ)
        memo.put(Memo(home.memo), wanted.name, DependencyTracker(environ), record, subject=subject)


def _subject(wanted: Watched, environ: Mapping[str, str]) -> list[Any]:
    return [wanted.plan, environ.get("BUILDRUN_SALT")]


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
    wanted: Watched,
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
    if files or wanted.patterns:
        taken.append(fingerprints.inputs((*files, *wanted.patterns), ()))
    if wanted.whole:
        taken.append(fingerprints.inputs(None, tuple(wanted.without)))
    if any(each.problems or each.unmatched for each in taken):
        return None
    return [each.digest for each in taken]


class QuickLook:
    """A look at all files that a plan's steps read and make, before anything is done.

    saved: the seconds that the steps once took, if all of them are known to be up to date.
    """

    def __init__(self, watched: Watched, context: "RunContext") -> None:
        """Look."""
        self._watched = watched
        self._context = context
        self.saved: float | None = None
        self._found = look(watched, self._fingerprints)
        if self._found is not None:
            known = recall(context.home, watched, self._found, context.environ)
            self.saved = None if known is None else float(known)

    def note(self, outcomes: "Collection[Outcome]") -> None:
        """Remember that all steps are up to date with the files as they are, if they are."""
        if self._found is None or any(outcome.state != "up-to-date" for outcome in outcomes):
            return
        again = look(self._watched, self._fingerprints)
        saved = sum(outcome.saved for outcome in outcomes)
        context = self._context
        note(context.home, self._watched, self._found, again, context.environ, saved)

    def _fingerprints(self) -> Any:
        from buildrun.planning.state import fingerprints_of

        return fingerprints_of(self._watched.root, self._context.home)
