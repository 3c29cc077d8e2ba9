"""Calls of uv, which installs requirements and resolves them for locks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from buildrun.console import Console
from buildrun.environments import base
from buildrun.environments.base import EnvironmentRequest
from buildrun.environments.failures import ToolFailure, of_uv
from buildrun.environments.local_packages import Copies
from buildrun.environments.lockfile import Lock, Package
from buildrun.environments.pip_config import Settings
from buildrun.environments.requirements import Line, expanded, name_of
from buildrun.errors import EnvironmentFailure
from buildrun.project.rules.environments import parse
from buildrun.store import home

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\n]*\r(?!\n)")
_VERSION = re.compile(r"===?\s*([^\s;]+)")
_HASH = re.compile(r"--hash=([a-z0-9]+:[0-9a-f]+)")
_KEPT_BYTES = 1 << 16

# Variables of an active environment, which must not steer uv away from the one being built.
_DROPPED = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON")


def program(environ: Mapping[str, str]) -> str:
    """Return the path of uv: the one installed with buildrun, else the one on PATH.

    Raises EnvironmentFailure.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    if os.path.isfile(beside):
        return beside
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, OSError):
        found = shutil.which("uv", path=environ.get("PATH"))
    if found is None:
        raise EnvironmentFailure(
            "the uv program is not installed, and it builds the environments",
            hint="pip install uv, or run in your own environment with `--env-manager local`",
        )
    return found


def environment(environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's variables as uv should see them."""
    kept = {name: value for name, value in environ.items() if name not in _DROPPED}
    if home.of_user(environ) is None:  # uv would put its cache into the project
        kept = {"UV_CACHE_DIR": os.path.join(home.locate(environ).root, "uv"), **kept}
    return {**kept, **extra}


def call(
    arguments: Sequence[str],
    *,
    cwd: str,
    environ: Mapping[str, str],
    console: Console,
    lock: int = -1,
    text: str = "",
) -> str:
    """Run a program to its end and return what it said.

    On a terminal its progress is seen as well, elsewhere only its failure. text: its standard
    input. lock: a descriptor that it inherits, so that the lock is held until
    it ends even if buildrun is killed.
    Raises ToolFailure.
    """
    show, sink, watch = _open_channel(console)
    try:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            pass_fds=(lock,) if lock >= 0 else (),
        )
    finally:
        os.close(sink)
    try:
        _feed(process, text)
        output = _collect(watch, console if show else None)
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        os.close(watch)
    said = _ESCAPES.sub("", output.decode(errors="replace")).strip()
    if code != 0:
        raise ToolFailure(said, shown=show)
    return said


class Tool:
    """uv with the caller's settings, in the project's root or another directory."""

    def __init__(
        self,
        request: EnvironmentRequest,
        settings: Settings,
        console: Console,
        lock: int,
        cwd: str | None = None,
    ) -> None:
        """Find the program; raises EnvironmentFailure where there is none."""
        self._program = program(request.environ)
        self._environ = environment(request.environ, dict(settings.variables))
        self._settings, self._request = settings, request
        self._console, self._lock = console, lock
        self._cwd = cwd or request.project.root

    def run(self, *arguments: str, text: str = "") -> str:
        """Return what it wrote; raises ToolFailure."""
        quiet = () if self._console.live else ("--no-progress",)
        offline = ("--offline",) if self._request.offline else ()
        return call(
            (self._program, *arguments, *quiet, *offline),
            cwd=self._cwd,
            environ=self._environ,
            console=self._console,
            lock=self._lock,
            text=text,
        )

    def pip(self, verb: str, *arguments: str, text: str = "") -> str:
        """Call one of the ``uv pip`` verbs with pip's settings; text: lines of requirements."""
        words, lines = _translate(text.splitlines(), self._environ)
        given = list(self._settings.arguments)
        if "--require-hashes" in words or self._environ.get("UV_REQUIRE_HASHES"):
            # Everything is pinned then; uv would want that of bounds as well, and pip does not.
            given = [word for word in given if not word.startswith("--constraint=")]
            lines = [line for line in lines if not line.startswith("--constraint ")]
        if verb == "compile":  # which always makes hashes
            words = [word for word in words if word != "--require-hashes"]
        text = "".join(f"{line}\n" for line in lines)
        return self.run("pip", verb, *given, *words, *arguments, text=text)

    def export(self) -> list[str]:
        """Return the packages of the project's own ``uv.lock``, as ``uv sync --no-dev`` has them.

        Raises ToolFailure.
        """
        words = ("--frozen", "--no-dev", "--no-emit-project", "--quiet", "--no-header")
        return _output(self.run, "export", *words, "--no-annotate").splitlines()

    def resolve(
        self,
        stages: Mapping[str, Sequence[Line]],
        copies: Copies,
        default: str,
        platform: str,
        python: str,
        previous: Lock | None,
    ) -> tuple[Package, ...]:
        """Return the packages of every stage for one platform and Python version.

        copies: where packages given by path are built from. default: the place of what is in none
        of the lines. previous: its versions are kept where they still fit.
        Raises EnvironmentFailure with uv's reason.
        """
        target = base.UV_PLATFORMS[base.require_platform(platform)]
        words = ("--quiet", "--generate-hashes", "--no-annotate", "--no-header")
        where = ("--python-platform", target, "--python-version", python)
        packages: list[Package] = []
        for stage, requirements in stages.items():
            text = "".join(f"{line}\n" for line in copies.rewrite(requirements))
            if not text:
                continue
            before = previous.platforms.get(platform, ()) if previous else ()
            kept = "".join(f"{item.line}\n" for item in before if item.stage == stage)
            try:
                made = _output(self.pip, "compile", "-", *words, *where, before=kept, text=text)
            except ToolFailure as failure:
                what = f"the requirements could not be resolved for {platform}"
                failure.output = copies.restore_paths(failure.output)
                raise of_uv(failure, what, requirements, default) from None
            packages += _locked(copies.relative_paths(made), stage)
        return tuple(packages)

    def locate(self, lines: Sequence[str], platform: str, python: str) -> tuple[str, str]:
        """Return uv's `pylock.toml` of pinned requirements, and what its paths are relative to.

        platform, python: as for ``resolve``. Raises ToolFailure.
        """
        target = base.UV_PLATFORMS[base.require_platform(platform)]
        words = ("--format=pylock.toml", "--no-deps", "--quiet", "--no-header")
        where = ("--python-platform", target, "--python-version", python)
        with tempfile.TemporaryDirectory(prefix="buildrun-") as directory:
            output = os.path.join(directory, "pylock.toml")
            text = "".join(f"{line}\n" for line in lines)
            self.pip("compile", "-", *words, *where, "--output-file", output, text=text)
            with open(output, encoding="utf-8") as file:
                return file.read(), directory


