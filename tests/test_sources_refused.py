"""Sources that cannot be had, or must not: clear errors, nothing left, nothing run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from source_helpers import (
    LOCAL,
    daemon,
    http_backend,
    plain_git,
    repository,
    silent,
    working_directories,
)

assert plain_git  # a fixture


def test_no_such_repository(tmp_path: Path, buildrun: Buildrun, store: Path) -> None:
    with daemon(tmp_path) as url:
        buildrun(f"{url}/nowhere", LOCAL).refused(f"there is no repository at `{url}/nowhere`")
    assert working_directories(store) == []


def test_no_such_repository_over_http(tmp_path: Path, buildrun: Buildrun) -> None:
    with http_backend(tmp_path) as server:
        buildrun(f"{server.url}/nowhere", LOCAL).refused(
            f"there is no git repository at `{server.url}/nowhere`"
        )


def test_missing_ssh_is_told(tmp_path: Path, buildrun: Buildrun) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "sh"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    buildrun("git@example.invalid:a/b", LOCAL, environ={"PATH": str(programs)}).refused(
        "`git@example.invalid:a/b` cannot be reached: there is no `ssh`", "openssh-client"
    )


@pytest.mark.parametrize("version", ["nowhere", "0123456", "0" * 40, "feature/x"])
def test_no_such_version(tmp_path: Path, buildrun: Buildrun, store: Path, version: str) -> None:
    made = repository(tmp_path / "served" / "p")
    with daemon(tmp_path / "served") as url:
        for uri in (f"{url}/p", str(made.path)):
            buildrun(uri, LOCAL, "-v", version).refused(
                f"there is no branch, tag or commit `{version}`"
            )
    assert working_directories(store) == []


def test_repository_without_commits(tmp_path: Path, buildrun: Buildrun) -> None:
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "served" / "p"], check=True)
    with daemon(tmp_path / "served") as url:
        for uri in (f"{url}/p", str(tmp_path / "served" / "p")):
            buildrun(uri, LOCAL).refused("has no commits")


def test_hanging_remote_is_given_up(buildrun: Buildrun, store: Path) -> None:
    with silent() as port:
        for scheme in ("git", "http"):
            uri = f"{scheme}://127.0.0.1:{port}/p"
            buildrun(uri, LOCAL, environ={"BUILDRUN_SOURCE_TIMEOUT": "1"}).refused(
                f"`{uri}` does not answer"
            )
    assert working_directories(store) == []


def test_remote_without_rights_is_told_and_asks_nobody(tmp_path: Path, buildrun: Buildrun) -> None:
    repository(tmp_path / "served" / "p")
    with http_backend(tmp_path / "served", "alice", "secret") as server:
        buildrun(f"{server.url}/p/.git", LOCAL).refused("that you may read")


@pytest.mark.parametrize("user", ["alice", "to%2Fken%21"])
def test_credentials_of_a_url_are_used_and_shown_nowhere(
    tmp_path: Path, buildrun: Buildrun, store: Path, user: str
) -> None:
    made = repository(tmp_path / "served" / "p")
    made.commit(
        MLproject="name: p\nentry_points: {main: {command: 'cat .git/config; cat data.txt'}}\n"
    )
    plain = user.replace("%2F", "/").replace("%21", "!")
    with http_backend(tmp_path / "served", plain, "se cret$(id)'\"") as server:
        address = server.url.removeprefix("http://")
        uri = f"http://{user}:se%20cret$(id)%27%22@{address}/p/.git"
        trace = tmp_path / "trace"
        outcome = buildrun(uri, LOCAL, "-v", "main", environ={"GIT_TRACE": str(trace)})
        wrong = buildrun(f"http://{user}:other@{address}/p/.git", LOCAL)
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("one\n")
    assert wrong.code == 1
    # git's own trace tells every command line that it was started with.
    told = [outcome.out, outcome.err, wrong.err, trace.read_text()]
    kept = [path.read_bytes() for path in store.rglob("*") if path.is_file()]
    for text in ("se cret", "se%20cret", ":other"):
        assert not any(text in item for item in told)
        assert not any(text.encode() in item for item in kept)


def test_credentials_come_from_the_helpers_of_git(tmp_path: Path, buildrun: Buildrun) -> None:
    repository(tmp_path / "served" / "p")
    with http_backend(tmp_path / "served", "alice", "secret") as server:
        helper = tmp_path / "helper"
        helper.write_text("#!/bin/sh\necho username=alice\necho password=secret\n")
        helper.chmod(0o755)
        config = tmp_path / "config"
        config.write_text(f"[credential]\n\thelper = {helper}\n")
        environ = {"GIT_CONFIG_GLOBAL": str(config)}
        outcome = buildrun(f"{server.url}/p/.git", LOCAL, environ=environ)
        named = server.url.replace("http://", "http://alice@")
        again = buildrun(f"{named}/p/.git", LOCAL, environ=environ)
    assert outcome.out.endswith("one\n"), outcome.err
    assert again.out.endswith("one\n"), again.err


@pytest.mark.parametrize(
    "uri",
    [
        "--upload-pack=touch hacked",
        "-u./x",
        "ext::sh -c touch% hacked",
        "fd::3",
        "ssh://-oProxyCommand=touch%20hacked/x",
        "ssh://a@-oProxyCommand=touch hacked/x",
        "-oProxyCommand=touch hacked:x",
        "a@-oProxyCommand=touch_hacked:x",
        "https://example.invalid/a\nb",
        "git://127.0.0.1/a\n--upload-pack=touch hacked",
        "https://example.invalid/\x1b[31m",
        "file:///nowhere/at/all",
        "nowhere\nat all",
    ],
)
def test_address_that_is_none_is_refused_and_runs_nothing(
    buildrun: Buildrun, tmp_path: Path, uri: str
) -> None:
    outcome = buildrun("run", LOCAL, "--", uri)
    assert outcome.code in (1, 2)
    assert outcome.err.startswith("error: ")
    assert "\x1b" not in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "version", ["--upload-pack=touch hacked", "-x", "a b", "a\nb", "a..b", "HEAD^{/x}", "", "a:b"]
)
def test_version_that_is_none_is_refused_and_runs_nothing(
    buildrun: Buildrun, tmp_path: Path, version: str
) -> None:
    made = repository(tmp_path / "p")
    outcome = buildrun(made.path, LOCAL, f"--version={version}")
    assert outcome.code == 2
    assert "version" in outcome.err or "cannot be" in outcome.err
    assert not (tmp_path / "hacked").exists()


def test_version_of_what_is_not_git_is_refused(buildrun: Buildrun, project: Project) -> None:
    directory = project("name: p\nentry_points: {main: {command: echo}}\n")
    buildrun(directory, LOCAL, "-v", "main").refused(
        "setting a version is only supported for git project URIs"
    )


def test_submodule_that_is_an_option_is_refused(
    buildrun: Buildrun, tmp_path: Path, store: Path
) -> None:
    inner = repository(tmp_path / "served" / "inner")
    outer = repository(tmp_path / "served" / "outer")
    outer.git("submodule", "--quiet", "add", inner.path, "in")
    with daemon(tmp_path / "served") as url:
        for evil in ("--upload-pack=touch hacked", "ext::sh -c touch% hacked", "-x:y"):
            outer.git("config", "-f", ".gitmodules", "submodule.in.url", evil)
            outer.commit()
            buildrun(f"{url}/outer", LOCAL).refused("submodule `in`")
    assert not list(tmp_path.rglob("hacked"))
    assert working_directories(store) == []


def test_settings_of_a_repository_run_nothing(buildrun: Buildrun, tmp_path: Path) -> None:
    made = repository(tmp_path / "p")
    touch = tmp_path / "touch"
    touch.write_text(f"#!/bin/sh\ntouch {tmp_path / 'hacked'}\n")
    touch.chmod(0o755)
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        (made.path / ".git" / "hooks").mkdir(exist_ok=True)
        (made.path / ".git" / "hooks" / hook).symlink_to(touch)
    made.git("config", "core.fsmonitor", str(touch))
    (tmp_path / "hacked").unlink(missing_ok=True)
    assert buildrun(made.path, LOCAL, "-v", "main").code == 0
    assert not (tmp_path / "hacked").exists()


def test_missing_git_is_told(buildrun: Buildrun, tmp_path: Path) -> None:
    made = repository(tmp_path / "p")
    buildrun(made.path, LOCAL, "-v", "main", environ={"PATH": str(tmp_path)}).refused(
        "git cannot be started"
    )


def test_store_that_cannot_be_written_is_told(buildrun: Buildrun, tmp_path: Path) -> None:
    made = repository(tmp_path / "p")
    (tmp_path / "file").write_text("")
    environ = {"BUILDRUN_HOME": str(tmp_path / "file" / "home")}
    buildrun(made.path, LOCAL, "-v", "main", environ=environ).refused(
        "no working directory can be made"
    )
    assert os.listdir(tmp_path / "p") != []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_fetch_ends_at_once_with_all_it_started(
    tmp_path: Path, store: Path, number: signal.Signals
) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        uri = f"git://127.0.0.1:{listening.getsockname()[1]}/p"
        process = subprocess.Popen(
            (sys.executable, "-m", "buildrun", uri, LOCAL), cwd=tmp_path, stderr=subprocess.PIPE
        )
        connection, _ = listening.accept()
        with connection:
            while connection.recv(1 << 16).find(b"git-upload-pack") < 0:
                pass
            process.send_signal(number)
            process.communicate(timeout=60)
            connection.settimeout(60)
            assert connection.recv(1) == b""  # git has gone as well
    assert process.returncode == 128 + number
    assert working_directories(store) == []
