"""Long work without a terminal says that it goes on."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

from conftest import Buildrun, Project

from buildrun.console import Console
from buildrun.environments.heartbeat import PERIOD, going_on, tell


class Time:
    """A clock that only waiting moves on; ``then`` is what happens during each wait."""

    def __init__(self, *then: Callable[[], None]) -> None:
        self.now = 100.0
        self.then = list(then)

    def wait(self, seconds: float) -> bool:
        if not self.then:
            return True
        self.now += seconds
        self.then.pop(0)()
        return False


def test_line_every_fifteen_seconds_until_the_end() -> None:
    stream = io.StringIO()
    console = Console({}, stream=stream)
    time = Time(lambda: None, lambda: console.progress("pulling base: 3.0 MB"), lambda: None)
    tell(console, "preparing the image", time.wait, lambda: time.now)
    assert PERIOD == 15
    assert stream.getvalue().splitlines() == [
        "still preparing the image after 15 s",
        "still preparing the image after 30 s: pulling base: 3.0 MB",
        "still preparing the image after 45 s: pulling base: 3.0 MB",
    ]


def test_nothing_is_left_when_it_ends() -> None:
    stream = io.StringIO()
    console = Console({}, stream=stream)
    before = threading.active_count()
    with going_on(console, "building"):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with going_on(Console({}, quiet=True, stream=stream), "building"):
        assert threading.active_count() == before
    assert stream.getvalue() == ""


def test_failed_builds_are_listed(buildrun: Buildrun, project: Project) -> None:
    directory = project(
        "name: broken\nentry_points: {main: {command: echo}}\n",
        python_env__yaml="dependencies: [no-such-package-of-anyone==9]\n",
    )
    for verb in ("run", "build"):
        assert buildrun(verb, "--offline", cwd=directory).code == 1
    runs = buildrun("runs", "ls", "--format", "json").data["runs"]
    assert [(run["entry_point"], run["status"], run["exit_code"]) for run in runs] == [
        ("(build)", "failed", 1),
        ("main", "failed", 1),
    ]
    assert buildrun("build", "--push", "x", "--env-manager", "local", cwd=directory).code == 2
    assert len(buildrun("runs", "ls").out.splitlines()) == 2
