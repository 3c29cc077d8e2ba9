"""Runs processes and takes their time."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.summary import Sample

# Seconds after which a process is taken to hang.
LIMIT = 900.0


class Failed(Exception):
    """A process ended with an error; the end of what it said."""


def timed(
    argv: Sequence[str], *, cwd: str, environ: Mapping[str, str], log: str, count: int = 1
) -> Sample:
    """Start the command ``count`` times at once and return the time until all have ended.

    log: where their output goes. Raises Failed.
    """
    with open(log, "wb") as sink:
        cpu, started = _children(), time.perf_counter()
        running = [
            subprocess.Popen(
                argv,
                cwd=cwd,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
            for _ in range(count)
        ]
        # `wait` with a timeout polls, which is too coarse here.
        guards = [threading.Timer(LIMIT, process.kill) for process in running]
        for guard in guards:
            guard.start()
        codes = [process.wait() for process in running]
        seconds = time.perf_counter() - started
    for guard in guards:
        guard.cancel()
    if any(codes):
        raise Failed(f"{' '.join(argv)}: exit code {max(codes, key=abs)}\n{tail(log)}")
    return Sample(seconds, _children() - cpu)


class Followed(NamedTuple):
    """How a command went: until the first line of its standard output, in whole, and at its most.

    peak: memory of the process, in MB.
    """

    first: Sample
    whole: Sample
    peak: float


def followed(argv: Sequence[str], *, cwd: str, environ: Mapping[str, str], log: str) -> Followed:
    """Start the command and return how it went; log: where its output goes. Raises Failed."""
    with open(log, "wb") as sink:
        started = time.perf_counter()
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
        )
        guard = threading.Timer(LIMIT, process.kill)
        guard.start()
        with process.stdout or open(os.devnull, "rb") as output:
            line = output.readline()
            first = time.perf_counter() - started
            sink.write(line)
            shutil.copyfileobj(output, sink)
        _, status, used = os.wait4(process.pid, 0)
        whole = time.perf_counter() - started
    guard.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not line:
        raise Failed(f"{' '.join(argv)}: exit code {process.returncode}\n{tail(log)}")
    cpu = used.ru_utime + used.ru_stime
    peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Followed(Sample(first, cpu), Sample(whole, cpu), peak)


def total(samples: Sequence[Sample]) -> Sample:
    """Return the time of commands that ran one after the other."""
    return Sample(sum(one.seconds for one in samples), sum(one.cpu for one in samples))


def output(argv: Sequence[str], *, cwd: str, environ: Mapping[str, str]) -> str:
    """Return what a command writes to standard output; raises Failed."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise Failed(f"{' '.join(argv)}: exit code {done.returncode}\n{said[-2000:]}")
    return done.stdout.decode()


def tail(log: str) -> str:
    """Return the end of a log."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - 2000))
        return file.read().decode(errors="replace")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
