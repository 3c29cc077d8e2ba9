"""Remote `path` parameters of one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildrun.console import MASK, printable, redact
from buildrun.errors import ParameterError

if TYPE_CHECKING:
    from buildrun.console import Console


class PathDownloads:
    """Remote `path` parameters of one run; without a storage directory they go when it ends."""

    def __init__(self, directory: str | None, console: Console, *, offline: bool) -> None:
        """Start with nothing fetched; directory: where files go and stay."""
        self._kept = directory
        self._console = console
        self._offline = offline
        self._temporary: str | None = None

    def fetch(self, name: str, uri: str, is_secret: bool) -> str:
        """Return the path of a local copy; a secret URI is in no message."""
        label = f"parameter `{printable(name)}`"
        shown = MASK if is_secret else printable(redact(uri))
        if self._offline:
            raise ParameterError(
                f"{label}: `{shown}` would have to be downloaded",
                hint="give a local path, or run without `--offline`",
            )
        from buildrun.sources.download import fetch, showing

        with showing(self._console, "downloading") as progress:
            if not is_secret:
                return fetch(name, uri, self._directory(), progress)
            try:
                return fetch(name, uri, self._directory(), lambda *_: None)
            except ParameterError as error:
                fact = f"{label}: could not download `{shown}`"
                raise ParameterError(fact, hint=error.hint) from None

    def _directory(self) -> str:
        if self._kept is not None:
            return self._kept
        if self._temporary is None:
            import tempfile

            self._temporary = tempfile.mkdtemp(prefix="buildrun-")
        return self._temporary

    def close(self) -> None:
        """Remove what was only for this run."""
        if self._temporary is not None:
            import shutil

            shutil.rmtree(self._temporary, ignore_errors=True)
