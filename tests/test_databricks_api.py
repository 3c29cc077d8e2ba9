"""Requests to Databricks: what is answered, what is tried again, and what is told."""

from __future__ import annotations

import io
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from databricks_tracking import workspace
from databricks_workspace import CLIENT, CLUSTER, TOKEN, USER, VOLUME, Workspace
from source_helpers import free_port
from test_tracking_errors import certificates, tunnelling
from tracking_stub import Answer, Play, playing, said

from buildrun.errors import ExecutionError
from buildrun.executors.databricks.api import Api
from buildrun.executors.databricks.auth import connect
from buildrun.executors.databricks.errors import ApiError, NoAnswer
from buildrun.executors.databricks.files import Place

__all__ = ["certificates", "workspace"]

ME = "/api/2.0/preview/scim/v2/Me"
SUBMIT = "/api/2.2/jobs/runs/submit"
FILES = f"/api/2.0/fs/files{VOLUME}"


def opened(workspace: Workspace, *, patience: float = 60.0, **environ: str) -> Api:
    return Api(connect(None, {**workspace.environ, **environ}), environ, patience=patience)


@pytest.fixture
def api(workspace: Workspace) -> Api:
    return opened(workspace)


def of_machine(workspace: Workspace) -> Api:
    """Return an API whose credentials can be renewed."""
    client = {"DATABRICKS_CLIENT_ID": CLIENT[0], "DATABRICKS_CLIENT_SECRET": CLIENT[1]}
    return Api(connect(None, {"DATABRICKS_HOST": workspace.url, **client}), {})


def task(**more: Any) -> dict[str, Any]:
    file = f"{VOLUME}/x.py"
    python = {"python_file": file, "parameters": []}
    only = {"task_key": "x", "existing_cluster_id": CLUSTER, "spark_python_task": python}
    return {"run_name": "x", "tasks": [only], **more}


def test_value_is_returned(api: Api, workspace: Workspace) -> None:
    assert api.call("GET", ME)["userName"] == USER
    home = f"/Users/{USER}"
    assert api.call("POST", "/api/2.0/workspace/mkdirs", body={"path": f"{home}/x"}) == {}
    path = f"{home}/x"
    found = api.call("GET", "/api/2.0/workspace/get-status", query={"path": path})
    assert found["object_type"] == "DIRECTORY"
    assert workspace.requests[-1].query == {"path": path}


def test_connections_are_kept(api: Api, workspace: Workspace) -> None:
    api.call("GET", ME)
    before = threading.active_count()  # the stand-in has a thread for each connection
    for _ in range(3):
        api.call("GET", ME)
    assert threading.active_count() <= before
    assert len(workspace.requests) == 4


def test_file_goes_there_and_back(api: Api) -> None:
    data = os.urandom(3_000_000)
    path = f"{FILES}/a b%20#?.bin"
    assert not api.exists(path)
    file = io.BytesIO(b"head" + data)
    file.seek(4)
    api.upload(path, file, len(data), query={"overwrite": "true"})
    assert api.exists(path)
    with api.download(path) as found:
        assert found.read(10) == data[:10]
        assert found.read() == data[10:]


def test_file_that_is_not_there_is_told(api: Api) -> None:
    with pytest.raises(ApiError) as told:
        api.download(f"{FILES}/absent")
    assert (told.value.status, told.value.code) == (404, "NOT_FOUND")
    assert f"`GET {FILES}/absent`" in told.value.message


def test_file_over_the_limit_is_told(api: Api, workspace: Workspace) -> None:
    workspace.file_limit = 10
    with pytest.raises(ApiError, match="exceeds the limit") as told:
        api.upload(f"{FILES}/x", io.BytesIO(b"x" * 11), 11)
    assert told.value.status == 413
    assert len(workspace.requests) == 1


def test_refusal_keeps_status_and_code(api: Api, workspace: Workspace) -> None:
    body = {"error_code": "INVALID_PARAMETER_VALUE", "message": f"not {TOKEN}\x1b[31m"}
    workspace.fail("POST", SUBMIT, status=400, body=body)
    with pytest.raises(ApiError) as told:
        api.call("POST", SUBMIT, body=task())
    error = told.value
    assert (error.status, error.code) == (400, "INVALID_PARAMETER_VALUE")
    assert error.place == workspace.url
    assert error.message.endswith("(400 INVALID_PARAMETER_VALUE): not ***\\x1b[31m")


