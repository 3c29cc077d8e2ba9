"""Keeping the results of steps, or saying why not."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from buildrun import __version__
from buildrun.console import printable
from buildrun.errors import BuildrunError, StoreError
from buildrun.planning import evidence as evidences
from buildrun.planning.evidence import DECLARED, Evidence
from buildrun.planning.model import Step, label
from buildrun.planning.state import MADE_BY, ProjectState
from buildrun.planning.step_history import StepRecord
from buildrun.planning.uptodate import StepStatus

if TYPE_CHECKING:
    from buildrun.executors.output import Log
    from buildrun.store.manifest import Manifest
    from buildrun.workspace.select import FileSet

# What to do where a command writes among what is taken for its inputs.
_WRITES = "if the command wrote it, declare it under `outputs` or name the step's `inputs`"


# What to do where strict results are asked for, and a step could not be checked.
_CHECKABLE = "run it where that can be done, or in a sandbox, see docs/caching.md"


class ResultPublisher:
    """Keeps the results of one plan's steps; safe to be used by several threads.

    mutex: held while the index, the history or the staleness check is asked.
    """

    def __init__(self, state: ProjectState, mutex: AbstractContextManager[bool]) -> None:
        """Take the project."""
        self._state = state
        self._mutex = mutex

    def publish(
        self,
        step: Step,
        status: StepStatus,
        outputs: FileSet,
        seconds: float,
        log: Log,
        upstream: Mapping[str, FileSet],
        evidence: Evidence = DECLARED,
    ) -> bool:
        """Keep the result, if what it was made from is known for certain; else say why not.

        Returns whether it is kept. outputs: the outputs. seconds: that the command took. upstream:
        what it may have read of other steps' outputs, by step. evidence: what is known of what it
        read.
        """
        state = self._state
        with self._mutex:
            obstacle, hint = self._obstacle(step, status, outputs, upstream, evidence)
        if obstacle:
            state.console.warn(f"{label(step)} the result is not cached: {obstacle}", hint)
            known = DECLARED
            if evidence.obstacle and status.key:
                # What an unwatched command has left under this key may be made from anything.
                state.results.forget(status.key, evidences.is_checked)
                known = Evidence(incomplete=status.key)
            self.record(step, status._replace(key=""), outputs.digest, seconds, known)
            with self._mutex:
                state.history.record_leftover(step.id, outputs.digest)
            return False
        if status.key is None or status.parts is None or status.inputs is None:
            return False
        left = ""
        try:
            if log.path is None or log.flaw:
                raise StoreError(log.flaw)
            manifest = self._manifest(step, status, outputs, seconds, log, evidence)
            state.results.save(manifest, outputs, status.inputs, log.path)
        except (BuildrunError, OSError) as error:
            remedy = error.hint if isinstance(error, BuildrunError) else None
            text = _describe(error)
            state.console.warn(f"{label(step)} the result is not cached: {text}", remedy or "")
            left = outputs.digest
        self.record(step, status, outputs.digest, seconds, evidence)
        with self._mutex:
            state.history.record_leftover(step.id, left)
        return not left

    def _obstacle(
        self,
        step: Step,
        status: StepStatus,
        outputs: FileSet,
        upstream: Mapping[str, FileSet],
        evidence: Evidence,
    ) -> tuple[str, str]:
        """Return why a result is not kept, "" where it is, and a remedy."""
        if known := status.obstacle or (outputs.problems or ("",))[0] or evidence.obstacle:
            return known, ""
        if self._state.strict and evidence.assurance == "declared":
            return "its inputs were not checked, and `--strict-cache` asks for that", _CHECKABLE
        if not evidences.are_sound(evidence.conditions):
            return "the command looks for too many files that are no inputs", ""
        return self._changed(status, outputs, upstream), "" if step.inputs else _WRITES

    def _changed(
        self, status: StepStatus, outputs: FileSet, upstream: Mapping[str, FileSet]
    ) -> str:
        """Return which input changed while the command ran, or ""."""
        sources = [status.inputs] if status.inputs is not None else []
        sources += [*upstream.values(), *status.paths]
        changed = self._state.fingerprints.changed
        names = [path for files in sources for path in changed(files, outputs)]
        if not names:
            return ""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"`{printable(names[0])}`{more} changed while the command ran"

    def _manifest(
        self,
        step: Step,
        status: StepStatus,
        outputs: FileSet,
        seconds: float,
        log: Log,
        evidence: Evidence,
    ) -> Manifest:
        from buildrun.store.manifest import Manifest

        if status.key is None or status.parts is None or status.inputs is None:
            raise AssertionError(step.id)
        return Manifest(
            key=status.key,
            parts=status.parts.key_parts,
            project=self._state.plan.project,
            step=step.id,
            entry_point=step.entry_point,
            inputs=status.inputs.digest,
            outputs=outputs.digest,
            declared=step.outputs,
            log="",
            streams=tuple(log.streams),
            seconds=round(seconds, 3),
            created=time.time(),
            producer=__version__,
            details={
                **self._details(step, status, evidence),
                "run": os.path.basename(self._state.logs),
            },
        )

    def record(
        self,
        step: Step,
        status: StepStatus,
        outputs: str,
        seconds: float,
        evidence: Evidence | None = None,
    ) -> None:
        """Note in the project's history how the step ended.

        outputs: their digest. evidence: of a command that ran; None: of the result in ``status``.
        """
        parts = status.parts
        if parts is None or status.inputs is None:
            return
        if evidence is None and status.manifest is not None:
            evidence = evidences.from_details(status.manifest.details)
        last = StepRecord(
            status.key or "",
            parts.key_parts,
            self._details(step, status, evidence or DECLARED),
            status.inputs.digest,
            outputs,
            round(seconds, 3),
        )
        with self._mutex:
            if self._state.store_results and self._state.history.last(step.id) != last:
                self._state.history.add(step.id, last)

    def _details(self, step: Step, status: StepStatus, evidence: Evidence) -> Mapping[str, Any]:
        """Return what else is worth knowing of a result."""
        details = status.parts.details if status.parts is not None else {}
        details = {**details, **evidences.to_details(evidence)}
        made_by = (self._state.origins or {}).get(step.id)
        if made_by is None and status.manifest is not None:
            made_by = status.manifest.details.get(MADE_BY)
        return {**details, MADE_BY: made_by} if isinstance(made_by, str) else details


def _describe(error: BuildrunError | OSError) -> str:
    if isinstance(error, BuildrunError):
        return f"{printable(error.place)}: {error.message}" if error.place else error.message
    return (error.strerror or str(error)).lower()