def _output(call: Callable[..., str], *words: str, before: str = "", **more: str) -> str:
    """Return what uv writes into a file; before: what the file holds first."""
    with tempfile.TemporaryDirectory(prefix="buildrun-") as directory:
        output = os.path.join(directory, "requirements.txt")
        if before:
            with open(output, "w", encoding="utf-8") as file:
                file.write(before)
        call(*words, "--output-file", output, **more)
        with open(output, encoding="utf-8") as file:
            return file.read()


def _locked(text: str, stage: str) -> list[Package]:
    whole = re.sub(r"\\\n\s*", " ", text)
    return [
        _locked_package(line.strip(), stage)
        for line in whole.splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]


def _locked_package(text: str, stage: str) -> Package:
    hashes = tuple(sorted(_HASH.findall(text)))
    line = re.sub(r"\s*--hash=\S+", "", text).strip()
    if line.startswith(("-e", "--editable")):
        raise EnvironmentFailure(
            f"`{line}` is an editable install, which has no version to lock",
            hint="list the package without `-e`, or leave the environment unlocked",
        )
    version = _VERSION.search(line)
    name, found = name_of(line), version.group(1) if version else ""
    wheel = re.search(r"([^/\\]+?)-([^-/]+)-[^/]*\.whl(?=$|[\s;#])", line)
    if not found and wheel:
        name, found = name_of(wheel.group(1)), wheel.group(2)
    return Package(name, found, line, hashes, stage)


def _open_channel(console: Console) -> tuple[bool, int, int]:
    """Return whether to show, the end to write to and the end to read from."""
    if not console.live:
        reading, writing = os.pipe()
        return False, writing, reading
    import fcntl
    import pty
    import termios

    reading, writing = pty.openpty()
    try:
        window = fcntl.ioctl(console.stream.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(writing, termios.TIOCSWINSZ, window)
    except (OSError, ValueError):
        pass
    return True, writing, reading


def _feed(process: subprocess.Popen[bytes], text: str) -> None:
    try:
        if process.stdin is not None:
            process.stdin.write(text.encode())
            process.stdin.close()
    except BrokenPipeError:
        pass  # it ended before reading; its exit code says why


def _collect(watch: int, console: Console | None) -> bytes:
    kept = b""
    while True:
        try:
            chunk = os.read(watch, 1 << 14)
        except OSError:
            return kept  # a pseudo-terminal whose other end is closed
        if not chunk:
            return kept
        kept = (kept + chunk)[-_KEPT_BYTES:]
        if console is not None:
            console.raw(chunk)


# Options of requirements that change nothing of what is installed, or that uv does anyway.
_WITHOUT_EFFECT = ("--prefer-binary", "--use-feature")
# Options of requirements that are arguments for uv.
_ARGUMENTS = {
    "--pre": ("--prerelease", "allow"),
    "--require-hashes": ("--require-hashes",),
    "--trusted-host": ("--allow-insecure-host", "{value}"),
}
_NAMED = re.compile(r"[A-Za-z0-9][\w.-]*\s*(\[[^]]*\])?\s*(@|[<>=!~;(]|$)")


def _translate(lines: Sequence[str], environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return arguments for ``uv pip``, and the lines that it reads; variables are replaced."""
    arguments: list[str] = []
    texts: list[str] = []
    for line in lines:
        requirement, options, _ = parse(expanded(line, environ.get))
        for name, value in options:
            arguments += _argument(requirement, name, value, environ)
        if requirement:
            hashes = [f"--hash={value}" for name, value in options if name == "--hash"]
            texts.append(" ".join([requirement, *hashes]))
            continue
        texts += [
            f"{name} {value}".strip()
            for name, value in options
            if name not in _WITHOUT_EFFECT and name not in _ARGUMENTS
        ]
    return arguments, texts


def _argument(requirement: str, option: str, value: str, environ: Mapping[str, str]) -> list[str]:
    if option in _ARGUMENTS:
        return [word.format(value=value) for word in _ARGUMENTS[option]]
    if option == "--extra-index-url" and "UV_INDEX_STRATEGY" not in environ:
        # pip takes the best version of all indexes, uv by default that of the first.
        return ["--index-strategy", "unsafe-best-match"]
    if option in ("--global-option", "--install-option"):
        option, value = "--config-settings", f"{option}={value}"
    if option != "--config-settings":
        return []
    if _NAMED.match(requirement):
        return ["--config-settings-package", f"{name_of(requirement)}:{value}"]
    return ["--config-settings", value]  # of a path
