"""Credentials for Databricks: where they come from, how they are renewed, and that none is shown.

They are seen through runs that are tracked there, which ask for nothing else.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from databricks_tracking import Tracked, statuses, track, workspace
from databricks_workspace import CLIENT, TOKEN, Workspace
from tracking_stub import playing

from buildrun.errors import ExecutionError
from buildrun.executors.databricks.auth import connect

__all__ = ["track", "workspace"]

SECRET = "dapi99999999999999999999999999999999"


def test_token_comes_from_variables(track: Tracked, workspace: Workspace) -> None:
    track.profiles(f"[DEFAULT]\nhost = http://127.0.0.1:1\ntoken = {SECRET}\n")
    assert track(**workspace.environ).printed() == "databricks\n"
    assert statuses(workspace) == ["FINISHED"]
    assert {item.headers["Authorization"] for item in workspace.requests} == {f"Bearer {TOKEN}"}
    assert all(item.headers["User-Agent"].startswith("buildrun/") for item in workspace.requests)


@pytest.mark.parametrize("host", ["{}/", "{}/?o=123", "{}/browse/folders/1?o=123", " {} "])
def test_host_may_be_what_a_browser_shows(host: str, track: Tracked, workspace: Workspace) -> None:
    track(DATABRICKS_HOST=host.format(workspace.url), DATABRICKS_TOKEN=TOKEN).printed()
    assert statuses(workspace) == ["FINISHED"]


def test_workspace_of_a_host_with_several_is_told(track: Tracked, workspace: Workspace) -> None:
    track(**workspace.environ, DATABRICKS_WORKSPACE_ID="123").printed()
    assert workspace.requests[0].headers["X-Databricks-Workspace-Id"] == "123"


PROFILES = """
[DEFAULT]
host = {url}
token = {token}

[other]
host = http://127.0.0.1:1
token = dapi1111

[staging]
host = {url}
token = {token}

