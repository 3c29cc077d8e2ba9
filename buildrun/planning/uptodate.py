"""The staleness check: is a step up to date, in the cache, or to be run, and why."""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import listed, printable
from buildrun.errors import ProjectError
from buildrun.planning import action_key, evidence
from buildrun.planning.action_key import ActionKey
from buildrun.planning.model import NO_OUTPUTS, CacheState, Plan, Reason, Step
from buildrun.planning.upstream import Upstream
from buildrun.store.digest import is_digest

if TYPE_CHECKING:
    from buildrun.planning.step_history import History, StepRecord
    from buildrun.project.model import Pattern
    from buildrun.store.action_cache import ActionCache
    from buildrun.store.manifest import Manifest
    from buildrun.workspace.fingerprints import Fingerprints
    from buildrun.workspace.select import FileSet


class StepStatus(NamedTuple):
    """What is known of a step before it runs.

    key: None while it cannot be known. inputs: what they were when the key was made.
    outputs: the digest of the outputs that are there or will be restored, else None.
    manifest: of a hit. obstacle: why the result of a run could not be kept, else "".
    paths: what lay at the step's paths when the key was made.
    on_disk: paths of outputs as they are on disk now; None where nobody looked.
    assurance: of the result that is there or will be restored, else None.
    """

    state: CacheState
    reasons: tuple[Reason, ...]
    key: str | None = None
    parts: ActionKey | None = None
    inputs: "FileSet | None" = None
    outputs: str | None = None
    manifest: "Manifest | None" = None
    obstacle: str = ""
    on_disk: "FileSet | None" = None
    paths: "tuple[FileSet, ...]" = ()
    assurance: evidence.Assurance | None = None


class CheckOptions(NamedTuple):
    """What the user asked of the cache.

    force: ids or entry points that run in any case; None means all of them.
    cache: whether results are looked for and kept. strict, remote_strict: see ``CacheSettings``.
    """

    force: frozenset[str] | None = frozenset()
    cache: bool = True
    strict: bool = False
    remote_strict: bool = False

    def forced(self, step: Step) -> bool:
        """Return whether the step runs in any case."""
        return self.force is None or step.id in self.force or step.entry_point in self.force


_NO_CACHE = Reason("no-cache", "`--no-cache` was given")
_FORCED = Reason("forced", "`--force` was given")
_NOT_KEPT = Reason("not-kept", "the result of its last run was not kept")
_NEVER = Reason("never-run", "it has not run yet")


