"""What the tests of environment managers share: a way to declare projects for each manager, and
buildrun in processes that can be watched, stopped and killed.

A manager takes part through an adapter; every test of ``test_environment_managers`` then holds
for it. A *gated* project is one whose build says that it has begun and then waits until it may go
on, so that nothing has to be timed.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import conda_channel
import pytest
from wheels import write_wheel

# Seconds; only reached by a test that fails.
LIMIT = 120.0

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
COMMAND = 'python -c \\"import sys, alpha; print(alpha.VERSION, sys.prefix)\\"'


class Change(NamedTuple):
    """One thing that is different: in the project's files, or among the caller's variables."""

    apply: Callable[[Path], object] = lambda _: None
    environ: Mapping[str, str] = {}


class Run:
    """buildrun in a process group of its own, with its standard error in a file."""

    def __init__(self, arguments: tuple[str, ...], environ: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "buildrun", *arguments),
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
                text=True,
            )

    @property
    def err(self) -> str:
        """Return what it has said so far."""
        return self._log.read_text(errors="replace")

    @property
    def builds(self) -> int:
        """Return how many environments it has begun to build."""
        return self.err.count("building the ")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def finish(self) -> str:
        """Wait for its success and return its output."""
        out, _ = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0, self.err
        return out

    def fail(self) -> int:
        """Wait for its failure and return its exit code."""
        self.process.communicate(timeout=LIMIT)
        assert self.process.returncode != 0
        assert "Traceback" not in self.err
        return self.process.returncode

    def kill(self, *, group: bool) -> None:
        """End it with SIGKILL, alone or with all that is in its process group."""
        send = os.killpg if group else os.kill
        try:
            send(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate(timeout=LIMIT)


class Place:
    """A store, a directory for projects, and the variables of whoever runs them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CONDA", "MLFLOW", "PIP_", "UV_", "RATTLER", "VIRTUAL_ENV"))
        }
        self.environ |= {"BUILDRUN_HOME": str(self.store), "HOME": str(directory / "home")}
        (directory / "home").mkdir(parents=True)
        # The packages that uv has fetched are shared; they are not what is tested.
        cache = os.environ.get("UV_CACHE_DIR") or os.path.expanduser("~/.cache/uv")
        self.environ["UV_CACHE_DIR"] = cache
        self._runs = 0

    def project(self, name: str = "project") -> Path:
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path

    def start(self, *arguments: str | Path, **environ: str) -> Run:
        self._runs += 1
        log = self.directory / f"err-{self._runs}"
        return Run(tuple(map(str, arguments)), {**self.environ, **environ}, log)

    def run(self, *arguments: str | Path, **environ: str) -> tuple[str, str]:
        """Return output and messages of a run that succeeds."""
        run = self.start("run", *arguments, **environ)
        out = run.finish()
        return out, run.err

    def environment(self, project: Path, **environ: str) -> Any:
        """Return what ``plan`` says of a project's environment."""
        run = self.start("plan", project, "--format", "json", **environ)
        return json.loads(run.finish())["steps"][-1]["environment"]

    def key(self, project: Path, **environ: str) -> str:
        return str(self.environment(project, **environ)["key"])

    def prefix(self, project: Path) -> Path:
        return self.store / "envs" / self.key(project).rpartition(":")[2][:24]

    def leftovers(self) -> list[str]:
        """Return what lies among the environments beside locks."""
        folder = self.store / "envs"
        names = os.listdir(folder) if folder.is_dir() else []
        return [name for name in names if not name.endswith(".lock")]


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that can be seen."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"never seen: {what}"
        time.sleep(0.001)


