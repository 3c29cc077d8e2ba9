"""What a step's command is carried out with, here or elsewhere."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from buildrun.executors.job import Job, Result

# Takes the stream, 1 or 2, and what was written to it.
Sink = Callable[[int, bytes], None]


class Hands(Protocol):
    """What carries out commands, such as ``Supervisor``; used by several threads."""

    # Runs a command of this machine, its output given to the sink, and returns how it ended.
    def run(self, job: Job, sink: Sink) -> Result: ...

    # Has it called in the one thread that sinks are called in, and raises what it raises.
    def give(self, call: Callable[[], None]) -> None: ...

    # Has it called for each signal by which the user asks to end, as long as it is entered.
    def on_end(self, call: Callable[[int], None]) -> AbstractContextManager[None]: ...