class StalenessCheck:
    """Compares the steps of one plan with their last results, each after those it depends on."""

    def __init__(
        self,
        plan: Plan,
        fingerprints: "Fingerprints",
        results: "ActionCache",
        history: "History",
        *,
        salt: str | None = None,
        options: CheckOptions,
        explain: bool = False,
    ) -> None:
        """Take what is looked into.

        explain: whether old results are searched for likeness.
        """
        self._plan = plan
        self._fingerprints = fingerprints
        self._results = results
        self._history = history
        self._salt = salt
        self._options = options
        self._explain = explain
        self._steps = {step.id: step for step in plan.steps}
        self._upstream = Upstream(plan.steps)
        self._followed = {name for step in plan.steps if step.outputs for name in step.depends_on}
        self._recorded: dict[str, str] = {}
        self._real_root = os.path.realpath(plan.root)

    def record_outputs(self, step: str, outputs: str) -> None:
        """Take note of a step's outputs, by digest; or, for a step without, that it has run."""
        self._recorded[step] = outputs

    def check(self, step: Step) -> StepStatus:
        """Return the status; raises ProjectError for an input pattern that matches nothing."""
        if not step.outputs:
            return self._without_outputs(step)
        if not self._options.cache:
            return StepStatus("miss", (_NO_CACHE,))
        upstream = self.upstream(step)
        if pending := self._missing(upstream):
            return StepStatus("miss", self._pending_reasons(step, pending))
        found = self._action_key(step, upstream)
        if isinstance(found, str):
            reasons = (Reason("unknown-inputs", found),)
            forced = (_FORCED,) if self._options.forced(step) else ()
            return StepStatus("miss", forced + reasons, obstacle=found)
        action, inputs, paths = found
        return self._compare(step, action, inputs)._replace(paths=paths)

    def missing(self, step: Step) -> list[str]:
        """Return the steps that have to end before the status of this one can be known."""
        return self._missing(self.upstream(step))

    def identity(self, step: Step) -> str:
        """Return what stands for a step without outputs in the keys of those that follow it."""
        upstream = self.upstream(step)
        if self._missing(upstream):
            return ""
        found = self._action_key(step, upstream)
        return "" if isinstance(found, str) else found[0].key

    def _missing(self, upstream: Sequence[str]) -> list[str]:
        return [name for name in upstream if name not in self._recorded]

    def _without_outputs(self, step: Step) -> StepStatus:
        followed = step.id in self._followed
        identity = self.identity(step) if followed and self._options.cache else ""
        if not followed and step.inputs is not None:
            self._inputs(step, self.upstream(step))
        return StepStatus("uncached", (NO_OUTPUTS,), outputs=identity)

    def _compare(self, step: Step, action: ActionKey, inputs: "FileSet") -> StepStatus:
        key = action.key
        last = self._history.last(step.id)
        on_disk = self._fingerprints.outputs(step.outputs)
        whole = not on_disk.problems and not on_disk.unmatched
        status = StepStatus("miss", (), key, action, inputs, on_disk=on_disk)
        if on_disk.problems and (leaving := self._leaving(step)):
            return status._replace(reasons=(Reason("output-outside", leaving),), obstacle=leaving)
        if self._options.forced(step):
            return status._replace(reasons=(_FORCED,))
        refused: dict[Reason, None] = {}
        incomplete = last is not None and evidence.is_incomplete(last.details, key)
        counts = partial(self._counts, refused, incomplete)
        made = whole and last is not None and (last.key, last.outputs) == (key, on_disk.digest)
        if made and last is not None and counts(last.details, False):
            return status._replace(
                state="up-to-date",
                outputs=on_disk.digest,
                reasons=_UP_TO_DATE,
                assurance=evidence.assurance_of(last.details),
            )
        manifest = self._results.find(key, counts)
        if manifest is None:
            reasons = (*refused, *self._reasons(step, status, last))
            if on_disk.problems:
                reasons = (Reason("output-outside", on_disk.problems[0]),)
            return status._replace(reasons=reasons)
        current = whole and manifest.outputs == on_disk.digest
        return status._replace(
            state="up-to-date" if current else "hit",
            outputs=manifest.outputs,
            manifest=manifest,
            reasons=_UP_TO_DATE if current else (*refused, *self._reasons(step, status, last)),
            assurance=evidence.assurance_of(manifest.details),
        )

    def _counts(
        self,
        refused: dict[Reason, None],
        incomplete: bool,
        details: Mapping[str, Any],
        remote: bool,
    ) -> bool:
        """Return whether a result with these details counts, else note why not in ``refused``.

        incomplete: the command was seen to read more than its key tells of.
        """
        options = self._options
        strict = incomplete or options.strict or (remote and options.remote_strict)
        reason = evidence.refusal(self._plan, details, strict=strict)
        if reason is not None:
            refused[reason] = None
        return reason is None

    def looks_for_files(self, step: Step, status: StepStatus) -> bool:
        """Return whether a command that was watched is known to look for files that are no inputs.

        Unwatched, its result would count whether they are there or not.
        """
        if any(reason.code == "lookup-changed" for reason in status.reasons):
            return True
        last = self._history.last(step.id)
        return last is not None and last.key == status.key and evidence.has_conditions(last.details)

    def _leaving(self, step: Step) -> str:
        """Return which output is a link out of the project, where no restore may go; or ""."""
        from buildrun.workspace.select import leads_out

        root = os.fsencode(self._plan.root)
        for path in step.outputs:
            name = os.fsencode(path.rstrip("/"))
            if os.path.islink(os.path.join(root, name)) and leads_out(root, name):
                return f"the output `{printable(path)}` is a link out of the project"
        return ""

    def _reasons(
        self, step: Step, status: StepStatus, last: "StepRecord | None"
    ) -> tuple[Reason, ...]:
        action, inputs, on_disk = status.parts, status.inputs, status.on_disk
        if action is None or inputs is None or on_disk is None:
            raise AssertionError(step.id)
        if last is None:
            return (_NEVER, *self._nearest(step, action, inputs))
        if not last.key:
            return (_NOT_KEPT,)
        if not is_digest(last.key):
            return (action_key.MADE_ANOTHER_WAY,)
        found: list[Reason] = []
        if last.key != status.key:
            found += self._differences(last, action, inputs)
        found += self._output_reasons(on_disk, last)
        return tuple(found)

    def _output_reasons(self, on_disk: "FileSet", last: "StepRecord") -> list[Reason]:
        if on_disk.unmatched:
            return [
                Reason("output-missing", f"output `{printable(path)}` is missing")
                for path in on_disk.unmatched
            ]
        if on_disk.digest == last.outputs:
            return []
        before = self._results.listing(last.outputs)
        if before is None:
            return [Reason("output-modified", "the outputs are not as they were made")]
        old = {entry.path: entry[1:3] for entry in before}
        new = {entry.path: entry[1:3] for entry in on_disk.entries()}
        changed = sorted(path for path in {**old, **new} if old.get(path) != new.get(path))
        code = "output-modified" if any(path in new for path in changed) else "output-missing"
        what = "changed since it was made" if code == "output-modified" else "is missing"
        return [Reason(code, f"output {listed(changed, 3)} {what}")]

    def _nearest(self, step: Step, action: ActionKey, inputs: "FileSet") -> list[Reason]:
        """Explain what is new against the most similar result that anybody has made."""
        if not self._explain:
            return []
        best = max(
            self._results.similar(self._plan.project, step.entry_point),
            key=lambda manifest: action_key.similarity(manifest.parts, action.key_parts),
            default=None,
        )
        return self._differences(best, action, inputs) if best is not None else []

    def _differences(
        self, old: "StepRecord | Manifest", action: ActionKey, inputs: "FileSet"
    ) -> list[Reason]:
        return action_key.explain(
            ActionKey(old.parts, old.details),
            action,
            lambda: self._results.listing(old.inputs),
            inputs.entries,
        )

    def _pending_reasons(self, step: Step, pending: Sequence[str]) -> tuple[Reason, ...]:
        forced = [_FORCED] if self._options.forced(step) else []
        never = [_NEVER] if self._history.last(step.id) is None else []
        upstream = [Reason("upstream-changed", f"`{name}` runs before it") for name in pending]
        return (*forced, *never, *upstream)

    def _action_key(
        self, step: Step, upstream: Sequence[str]
    ) -> "tuple[ActionKey, FileSet, tuple[FileSet, ...]] | str":
        """Return the key, the inputs and the files at paths, or why they cannot be known."""
        if self._plan.content is None:
            return "the environment is not known yet"
        if step.downloads:
            return f"the parameter `{step.downloads[0]}` is downloaded when it runs"
        inputs = self._inputs(step, upstream)
        if inputs.problems:
            return inputs.problems[0]
        try:
            contents = {name: self._content(step, path) for name, path in step.paths}
        except OSError as error:
            return f"{printable(str(error.filename))}: {(error.strerror or str(error)).lower()}"
        action = action_key.compute(
            step,
            environment=self._plan.content,
            inputs=inputs.digest,
            contents={name: content for name, (content, _) in contents.items()},
            upstream={name: self._recorded[name] for name in upstream},
            salt=self._salt,
        )
        return action, inputs, tuple(files for _, files in contents.values() if files is not None)

    def inputs(self, step: Step) -> "FileSet":
        """Return the step's inputs; raises ProjectError for a pattern that matches nothing."""
        return self._inputs(step, self.upstream(step))

    def _inputs(self, step: Step, upstream: Sequence[str]) -> "FileSet":
        if step.inputs is None:
            return self._fingerprints.inputs(None, self._plan.outputs)
        upstream_outputs = [path for name in upstream for path in self._steps[name].outputs]
        patterns = tuple(pattern.text for pattern in step.inputs)
        files = self._fingerprints.inputs(patterns, (*step.outputs, *upstream_outputs))
        for pattern in step.inputs:
            if pattern.text in files.unmatched and not _may_match(pattern, upstream_outputs):
                raise self._unmatched(step, pattern)
        return files

    def require_inputs(self, steps: Iterable[Step]) -> None:
        """Raise ProjectError for an input that is not there, and that no step before makes."""
        from buildrun.workspace.glob import exists

        for step in steps:
            for pattern in step.inputs or ():
                if not exists(self._plan.root, pattern.text):
                    made = [
                        path for name in self.upstream(step) for path in self._steps[name].outputs
                    ]
                    if not _may_match(pattern, made):
                        raise self._unmatched(step, pattern)

    def _unmatched(self, step: Step, pattern: "Pattern") -> ProjectError:
        from buildrun.project.read import read_project
        from buildrun.project.rules.inputs import unmatched_diagnostic
        from buildrun.store.memo import DependencyTracker

        # A plan from a record comes without its project.
        spec = self._plan.spec or read_project(self._plan.root, DependencyTracker({})).spec
        entry_point = spec.entry_point(step.entry_point) if spec is not None else None
        if spec is None or entry_point is None:
            return ProjectError(f"the input `{printable(pattern.text)}` matches nothing")
        found = unmatched_diagnostic(spec, entry_point, pattern)
        return ProjectError(f"{found.message} [{found.code}]", place=found.place, hint=found.hint)

    def _content(self, step: Step, path: str) -> "tuple[str, FileSet | None]":
        """Return what stands for a path's content in a key, and what lies there.

        Raises OSError.
        """
        inside = self._inside(path)
        if inside is None:
            return self._fingerprints.fingerprint(path)
        if self._upstream.maker(inside) is not None or _lies_in_any(inside, step.outputs):
            return f"project:{inside}", None  # made by a step, and counted as such
        if inside == ".":
            files = self._fingerprints.inputs(("**",), self._plan.outputs)
            if files.problems:
                raise OSError(errno.EIO, files.problems[0], path)
            return files.digest, files
        return self._fingerprints.fingerprint(path, self._plan.outputs)

    def _inside(self, path: str) -> str | None:
        """Return where in the project a path leads, or None where it leads out of it."""
        inside = os.path.relpath(os.path.realpath(path), self._real_root).replace(os.sep, "/")
        return None if inside.split("/", 1)[0] == ".." else inside

    def upstream(self, step: Step) -> list[str]:
        """Return the steps before this one whose outputs it may see."""
        from buildrun.workspace.glob import escape

        patterns = [pattern.text for pattern in step.inputs or ()]
        inside = [self._inside(path) for _, path in step.paths]
        return self._upstream.of(step, [*patterns, *(escape(place) for place in inside if place)])


_UP_TO_DATE = (Reason("unchanged", "nothing has changed since it was made"),)


def _may_match(pattern: "Pattern", outputs: Sequence[str]) -> bool:
    from buildrun.workspace.glob import overlaps

    return any(overlaps(pattern.text, path) for path in outputs)


def _lies_in_any(path: str, outputs: Sequence[str]) -> bool:
    return any(path == one.rstrip("/") or path.startswith(one.rstrip("/") + "/") for one in outputs)
