"""Tracking servers that are not there, say no, or say nonsense; and how we prove who we are."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Buildrun, Outcome, Project
from source_helpers import free_port
from tracking_stub import RUN_ID, Answer, Call, Play, playing, refused, run_of, said

from buildrun.tracking.config import absolute

LOCAL = "--env-manager=local"
SEEN = "echo $MLFLOW_RUN_ID $MLFLOW_EXPERIMENT_ID $MLFLOW_TRACKING_URI"


@pytest.fixture
def server() -> Iterator[Play]:
    with playing() as play:
        yield play


@pytest.fixture
def run(project: Project, buildrun: Buildrun, server: Play) -> Buildrun:
    """Return a function that runs a project which tells what it sees, tracked by the server."""
    directory = project("entry_points: {main: {command: '" + SEEN + "'}}\n")

    def call(*words: str, **environ: str | None) -> Outcome:
        variables = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
        return buildrun("-q", directory, LOCAL, *words, environ={**variables, **environ})

    return call


def test_tracked_run_takes_two_requests_before_the_command_and_two_after(
    run: Buildrun, server: Play
) -> None:
    outcome = run("-P", "a=1")
    assert outcome == (0, f"{RUN_ID} 0 {server.uri} --a 1\n", "")
    assert server.names() == ["runs/create", "runs/log-batch", "runs/get", "runs/update"]
    assert server.connections == 1


ANSWERS = {
    "500": (Answer(500, b"<html>oops", "text/html"), "the tracking server failed (500)"),
    "401": (Answer(401, b"{}"), "the tracking server does not let you in (401)"),
    "403": (said({"message": "no"}, 403), "the tracking server does not let you in (403)"),
    "html": (Answer(200, b"<html>hello", "text/html"), "this is no MLflow server"),
    "404": (Answer(404, b"not found", "text/plain"), "this is no MLflow server"),
    "list": (Answer(200, b"[]"), "this is no MLflow server"),
    "other": (Answer(200, b'{"a": 1}'), "answer is not about a run"),
    "broken": (Answer(200, b'{"run": {"in'), "this is no MLflow server"),
    "deep": (Answer(200, b"[" * 100_000), "this is no MLflow server"),
    "redirect": (
        Answer(302, b"", headers=(("Location", "https://u:pw@e.org/x/api/2.0/mlflow/runs"),)),
        "the tracking server sends us to `https://e.org/x` (302)",
    ),
    "hang": (Answer(hang=True), "it does not answer in time"),
    "drop": (Answer(drop=True), "the tracking server cannot be reached: it hangs up"),
    "trickle": (Answer(trickle=True), "it does not answer in time"),
    "no HTTP": (Answer(raw=b"SSH-2.0-OpenSSH_9\r\n"), "it hangs up, or does not speak HTTP"),
    "cut off": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "it hangs up"),
    "odd size": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -9\r\n\r\n{}"), "it hangs up"),
    "large": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), "hangs up"),
    "odd chunk": (
        Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        "hangs up",
    ),
    "long line": (Answer(raw=b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000), "it hangs up"),
    "controls": (
        Answer(200, b"x", "text/\x1b[31mred"),
        "it answers with text/\\x1b[31mred",
    ),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_unsound_answer_stops_the_run_before_its_command(
    kind: str, run: Buildrun, server: Play
) -> None:
    answer, fact = ANSWERS[kind]
    server.answers["runs/create"] = lambda _: answer
    outcome = run(MLFLOW_HTTP_REQUEST_TIMEOUT="1")
    assert (outcome.code, outcome.out) == (1, "")
    assert fact in outcome.err
    assert outcome.err.count("error:") == 1
    assert "hint:" in outcome.err
    assert "Traceback" not in outcome.err
    assert "pw" not in outcome.err


@pytest.mark.parametrize("kind", ["500", "401", "html", "hang"])
def test_trouble_is_a_warning_where_tracking_is_optional(
    kind: str, run: Buildrun, server: Play
) -> None:
    server.answers["runs/create"] = lambda _: ANSWERS[kind][0]
    for _ in range(2):  # the second on the short way
        outcome = run("--tracking=optional", MLFLOW_HTTP_REQUEST_TIMEOUT="1")
        assert (outcome.code, outcome.out) == (0, f"{server.uri}\n")
        assert "warning: the run is not tracked" in outcome.err
        assert ANSWERS[kind][1] in outcome.err


BODY = json.dumps(run_of("RUNNING")).encode()
FORMS = {
    "until the end": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "in chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
    + b"5;x=y\r\n" + BODY[:5] + b"\r\n"
    + f"{len(BODY) - 5:X}\r\n".encode() + BODY[5:] + b"\r\n0\r\nTrailer: t\r\n\r\n",
    "after 100": b"HTTP/1.1 100 Continue\r\n\r\n"
    + f"HTTP/1.1 200 \r\nCONTENT-LENGTH:{len(BODY)}\r\n\r\n".encode() + BODY,
    "bare line ends": f"HTTP/1.1 200 OK\nContent-Length: {len(BODY)}\n\n".encode() + BODY,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_answer_is_understood_in_every_form(form: str, run: Buildrun, server: Play) -> None:
    server.answers["runs/create"] = lambda _: Answer(raw=FORMS[form])
    assert run().printed() == f"{RUN_ID} 0 {server.uri}\n"


def test_connection_that_was_dropped_meanwhile_is_made_again(run: Buildrun, server: Play) -> None:
    drops = [True]

    def dropping(_: Call) -> Answer:
        return Answer(drop=True) if drops and drops.pop() else said(run_of("RUNNING"))

    server.answers["runs/get"] = dropping
    assert run() == (0, f"{RUN_ID} 0 {server.uri}\n", "")
    assert server.names()[-3:] == ["runs/get", "runs/get", "runs/update"]


def test_server_that_is_down_is_told_before_anything_is_built(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {command: 'true'}}\n",
        python_env__yaml="dependencies: [no-such-package-at-all]\n",
    )
    uri = f"http://127.0.0.1:{free_port()}"
    buildrun(directory, environ={"MLFLOW_TRACKING_URI": uri}).refused(
        f"{uri}: the tracking server cannot be reached: connection refused", "--tracking optional"
    )
    assert not (store / "envs").exists()


def test_server_is_not_asked_where_nothing_is_tracked(run: Buildrun, server: Play) -> None:
    assert run("--tracking=off").printed() == f"{server.uri}\n"
    assert run(MLFLOW_TRACKING_URI=None).printed() == "\n"
    assert server.calls == []


def test_busy_server_is_asked_again(run: Buildrun, server: Play) -> None:
    answers = [Answer(503, b""), Answer(429, b""), said(run_of("RUNNING"))]
    server.answers["runs/create"] = lambda _: answers.pop(0)
    assert run().out == f"{RUN_ID} 0 {server.uri}\n"
    assert server.names().count("runs/create") == 3


def test_parameters_that_the_server_refuses_fail_the_run(run: Buildrun, server: Play) -> None:
    server.answers["runs/log-batch"] = lambda _: refused("INVALID_PARAMETER_VALUE", "bad `a+b`")
    run("-P", "a+b=1").refused("bad `a+b`")
    assert server.status == "FAILED"


def test_experiment_and_run_that_are_deleted_or_absent_are_refused(
    run: Buildrun, server: Play
) -> None:
    server.answers["runs/get"] = lambda _: refused("RESOURCE_DOES_NOT_EXIST", "x", 404)
    assert "there is no MLflow run abc" in run("--run-id", "abc").err
    server.answers["runs/get"] = lambda _: said(run_of("FINISHED", lifecycle_stage="deleted"))
    assert f"the MLflow run {RUN_ID} is deleted" in run("--run-id", RUN_ID).err
    deleted = {"experiment": {"experiment_id": "3", "lifecycle_stage": "deleted"}}
    server.answers["experiments/get-by-name"] = lambda _: said(deleted)
    assert "the MLflow experiment `gone` is deleted" in run("--experiment-name", "gone").err
    server.answers["runs/create"] = lambda _: refused(
        "RESOURCE_DOES_NOT_EXIST", "No Experiment with id=99 exists", 404
    )
    run("--experiment-id", "99").refused("No Experiment with id=99 exists")


def test_end_that_cannot_be_told_is_told_by_the_next_run(
    run: Buildrun, server: Play, store: Path
) -> None:
    broken = [True]
    server.answers["runs/get"] = lambda _: (
        Answer(401, b"") if broken[0] else said(run_of(server.status))
    )
    outcome = run()
    assert outcome.code == 0
    assert f"the MLflow run {RUN_ID} seems to go on, though it has ended (FINISHED)" in outcome.err
    assert (store / "tracking" / RUN_ID).exists()
    broken[0] = False
    server.calls.clear()
    assert run().err == ""
    assert server.names()[:3] == ["runs/get", "runs/update", "runs/create"]
    assert server.calls[1].values["status"] == "FINISHED"
    assert not (store / "tracking" / RUN_ID).exists()


def test_run_of_a_killed_buildrun_is_ended_by_the_next(
    project: Project, run: Buildrun, server: Play
) -> None:
    directory = project("entry_points: {main: {command: 'echo up; read line'}}\n", name="waiting")
    child = subprocess.Popen(
        (sys.executable, "-m", "buildrun", "-q", directory, LOCAL),
        env={**os.environ, "MLFLOW_TRACKING_URI": server.uri},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    server.calls.clear()
    assert run().code == 0
    assert [call.values.get("status") for call in server.calls if call.name == "runs/update"] == [
        "KILLED", "FINISHED",
    ]  # fmt: skip


def authorization(server: Play) -> str:
    return server.calls[-1].headers.get("Authorization", "")


def test_credentials_come_from_the_variables_of_mlflow(run: Buildrun, server: Play) -> None:
    basic = "Basic " + base64.b64encode(b"me:p w").decode()
    run(MLFLOW_TRACKING_USERNAME="me", MLFLOW_TRACKING_PASSWORD="p w")
    assert authorization(server) == basic
    run(MLFLOW_TRACKING_TOKEN="t0k")
    assert authorization(server) == "Bearer t0k"
    run(MLFLOW_TRACKING_USERNAME="me", MLFLOW_TRACKING_PASSWORD="p w", MLFLOW_TRACKING_TOKEN="t0k")
    assert authorization(server) == basic
    run(MLFLOW_TRACKING_URI=server.uri.replace("//", "//me:p%20w@"))
    assert authorization(server) == basic
    run(MLFLOW_WORKSPACE=" team ")
    assert server.calls[-1].headers["X-MLFLOW-WORKSPACE"] == "team"
    assert authorization(server) == ""


def test_credentials_come_from_the_file_of_mlflow(
    run: Buildrun, server: Play, tmp_path: Path
) -> None:
    file = tmp_path / ".mlflow" / "credentials"
    file.parent.mkdir()
    file.write_text("[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = 1%2\n")
    run(HOME=str(tmp_path))
    assert authorization(server) == "Basic " + base64.b64encode(b"me:1%2").decode()
    run(HOME=str(tmp_path), MLFLOW_TRACKING_USERNAME="you")
    assert authorization(server) == "Basic " + base64.b64encode(b"you:1%2").decode()
    file.write_text("no ini file")
    run(HOME=str(tmp_path)).refused("credentials cannot be read")


def test_credentials_in_the_uri_are_shown_nowhere(run: Buildrun, server: Play, store: Path) -> None:
    uri = server.uri.replace("//", "//me:s3cret@")
    server.answers["runs/get"] = lambda _: Answer(500, b"")
    outcome = run("--report=r.json", MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_TIMEOUT="1")
    assert "s3cret" not in outcome.err
    kept = [path.read_bytes() for path in store.rglob("*") if path.is_file()]
    assert not any(b"s3cret" in content for content in kept)


@pytest.mark.parametrize(
    "uri", ["http://", "http:///x", "http://a b/", "http://[::1", "http://a:x"]
)
def test_address_that_is_none_is_refused(uri: str, run: Buildrun) -> None:
    run(MLFLOW_TRACKING_URI=uri).refused("MLFLOW_TRACKING_URI is not the address of a server")


def test_token_with_a_newline_is_refused(run: Buildrun, server: Play) -> None:
    outcome = run(MLFLOW_TRACKING_TOKEN="a\nX-Evil: 1")
    assert (outcome.code, server.calls) == (1, [])
    assert "X-Evil" not in outcome.err


def test_path_of_the_address_is_kept(run: Buildrun, server: Play) -> None:
    assert run(MLFLOW_TRACKING_URI=f"{server.uri}/some/prefix/").code == 0
    assert server.names()[0] == "runs/create"


def test_proxy_is_used_unless_the_host_is_exempt(run: Buildrun, server: Play) -> None:
    proxy = server.uri.replace("//", "//me:pw@")
    variables = {"MLFLOW_TRACKING_URI": "http://tracking.example:81", "http_proxy": proxy}
    assert run(**variables, no_proxy="other.example").out.startswith(RUN_ID)
    headers = server.calls[0].headers
    assert headers["Host"] == "tracking.example:81"
    assert headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"me:pw").decode()
    server.calls.clear()
    nowhere = f"http://127.0.0.1:{free_port()}"
    for exempt in ("127.0.0.1", "*", "127.0.0.0/8"):
        assert run(http_proxy=nowhere, no_proxy=exempt).code == 0
    assert run(http_proxy=nowhere, no_proxy="").code == 1


@contextmanager
def tunnelling(seen: list[bytes], status: bytes) -> Iterator[int]:
    """Be a proxy that connects whoever asks, on the port that is yielded."""
    listening = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listening.accept()
                head = b""
                while b"\r\n\r\n" not in head:
                    head += caller.recv(65536)
                seen.append(head)
                caller.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
                port = int(head.split()[1].rpartition(b":")[2])
                there = socket.create_connection(("127.0.0.1", port))
                for ends in ((caller, there), (there, caller)):
                    threading.Thread(target=carry, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


def test_https_goes_through_a_proxy(
    project: Project, buildrun: Buildrun, certificates: Path
) -> None:
    directory = project("entry_points: {main: {command: 'echo ran'}}\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates)
    for status, code in ((b"200 Connection established", 0), (b"407 No", 1)):
        seen: list[bytes] = []
        with playing(context) as server, tunnelling(seen, status) as port:
            environ = {
                "MLFLOW_TRACKING_URI": server.uri,
                "MLFLOW_TRACKING_SERVER_CERT_PATH": str(certificates),
                "HTTPS_PROXY": f"http://me:pw@127.0.0.1:{port}",
                "NO_PROXY": None, "no_proxy": None,
            }  # fmt: skip
            outcome = buildrun("-q", directory, LOCAL, environ=environ)
        assert outcome.code == code, outcome.err
        assert seen[0].startswith(f"CONNECT {server.uri.partition('//')[2]} HTTP/1.".encode())
        assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:pw") in seen[0]
        assert (server.status == "FINISHED") == (code == 0)
        assert ("the proxy refuses it (407)" in outcome.err) == (code == 1)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1 that it has signed itself."""
    place = tmp_path_factory.mktemp("tls") / "server.pem"
    key = place.with_suffix(".key")
    subprocess.run(
        ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", place,
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    place.write_text(place.read_text() + key.read_text())
    return place


def test_certificates_are_checked_as_mlflow_is_told(
    project: Project, buildrun: Buildrun, certificates: Path, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates)
    context.load_verify_locations(certificates)
    context.verify_mode = ssl.CERT_OPTIONAL
    with playing(context) as server:

        def call(**environ: str) -> Outcome:
            variables = {"MLFLOW_TRACKING_URI": server.uri, **environ}
            return buildrun("-q", directory, LOCAL, environ=variables)

        call().refused("certificate")
        assert call(MLFLOW_TRACKING_INSECURE_TLS="true").code == 0
        assert call(MLFLOW_TRACKING_SERVER_CERT_PATH=str(certificates)).code == 0
        assert call(REQUESTS_CA_BUNDLE=str(certificates)).code == 0
        assert call(
            MLFLOW_TRACKING_SERVER_CERT_PATH=str(certificates),
            MLFLOW_TRACKING_CLIENT_CERT_PATH=str(certificates),
        ).code == 0  # fmt: skip
        both = call(
            MLFLOW_TRACKING_SERVER_CERT_PATH=str(certificates), MLFLOW_TRACKING_INSECURE_TLS="1"
        )
        assert "contradict each other" in both.err
        absent = call(MLFLOW_TRACKING_CLIENT_CERT_PATH=str(tmp_path / "absent.pem"))
        assert "certificate for the tracking server cannot be read" in absent.err


def test_run_name_parent_and_experiment_are_told(run: Buildrun, server: Play) -> None:
    server.answers["experiments/get-by-name"] = lambda _: refused(
        "RESOURCE_DOES_NOT_EXIST", "x", 404
    )
    server.answers["experiments/create"] = lambda _: said({"experiment_id": "12"})
    run("--run-name", "mine", "--experiment-name", "new", MLFLOW_RUN_ID="p" * 32)
    created = next(call.values for call in server.calls if call.name == "runs/create")
    tags = {tag["key"]: tag["value"] for tag in created["tags"]}
    assert (created["experiment_id"], created["run_name"]) == ("12", "mine")
    assert tags["mlflow.parentRunId"] == "p" * 32


def test_parent_is_looked_at_each_time(run: Buildrun, server: Play) -> None:
    for parent in ("a" * 32, "b" * 32, None, "c" * 32):
        server.calls.clear()
        run(MLFLOW_RUN_ID=parent)
        tags = {tag["key"]: tag["value"] for tag in server.calls[0].values["tags"]}
        assert tags.get("mlflow.parentRunId") == parent


def test_server_that_comes_and_goes_is_noticed_on_the_short_way(
    run: Buildrun, server: Play
) -> None:
    assert run(MLFLOW_TRACKING_URI=None).out == "\n"
    assert run().out.startswith(RUN_ID)
    assert run().out.startswith(RUN_ID)
    server.answers["runs/create"] = lambda _: Answer(401, b"")
    assert run().code == 1
    assert run(MLFLOW_TRACKING_URI=None).out == "\n"


def test_hundreds_of_parameters_are_sent_in_batches(
    project: Project, buildrun: Buildrun, server: Play
) -> None:
    directory = project("entry_points: {main: {command: 'true #'}}\n")
    words = [word for number in range(250) for word in ("-P", f"p{number}={'x' * 30}")]
    long = ("-P", "long=" + "y" * 7000)
    outcome = buildrun(
        "-q", directory, LOCAL, *words, *long, environ={"MLFLOW_TRACKING_URI": server.uri}
    )
    assert outcome.code == 0, outcome.err
    sizes = [len(call.values["params"]) for call in server.calls if call.name == "runs/log-batch"]
    assert sizes == [100, 100, 51]
    sent = json.dumps([call.values for call in server.calls])
    assert "y" * 6000 in sent
    assert "y" * 6001 not in sent


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mlruns", "file:///here/mlruns"),
        ("/srv/ml runs", "file:///srv/ml%20runs"),
        ("file:mlruns", "file:///here/mlruns"),
        ("file:///srv/mlruns", "file:///srv/mlruns"),
        ("sqlite:///runs.db", "sqlite:////here/runs.db"),
        ("sqlite:///a/../runs.db?mode=ro", "sqlite:////here/a/../runs.db?mode=ro"),
        ("sqlite:////srv/runs.db", "sqlite:////srv/runs.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql+psycopg2://u@host/db", "postgresql+psycopg2://u@host/db"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("http://host:5000/x", "http://host:5000/x"),
    ],
)
def test_uri_of_a_store_means_the_same_everywhere(given: str, expected: str) -> None:
    assert absolute(given, "/here") == expected