def test_right_that_is_missing_is_told_with_whose_it_is(api: Api, workspace: Workspace) -> None:
    body = {"error_code": "403", "message": "no"}
    workspace.fail("GET", ME, status=403, body=body)
    with pytest.raises(
        ApiError, match=r"does not allow `GET .*Me` \(PERMISSION_DENIED\): no"
    ) as told:
        api.call("GET", ME)
    assert "DATABRICKS_TOKEN" in str(told.value.hint)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_trouble_that_passes_is_waited_for(status: int, api: Api, workspace: Workspace) -> None:
    workspace.fail("GET", ME, status=status, times=3)
    assert api.call("GET", ME)["userName"] == USER
    assert len(workspace.requests) == 4


def test_pages_of_a_gateway_are_waited_for(api: Api, workspace: Workspace) -> None:
    page = {"Content-Type": "text/html"}
    workspace.fail("", "/api/2.0/", status=503, headers=page, body=b"<html>", times=2)
    assert api.call("GET", ME)["userName"] == USER


def test_server_says_how_long_to_wait(workspace: Workspace) -> None:
    workspace.fail("GET", ME, status=429, headers={"Retry-After": "1"})
    assert opened(workspace).call("GET", ME)["userName"] == USER
    first, second = workspace.requests
    assert second.at - first.at >= 1
    workspace.fail("GET", ME, status=429, headers={"Retry-After": "61"})
    with pytest.raises(ApiError, match=r"in trouble \(429 REQUEST_LIMIT_EXCEEDED"):
        opened(workspace, patience=60).call("GET", ME)
    assert len(workspace.requests) == 3


