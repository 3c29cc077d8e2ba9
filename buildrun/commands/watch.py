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
from typing import TYPE_CHECKING, NamedTuple

from buildrun.console import listed, printable
from buildrun.errors import BuildrunError, ExecutionError, Interrupted, UsageError
from buildrun.planning import model, project_loader
from buildrun.planning.context import new_context
from buildrun.store import home, own_files
from buildrun.store.memo import DependencyTracker
from buildrun.workspace.fingerprints import Fingerprints

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.planning.context import ProjectOptions
    from buildrun.workspace.select import FileSet

# Milliseconds without a further event after which a change is looked at.
_DEBOUNCE = 100
# Milliseconds between two looks at files outside the project, for which there are no events.
_OUTSIDE = 1000

# The project's directory may hold a module with a name of ours, so it is not searched.
_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); from buildrun.cli import entry; entry()"
)

_FAILED_HINT = "see that it is there, and raise the system's limit of watched directories"

_CHANGE, _TICK, _ENDED, _FAILED = "change", "tick", "ended", "failed"


def watch(
    options: ProjectOptions, argv: Sequence[str], environ: Mapping[str, str], cwd: str
) -> int:
    """Run again and again until interrupted; returns 130 then.

    argv: the command line, with `--watch` in it. Raises UsageError without watchfiles,
    ExecutionError where the project's directory cannot be watched.
    """
    context = new_context(options, environ, cwd, quiet=False, write=False)
    with project_loader.open_project(context) as loaded:
        if loaded.source.workdir is not None:
            raise UsageError(
                "`--watch` watches a directory of this machine, and this project comes from "
                "git or an archive",
                place=loaded.origin.name,
                hint="watch a checkout of it",
            )
        root = loaded.project.root
    _require()
    command = [argument for argument in argv if argument != "--watch"]
    watcher = _Watcher(root, options, environ, cwd, context.console)
    return watcher.loop((sys.executable, "-c", _PROGRAM, *command))


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
        self._events: queue.SimpleQueue[tuple[str, int | str]] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._snapshot = self._take_snapshot()
        # In how many runs, one after the other, a file has changed: its command may write it.
        self._change_counts: dict[str, int] = {}
        # What changed during this run.
        self._changed_now: set[str] = set()
        # What a run has made, and so may write again.
        self._created: set[str] = set()

    def loop(self, argv: Sequence[str]) -> int:
        """Run until interrupted."""
        threading.Thread(target=self._listen, daemon=True).start()
        number = 0
        while True:
            number += 1
            try:
                if self._run(argv, number):
                    continue
                self._console.note(f"watching {self._root}; Ctrl-C ends it")
                self._ready.wait()
                self._wait()
                self._snapshot = self._take_snapshot()
            except KeyboardInterrupt:
                return 130

    def _run(self, argv: Sequence[str], number: int) -> bool:
        """Run once, and return whether an input has changed meanwhile."""
        self._changed_now = set()
        child: subprocess.Popen[bytes] | None = None
        try:
            child = subprocess.Popen(argv, cwd=self._cwd, env=dict(self._environ))
            threading.Thread(target=self._wait_for_child, args=(child, number), daemon=True).start()
            return self._await_end(child, number)
        except KeyboardInterrupt:
            if child is not None:
                _interrupt(child)
            raise
        except BaseException:
            if child is not None:
                child.terminate()
                child.wait()
            raise

    def _await_end(self, child: subprocess.Popen[bytes], number: int) -> bool:
        """Wait for the end of a run, which comes early where an input changes meanwhile."""
        stopped = False
        while True:
            kind, detail = self._next()
            if kind == _ENDED and detail == number:
                break
            if kind == _ENDED or stopped or not (names := self._edited(kind)):
                continue
            self._console.note(f"{_names(names)} changed; starting again")
            # It ends its commands, and waits until their processes are gone.
            child.send_signal(signal.SIGINT)
            stopped = True
        # First the look, then what differs: an edit in between is seen once more.
        now = self._take_snapshot()
        late = [] if stopped else self._edited(_CHANGE)
        if late:
            self._console.note(f"{_names(late)} changed")
        self._created.update(self._snapshot.changes().created)
        self._snapshot = now
        counts = self._change_counts
        self._change_counts = {name: counts.get(name, 0) + 1 for name in self._changed_now}
        return stopped or bool(late)

    def _wait(self) -> None:
        """Return when an input has changed; nothing runs, so whoever did it meant it."""
        while not (names := self._snapshot.changes().all):
            self._next()
        self._console.note(f"{_names(names)} changed")

    def _next(self) -> tuple[str, int | str]:
        """Wait for something to happen; raises ExecutionError where nothing is heard of."""
        while True:
            kind, detail = self._events.get()
            if kind == _FAILED:
                raise ExecutionError(
                    f"the directory cannot be watched: {detail}",
                    place=self._root,
                    hint=_FAILED_HINT,
                )
            if kind != _TICK or self._snapshot.is_changed_outside():
                return kind, detail

    def _edited(self, kind: str) -> list[str]:
        """Return what was changed during the run by somebody else, for all that can be known.

        Nobody says who wrote a file. One that the run has made is its own; one that changes in
        run after run is taken for that as well.
        """
        changes = self._snapshot.changes() if kind == _CHANGE else self._snapshot.changes_outside()
        names = [name for name in changes.edited if name not in self._created]
        for name in names:
            if self._is_own(name, changes) and name not in self._changed_now:
                self._console.warn(
                    f"`{printable(name)}` changes in each run; that does not start another",
                    "declare it under `outputs`, have git ignore it, or name the `inputs`; "
                    "if you have edited it, save it again when the run has ended",
                )
        self._changed_now.update(names)
        return [name for name in names if not self._is_own(name, changes)]

    def _is_own(self, name: str, changes: _Changes) -> bool:
        return self._change_counts.get(name, 0) >= (2 if name in changes.declared else 1)

    def _take_snapshot(self) -> _Snapshot:
        return _Snapshot(self._root, self._options, self._environ, self._cwd)

    def _listen(self) -> None:
        """Tell of events; in a thread of its own."""
        from watchfiles import watch as events

        try:
            # The first answer, be it that nothing has happened, says that watching has begun.
            for changes in events(
                self._root, watch_filter=None, debounce=_DEBOUNCE, step=_DEBOUNCE // 2,
                rust_timeout=_OUTSIDE, yield_on_timeout=True, raise_interrupt=False,
            ):  # fmt: skip
                self._ready.set()
                self._events.put((_CHANGE if changes else _TICK, 0))
        except Exception as error:
            self._events.put((_FAILED, str(error)))
            self._ready.set()

    def _wait_for_child(self, child: subprocess.Popen[bytes], number: int) -> None:
        child.wait()
        self._events.put((_ENDED, number))


