"""Logs and watches over connections that break: nothing is lost, nothing comes twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from conftest import Buildrun
from kube_kubelet import Pod
from kubernetes_helpers import Stage, Staged

pytest_plugins = "kubernetes_helpers"

SECOND = 1_000_000_000


def lines(count: int, first: int = 0) -> bytes:
    """Return numbered lines, the same text now and then."""
    return b"".join(b"line %d of many\nagain\n" % n for n in range(first, first + count))


def writer(*parts: bytes, code: int = 0) -> Callable[[Pod], None]:
    """Return a play that writes and ends."""

    def play(pod: Pod) -> None:
        pod.running()
        for part in parts:
            pod.log(part)
        pod.ended(code)

    return play


def test_lines_come_as_they_are_written(stage: Staged) -> None:
    going = [threading.Event() for _ in range(3)]

    def play(pod: Pod) -> None:
        pod.running()
        for number, event in enumerate(going):
            pod.log(b"line %d\n" % number)
            assert pod.wait(event)
        pod.ended(0)

    live = stage(play).start("-q")
    for number, event in enumerate(going):
        live.said(f"line {number}\n")
        event.set()
    assert live.wait().out == "line 0\nline 1\nline 2\n"


@pytest.mark.parametrize(
    "text",
    [
        b"last line without an end",
        b"\n\n  \n\t\n",
        b"carriage\rreturn\r\n",
        b"\xff\xfe not text \x00\n",
        b"2024-01-01T00:00:00.000000000Z looks like a time\n",
        "ünïcode 漢字\n".encode(),
        b"x" * 100_000 + b"\nafter\n",
        b"",
    ],
)
def test_text_of_a_log_is_passed_on_as_it_is(stage: Staged, text: bytes) -> None:
    outcome = stage(writer(text)).run("-q")
    assert outcome.code == 0, outcome.err
    assert outcome.out.encode(errors="surrogateescape") == text


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_connections_that_break_in_the_middle_lose_and_repeat_nothing(
    stage: Staged, kind: str
) -> None:
    text = lines(300)
    written, met = threading.Event(), threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(text[: len(text) // 2])
        assert pod.wait(written)
        pod.log(text[len(text) // 2 :])
        assert pod.wait(met)
        pod.ended(0)

    staged = stage(play)
    faults = [
        staged.cluster.fault(kind, "GET", "/log", size=size)  # type: ignore[arg-type]
        for size in (3000, 61, 7011)
    ]
    live = staged.start("-q")
    staged.cluster.wait_until(lambda: all(fault.met for fault in faults))
    written.set()
    live.said("line 299 of many\n")
    met.set()
    outcome = live.wait()
    assert outcome.code == 0, outcome.err
    assert outcome.out.encode() == text


@pytest.mark.parametrize("code", [429, 500, 503, 504])
def test_server_in_trouble_is_asked_again(stage: Staged, code: int) -> None:
    text = lines(20)
    staged = stage(writer(text))
    for method, path in (("GET", "/log"), ("POST", "/jobs"), ("GET", "/pods"), ("DELETE", "/jobs")):
        staged.cluster.fault("status", method, path, times=2, code=code)
    outcome = staged.run("-q")
    assert outcome.code == 0, outcome.err
    assert outcome.out.encode() == text
    assert staged.asked("POST", "/jobs") == 3


def test_server_that_asks_for_time_gets_it(stage: Staged) -> None:
    staged = stage(writer(b"done\n"))
    staged.cluster.fault("status", "POST", "/jobs", code=429, retry_after=1)
    began = time.monotonic()
    outcome = staged.run("-q")
    assert (outcome.code, outcome.out) == (0, "done\n"), outcome.err
    assert time.monotonic() - began >= 1


def test_times_that_go_back_lose_and_repeat_nothing(stage: Staged) -> None:
    start = 1_700_000_000 * SECOND
    times = [0, 3, 2, 2, 9, 8, SECOND, SECOND - 5, SECOND, SECOND - 2, 2 * SECOND, SECOND + 3]
    text = b"".join(b"line %d\n" % number for number in range(len(times) * 2))
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        rows = text.splitlines(keepends=True)
        for number, at in enumerate(times):
            pod.log(rows[number], at=start + at)
        assert pod.wait(going)
        for number, at in enumerate(times, start=len(times)):
            pod.log(rows[number], at=start + 2 * SECOND + at)
        pod.ended(0)

    staged = stage(play)
    fault = staged.cluster.fault("reset", "GET", "/log", lines=11)
    live = staged.start("-q")
    live.said("line 11\n")
    assert fault.met
    staged.cluster.sever("/log")
    staged.cluster.wait_until(lambda: staged.asked("GET", "/log") > 2)
    going.set()
    outcome = live.wait()
    assert outcome.code == 0, outcome.err
    assert outcome.out.encode() == text
    assert any("sinceTime" in each.query for each in staged.cluster.requests)


def test_hundred_thousand_lines_are_whole(stage: Staged) -> None:
    text = b"".join(b"%d\n" % n for n in range(100_000))
    staged = stage(writer(text))
    staged.cluster.fault("reset", "GET", "/log", size=1_500_000)
    outcome = staged.run("-q")
    assert outcome.code == 0, outcome.err
    assert outcome.out.encode() == text


def test_log_that_came_whole_is_not_read_twice(stage: Staged) -> None:
    text = b"".join(b"epoch %d\rdone\n" % n for n in range(50_000))
    met = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(text)
        assert pod.wait(met)
        pod.ended(0)

    staged = stage(play)
    staged.cluster.fault("reset", "GET", "/log", size=1_000_000)
    live = staged.start("-q")
    live.said("epoch 49999\r")
    met.set()
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, text.decode()), outcome.err
    asked = [each.query for each in staged.cluster.requests if each.path.endswith("/log")]
    assert [("follow" in query, query.get("tailLines")) for query in asked] == [
        (True, None), (True, None), (False, "1"),
    ]  # fmt: skip


@pytest.mark.parametrize(("times", "whole"), [(3, True), (9, False)])
def test_log_of_an_ended_container_is_asked_for_again_where_it_is_cut(
    stage: Staged, buildrun: Buildrun, times: int, whole: bool
) -> None:
    text = lines(300)
    staged = stage(writer(text))
    assert staged.run("--detach").code == 0
    staged.cluster.wait("jobs", lambda job: job["status"].get("conditions"))
    staged.cluster.fault("truncate", "GET", r"/log.*timestamps", times=times, size=5_000)
    outcome = buildrun("runs", "logs", environ=dict(staged.place.environ))
    assert (outcome.code, outcome.out.encode() == text) == ((0, True) if whole else (1, False))
    assert ("the connection is lost each time" in outcome.err) is not whole
    assert staged.run().code == 0


# -- watches ---------------------------------------------------------------------------------------


def paused(started: threading.Event, going: threading.Event) -> Callable[[Pod], None]:
    """Return a play that begins, and ends once it may."""

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        started.set()
        assert pod.wait(going)
        pod.ended(0)

    return play


def watches(staged: Stage) -> int:
    return len([each for each in staged.cluster.requests if each.query.get("watch")])


@pytest.mark.parametrize("how", ["event", "status"])
def test_watch_whose_version_is_too_old_begins_anew(stage: Staged, how: str) -> None:
    going = threading.Event()
    staged = stage(paused(threading.Event(), going))
    staged.cluster.gone_as = how  # type: ignore[assignment]
    live = staged.start("-q")
    live.said("begun")
    before = watches(staged)
    with staged.cluster.store.changed:
        staged.cluster.namespace("later")
        staged.cluster.compact()
        staged.cluster.sever("watch=1")
    staged.cluster.wait_until(lambda: watches(staged) >= before + 4)
    going.set()
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "begun\n"), outcome.err


def test_end_of_a_pod_that_nobody_watched_is_seen(stage: Staged) -> None:
    going = threading.Event()
    staged = stage(paused(threading.Event(), going))
    live = staged.start("-q")
    live.said("begun")
    for code in (500, 503):
        staged.cluster.fault("status", "GET", "watch=1", times=2, code=code)
    staged.cluster.sever("watch=1")
    going.set()
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "begun\n"), outcome.err


def test_watch_that_breaks_in_the_middle_of_an_event_goes_on(stage: Staged) -> None:
    staged = stage(writer(b"done\n"))
    for size in (100, 1500):
        staged.cluster.fault("reset", "GET", "pods.*watch=1", size=size)
        staged.cluster.fault("truncate", "GET", "jobs.*watch=1", size=size)
    outcome = staged.run("-q")
    assert (outcome.code, outcome.out) == (0, "done\n"), outcome.err


# -- requests that change something ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["close", "reset", "truncate"])
def test_create_whose_answer_was_lost_makes_no_second_job(stage: Staged, kind: str) -> None:
    uids: list[str] = []

    def play(pod: Pod) -> None:
        uids.append(pod.uid)
        writer(b"done\n")(pod)

    staged = stage(play)
    fault = staged.cluster.fault(kind, "POST", "/jobs", applied=True)  # type: ignore[arg-type]
    staged.cluster.fault("close", "DELETE", "/jobs", applied=True)
    outcome = staged.run("-q")
    assert (outcome.code, outcome.out) == (0, "done\n"), outcome.err
    assert fault.met == 1
    assert len(uids) == 1
    assert staged.asked("POST", "/jobs") == 2


def test_connection_that_is_closed_before_the_answer_is_made_again(stage: Staged) -> None:
    staged = stage(writer(b"done\n"))
    for method in ("GET", "POST", "DELETE"):
        staged.cluster.fault("close", method, times=2)
    outcome = staged.run("-q")
    assert (outcome.code, outcome.out) == (0, "done\n"), outcome.err
    assert staged.asked("POST", "/jobs") == 3


def test_interrupt_while_a_job_is_being_made_leaves_none(stage: Staged) -> None:
    staged = stage(writer())
    fault = staged.cluster.fault("hang", "POST", "/jobs")
    live = staged.start("-q")
    staged.cluster.wait_until(lambda: fault.met)
    live.interrupt()
    fault.release()
    outcome = live.wait()
    assert outcome.code == 130, outcome.err
    assert "Traceback" not in outcome.err
