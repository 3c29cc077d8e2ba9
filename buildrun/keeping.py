"""Keeping the result of a command that has succeeded, and the memory of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from buildrun import __version__
from buildrun.errors import BuildrunError, StoreError
from buildrun.history import Last
from buildrun.outcome import head
from buildrun.place import MADE_BY
from buildrun.printable import printable

if TYPE_CHECKING:
    from buildrun.judge import Verdict
    from buildrun.output import Log
    from buildrun.place import Place
    from buildrun.planning import Step
    from buildrun.store.manifest import Manifest
    from buildrun.tree.taken import Taken

# What to do where a command writes among what is taken for its inputs.
_WRITES = "if the command wrote it, declare it under `outputs` or name the step's `inputs`"


class Keeper:
    """Keeps the results of one plan's steps; safe to be used by several threads.

    mutex: held while the index, the history or the judge is asked.
    """

    def __init__(self, place: Place, mutex: AbstractContextManager[bool]) -> None:
        """Take the place."""
        self._place = place
        self._mutex = mutex

    def keep(
        self,
        step: Step,
        verdict: Verdict,
        taken: Taken,
        seconds: float,
        log: Log,
        upstream: Mapping[str, Taken],
    ) -> None:
        """Keep the result, if what it was made from is known for certain; else say why not.

        taken: the outputs. seconds: that the command took. upstream: what it may have read of
        other steps' outputs, by step.
        """
        place = self._place
        with self._mutex:
            obstacle, hint = verdict.obstacle or (taken.problems or ("",))[0], ""
            if not obstacle and (obstacle := self._changed(verdict, taken, upstream)):
                hint = "" if step.inputs else _WRITES
        if obstacle:
            place.console.warn(f"{head(step)} the result is not cached: {obstacle}", hint)
            self.note(step, verdict._replace(key=""), taken.digest, seconds)
            with self._mutex:
                place.history.note_left(step.id, taken.digest)
            return
        if verdict.key is None or verdict.parts is None or verdict.inputs is None:
            return
        left = ""
        try:
            if log.path is None or log.flaw:
                raise StoreError(log.flaw)
            place.results.save(
                self._manifest(step, verdict, taken, seconds, log), taken, verdict.inputs, log.path
            )
        except (BuildrunError, OSError) as error:
            remedy = error.hint if isinstance(error, BuildrunError) else None
            text = _fact(error)
            place.console.warn(f"{head(step)} the result is not cached: {text}", remedy or "")
            left = taken.digest
        self.note(step, verdict, taken.digest, seconds)
        with self._mutex:
            place.history.note_left(step.id, left)

    def _changed(self, verdict: Verdict, made: Taken, upstream: Mapping[str, Taken]) -> str:
        """Return which input changed while the command ran, or ""."""
        place = self._place
        sources = [verdict.inputs] if verdict.inputs is not None else []
        sources += [*upstream.values(), *verdict.paths]
        changed = place.fingerprints.changed
        names = [path for taken in sources for path in changed(taken, made)]
        if not names:
            return ""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"`{printable(names[0])}`{more} changed while the command ran"

    def _manifest(
        self, step: Step, verdict: Verdict, taken: Taken, seconds: float, log: Log
    ) -> Manifest:
        from buildrun.store.manifest import Manifest

        if verdict.key is None or verdict.parts is None or verdict.inputs is None:
            raise AssertionError(step.id)
        return Manifest(
            key=verdict.key,
            parts=verdict.parts.key_parts,
            project=self._place.plan.project.name,
            step=step.id,
            entry_point=step.entry_point,
            inputs=verdict.inputs.digest,
            outputs=taken.digest,
            declared=step.outputs,
            log="",
            streams=tuple(log.streams),
            seconds=round(seconds, 3),
            created=time.time(),
            producer=__version__,
            details=self._details(step, verdict),
        )

    def note(self, step: Step, verdict: Verdict, outputs: str, seconds: float) -> None:
        """Note in the project's history how the step ended; outputs: their digest."""
        parts = verdict.parts
        if parts is None or verdict.inputs is None:
            return
        last = Last(
            verdict.key or "",
            parts.key_parts,
            self._details(step, verdict),
            verdict.inputs.digest,
            outputs,
            round(seconds, 3),
        )
        with self._mutex:
            if self._place.keep and self._place.history.last(step.id) != last:
                self._place.history.add(step.id, last)

    def _details(self, step: Step, verdict: Verdict) -> Mapping[str, Any]:
        """Return what else is worth knowing of a result."""
        details = verdict.parts.details if verdict.parts is not None else {}
        made_by = (self._place.origins or {}).get(step.id)
        if made_by is None and verdict.manifest is not None:
            made_by = verdict.manifest.details.get(MADE_BY)
        return {**details, MADE_BY: made_by} if isinstance(made_by, str) else details


def _fact(error: BuildrunError | OSError) -> str:
    if isinstance(error, BuildrunError):
        return f"{printable(error.place)}: {error.message}" if error.place else error.message
    return (error.strerror or str(error)).lower()
