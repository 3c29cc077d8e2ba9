"""``buildrun run --watch``: run again whenever an input changes.

Each run is a process of its own with the same command line. What counts as a change is what
counts in keys: the inputs of the steps, the project's own files, and `path` parameters. Events of
the file system only say when to look.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from buildrun import plan
from buildrun.commands import session
from buildrun.errors import BuildrunError, Interrupted, UsageError
from buildrun.keys import printable
from buildrun.memo import Reader
from buildrun.tree.fingerprints import Fingerprints

if TYPE_CHECKING:
    from buildrun.commands.project_options import ProjectOptions
    from buildrun.console import Console
    from buildrun.tree.taken import Taken

# Milliseconds without a further event after which a change is looked at.
_DEBOUNCE = 100

_CHANGE, _ENDED = "change", "ended"


def watch(
    options: ProjectOptions, argv: Sequence[str], environ: Mapping[str, str], cwd: str
) -> int:
    """Run again and again until interrupted; returns the last run's exit code.

    argv: the command line, with `--watch` in it. Raises UsageError without watchfiles.
    """
    running = session.begin(options, environ, cwd, quiet=False, write=False)
    root = session.open_project(running).project.root
    _require()
    command = [argument for argument in argv if argument != "--watch"]
    watcher = _Watcher(root, options, environ, cwd, running.console)
    return watcher.go((sys.executable, "-m", "buildrun", *command))


class _Watcher:
    """The state between two runs."""

    def __init__(
        self,
        root: str,
        options: ProjectOptions,
        environ: Mapping[str, str],
        cwd: str,
        console: Console,
    ) -> None:
        self._root = root
        self._options = options
        self._environ = environ
        self._cwd = cwd
        self._console = console
        self._events: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._look: _Look | None = None
        # What changed during the last run, and what does so each time: the command writes it.
        self._suspects: set[str] = set()
        self._own: set[str] = set()

    def go(self, argv: Sequence[str]) -> int:
        """Run until interrupted."""
        threading.Thread(target=self._listen, daemon=True).start()
        number = 0
        while True:
            number += 1
            self._look = self._take()
            code = self._run(argv, number)
            if code == 130:
                return code
            self._console.note(f"watching {self._root}; Ctrl-C ends it")
            self._ready.wait()
            self._wait()

    def _run(self, argv: Sequence[str], number: int) -> int:
        """Run once; ended early where an input changes meanwhile."""
        child = subprocess.Popen(argv, cwd=self._cwd, env=dict(self._environ))
        threading.Thread(target=self._await, args=(child, number), daemon=True).start()
        stopped = False
        try:
            while True:
                kind, of = self._events.get()
                if kind == _ENDED and of == number:
                    if not stopped:
                        self._adopt()
                    return 0 if stopped else child.returncode
                if kind == _CHANGE and not stopped and (names := self._edited()):
                    self._console.note(f"{_names(names)} changed; starting again")
                    # It ends its commands, and waits until their processes are gone.
                    child.send_signal(signal.SIGINT)
                    stopped = True
        except KeyboardInterrupt:
            child.wait()  # Ctrl-C has reached it as well
            return 130
        except Interrupted:
            child.terminate()
            child.wait()
            raise

    def _wait(self) -> None:
        """Return when an input has changed."""
        while not (names := self._changed()):
            self._events.get()
        self._console.note(f"{_names(names)} changed")

    def _edited(self) -> list[str]:
        """Return what was changed by somebody else during the run: files that were there."""
        names = [name for name in self._changed() if self._look and self._look.had(name)]
        repeated = [name for name in names if name in self._suspects]
        self._suspects = set(names)
        for name in repeated:
            self._own.add(name)
            self._console.warn(
                f"`{printable(name)}` changes whenever the command runs, and is not watched",
                "declare it under `outputs`, have git ignore it, or name the `inputs`",
            )
        return [name for name in names if name not in repeated]

    def _adopt(self) -> None:
        """Take what the run itself has left as it is now; edits of older files stay changes."""
        names = [name for name in self._changed() if self._look and self._look.had(name)]
        if not names:
            self._suspects = set()
            self._look = self._take()

    def _changed(self) -> list[str]:
        if self._look is None:
            return []
        return [name for name in self._look.changed() if name not in self._own]

    def _take(self) -> _Look:
        return _Look(self._root, self._options, self._environ, self._cwd)

    def _listen(self) -> None:
        """Tell of events; in a thread of its own."""
        from watchfiles import watch as events

        # The first answer, be it that nothing has happened, says that watching has begun.
        for changes in events(
            self._root, watch_filter=None, debounce=_DEBOUNCE, step=_DEBOUNCE // 2,
            rust_timeout=1000, yield_on_timeout=True, raise_interrupt=False,
        ):  # fmt: skip
            self._ready.set()
            if changes:
                self._events.put((_CHANGE, 0))

    def _await(self, child: subprocess.Popen[bytes], number: int) -> None:
        child.wait()
        self._events.put((_ENDED, number))


class _Look:
    """The project as it was when it was looked at."""

    def __init__(
        self, root: str, options: ProjectOptions, environ: Mapping[str, str], cwd: str
    ) -> None:
        self._fingerprints = Fingerprints(root, None, "xxh3", write=False)
        self._inputs: list[Taken] = []
        self._contents: dict[str, str] = {}
        running = session.begin(options, environ, cwd, quiet=True, write=False)
        try:
            project = session.open_project(running).project
            unknown = plan.EnvironmentState("", None, False)
            self._take(plan.make(project, session.wish(running), unknown))
        except BuildrunError:
            pass  # the run says it; until it is mended, the project's own files are looked at
        self._seen: Reader = running.seen
        self._reader = Reader(environ)
        self._files = dict(running.seen.files)
        self._variables = dict(running.seen.variables)

    def had(self, name: str) -> bool:
        """Return whether the file was there."""
        return name not in self._added()

    def changed(self) -> list[str]:
        """Return what has changed since, by name."""
        self._fingerprints.forget()
        names = [name for taken in self._inputs for name in self._fingerprints.changed(taken)]
        names += [path for path, digest in self._contents.items() if self._content(path) != digest]
        names += [
            path
            for path, seen in self._files.items()
            if not self._reader.is_current({path: seen}, {})
        ]
        return list(dict.fromkeys(names))

    def _added(self) -> set[str]:
        known = {entry.path for taken in self._inputs for entry in taken.entries()}
        changed = {name for taken in self._inputs for name in self._fingerprints.changed(taken)}
        return changed - known

    def _take(self, made: plan.Plan) -> None:
        for step in made.steps:
            patterns = None
            without: tuple[str, ...] = made.outputs
            if step.inputs is not None:
                patterns = tuple(pattern.text for pattern in step.inputs)
            self._inputs.append(self._fingerprints.inputs(patterns, without))
            for _, path in step.paths:
                self._contents[path] = self._content(path)

    def _content(self, path: str) -> str:
        try:
            return self._fingerprints.content(path)
        except OSError:
            return ""


def _require() -> None:
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        raise UsageError(
            "`--watch` needs the package watchfiles", hint="pip install 'buildrun[watch]'"
        ) from None


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{printable(os.path.basename(name) or name)}`" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
