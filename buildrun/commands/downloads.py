"""Remote `path` parameters of one run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from buildrun.console import redact
from buildrun.errors import ParameterError

if TYPE_CHECKING:
    from buildrun.commands.session import RunContext


class Downloads:
    """Remote `path` parameters of one run; without a storage directory they go when it ends."""

    def __init__(self, running: RunContext) -> None:
        """Start with nothing fetched."""
        self._running = running
        self._temporary: str | None = None
        self.used = False

    def fetch(self, name: str, uri: str) -> str:
        """Return the path of a local copy."""
        if self._running.options.offline:
            raise ParameterError(
                f"parameter `{name}`: `{redact(uri)}` would have to be downloaded",
                hint="give a local path, or run without `--offline`",
            )
        from buildrun.console import size
        from buildrun.sources.download import fetch

        console = self._running.console
        self.used = True

        def progress(label: str, done: int, total: int | None) -> None:
            whole = f" of {size(total)}" if total else ""
            console.progress(f"downloading {label}: {size(done)}{whole}")

        try:
            return fetch(name, uri, self._directory(), progress)
        finally:
            console.done()

    def _directory(self) -> str:
        if self._running.options.storage_dir is not None:
            return os.path.join(self._running.cwd, self._running.options.storage_dir)
        if self._temporary is None:
            import tempfile

            self._temporary = tempfile.mkdtemp(prefix="buildrun-")
        return self._temporary

    def close(self) -> None:
        """Remove what was only for this run."""
        if self._temporary is not None:
            import shutil

            shutil.rmtree(self._temporary, ignore_errors=True)