@pytest.mark.parametrize("times", ["soon", "-1", "inf", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_odd_time_to_wait_is_passed_over(times: str, api: Api, workspace: Workspace) -> None:
    workspace.fail("GET", ME, status=429, headers={"Retry-After": times})
    assert api.call("GET", ME)["userName"] == USER


def test_patience_ends(workspace: Workspace) -> None:
    workspace.fail("GET", ME, times=10**6)
    with pytest.raises(ApiError, match="TEMPORARILY_UNAVAILABLE") as told:
        opened(workspace, patience=0.2).call("GET", ME)
    assert told.value.status == 503
    assert "status.databricks.com" in str(told.value.hint)


@pytest.mark.parametrize("carried_out", [True, False])
def test_connection_that_is_lost_is_made_again(
    carried_out: bool, api: Api, workspace: Workspace
) -> None:
    workspace.drop("", "/api/", times=2, carried_out=carried_out)
    assert api.call("GET", ME)["userName"] == USER
    workspace.drop("PUT", FILES, carried_out=carried_out)
    api.upload(f"{FILES}/x", io.BytesIO(b"text"), 4)
    assert workspace.local(f"{VOLUME}/x").read_bytes() == b"text"
    workspace.drop("", FILES, times=2)
    assert api.exists(f"{FILES}/x")
    workspace.drop("GET", FILES)
    with api.download(f"{FILES}/x") as file:
        assert file.read() == b"text"


@pytest.mark.parametrize("warm", [True, False])
def test_run_is_submitted_once_where_nothing_tells_it_from_another(
    warm: bool, api: Api, workspace: Workspace
) -> None:
    if warm:
        api.call("GET", ME)  # leaves a connection, which might have been dropped while unused
    workspace.drop("POST", SUBMIT)
    with pytest.raises(NoAnswer) as told:
        api.call("POST", SUBMIT, body=task())
    assert "look at the workspace's job runs first" in str(told.value.hint)
    assert len(workspace.asked("POST", SUBMIT)) == 1
    workspace.fail("POST", SUBMIT, status=500)
    with pytest.raises(ApiError):
        api.call("POST", SUBMIT, body=task())
    workspace.fail("POST", SUBMIT, status=503)
    assert api.call("POST", SUBMIT, body=task())["run_id"]
    assert len(workspace.runs) == 2


def test_run_with_a_token_of_its_own_is_submitted_again(api: Api, workspace: Workspace) -> None:
    workspace.drop("POST", SUBMIT)
    assert api.call("POST", SUBMIT, body=task(idempotency_token="a"))["run_id"]
    assert len(workspace.asked("POST", SUBMIT)) == 2
    assert len(workspace.runs) == 1


def test_credentials_that_expire_in_the_middle_are_renewed_once(workspace: Workspace) -> None:
    api = of_machine(workspace)
    assert api.call("GET", ME)["userName"] == USER
    workspace.expire_tokens()
    assert api.call("GET", ME)["userName"] == USER
    assert len(workspace.asked("POST", "/oidc/v1/token")) == 2
    body = {"error_code": 401, "message": "never"}
    workspace.fail("GET", ME, status=401, body=body, times=10)
    with pytest.raises(ApiError, match="does not accept DATABRICKS_CLIENT_ID") as told:
        api.call("GET", ME)
    assert (told.value.status, told.value.code) == (401, "UNAUTHENTICATED")
    assert len(workspace.asked("GET", ME)) == 5


def test_token_that_expires_in_the_middle_is_told(api: Api, workspace: Workspace) -> None:
    api.call("GET", ME)
    workspace.expire_tokens()
    with pytest.raises(ApiError, match=r"does not accept DATABRICKS_TOKEN \(401") as told:
        api.call("GET", ME)
    assert "make a new one" in str(told.value.hint)
    assert TOKEN not in str(told.value)


def test_sign_in_that_is_in_trouble_is_waited_for(workspace: Workspace) -> None:
    workspace.fail("POST", "/oidc/v1/token", times=2)
    workspace.drop("POST", "/oidc/v1/token")
    assert of_machine(workspace).call("GET", ME)["userName"] == USER


STRANGERS = {
    "page": (Answer(200, b"<html>", "text/html; charset=utf-8"), "it answers with a page"),
    "page 404": (Answer(404, b"<html>", "text/html"), "it answers with a page for people (404)"),
    "text": (Answer(200, b"hello", "text/plain"), "it answers with text/plain (200)"),
    "empty": (Answer(200, b""), "its answer is empty (200)"),
    "list": (Answer(200, b"[]"), "it answers with application/json (200)"),
    "deep": (Answer(200, b"[" * 100_000), "it answers with application/json"),
    "another": (said({"detail": "Not Found"}, 404), "it answers with application/json (404)"),
    "moved": (
        Answer(302, b"", headers=(("Location", "https://me:pw@e.org/login?next=secret"),)),
        "it sends us to `https://e.org/login` (302)",
    ),
}


@contextmanager
def stranger(answer: Answer) -> Iterator[tuple[Api, Play]]:
    with playing() as server:
        server.answers[""] = lambda _: answer
        environ = {"DATABRICKS_HOST": server.uri, "DATABRICKS_TOKEN": TOKEN}
        yield Api(connect(None, environ), {}, patience=0.0), server


@pytest.mark.parametrize("kind", STRANGERS)
def test_another_host_is_told_plainly(kind: str) -> None:
    answer, fact = STRANGERS[kind]
    with stranger(answer) as (api, server):
        for method in ("GET", "POST"):
            with pytest.raises(NoAnswer) as told:
                api.call(method, ME)
            assert f"this is no Databricks workspace: {fact}" in told.value.message
        assert told.value.place == server.uri
        assert "set DATABRICKS_HOST to the workspace's own address" in str(told.value.hint)
        assert "pw" not in str(told.value)


def test_page_is_no_file(workspace: Workspace, api: Api) -> None:
    workspace.login_page(FILES)
    for attempt in (api.exists, api.download):
        with pytest.raises(NoAnswer, match="it answers with a page for people"):
            attempt(f"{FILES}/x")
    with pytest.raises(NoAnswer, match="it answers with a page for people"):
        api.upload(f"{FILES}/x", io.BytesIO(b"x"), 1)


@pytest.mark.parametrize("content", [b"", b"ab"])
def test_file_that_is_cut_off_again_and_again_is_told(content: bytes) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 9\r\n\r\n"
    with (
        stranger(Answer(raw=cut + content)) as (api, _),
        pytest.raises(NoAnswer, match=r"does not answer to `/api/2\.0/fs/files") as told,
    ):
        api.read(FILES, 9)
    assert "check the host of" in (told.value.hint or "")


def test_file_that_is_cut_off_is_fetched_again() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 9\r\n\r\n"
    contents = [b"abc", b"abcde", b"abcdefghi", b"abc", b"abcdefghi"]
    with playing() as server:
        server.answers[""] = lambda _: Answer(raw=head + contents.pop(0))
        connection = connect(None, {"DATABRICKS_HOST": server.uri, "DATABRICKS_TOKEN": TOKEN})
        api = Api(connection, {})
        stream = Place(api, VOLUME).stream(["file"], "the outputs")
        assert b"".join(iter(stream.read, b"")) == b"abcdefghi"
        assert api.read(FILES, 9) == b"abcdefghi"
    assert not contents


def test_host_that_is_not_there_is_given_up_soon() -> None:
    port = free_port()
    environ = {"DATABRICKS_HOST": f"http://127.0.0.1:{port}", "DATABRICKS_TOKEN": TOKEN}
    with pytest.raises(NoAnswer, match="connection refused") as told:
        Api(connect(None, environ), {}, patience=0.1).call("GET", ME)
    assert told.value.place == f"http://127.0.0.1:{port}"
    environ["DATABRICKS_HOST"] = "https://no-such-workspace.invalid"
    with pytest.raises(NoAnswer) as told:
        Api(connect(None, environ), {}).call("GET", ME)
    assert told.value.hint == "check the host of DATABRICKS_HOST"


def test_proxy_that_refuses_is_not_asked_again() -> None:
    seen: list[bytes] = []
    with playing() as server, tunnelling(seen, b"407 No") as port:
        host = server.uri.replace("http:", "https:")
        connection = connect(None, {"DATABRICKS_HOST": host, "DATABRICKS_TOKEN": TOKEN})
        api = Api(connection, {"https_proxy": f"http://127.0.0.1:{port}"})
        with pytest.raises(NoAnswer, match=r"the proxy refuses it \(407\)"):
            api.call("GET", ME)
    assert len(seen) == 1


def test_certificate_of_nobody_is_refused_at_once(certificates: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates)
    with playing(context) as server:
        server.answers[""] = lambda _: said({"userName": USER})
        connection = connect(None, {"DATABRICKS_HOST": server.uri, "DATABRICKS_TOKEN": TOKEN})
        with pytest.raises(NoAnswer, match="certificate") as told:
            Api(connection, {}).call("GET", ME)
        assert "REQUESTS_CA_BUNDLE" in str(told.value.hint)
        trusting = {"REQUESTS_CA_BUNDLE": str(certificates)}
        assert Api(connection, trusting).call("GET", ME)["userName"] == USER
        with pytest.raises(ExecutionError, match="the certificate for Databricks cannot be read"):
            Api(connection, {"REQUESTS_CA_BUNDLE": "/absent.pem"}).call("GET", ME)


def test_hurry_gives_up_what_is_on_its_way() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {
            "DATABRICKS_HOST": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "DATABRICKS_TOKEN": TOKEN,
        }
        api = Api(connect(None, environ), {})
        told: list[Exception] = []

        def ask() -> None:
            try:
                api.call("GET", ME)
            except NoAnswer as error:
                told.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        silent.accept()
        api.hurry()
        thread.join(20)
    assert "it does not answer in time" in str(told[0])


def test_hurry_lets_requests_be_made_still(api: Api, workspace: Workspace) -> None:
    api.hurry()
    workspace.fail("GET", ME, times=2)
    assert api.call("GET", ME)["userName"] == USER


def test_many_threads_ask_at_once(api: Api) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(api.call("GET", ME)["userName"]))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [USER] * 20
    api.close()
    assert api.call("GET", ME)["userName"] == USER


def test_long_trouble_is_told_once(workspace: Workspace) -> None:
    told: list[str] = []
    workspace.fail("GET", ME, times=5)
    api = Api(connect(None, workspace.environ), {}, tell=told.append)
    assert api.call("GET", ME)["userName"] == USER
    (line,) = told
    assert "Databricks is in trouble (503 TEMPORARILY_UNAVAILABLE)" in line
    assert "it is tried again for" in line