[empty]
"""


@pytest.mark.parametrize("way", ["default", "variable", "uri", "settings", "file"])
def test_profile_is_found(way: str, track: Tracked, workspace: Workspace, tmp_path: Path) -> None:
    path = track.profiles(PROFILES.format(url=workspace.url, token=TOKEN))
    environ: dict[str, str] = {}
    if way == "variable":
        environ["DATABRICKS_CONFIG_PROFILE"] = "staging"
    elif way == "uri":
        environ["MLFLOW_TRACKING_URI"] = "databricks://staging"
        environ["DATABRICKS_CONFIG_PROFILE"] = "other"
    elif way == "settings":
        path.write_text(
            path.read_text().replace("[DEFAULT]", "[x]")
            + "[__settings__]\ndefault_profile = staging\n"
        )
    elif way == "file":
        environ["DATABRICKS_CONFIG_FILE"] = str(path.rename(tmp_path / "elsewhere.cfg"))
    assert track(**environ).printed() == environ.get("MLFLOW_TRACKING_URI", "databricks") + "\n"
    assert statuses(workspace) == ["FINISHED"]


def test_profile_that_is_asked_for_gets_no_token_of_variables(
    track: Tracked, workspace: Workspace
) -> None:
    track.profiles(f"[staging]\nhost = {workspace.url}\nclient_id = {CLIENT[0]}\n")
    done = track(
        MLFLOW_TRACKING_URI="databricks://staging", PATH="/usr/bin:/bin",
        DATABRICKS_HOST="http://127.0.0.1:1", DATABRICKS_TOKEN=SECRET,
    )  # fmt: skip
    done.refused("there is no token for the profile `staging`")
    assert workspace.requests == []


def test_variables_fill_what_a_profile_lacks_unless_their_host_is_another(
    track: Tracked, workspace: Workspace
) -> None:
    track.profiles(f"[staging]\nhost = {workspace.url}\n")
    named = {"DATABRICKS_CONFIG_PROFILE": "staging", "PATH": "/usr/bin:/bin"}
    track(**named, DATABRICKS_TOKEN=TOKEN).printed()
    assert statuses(workspace) == ["FINISHED"]
    track.profiles(f"[staging]\nhost = {workspace.url}\ntoken = {TOKEN}\n")
    track(**named, DATABRICKS_HOST="http://127.0.0.1:1", DATABRICKS_CLIENT_ID="x").printed()
    assert statuses(workspace) == ["FINISHED", "FINISHED"]


def test_service_principal_signs_in_once(track: Tracked, workspace: Workspace) -> None:
    environ = {
        "DATABRICKS_HOST": workspace.url, "DATABRICKS_CLIENT_ID": CLIENT[0],
        "DATABRICKS_CLIENT_SECRET": CLIENT[1],
    }  # fmt: skip
    track(**environ).printed()
    assert statuses(workspace) == ["FINISHED"]
    (asked,) = workspace.asked("POST", "/oidc/v1/token")
    others = {item.headers["Authorization"] for item in workspace.requests if item is not asked}
    assert len(others) == 1
    assert others.pop().startswith("Bearer oauth-")


def test_service_principal_signs_in_anew_when_its_token_has_expired(
    track: Tracked, workspace: Workspace
) -> None:
    track.profiles(
        f"[DEFAULT]\nhost = {workspace.url}\nclient_id = {CLIENT[0]}\nclient_secret = {CLIENT[1]}\n"
    )
    workspace.expire_tokens(after=4)
    track().printed()
    assert statuses(workspace) == ["FINISHED"]
    assert len(workspace.asked("POST", "/oidc/v1/token")) == 2


def test_token_is_renewed_before_it_expires(workspace: Workspace) -> None:
    environ = {
        "DATABRICKS_HOST": workspace.url, "DATABRICKS_CLIENT_ID": CLIENT[0],
        "DATABRICKS_CLIENT_SECRET": CLIENT[1],
    }  # fmt: skip
    said = {"access_token": "short", "expires_in": 0}
    workspace.fail("POST", "/oidc/v1/token", status=200, body=said)
    connection = connect(None, environ)
    assert connection.headers()["Authorization"] == "Bearer short"
    later = connection.headers()["Authorization"]
    assert later.startswith("Bearer oauth-")
    assert connection.headers()["Authorization"] == later


CLI = """
echo "$@" >> {log}
echo '{{"access_token": "{token}", "token_type": "Bearer", "expiry": "2026-01-01T00:00:00Z"}}'
"""


@pytest.mark.parametrize("profile", [None, "staging"])
def test_cli_of_databricks_is_asked_for_other_kinds(
    profile: str | None, track: Tracked, workspace: Workspace
) -> None:
    log = track.home / "asked"
    path = track.program("databricks", CLI.format(log=shlex.quote(str(log)), token=TOKEN))
    track.profiles(f"[staging]\nhost = {workspace.url}\nauth_type = databricks-cli\n")
    track(DATABRICKS_CONFIG_PROFILE=profile, PATH=path, DATABRICKS_HOST=workspace.url).printed()
    assert statuses(workspace) == ["FINISHED"]
    which = f"--profile {profile}" if profile else f"--host {workspace.url}"
    assert log.read_text() == f"auth token {which}\n"


def test_cli_is_asked_again_when_its_token_is_refused(track: Tracked, workspace: Workspace) -> None:
    count = track.home / "count"
    script = (
        f"echo x >> {count}\n"
        f"[ $(wc -l < {count}) -gt 1 ] && token={TOKEN} || token=dapi0000stale\n"
        'echo "{\\"access_token\\": \\"$token\\"}"'
    )
    path = track.program("databricks", script)
    track(PATH=path, DATABRICKS_HOST=workspace.url).printed()
    assert count.read_text() == "x\nx\n"
    assert statuses(workspace) == ["FINISHED"]


def test_words_of_the_cli_are_told_without_tokens(track: Tracked, workspace: Workspace) -> None:
    path = track.program(
        "databricks", f"echo 'Error: cannot refresh {SECRET}: log in again' >&2; exit 1"
    )
    done = track(PATH=path, DATABRICKS_HOST=workspace.url)
    done.refused("`databricks auth token` says: cannot refresh ***: log in again", "auth login")
    assert SECRET not in done.err


@pytest.mark.parametrize("output", ["", "not JSON", "[]", "{}", '{"access_token": ""}'])
def test_cli_without_a_token_is_told(output: str, track: Tracked, workspace: Workspace) -> None:
    path = track.program("databricks", f"echo '{output}'")
    done = track(PATH=path, DATABRICKS_HOST=workspace.url)
    done.refused("there are no credentials for DATABRICKS_HOST", "hint: `databricks auth login`")
    assert "Traceback" not in done.err


SDK = """
import os
class Config:
    def __init__(self, **given):
        self.given = given
    def authenticate(self):
        assert self.given == {given!r}, self.given
        return {{"Authorization": "Bearer {token}"}}
