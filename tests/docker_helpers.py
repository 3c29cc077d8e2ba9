"""A docker engine and a registry for tests, and small images to start from."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from needs import missing

from buildrun.environments.images import derive
from buildrun.environments.images.engine import KEY, Engine
from buildrun.store.home import Home

# Debian with Python, made by `scripts/docker-base`.
BASE = "buildrun-base:bookworm"

# `secret`, for `someone`, as htpasswd has it.
HTPASSWD = "someone:$2b$04$vjGRVkNh2sMHupH0saRbXu9AZ1yf7mm483wnJS75zyt0Pg8rZet3O\n"


def docker(*words: str | Path, data: bytes = b"", check: bool = True) -> str:
    """Call the CLI and return what it writes."""
    done = subprocess.run(
        ("docker", *words), input=data, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0 or not check, done.stderr.decode()
    return done.stdout.decode().strip()


def containers(below: Path | None = None) -> set[str]:
    """Return the ids of the containers that buildrun has made and that are still there.

    below: only those for projects in this directory.
    """
    form = '{{.ID}}\t{{.Label "buildrun.root"}}'
    lines = docker("ps", "-a", "--no-trunc", "--filter", "label=buildrun", "--format", form)
    rows = [line.partition("\t") for line in lines.splitlines()]
    return {name for name, _, root in rows if below is None or root.startswith(f"{below}/")}


def need_engine() -> None:
    """Skip a test where no engine with the base image answers; in continuous integration fail."""
    if shutil.which("docker") is None or not docker("version", "-f", "{{.Server.Os}}", check=False):
        missing("there is no docker engine")
    if not docker("images", "-q", BASE):
        missing(f"there is no image {BASE}; run scripts/docker-base")


@pytest.fixture(name="engine")
def an_engine(store: Path) -> Iterator[Engine]:
    """Return the engine; images that are made with the test's store are removed after it."""
    need_engine()
    found = Engine(os.environ)
    yield found
    remove_images(store)
    found.close()


def remove_images(store: Path) -> None:
    """Remove the images that were made with a store."""
    for key in derive.keys(Home(str(store))):
        images = docker("images", "-aq", "--no-trunc", "--filter", f"label={KEY}={key}").split()
        if images:
            docker("rmi", "--force", *sorted(set(images)), check=False)


engine = an_engine


def imported(name: str, content: str, *changes: str) -> str:
    """Make an image of one file with this content, and return its id."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("content")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content.encode()))
    words = [word for change in changes for word in ("--change", change)]
    return docker("import", *words, "-", name, data=stream.getvalue())


@pytest.fixture(name="small")
def a_small(engine: Engine, tmp_path: Path) -> Iterator[str]:
    """Return the name of a base image with next to nothing in it."""
    del engine
    name = f"buildrun-test-{tmp_path.name.replace('_', '-')[:40].strip('-')}:{os.getpid()}".lower()
    imported(name, str(tmp_path), "ENV A=1", "LABEL theirs=yes", "USER 1000")
    yield name
    docker("rmi", "--force", name, check=False)


@pytest.fixture(name="slim")
def a_slim(engine: Engine) -> Iterator[str]:
    """Let the image that the examples name be one with Python, where there is none."""
    del engine
    name = "python:3.12-slim"
    if docker("images", "-q", name):
        yield name
        return
    docker("tag", BASE, name)
    yield name
    docker("rmi", name, check=False)


class Registry(NamedTuple):
    """A registry of the test's own.

    address: such as ``127.0.0.1:5000``. log: what it was asked for.
    """

    address: str
    log: Path

    def asked(self, method: str) -> int:
        """Return how many requests of a kind it has answered."""
        return self.log.read_text().count(f'"{method} /v2/')


def registry(directory: Path, *, password: bool = False) -> Iterator[Registry]:
    """Run Debian's registry; with a password it is `secret` for `someone`."""
    program = shutil.which("docker-registry")
    if program is None:
        missing("there is no docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    directory.mkdir()
    (directory / "htpasswd").write_text(HTPASSWD)
    login = f"auth: {{htpasswd: {{realm: r, path: {directory}/htpasswd}}}}\n" if password else ""
    (directory / "config.yml").write_text(
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: '{address}'}}\n{login}"
    )
    log = directory / "log"
    with log.open("wb") as sink:
        running = subprocess.Popen(
            (str(program), "serve", directory / "config.yml"), stdout=sink, stderr=sink
        )
    try:
        _await(address, running)
        yield Registry(address, log)
    finally:
        running.kill()
        running.wait(timeout=30)


def _await(address: str, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while running.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it wants a password
        except OSError:
            time.sleep(0.05)  # it does not listen yet
    pytest.fail("the registry does not answer")
