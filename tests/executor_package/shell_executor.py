"""An executor of another package: commands are run by a `bash` of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

from buildrun.executors import ExecutorContext, Job, OutputSink, ProcessRunner, Result, Task


class ShellExecutor:
    """Runs each command in a session of its own, below a niceness that the config may give."""

    USES_IMAGE = False
    HAS_TERMINAL = False
    repository = None

    def __init__(self, niceness: int) -> None:
        self._niceness = niceness

    @classmethod
    def open(cls, context: ExecutorContext) -> ShellExecutor:
        return cls(int(context.config.get("niceness", 0)))

    def check(self, tasks: Sequence[Task]) -> None:
        assert tasks

    def run(self, job: Job, runner: ProcessRunner | None, sink: OutputSink | None) -> Result:
        assert runner is not None
        assert sink is not None
        process = subprocess.Popen(
            ("nice", "-n", str(self._niceness), "bash", "-c", job.command),
            cwd=job.cwd, env=job.environ, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        asked: list[int] = []

        def end(number: int) -> None:
            asked.append(number)
            os.killpg(process.pid, signal.SIGTERM)

        with runner.on_interrupt(end), process.stdout:
            while chunk := os.read(process.stdout.fileno(), 65536):
                runner.call_in_loop(lambda chunk=chunk: sink(1, chunk))  # type: ignore[misc]
            code = process.wait()
        return Result(code if code >= 0 else 128 - code, asked[0] if asked else None)

    def close(self, *, interrupted: bool) -> None:
        pass