def test_note_that_was_never_written_is_removed(run: Buildrun, store: Path) -> None:
    place = store / "tracking"
    place.mkdir()
    for name, content in (("a" * 32, b""), ("b" * 32, b"[1]"), ("c" * 32, b'{"x": ')):
        (place / name).write_bytes(content)
    assert run().code == 0
    assert list(place.iterdir()) == []


def test_argument_that_is_no_text_is_logged_with_its_bytes_escaped(
    run: Buildrun, server: Play
) -> None:
    run("-P", os.fsdecode(b"a=\xff")).printed()
    (logged,) = (call.values["params"] for call in server.calls if call.name == "runs/log-batch")
    assert logged == [{"key": "a", "value": "\\udcff"}]


def test_remote_path_is_logged_as_it_was_given(
    project: Project, buildrun: Buildrun, server: Play
) -> None:
    directory = project(
        "entry_points:\n  main:\n    parameters: {data: path}\n    command: 'cat {data}'\n"
    )
    given = f"{server.uri}/data.csv"
    outcome = buildrun(
        "-q", directory, LOCAL, "-P", f"data={given}", environ={"MLFLOW_TRACKING_URI": server.uri}
    )
    assert (outcome.code, outcome.out) == (0, "{}"), outcome.err
    (logged,) = (call.values["params"] for call in server.calls if call.name == "runs/log-batch")
    assert logged == [{"key": "data", "value": given}]


def test_words_of_a_server_do_nothing_to_the_terminal(run: Buildrun, server: Play) -> None:
    server.answers["runs/create"] = lambda _: refused("X", "\x1b[2J" + "no" * 5000)
    outcome = run()
    assert (outcome.code, "\x1b" in outcome.err) == (1, False)
    assert "\\x1b[2Jnono" in outcome.err
    assert len(outcome.err) < 3000
