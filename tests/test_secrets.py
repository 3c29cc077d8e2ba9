"""Secrets stand in nothing that buildrun shows or keeps."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from step_helpers import LOCAL, Run, a_run  # noqa: F401

from buildrun.console import is_named, redact

VALUE = "S3cr3tV4lue"


def holders(*roots: Path | str) -> list[str]:
    """Return the files that bear the value, in their name or in them."""
    return [
        path
        for root in roots
        for directory, _, names in os.walk(root)
        for path in (os.path.join(directory, name) for name in names)
        if VALUE in path or VALUE.encode() in Path(path).read_bytes()
    ]


@pytest.mark.parametrize(
    ("declared", "name", "outputs"),
    [
        ("{password: string}", "password", ""),
        ("{password: string}", "password", "outputs: [out]"),
        ("{word: {type: string, secret: true}}", "word", "outputs: [out]"),
        ("{}", "api-key", "outputs: [out]"),
    ],
)
def test_secret_is_neither_shown_nor_kept(
    project: Project,
    run: Run,
    buildrun: Buildrun,
    store: Path,
    declared: str,
    name: str,
    outputs: str,
) -> None:
    placeholder = "" if declared == "{}" else f"{{{name}}}"
    directory = project(
        f"entry_points:\n  main:\n    parameters: {declared}\n    inputs: [in]\n"
        f"    command: 'touch out; true {placeholder}'\n    {outputs}\n"
    )
    (directory / "in").touch()
    given = (LOCAL, "-P", f"{name}={VALUE}")
    for _ in range(2):
        outcome = run(directory, *given)
        assert outcome.code == 0, outcome.err
        assert VALUE not in outcome.out + outcome.err
        assert VALUE not in json.dumps(outcome.report)
    for form in ("text", "json", "dot"):
        assert VALUE not in buildrun("plan", directory, *given, f"--format={form}").out
    assert VALUE not in buildrun("runs", "show").out
    assert holders(store, directory) == []


def test_variable_in_the_key_is_neither_shown_nor_kept(
    project: Project, run: Run, buildrun: Buildrun, store: Path, tmp_path: Path
) -> None:
    directory = project(
        "entry_points: {main: {inputs: [in], outputs: [out], key_env: [API_URL], "
        "command: 'printenv API_URL | wc -c > out'}}\n",
        **{"in": ""},
    )
    given, statement = {"API_URL": VALUE}, tmp_path / "provenance.json"
    for state in ("ok", "up-to-date"):
        outcome = run(directory, "--provenance", statement, environ=given)
        assert outcome.states == {"main": state}
        assert VALUE not in outcome.err + json.dumps(outcome.report) + statement.read_text()
    assert (directory / "out").read_text() == f"{len(VALUE) + 1}\n"
    other = {"API_URL": "other"}
    for environ in (given, other):
        planned = buildrun("plan", directory, LOCAL, "--format=json", environ=environ)
        assert VALUE not in planned.out
    (reason,) = planned.data["steps"][0]["cache"]["reasons"]
    assert reason == {"code": "variable-changed", "detail": "the variable `API_URL` changed"}
    assert VALUE not in buildrun("runs", "show").out
    assert holders(store, directory) == []


def test_secret_shows_as_a_mask_and_reaches_the_command(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project(
        "entry_points:\n  main:\n    parameters: {a: string, token: string}\n"
        "    command: echo {a}{token} >&2\n"
    )
    given = (LOCAL, "-P", "a=b", "-P", f"token={VALUE}")
    outcome = buildrun("run", directory, *given)
    assert f"b{VALUE}\n" in outcome.err
    assert "echo b'***' >&2" in outcome.err
    (step,) = buildrun("plan", directory, *given, "--format=json").data["steps"]
    assert step["parameters"] == {"a": "b", "token": "***"}
    assert step["command"] == "echo b'***' >&2"


def test_name_is_no_secret_where_the_project_says_so(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points:\n  main:\n    parameters: {eos_token: {secret: false}}\n"
        "    command: echo {eos_token}\n"
    )
    outcome = buildrun("plan", directory, LOCAL, "-P", "eos_token=end", "--format=json")
    assert outcome.data["steps"][0]["parameters"] == {"eos_token": "end"}


def test_another_secret_runs_the_step_again(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points:\n  main:\n    parameters: {token: string}\n    inputs: [in]\n"
        "    outputs: [out]\n    command: echo {token} | wc -c > out\n"
    )
    (directory / "in").touch()

    def state(token: str) -> str:
        planned = buildrun("plan", directory, LOCAL, "-P", f"token={token}", "--format=json")
        return str(planned.data["steps"][0]["cache"]["state"])

    assert buildrun("run", directory, LOCAL, "-P", "token=one").code == 0
    assert (state("one"), state("two")) == ("up-to-date", "miss")


def test_what_is_made_from_a_secret_is_one_further_down(
    project: Project, run: Run, store: Path
) -> None:
    directory = project(
        "entry_points:\n"
        "  load:\n    parameters: {dsn: string}\n    command: 'true {dsn}'\n"
        "  main:\n    parameters: {token: string}\n    depends_on:\n"
        '      - {entry_point: load, parameters: {dsn: "db:{token}"}}\n'
        "      - {entry_point: load, parameters: {dsn: open}}\n    command: 'true {token}'\n"
    )
    outcome = run(directory, "-P", f"token={VALUE}")
    assert outcome.code == 0, outcome.err
    assert VALUE not in outcome.err + json.dumps(outcome.report)
    assert holders(store) == []
    assert len(outcome.states) == 3


def test_steps_that_differ_in_secrets_alone_are_counted(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project(
        "entry_points:\n"
        "  load:\n    parameters: {token: string}\n    command: 'true {token}'\n"
        "  main:\n    depends_on:\n"
        "      - {entry_point: load, parameters: {token: a}}\n"
        "      - {entry_point: load, parameters: {token: b}}\n    command: 'true'\n"
    )
    first, second, _ = buildrun("plan", directory, LOCAL, "--format=json").data["steps"]
    assert second["id"] == first["id"].replace("]", "-2]")


def test_secret_in_the_project_file_is_not_kept_in_the_store(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(
        f"entry_points:\n  main:\n    env: {{MY_TOKEN: {VALUE}}}\n"
        f"    parameters: {{password: {{default: {VALUE}}}}}\n    command: 'true {{password}}'\n"
    )
    for _ in range(2):
        assert buildrun("run", directory, LOCAL).code == 0
    assert holders(store) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://u:a@b@h/f", "postgres://h/f"),
        ("postgres://u:a/b@h/f", "postgres://h/f"),
        ("https://git:pw@h/f", "https://h/f"),
        ("ssh://git@h/f", "ssh://git@h/f"),
        ("https://t@h/x@v1", "https://h/x@v1"),
        ("https://h:8080/x@v1", "https://h:8080/x@v1"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("https://h/x?token=a&b=c", "https://h/x?token=***&b=c"),
        ("https://h/x?X-Amz-Signature=ff", "https://h/x?X-Amz-Signature=***"),
        ("https://h/x?key=1&page=2", "https://h/x?key=1&page=2"),
        ("https://h/x?token_type=1&bypass=2", "https://h/x?token_type=1&bypass=2"),
        *(
            (f"https://h/x?{name}=a#c", f"https://h/x?{name}=***#c")
            for name in (
                "accessToken",
                "authToken",
                "clientSecret",
                "sslpassword",
                "pass",
                "pw",
                "jwt",
                "sas",
            )
        ),
    ],
)
def test_credentials_are_left_out_of_urls(text: str, shown: str) -> None:
    assert redact(f"get '{text}' twice: {text}") == f"get '{shown}' twice: {shown}"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("token", True), ("db-password", True), ("apiKey", True), ("AWS_SECRET_ACCESS_KEY", True),
        ("DBPassword", True), ("max_tokens", False), ("key", False), ("passwordless", False),
        ("PGPASSWORD", True), ("dbpassword", True), ("authtoken", True), ("REDISCLI_AUTH", True),
        ("GITHUB_TOKEN_2", True), ("AWS_ACCESS_KEY_ID", True), ("FERNET_KEY", True), ("KEY", True),
        ("AZURE_STORAGE_CONNECTION_STRING", True), ("AZURE_STORAGE_SAS_TOKEN", True),
        ("GOOGLE_APPLICATION_CREDENTIALS", True), ("SECRETS", True), ("SMTP_PASS", True),
        ("STRIPE_APIKEY", True), ("OAUTH_CLIENT", True), ("SERVICE_KEYS", True),
        ("MAX_TOKENS", False), ("TOKENIZERS_PARALLELISM", False), ("AUTHOR", False),
        ("KEYBOARD", False), ("SASL_MODE", False), ("label_key", False), ("auth", False),
    ],
)  # fmt: skip
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert is_named(name) is secret


def kept(store: Path) -> dict[str, int]:
    """Return the rights of the contents, results and logs, and of all directories above them."""
    found = {}
    for kind in ("blobs", "results", "runs"):
        for path in (store / kind, *(store / kind).rglob("*")):
            found[str(path.relative_to(store))] = stat.S_IMODE(path.stat().st_mode)
    return found


STEP = (
    "entry_points:\n  main:\n    inputs: [in]\n    outputs: [out]\n"
    "    command: echo said; echo made > out\n"
)


def test_store_is_for_its_owner_alone(project: Project, buildrun: Buildrun, store: Path) -> None:
    directory = project(STEP)
    (directory / "in").touch()
    before = os.umask(0o022)
    try:
        assert buildrun("run", directory, LOCAL).code == 0
        (directory / "out").unlink()
        assert buildrun("run", directory, LOCAL).out == "said\n"
    finally:
        os.umask(before)
    rights = kept(store)
    assert len(rights) > 8
    assert [path for path, mode in rights.items() if mode & 0o077] == []
    assert stat.S_IMODE((directory / "out").stat().st_mode) == 0o644


def test_store_in_a_directory_of_a_group_is_the_groups(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    store.chmod(0o2770)
    directory = project(STEP)
    (directory / "in").touch()
    assert buildrun("run", directory, LOCAL).code == 0
    rights = {path: mode for path, mode in kept(store).items() if not path.startswith("runs/")}
    files = {path for path in rights if (store / path).is_file()}
    assert {mode for path, mode in rights.items() if path in files} == {0o440}
    assert {mode for path, mode in rights.items() if path not in files} == {0o2770}


@pytest.mark.parametrize(
    "given", [["http://127.0.0.1:9/"], ["http://127.0.0.1:9/", "--offline"], ["nothing://"]]
)
def test_secret_address_that_is_not_downloaded_is_not_shown(
    project: Project, buildrun: Buildrun, store: Path, given: list[str]
) -> None:
    uri, *words = given
    directory = project(
        "entry_points:\n"
        "  main: {depends_on: [{entry_point: get, parameters: {file: '{api_key}'}}],\n"
        "    parameters: {api_key: path}, command: 'true {api_key}'}\n"
        "  get: {parameters: {file: path}, command: 'true {file}'}\n"
    )
    reports = [word for name in ("r.json", "r.html") for word in ("--report", directory / name)]
    outcome = buildrun(directory, LOCAL, "-P", f"api_key={uri}{VALUE}", *words, *reports)
    assert outcome.code == 1
    assert "`***`" in outcome.err
    assert VALUE not in outcome.out + outcome.err
    assert holders(store, directory) == []