def write(directory: Path, **files: str) -> None:
    """Write files; ``__`` in a name stands for a dot."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def larger_wheel(directory: Path, size: int) -> Path:
    """Write a wheel of a project anew, with twice as many bytes more."""
    return write_wheel(directory / "w", "alpha", files={"filler.txt": os.urandom(size).hex()})


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    """Return a change of one file of a project."""

    def apply(directory: Path) -> None:
        path = directory / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return apply


Serve = Callable[..., str]


@pytest.fixture(name="serve")
def served_files() -> Iterator[Serve]:
    """Return a function that serves a directory over HTTP and returns the address.

    secret: user and password that it asks for, with a colon between. context: that of TLS.
    """
    servers: list[ThreadingHTTPServer] = []

    def start(
        directory: Path, *, secret: str | None = None, context: ssl.SSLContext | None = None
    ) -> str:
        wanted = secret and "Basic " + base64.b64encode(secret.encode()).decode()

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                if wanted is None or self.headers.get("Authorization") == wanted:
                    super().do_GET()
                    return
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic realm=files")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(directory))
        )
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http{'s' if context else ''}://localhost:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# A build backend without needs of its own, which waits at the gate.
_BACKEND = """
import os, shutil, time
GATE = {gate!r}
def build_wheel(directory, settings=None, metadata=None):
    open(os.path.join(GATE, "started"), "w").close()
    while not os.path.exists(os.path.join(GATE, "go")):
        time.sleep(0.01)
    name = "alpha-1.0-py3-none-any.whl"
    shutil.copy(os.path.join({wheels!r}, name), os.path.join(directory, name))
    return name