"""


def test_sdk_is_asked_in_a_process_of_its_own(track: Tracked, workspace: Workspace) -> None:
    package = track.home / "site" / "databricks" / "sdk"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text(SDK.format(given={"host": workspace.url}, token=TOKEN))
    track(
        PYTHONPATH=str(track.home / "site"), PATH="/usr/bin:/bin",
        DATABRICKS_HOST=workspace.url, DATABRICKS_AUTH_TYPE="azure-cli",
    ).printed()  # fmt: skip
    assert statuses(workspace) == ["FINISHED"]


def test_nothing_at_all_names_what_to_set(track: Tracked) -> None:
    track().refused(
        "there are no credentials for Databricks", "DATABRICKS_HOST and DATABRICKS_TOKEN",
        "DATABRICKS_CLIENT_SECRET", "~/.databrickscfg", "`databricks auth login`",
        "`--tracking optional` runs without it",
    )  # fmt: skip


def test_profile_may_hold_letters_of_all_kinds(track: Tracked) -> None:
    with playing() as server:
        track.profiles(f"[DEFAULT]\ndescription = Büro\nhost = {server.uri}\ntoken = {TOKEN}\n")
        track("--experiment-id=1", MLFLOW_EXPERIMENT_NAME=None).printed()
    assert {call.headers["Authorization"] for call in server.calls} == {f"Bearer {TOKEN}"}


BROKEN = {
    "no header": (f"token = {SECRET}\n", ":1: the file of Databricks' profiles cannot be read"),
    "twice": ("[a]\n[a]\n", ":2: the file of Databricks' profiles cannot be read"),
    "no option": (f"[a]\n{SECRET}\n", ":2: the file of Databricks' profiles cannot be read"),
    "bytes": ("[a]\nhost = \udcff\n", "the file of Databricks' profiles cannot be read"),
    "no host": ("[DEFAULT]\ntoken = x\n", "names no `host`"),
    "odd host": ("[DEFAULT]\nhost = ftp://x\ntoken = x\n", "is no address: `ftp://x`"),
    "user": (f"[DEFAULT]\nhost = https://me:{SECRET}@x\ntoken = x\n", "is no address"),
    "spaces": (f"[DEFAULT]\nhost = x\ntoken = {SECRET}\x01\n", "that no header can"),
    "empty": ("[DEFAULT]\n[other]\nhost = x\n", "there are no credentials for Databricks"),
    "another": ("[other]\nhost = x\n", "there are no credentials for Databricks"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_file_that_is_broken_is_told_without_what_it_holds(kind: str, track: Tracked) -> None:
    text, fact = BROKEN[kind]
    path = track.profiles("")
    path.write_bytes(text.encode(errors="surrogateescape"))
    done = track()
    done.refused(fact, "hint:")
    assert SECRET not in done.err
    assert "Traceback" not in done.err


def test_profile_that_is_not_there_is_told_with_those_that_are(track: Tracked) -> None:
    track(DATABRICKS_CONFIG_PROFILE="x y").refused(
        "there is no profile `x y`", "databricks auth login --profile 'x y'"
    )
    track.profiles("[one]\nhost = x\n[two]\n[__settings__]\n")
    track(DATABRICKS_CONFIG_PROFILE="x").refused("there is no profile `x`; there is `one`, `two`")


def test_token_without_a_host_is_told(track: Tracked) -> None:
    track(DATABRICKS_TOKEN=SECRET).refused("DATABRICKS_HOST is not set, as DATABRICKS_TOKEN needs")


def test_wrong_secret_is_told_and_not_shown(track: Tracked, workspace: Workspace) -> None:
    done = track(
        DATABRICKS_HOST=workspace.url, DATABRICKS_CLIENT_ID=CLIENT[0],
        DATABRICKS_CLIENT_SECRET=SECRET,
    )  # fmt: skip
    done.refused("Databricks does not accept DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET")
    done.refused("Unknown client")
    assert SECRET not in done.err


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"{}"])
def test_sign_in_that_is_none_is_told(body: bytes, workspace: Workspace) -> None:
    workspace.fail("POST", "/oidc/v1/token", status=200, body=body)
    environ = {
        "DATABRICKS_HOST": workspace.url, "DATABRICKS_CLIENT_ID": CLIENT[0],
        "DATABRICKS_CLIENT_SECRET": SECRET,
    }  # fmt: skip
    with pytest.raises(ExecutionError, match="this is no Databricks workspace: its sign-in"):
        connect(None, environ).headers()


def test_credentials_are_in_nothing_that_is_kept_or_said(
    track: Tracked, workspace: Workspace, store: Path
) -> None:
    workspace.tokens.add(SECRET)
    workspace.fail("POST", "/api/2.0/mlflow/runs/update", status=400, times=1, body={
        "error_code": "INVALID_STATE", "message": f"not with {SECRET}"
    })  # fmt: skip
    done = track(DATABRICKS_HOST=workspace.url, DATABRICKS_TOKEN=SECRET)
    assert "not with ***" in done.err
    assert SECRET not in done.out + done.err
    connection = connect(None, {"DATABRICKS_HOST": workspace.url, "DATABRICKS_TOKEN": SECRET})
    assert SECRET not in repr(connection) + json.dumps(repr(vars(connection)["server"]))
    for path in store.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
