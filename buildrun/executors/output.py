"""Output of steps: shown as chosen, and kept in logs."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Literal

from buildrun.console import Console, printable
from buildrun.store.files import make_directory

if TYPE_CHECKING:
    from buildrun.reports.ci import Folds

Mode = Literal["stream", "prefixed", "grouped", "errors"]
MODES: tuple[Mode, ...] = ("stream", "prefixed", "grouped", "errors")

_CHUNK = 1 << 16

# A line without an end is shown in parts of this size, so that it does not gather in memory.
_LONGEST_LINE = 1 << 20


class Display:
    """Our standard streams, shared by all steps.

    mode: ``stream`` passes everything on as it comes, ``prefixed`` line by line behind the step's
    name, ``grouped`` shows each step's output when it has ended, ``errors`` only that of steps
    that failed.
    """

    def __init__(self, mode: Mode, console: Console, folds: Folds | None = None) -> None:
        """Take the mode; console: whose live line has to give way.

        folds: what is around each step's output in a CI log. All of it then goes to one stream:
        GitHub shows what comes by another one earlier or later.
        """
        self.mode = mode
        self.console = console
        self._folds = folds
        self._lock = threading.RLock()
        self._is_line_open = False

    @contextmanager
    def together(self, step: str, began: float, *, collapsed: bool) -> Iterator[None]:
        """Let no other step write in the block, whose output is one fold; see ``Folds.begin``."""
        with self._lock:
            self.unfold(step, began, collapsed=collapsed)
            try:
                yield
            finally:
                self.fold()

    def unfold(self, step: str, began: float, *, collapsed: bool) -> None:
        """Begin a fold, where there are any; see ``Folds.begin``."""
        if self._folds is not None:
            self.write(1, self._folds.begin(step, began, collapsed=collapsed))

    def fold(self) -> None:
        """End the fold, on a line of its own."""
        if self._folds is not None:
            self.write(1, (b"\n" if self._is_line_open else b"") + self._folds.end())

    def write(self, stream: int, data: bytes | memoryview) -> None:
        """Write to our standard output or error; raises BrokenPipeError where nobody reads."""
        target = _stream(stream if self._folds is None else 1)
        with self._lock:
            self.console.done()
            target.write(data)
            target.flush()
            self._is_line_open = bytes(data[-1:]) != b"\n"


class Log:
    """The output of one step: a file, and what is shown of it.

    path: None where the file cannot be made. streams: runs of (1 or 2, bytes), which stream each
    part of the file went to. flaw: why the file does not hold all, else "".
    """

    def __init__(self, path: str, step: str, display: Display) -> None:
        """Make the file; where that fails, the output is shown at once, whatever the mode."""
        self.path: str | None = path
        self.streams: list[tuple[int, int]] = []
        self.flaw = ""
        self._step, self._began = step, time.time()
        self._display = display
        self._lines = _Lines(step, display)
        self._file = -1
        if display.mode == "stream":
            display.unfold(step, self._began, collapsed=False)  # it may fail
        try:
            make_directory(os.path.dirname(path))
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            self.path = None
            self._lose(error)

    def sink(self, stream: int, chunk: bytes) -> None:
        """Take a chunk of the command's output; raises OSError where it cannot be shown."""
        if not self.flaw:
            self._keep(stream, chunk)
        if self._display.mode == "stream":
            self._display.write(stream, chunk)
        elif self._display.mode == "prefixed" or self.flaw:
            self._lines.add(stream, chunk)

    def close(self, *, failed: bool) -> None:
        """End the log, and show what was kept back."""
        self._close()
        self._lines.end()
        mode = self._display.mode
        if mode == "stream":
            self._display.fold()
        kept_back = mode == "grouped" or (mode == "errors" and failed)
        if kept_back and self.path is not None and not self.flaw:
            with self._display.together(self._step, self._began, collapsed=not failed):
                show(self.path, self.streams, self._display)

    def _keep(self, stream: int, chunk: bytes) -> None:
        try:
            _write_all(self._file, chunk)
        except OSError as error:  # a full disk
            self._lose(error)
            return
        if self.streams and self.streams[-1][0] == stream:
            self.streams[-1] = (stream, self.streams[-1][1] + len(chunk))
        else:
            self.streams.append((stream, len(chunk)))

    def _lose(self, error: OSError) -> None:
        self.flaw = f"its log cannot be written: {(error.strerror or str(error)).lower()}"
        self._close()
        if self._display.mode in ("grouped", "errors") and self.path is not None:
            for stream, chunk in _parts(self.path, self.streams):
                self._lines.add(stream, chunk)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Lines:
    """Shows output line by line behind the name of its step."""

    def __init__(self, step: str, display: Display) -> None:
        self._display = display
        self._prefix = f"[{printable(step)}] ".encode()
        self._rest = {1: b"", 2: b""}

    def add(self, stream: int, chunk: bytes) -> None:
        *lines, rest = (self._rest[stream] + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._rest[stream] = rest
        if lines:
            self._display.write(stream, b"".join(self._prefix + line + b"\n" for line in lines))

    def end(self) -> None:
        for stream, rest in self._rest.items():
            if rest:
                self._display.write(stream, self._prefix + rest + b"\n")
        self._rest = {1: b"", 2: b""}


def show(path: str, streams: Iterable[tuple[int, int]], display: Display) -> None:
    """Show a log as it is, each part on the stream that it went to; raises OSError."""
    for stream, chunk in _parts(path, streams):
        display.write(stream, chunk)


def replay(path: str, streams: Iterable[tuple[int, int]], step: str, display: Display) -> None:
    """Show the log of a step that did not run as if it had run now; raises OSError."""
    if display.mode == "errors":
        return
    if display.mode != "prefixed":
        with display.together(step, time.time(), collapsed=True):
            show(path, streams, display)
        return
    lines = _Lines(step, display)
    for stream, chunk in _parts(path, streams):
        lines.add(stream, chunk)
    lines.end()


def _parts(path: str, streams: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        for stream, count in streams:
            left = count
            while left > 0 and (chunk := file.read(min(left, _CHUNK))):
                yield stream, chunk
                left -= len(chunk)


def open_display(
    given: str | None, console: Console, environ: Mapping[str, str], *, at_once: bool
) -> Display:
    """Return the display: as given, else what suits; at_once: several steps may write at once.

    A CI log gets folds, unless standard output is a file, which is to have the output alone.
    """
    for mode in MODES:
        if mode == given:
            return Display(mode, console)
    folds = None
    if "GITHUB_ACTIONS" in environ or "GITLAB_CI" in environ:
        from buildrun.reports import ci

        folds = None if _is_file(1) else ci.folds(environ)
    several: Mode = "prefixed" if folds is None else "grouped"
    return Display(several if at_once else "stream", console, folds)


def _is_file(descriptor: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return True  # closed: nobody reads it


def _stream(number: int) -> BinaryIO:
    stream = sys.stdout if number == 1 else sys.stderr
    stream.flush()
    return stream.buffer


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