"""


class Virtualenv:
    """python_env.yaml, with wheels of our own.

    parts: what decides an environment's content, and trifles: what does not, by telling names.
    """

    name = "virtualenv"
    parts: Mapping[str, Change] = {
        "python": Change(edit("python_env.yaml", f"'{MINOR}'", f"'>={MINOR}'")),
        "dependency": Change(edit("python_env.yaml", "- -r r.txt", "- -r r.txt\n  - six")),
        "build dependency": Change(edit("python_env.yaml", "s: []", "s: [six]")),
        "requirements file": Change(edit("r.txt", "alpha-1.0", "alpha-2.0")),
        "nested requirements file": Change(edit("nested.txt", "# none", "six")),
        "constraints file": Change(edit("c.txt", "six<99", "six<98")),
        "content of a wheel": Change(lambda path: larger_wheel(path, 9)),
        "index": Change(environ={"PIP_EXTRA_INDEX_URL": "https://index.example/simple"}),
        "index for uv": Change(environ={"UV_INDEX": "https://index.example/simple"}),
    }
    trifles: Mapping[str, Change] = {
        "a comment": Change(edit("r.txt", "./w/alpha", "# why not\n./w/alpha")),
        "a comment in yaml": Change(edit("python_env.yaml", "python:", "# so it is\npython:")),
        "a blank line": Change(edit("nested.txt", "# none", "\n# none\n")),
    }

    def declare(self, directory: Path) -> None:
        """Write a project whose `main` prints the version of `alpha` and the prefix."""
        for version in ("1.0", "2.0"):
            write_wheel(directory / "w", "alpha", version)
        write(
            directory,
            MLproject=f'name: demo\nentry_points: {{main: {{command: "{COMMAND}"}}}}\n',
            python_env__yaml=(
                f"python: '{MINOR}'\nbuild_dependencies: []\ndependencies:\n  - -r r.txt\n"
            ),
            r__txt="./w/alpha-1.0-py3-none-any.whl\n-r nested.txt\n-c c.txt\n",
            nested__txt="# none\n",
            c__txt="six<99\n",
        )

    def declare_gated(self, directory: Path, gate: Path) -> None:
        """Write one whose build touches `started` in the gate and waits for `go`."""
        self.declare(directory)
        backend = _BACKEND.format(gate=str(gate), wheels=str(directory / "w"))
        write(
            directory / "source",
            backend__py=backend,
            pyproject__toml=(
                '[project]\nname = "alpha"\nversion = "1.0"\n[build-system]\nrequires = []\n'
                'build-backend = "backend"\nbackend-path = ["."]\n'
            ),
        )
        write(directory, r__txt="./source\n")

    def declare_unbuildable(self, directory: Path) -> None:
        self.declare(directory)
        write(directory, r__txt="./w/alpha-1.0-py3-none-any.whl\nalpha==99\n")

    def declare_large(self, directory: Path) -> None:
        """Write one that needs more than three megabytes."""
        self.declare(directory)
        larger_wheel(directory, 4_000_000)

    def milestones(self) -> tuple[str, ...]:
        """Return paths that appear in a prefix as a build goes on, the first ones first."""
        return ("", "bin/python", f"lib/python{MINOR}/site-packages/alpha.py")


class Conda:
    """conda.yaml, with a channel of our own."""

    name = "conda"
    parts: Mapping[str, Change] = {
        "channel": Change(edit("conda.yaml", "- nodefaults", "- file:///nowhere\n  - nodefaults")),
        "channel priority": Change(environ={"CONDA_CHANNEL_PRIORITY": "strict"}),
        "dependency": Change(edit("conda.yaml", "- alpha=1.0", "- alpha=1.0\n  - data")),
        "version": Change(edit("conda.yaml", "- alpha=1.0", "- alpha=2.0")),
        "variables": Change(edit("conda.yaml", "GREETING: hello", "GREETING: bye")),
        "pip line": Change(edit("conda.yaml", "- -r r.txt", "- -r r.txt\n    - six")),
        "requirements file of pip": Change(edit("r.txt", "# none", "six")),
        "index": Change(environ={"PIP_EXTRA_INDEX_URL": "https://index.example/simple"}),
        "platform": Change(environ={"CONDA_SUBDIR": "linux-ppc64le"}),
        "virtual package": Change(environ={"CONDA_OVERRIDE_CUDA": "12.4"}),
    }
    trifles: Mapping[str, Change] = {
        "name": Change(edit("conda.yaml", "name: demo", "name: other")),
        "blanks": Change(edit("conda.yaml", "- alpha=1.0", "- alpha = 1.0")),
        "a comment": Change(edit("conda.yaml", "- alpha=1.0", "- alpha=1.0  # why not")),
    }

    def __init__(self, directory: Path) -> None:
        large = {"share/large.txt": os.urandom(4_000_000).hex()}
        self._directory = directory
        self.channel = conda_channel.make(
            directory,
            [*conda_channel.default_packages(), conda_channel.Package("large", files=large)],
        )

    def declare(self, directory: Path) -> None:
        self._declare(directory, self.channel)

    def declare_gated(self, directory: Path, gate: Path) -> None:
        script = (
            f"#!/bin/sh\ntouch {gate}/started\n"
            f"while [ ! -e {gate}/go ]; do sleep 0.01; done\n"
            'echo late > "$PREFIX/late"\n'
        )
        gated = conda_channel.module(
            "alpha", files={"bin/.alpha-post-link.sh": script}, programs=["bin/.alpha-post-link.sh"]
        )
        packages = [conda_channel.python(1), gated]
        self._declare(directory, conda_channel.make(directory / "channel", packages))

    def declare_unbuildable(self, directory: Path) -> None:
        self.declare(directory)
        edit("conda.yaml", "- alpha=1.0", "- alpha=99")(directory)

    def declare_large(self, directory: Path) -> None:
        self.declare(directory)
        edit("conda.yaml", "- alpha=1.0", "- alpha=1.0\n  - large")(directory)

    def milestones(self) -> tuple[str, ...]:
        return ("", "conda-meta", "bin/python", f"{conda_channel.SITE}/alpha.py")

    def _declare(self, directory: Path, channel: str) -> None:
        write(
            directory,
            MLproject=(
                "name: demo\nconda_env: conda.yaml\n"
                f'entry_points: {{main: {{command: "{COMMAND}"}}}}\n'
            ),
            conda__yaml=(
                f"name: demo\nchannels:\n  - {channel}\n  - nodefaults\ndependencies:\n"
                f"  - python={MINOR}\n  - alpha=1.0\n  - pip:\n    - -r r.txt\n"
                "variables:\n  GREETING: hello\n"
            ),
            r__txt="# none\n",
        )


Adapter = Virtualenv | Conda


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    """Put a file system of ``size`` bytes at a directory; skips the test where that is refused."""
    path.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield
    finally:
        subprocess.run(("umount", "-l", str(path)), check=False)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Make a directory read-only, even for root."""
    if os.geteuid() == 0:
        _mount("--bind", str(path), str(path))
        subprocess.run(("mount", "-o", "remount,ro,bind", str(path)), check=True)
        try:
            yield
        finally:
            subprocess.run(("umount", "-l", str(path)), check=False)
        return
    folders = [Path(name) for name, _, _ in os.walk(path)]
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


def _mount(*arguments: str) -> None:
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount`")
    done = subprocess.run(("mount", *arguments), capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
