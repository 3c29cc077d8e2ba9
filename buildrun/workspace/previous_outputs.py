"""Outputs of earlier runs: replaced when the cache has them, else kept beside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildrun.console import printable
from buildrun.errors import StoreError

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.planning.model import Step
    from buildrun.planning.state import ProjectState
    from buildrun.workspace.outputs import Staging
    from buildrun.workspace.select import FileSet


# Stands for whatever a command leaves that is running, or was killed with buildrun.
_RUNNING = "running"


class PreviousOutputs:
    """The old outputs of a plan's steps, and where those go that would be lost; for one thread."""

    def __init__(self, place: ProjectState) -> None:
        """Take the place."""
        self._state = place
        self.previous = previous_of(place.logs)
        # What was at outputs with which something would be lost.
        self._digests: dict[str, str] = {}

    def unknown(self, step: Step, outputs: FileSet | None) -> Sequence[str]:
        """Return those of a step's outputs with which something would be lost.

        outputs: what is on the disk; None where nobody has looked yet.
        """
        look = self._state.fingerprints.outputs
        if self._is_known(step, look(step.outputs) if outputs is None else outputs):
            return ()
        old = {path: look((path,)) for path in step.outputs}
        found = [path for path in step.outputs if not self._is_known(step, old[path])]
        self._digests.update({path: old[path].digest for path in found if not old[path].problems})
        return found or step.outputs

    def _is_known(self, step: Step, outputs: FileSet) -> bool:
        from buildrun.store import cas

        place = self._state
        if outputs.problems and not outputs.has_only_links_out():
            return False
        entries = outputs.entries()
        if not entries or place.history.leftover(step.id) in (_RUNNING, outputs.digest):
            return True
        if outputs.problems:
            return False
        if not cas.has(place.home, outputs.digest):
            last = place.history.last(step.id)
            made = place.results.listing(last.outputs) if last is not None else None
            if made is None or not set(entries).issubset(made):
                return False
        return all(
            cas.has(place.home, entry.content, entry.size) for entry in entries if entry.is_file
        )

    def put_back(self, step: Step, displaced: Staging, unknown: Sequence[str]) -> None:
        """Put old outputs back where a command that failed left nothing, and lose none."""
        if not unknown:
            displaced.put_back()
        else:
            displaced.put_back(step.outputs)
            say_rescued(self._rescue(displaced, unknown), self._state.console)
        self.note_left(step)

    def rescue(self, displaced: Staging, unknown: Sequence[str]) -> None:
        """Move old outputs, which other ones have replaced, to where they can be had from."""
        fingerprints = self._state.fingerprints
        fingerprints.forget()
        lost = [
            path
            for path in unknown
            if self._digests.get(path) != fingerprints.outputs((path,)).digest
        ]
        for path, place in self._rescue(displaced, lost):
            self._state.console.warn(
                f"`{printable(path)}` was replaced; what was there before was not made by "
                f"buildrun, and is now `{printable(place)}`",
                "keep files of your own out of `outputs`",
            )

    def note_running(self, step: Step) -> None:
        """Note that from now on it is a command that writes there."""
        self._state.history.record_leftover(step.id, _RUNNING)

    def note_left(self, step: Step) -> None:
        """Note what a command has left there without a result that is kept."""
        place = self._state
        place.fingerprints.forget()
        place.history.record_leftover(step.id, place.fingerprints.outputs(step.outputs).digest)

    def _rescue(self, displaced: Staging, unknown: Sequence[str]) -> list[tuple[str, str]]:
        """Return what was moved; what cannot be is left in the project, and that is said."""
        try:
            return displaced.rescue(self.previous, unknown)
        except (OSError, StoreError) as error:
            fact = error.message if isinstance(error, StoreError) else error.strerror or str(error)
        place = displaced.leave()
        self._state.console.warn(
            f"files that were not made by buildrun were replaced, and cannot be moved to "
            f"`{printable(self.previous)}`: {fact}; they are in `{printable(place)}/old`",
            "see to it that the store can be written; the next run there moves them",
        )
        return []


def previous_of(directory: str) -> str:
    """Return where old outputs go that would be lost; directory: the run's own."""
    return os.path.join(directory, "previous")


def mend(root: str, directory: str, console: Console) -> None:
    """Put right what killed runs have left in a project; directory: this run's own."""
    from buildrun.workspace.outputs import recover

    say_rescued(recover(root, previous_of(directory)), console)


def say_rescued(rescued: Sequence[tuple[str, str]], console: Console) -> None:
    """Say where old outputs are now that a command which did not succeed has replaced."""
    for path, place in rescued:
        console.warn(
            f"`{printable(path)}` is what a command left that did not succeed; what was there "
            f"before is now `{printable(place)}`"
        )
