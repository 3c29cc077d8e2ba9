"""Where a case works: directories, variables, installations, and interleaved rounds."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.process import Followed, followed, output, timed
from benchmarks.subjects import Subjects
from benchmarks.summary import Sample, Summary, summarize


def _nothing() -> None:
    pass


class Runner(NamedTuple):
    """One side of a comparison.

    run: does it once and returns the time. prepare: goes before each run, and is not timed.
    every: it runs in each so many-th round only, since a slow peer needs fewer.
    """

    name: str
    run: Callable[[], Sample]
    prepare: Callable[[], None] = _nothing
    every: int = 1


class Workbench:
    """A directory of its own for a case, and the means to measure."""

    def __init__(
        self, directory: str, subjects: Subjects, environ: Mapping[str, str], rounds: int
    ) -> None:
        """Start with an empty directory."""
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        self.directory = directory
        self.subjects = subjects
        self.rounds = rounds
        # Nothing that buildrun keeps is shared with other cases or with the user.
        self.environ = {**environ, "BUILDRUN_HOME": self.path("store")}
        self.buildrun = subjects.program("buildrun")

    def path(self, *parts: str) -> str:
        """Return a path in the case's directory."""
        return os.path.join(self.directory, *parts)

    def write(self, name: str, files: Mapping[str, str]) -> str:
        """Write a project and return its directory."""
        for file, text in files.items():
            path = self.path(name, file)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as sink:
                sink.write(text)
        return self.path(name)

    def forget(self, *names: str) -> None:
        """Put away what an earlier round made, and let the disk come to rest.

        It is deleted when the case is over: to delete thousands of files is work that the file
        system goes on with while the next command is timed.
        """
        for name in names:
            if os.path.lexists(self.path(name)):
                os.makedirs(self.path("old"), exist_ok=True)
                os.rename(self.path(name), tempfile.mkdtemp(dir=self.path("old")))
        os.sync()

    def close(self) -> None:
        """Delete what was put away."""
        shutil.rmtree(self.path("old"), ignore_errors=True)
        os.sync()

    def timed(
        self,
        *argv: str,
        cwd: str,
        environ: Mapping[str, str] | None = None,
        count: int = 1,
    ) -> Sample:
        """Return the time that a command takes, or several of it at once; raises Failed."""
        variables = {**self.environ, **(environ or {})}
        return timed(argv, cwd=cwd, environ=variables, log=self.log, count=count)

    def followed(self, *argv: str, cwd: str, environ: Mapping[str, str] | None = None) -> Followed:
        """Return how a command went, from its start to its first line and to its end."""
        return followed(argv, cwd=cwd, environ={**self.environ, **(environ or {})}, log=self.log)

    def output(self, *argv: str, cwd: str, environ: Mapping[str, str] | None = None) -> str:
        """Return what a command writes; raises Failed."""
        return output(argv, cwd=cwd, environ={**self.environ, **(environ or {})})

    @property
    def log(self) -> str:
        """Return where the last timed command wrote to."""
        return self.path("log")

    def rounds_of(self, runners: Sequence[Runner]) -> dict[str, Summary]:
        """Run all once to warm up, then in turn, round by round; raises Failed."""
        samples: dict[str, list[Sample]] = {runner.name: [] for runner in runners}
        for number in range(-1, self.rounds):
            for runner in runners:
                if number > 0 and number % runner.every:
                    continue
                runner.prepare()
                sample = runner.run()
                if number >= 0:
                    samples[runner.name].append(sample)
            _progress(number + 1, self.rounds)
        return {name: summarize(found) for name, found in samples.items()}


def _progress(done: int, rounds: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == rounds else ""
        print(f"\r  round {done} of {rounds}", end=end, file=sys.stderr, flush=True)