class _Changes(NamedTuple):
    """What differs from an earlier look, by name.

    edited: files that were there, and those that inputs name. created: other files that were not.
    declared: those that inputs name.
    """

    edited: tuple[str, ...]
    created: tuple[str, ...]
    declared: frozenset[str]

    @property
    def all(self) -> tuple[str, ...]:
        return self.edited + self.created


class _Snapshot:
    """The project as it was when it was looked at."""

    def __init__(
        self, root: str, options: ProjectOptions, environ: Mapping[str, str], cwd: str
    ) -> None:
        ours = own_files.below(home.locate(environ), root)
        self._fingerprints = Fingerprints(root, None, write=False, without=ours)
        # With each whether its files are named by patterns.
        self._inputs: list[tuple[FileSet, bool]] = []
        self._contents: dict[str, str] = {}
        self._reader = DependencyTracker(environ)
        context = new_context(options, environ, cwd, quiet=True, write=False)
        try:
            project = project_loader.open_project(context).project
            unknown = model.EnvironmentState("", None, False)
            request = project_loader.plan_request(context)
            self._read(model.make_plan(project, request, unknown))
        except BuildrunError:
            pass  # the run says it; until it is mended, the project's own files are looked at
        self._files = dict(context.tracker.files)
        self._outside = {path: seen for path, seen in self._files.items() if not _is_in(path, root)}
        self._contents_outside = [path for path in self._contents if not _is_in(path, root)]

    def changes(self) -> _Changes:
        """Return what has changed since."""
        self._fingerprints.forget()
        edited: dict[str, None] = {}
        created: dict[str, None] = {}
        declared: set[str] = set()
        for taken, named in self._inputs:
            names = self._fingerprints.changed(taken)
            known = {entry.path for entry in taken.entries()} if names else set()
            for name in names:
                (edited if named or name in known else created)[name] = None
            declared.update(names if named else ())
        edited.update(dict.fromkeys(self._differing(self._files, list(self._contents))))
        return _Changes(tuple(edited), tuple(created), frozenset(declared))

    def changes_outside(self) -> _Changes:
        """Return what has changed since outside the project's directory."""
        names = self._differing(self._outside, self._contents_outside)
        return _Changes(tuple(dict.fromkeys(names)), (), frozenset())

    def is_changed_outside(self) -> bool:
        """Return whether something has, with little effort."""
        return bool(self._outside or self._contents_outside) and bool(self.changes_outside().all)

    def _differing(self, files: Mapping[str, object], contents: Sequence[str]) -> list[str]:
        self._fingerprints.forget()
        current = self._reader.is_current
        return [
            *(path for path in contents if self._content(path) != self._contents[path]),
            *(path for path, seen in files.items() if not current({path: seen}, {})),
        ]

    def _read(self, plan: model.Plan) -> None:
        for step in plan.steps:
            named = step.inputs is not None
            patterns = tuple(pattern.text for pattern in step.inputs or ()) if named else None
            self._inputs.append((self._fingerprints.inputs(patterns, plan.outputs), named))
            for _, path in step.paths:
                self._contents[path] = self._content(path)

    def _content(self, path: str) -> str:
        try:
            return self._fingerprints.content(path)
        except OSError:
            return ""


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    """End a run by Ctrl-C, which has reached it already where it came from our terminal."""
    if not _is_in_foreground():
        child.send_signal(signal.SIGINT)
    while True:
        try:
            child.wait()
            return
        except KeyboardInterrupt:
            continue  # it hastens the run's end, which is still waited for
        except Interrupted:
            child.terminate()


def _is_in_foreground() -> bool:
    """Return whether our process group is the one that a terminal's Ctrl-C reaches."""
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _require() -> None:
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        raise UsageError(
            "`--watch` needs the package watchfiles", hint="pip install 'buildrun[watch]'"
        ) from None


def _names(names: Sequence[str]) -> str:
    return listed(list(map(_short, names)), 3)


def _short(name: str) -> str:
    """Return a file's name without the directories above the project's."""
    return os.path.basename(name) if os.path.isabs(name) else name
