"""Old outputs, out of the way while the command that makes new ones runs."""

import os
from collections.abc import Sequence

from buildrun.errors import StoreError
from buildrun.store import staging
from buildrun.store.staging import Rescued, Staging


class Aside:
    """Outputs that were moved away.

    descriptor: of a lock; as long as a process that inherited it lives, nobody takes the outputs
        for those of a killed run. -1 where nothing had to be moved.
    """

    def __init__(self, stage: Staging | None) -> None:
        """Take over what they were moved to."""
        self._stage = stage
        self.descriptor = stage.lock.descriptor if stage is not None else -1

    def put_back(self, paths: Sequence[str] | None = None) -> None:
        """Move outputs back to where the command left nothing.

        paths: which, as declared; without, all, and the others are deleted. Raises StoreError;
        then what could not be moved back is kept, and a later run tries again.
        """
        if self._stage is None:
            return
        chosen = None if paths is None else [path.rstrip("/") for path in paths]
        try:
            self._stage.put_back(chosen)
        except (OSError, StoreError) as error:
            self._stage.leave()
            raise StoreError(f"old outputs could not be put back: {error}") from error
        if paths is None:
            self.discard()

    def rescue(self, directory: str) -> tuple[Rescued, ...]:
        """Move what has not been put back to a directory where nobody deletes it.

        Returns which. Raises OSError and StoreError.
        """
        return () if self._stage is None else self._stage.rescue(directory)

    def leave(self) -> str:
        """Leave what has not been put back to a later run; return the directory where it is."""
        if self._stage is None:
            return ""
        path = self._stage.path
        self._stage.leave()
        self._stage, self.descriptor = None, -1
        return path

    def discard(self) -> None:
        """Delete the old outputs; calling it again, or after leaving them, is harmless."""
        if self._stage is not None:
            self._stage.end()
            self._stage, self.descriptor = None, -1


def set_aside(root: str, paths: Sequence[str]) -> Aside:
    """Move outputs out of the project, so that a command starts without them.

    paths: as declared. What is a link out of the project stays. Raises StoreError; then all is
    where it was.
    """
    there = [path.rstrip("/") for path in paths if _is_ours(root, path.rstrip("/"))]
    if not there:
        return Aside(None)
    stage = staging.make(root)
    try:
        stage.announce(there)
        for number in range(len(there)):
            stage.take(number)
    except BaseException as error:
        Aside(stage).put_back()
        if isinstance(error, OSError):
            place = error.filename if isinstance(error.filename, str) else root
            text = f"old outputs cannot be moved away: {error.strerror}"
            raise StoreError(text, place=place) from error
        raise
    return Aside(stage)


def _is_ours(root: str, path: str) -> bool:
    """Return whether there is something that is not a link out of the project."""
    base, full = os.path.realpath(root), os.path.join(root, path)
    if not os.path.islink(full):
        return os.path.lexists(full)
    return os.path.realpath(full).startswith(base.rstrip("/") + "/")
