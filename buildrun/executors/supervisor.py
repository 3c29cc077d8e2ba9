"""Several commands at once, their output read by us."""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from buildrun.errors import ExecutionError
from buildrun.executors.base import Job, OutputSink, Result
from buildrun.executors.captured import CapturedProcess
from buildrun.executors.process import move_above_standard, send_signal
from buildrun.executors.signals import ENDING, Signals
from buildrun.executors.termination import GRACE, GracePeriods, Watchdog

__all__ = ["OutputSink", "Supervisor"]


class Supervisor:
    """Runs commands side by side; every child is a process group of its own.

    Everything happens in one loop in the main thread, sinks and posted calls included, so they
    need no locks against each other; while one of them takes its time, nothing else is served.
    """

    def __init__(self) -> None:
        """Prepare; nothing is caught before entry."""
        self._signals = Signals()
        self._watchdog = Watchdog()
        self._open = ExitStack()
        self._selector: selectors.BaseSelector
        self._null = -1
        self._thread = 0
        self._running: dict[int, tuple[CapturedProcess, _Answer]] = {}
        self._ticks: list[_Tick] = []
        self._interrupted: int | None = None
        # Guards what follows.
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._entered = False
        # Commands that are not started yet.
        self._waiting: set[_Answer] = set()
        self._interrupt_calls: list[Callable[[int], None]] = []
        # The signal in whose name nothing is started any more.
        self._stopped_by: int | None = None

    def __enter__(self) -> Supervisor:
        """Catch signals as `Signals` does; raises ExecutionError without descriptors."""
        with ExitStack() as stack:
            stack.enter_context(self._signals)
            if not self._signals.active:
                raise RuntimeError("a supervisor belongs to the main thread")
            try:
                self._selector = stack.enter_context(selectors.DefaultSelector())
                self._null = move_above_standard(os.open(os.devnull, os.O_RDONLY))
                stack.callback(os.close, self._null)
            except OSError as error:
                raise ExecutionError(f"commands cannot be supervised: {error.strerror}") from None
            self._selector.register(self._signals, selectors.EVENT_READ)
            stack.callback(self._close_calls)
            self._entered = True
            self._thread = threading.get_ident()
            stack.enter_context(self._watchdog)
            self._signals.unblock()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Bring what still runs to its end, and let every `run` return; then as it was before."""
        with self._open:
            try:
                self._end_all()
            finally:
                # A handler of our caller's has raised; no command and no thread must be lost.
                for captured, _answer in tuple(self._running.values()):
                    captured.destroy()
                self._deliver_results()

    @property
    def interrupted(self) -> int | None:
        """The number of the signal that has asked us to end, else None."""
        return self._interrupted

    def run(self, job: Job, sink: OutputSink, *, grace: GracePeriods = GRACE) -> Result:
        """Run the command to its end; from any thread but the loop's.

        sink: is called in the loop's thread. What it raises ends the command, and is raised here.
        grace: how long the command may take once it is asked to end.

        After its end, what the command has left running in the background may write for a tenth
        of a second more; then its output is closed. Once we are to end nothing is started, and
        the result is as if the command had been ended by that signal at once.

        Raises ExecutionError where the command cannot be started.
        """
        answer = _Answer()
        with self._lock:
            if self._stopped_by is not None:
                return _refused(self._stopped_by)
            if threading.get_ident() == self._thread:
                raise RuntimeError("the loop cannot wait for a command")
            self._waiting.add(answer)
        self.post(partial(self._start, job, sink, grace, answer))
        result = answer.wait()
        if result is None:
            raise RuntimeError("a command has ended without a result")
        return result

    def post(self, call: Callable[[], None]) -> None:
        """Have it called in the loop's thread soon; what it raises leaves the loop."""
        with self._lock:
            self._calls.append(call)
            # The number of a pipe that has been closed meanwhile may be another file's.
            if self._entered and len(self._calls) == 1:
                self._signals.wake()

    def call_in_loop(self, call: Callable[[], None]) -> None:
        """Have it called in the loop's thread, and return when it was; from any other thread.

        Raises what it raises.
        """
        answer = _Answer()

        def serve() -> None:
            try:
                call()
            except BaseException as error:
                answer.give(None, error)
            else:
                answer.give(None)

        self.post(serve)
        answer.wait()

    @contextmanager
    def on_interrupt(self, call: Callable[[int], None]) -> Iterator[None]:
        """Have it called with the number of each signal by which the user asks us to end.

        It must return at once. Where we are to end already, it is called before this returns.
        """
        with self._lock:
            self._interrupt_calls.append(call)
            number = self._stopped_by
        try:
            if number is not None:
                call(number)
            yield
        finally:
            with self._lock:
                self._interrupt_calls.remove(call)

    def tick(self, seconds: float, call: Callable[[], None]) -> None:
        """Have it called in the loop's thread every so often; only in that thread."""
        self._ticks.append(_Tick(seconds, call))

    def loop(self, done: Callable[[], bool]) -> int | None:
        """Serve commands, signals and posted calls until it is done and no command runs.

        done: is asked after every event. It decides after an interruption too, so that posted
            results are not lost.

        Return the number of the signal by which the user has ended the run, or None.
        """
        while not done() or self._running:
            self._serve()
            if self._calls:
                self._calls.popleft()()
            for tick in self._ticks:
                tick.call_if_due()
        return self._interrupted

    def _serve(self) -> None:
        """Wait for the next event, and do what it is for."""
        leader = False
        for key, _ in self._selector.select(self._seconds()):
            if key.fileobj is self._signals:
                # Any signal: SIGCHLD's own number is lost where the pipe is full of others.
                leader = True
                for number in self._signals.read(0):
                    self._receive(number)
            else:
                key.data.read(key.fd)
        for captured, _ in self._running.values():
            if leader or captured.seconds() == 0:
                captured.poll(leader=leader)
        self._deliver_results()

    def _seconds(self) -> float | None:
        if self._calls:
            return 0
        waits = [captured.seconds() for captured, _ in self._running.values()]
        waits += [tick.seconds() for tick in self._ticks]
        return min((seconds for seconds in waits if seconds is not None), default=None)

    def _receive(self, number: int) -> None:
        if number in ENDING:
            self._interrupted = self._interrupted or number
            for end in self._stop_starting(number):
                end(number)
            for captured, _ in self._running.values():
                captured.request_end(number)
        elif number == signal.SIGTSTP:
            self._suspend()
        elif number == signal.SIGCONT:
            self._send(signal.SIGCONT)

    def _suspend(self) -> None:
        """Stop with all commands, so that our shell takes over; go on after `fg` or `bg`."""
        # In a session of which nobody could continue it, SIGTSTP would be discarded.
        self._send(signal.SIGSTOP)
        before = time.monotonic()
        self._signals.stop(signal.SIGTSTP, siblings=False)
        stopped = time.monotonic() - before
        for captured, _ in self._running.values():
            captured.ending.postpone(stopped)
        self._send(signal.SIGCONT)
        for number in self._signals.read(0):
            if number != signal.SIGCONT:
                self._receive(number)

    def _send(self, number: int) -> None:
        for group in self._running:
            send_signal(group, number)

    def _start(self, job: Job, sink: OutputSink, grace: GracePeriods, answer: _Answer) -> None:
        with self._lock:
            self._waiting.discard(answer)
        if self._stopped_by is not None:
            answer.give(_refused(self._stopped_by))
            return
        self._signals.block()
        try:
            captured = CapturedProcess(
                job, sink, grace, stdin=self._null, mask=self._signals.mask, selector=self._selector
            )
            self._running[captured.group] = captured, answer
            self._watchdog.add(captured.group)
        except Exception as error:
            answer.give(None, error)
        finally:
            self._signals.unblock()

    def _deliver_results(self) -> None:
        """Hand over the results of commands that have ended."""
        for group, (captured, answer) in tuple(self._running.items()):
            if captured.ended:
                del self._running[group]
                self._watchdog.discard(group)
                answer.give(captured.result, captured.error)

    def _stop_starting(self, number: int) -> list[Callable[[int], None]]:
        """Start nothing more, and return whom to tell of it."""
        with self._lock:
            self._stopped_by = self._stopped_by or number
            return list(self._interrupt_calls)

    def _end_all(self) -> None:
        for end in self._stop_starting(signal.SIGTERM):
            end(signal.SIGTERM)
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for answer in waiting:
            answer.give(_refused(self._stopped_by or signal.SIGTERM))
        for captured, _ in self._running.values():
            if not captured.ending.begun:
                captured.request_end(signal.SIGTERM)
        while self._running:
            self._calls.clear()  # too late
            self._serve()

    def _close_calls(self) -> None:
        with self._lock:
            self._entered = False
            self._calls.clear()


class _Answer:
    """How a call ended, for the thread that waits for it."""

    def __init__(self) -> None:
        self._given = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None

    def give(self, result: Result | None, error: BaseException | None = None) -> None:
        self._result = result
        self._error = error
        self._given.set()

    def wait(self) -> Result | None:
        self._given.wait()
        if self._error is not None:
            raise self._error
        return self._result


class _Tick:
    """A call that is made every so often."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds = seconds
        self._call = call
        self._due = time.monotonic() + seconds

    def seconds(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def call_if_due(self) -> None:
        if self.seconds() == 0:
            self._due = time.monotonic() + self._seconds
            self._call()


def _refused(number: int) -> Result:
    return Result(128 + number, number)
