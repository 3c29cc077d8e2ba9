"""The container in which an image's environment is built."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, NamedTuple

from buildrun import __version__
from buildrun.console import redact
from buildrun.environments import failures
from buildrun.environments.images.engine import Image
from buildrun.errors import EnvironmentFailure, ExecutionError
from buildrun.executors import docker_reaper
from buildrun.executors.docker_cli import Container, cli_environ, create_argv
from buildrun.store.home import Home

_CHUNK = 1 << 20
_KEPT_LINES = 400
# What engines say where the program of a container is not there.
_NO_PROGRAM = ("executable file not found", "no such file or directory")


class Access(NamedTuple):
    """What a container gets of this machine while an environment is made.

    environ: variables. mounts: paths here and there, read-only. network: for `--network`, ""
    for the engine's own.
    """

    environ: Mapping[str, str] = {}
    mounts: Sequence[tuple[str, str]] = ()
    network: str = ""


class ProcessResult(NamedTuple):
    """How a program ended: its exit code, its first line, and the end of what it said after it."""

    code: int
    first: str
    said: tuple[str, ...]

    @property
    def is_missing(self) -> bool:
        """Return whether the container has no such program."""
        return not self.first.startswith("{") and any(
            each in self.text.lower() for each in _NO_PROGRAM
        )

    @property
    def text(self) -> str:
        """Return all that was said."""
        return "\n".join((self.first, *self.said))


class BuildContainer:
    """Makes containers of one image, one after another, and removes each."""

    def __init__(self, base: Image, home: Home, caller: Mapping[str, str]) -> None:
        """Take what the container is of; none is made yet."""
        self._base = base
        self._directory = os.path.join(home.root, "containers")
        self._caller = caller
        self._name = ""
        self._environ: Mapping[str, str] = caller
        self._lease: docker_reaper.ContainerLease | None = None

    def __enter__(self) -> BuildContainer:
        """Enter, to be left without a container."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the container."""
        self.remove()

    def create(self, program: Sequence[str], access: Access) -> None:
        """Make the container, in place of an earlier one; raises ExecutionError."""
        self.remove()
        name = f"buildrun-environment-{os.urandom(8).hex()}"
        entry, *words = program
        arguments = ["--interactive", "--user", "0:0", "--workdir", "/", "--entrypoint", entry]
        arguments += ["--network", access.network] if access.network else []
        for place, target in access.mounts:
            arguments += ["--mount", _mount(place, target)]
        made = Container(
            name=name,
            image=self._base.id,
            program=tuple(words),
            environ=access.environ,
            arguments=tuple(arguments),
            labels=(("buildrun", __version__), ("buildrun.environment", "build")),
        )
        self._environ = cli_environ(self._caller, made)
        self._lease = docker_reaper.lease(self._directory, name, self._caller)
        self._name = name
        done = self._call(create_argv(made))
        if done.returncode:
            raise _failure("a container to make the environment in cannot be made", done.stderr)

    def put(self, chunks: Iterable[bytes]) -> None:
        """Unpack a tar beneath ``/`` of the container; raises ExecutionError."""
        argv = ("docker", "cp", "-", f"{self._name}:/")
        with _child(argv, self._environ) as (child, stdin, stdout):
            try:
                for chunk in chunks:
                    stdin.write(chunk)
                stdin.close()
            except BrokenPipeError:
                pass  # what it says is the reason
            said = stdout.read()
            if child.wait():
                raise _failure("files cannot be copied to make the environment", said)

    @contextmanager
    def started(self) -> Iterator[None]:
        """Keep the container running, for ``call`` and ``run``; raises ExecutionError.

        Its program says a line when it has begun, and ends with its standard input.
        """
        argv = ("docker", "start", "--attach", "--interactive", self._name)
        with _child(argv, self._environ) as (_, _, stdout):
            first = stdout.readline()
            if not first.startswith(b"{"):
                said = first + stdout.read()
                raise _failure("the container to make the environment in does not start", said)
            yield

    def call(self, words: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        """Run a program in the container that was started, and return what it writes."""
        return self._call(("docker", "exec", self._name, *words))

    def run(
        self,
        order: Callable[[str], bytes],
        listen: Callable[[str], None] = lambda _: None,
        inside: Sequence[str] = (),
    ) -> ProcessResult:
        """Run the container's program to its end, or a further one in a container that was started.

        order: told the program's first line, returns what it gets on standard input. listen: is
        told each further line. inside: the further program.
        """
        argv: Sequence[str] = ("docker", "start", "--attach", "--interactive", self._name)
        if inside:
            argv = ("docker", "exec", "--interactive", self._name, *inside)
        with _child(argv, self._environ) as (child, stdin, stdout):
            first = stdout.readline().decode(errors="replace").rstrip()
            said: list[str] = []
            try:
                if first.startswith("{"):
                    stdin.write(order(first))
                    stdin.flush()
            except BrokenPipeError:
                pass  # its exit code tells
            for line in stdout:
                text = redact(line.decode(errors="replace").rstrip())
                said = [*said[1 - _KEPT_LINES :], text]
                listen(text)
            stdin.close()
            return ProcessResult(child.wait(), first, tuple(said))

    def take(self, path: str) -> Iterator[bytes]:
        """Yield a tar of what lies at a path of the container; raises ExecutionError."""
        argv = ("docker", "cp", f"{self._name}:{path}", "-")
        with _child(argv, self._environ, apart=True) as (child, _, stdout):
            while chunk := stdout.read(_CHUNK):
                yield chunk
            said = child.stderr.read() if child.stderr is not None else b""
            if child.wait():
                raise _failure("the environment cannot be copied out of its container", said)

    def remove(self) -> None:
        """Remove the container, if there is one; where that fails, the next run does it."""
        lease, self._lease = self._lease, None
        if lease is not None and docker_reaper.remove([self._name], self._caller):
            lease.end()

    def _call(self, argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                argv, env=dict(self._environ), stdin=subprocess.DEVNULL, capture_output=True,
                check=False, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise _no_cli(error) from error


@contextmanager
def _child(
    argv: Sequence[str], environ: Mapping[str, str], *, apart: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """Start the docker CLI, and yield it with its standard input and output.

    It is ended when it is left early. apart: its standard error is a pipe of its own.
    """
    try:
        process = subprocess.Popen(
            argv,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if apart else subprocess.STDOUT,
            # Ctrl-C is for us; we end it.
            start_new_session=True,
        )
    except OSError as error:
        raise _no_cli(error) from error
    if process.stdin is None or process.stdout is None:
        raise AssertionError(argv)
    try:
        yield process, process.stdin, process.stdout
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass  # what it did not read


def json_line(value: object) -> bytes:
    """Return a line of JSON, as programs in containers read it."""
    return json.dumps(value).encode() + b"\n"


def _mount(place: str, target: str) -> str:
    fields = ("type=bind", f"source={place}", f"target={target}", "readonly")
    # The value is a line of comma-separated values, and may be quoted as such.
    return ",".join('"' + field.replace('"', '""') + '"' for field in fields)


def _failure(what: str, said: bytes) -> ExecutionError:
    text = redact(said.decode(errors="replace").strip())
    return ExecutionError(f"{what}: {text}", hint=failures.remedy(text, failures.ENGINE_DISK))


def _no_cli(error: OSError) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"the docker program cannot be run: {error.strerror}",
        hint="install docker's command line, which runs containers",
    )
