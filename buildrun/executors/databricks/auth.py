"""How a Databricks workspace is reached: by variables, by a profile, or by Databricks' own CLI."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, NamedTuple

from buildrun import __version__, http
from buildrun.console import MASK, listed, printable, redact
from buildrun.errors import ExecutionError
from buildrun.http import Certificates, HttpClient, Server
from buildrun.store.files import open_regular

# Settings by their names in profiles, and the variables for them.
_VARIABLES = {
    "host": "DATABRICKS_HOST",
    "token": "DATABRICKS_TOKEN",
    "client_id": "DATABRICKS_CLIENT_ID",
    "client_secret": "DATABRICKS_CLIENT_SECRET",
    "username": "DATABRICKS_USERNAME",
    "password": "DATABRICKS_PASSWORD",
    "auth_type": "DATABRICKS_AUTH_TYPE",
    "workspace_id": "DATABRICKS_WORKSPACE_ID",
}

# What is understood here, by `auth_type`: all else is left to the CLI and the SDK.
_KINDS = {
    "pat": ("token",),
    "oauth-m2m": ("client_id", "client_secret"),
    "basic": ("username", "password"),
}

# Seconds: before its end a token is renewed; a child's is taken for good, and it may take so long.
_BEFORE = 120.0
_GOOD = 300.0
_CHILD = 60.0

# Characters of the words of others that are shown; of what is looked for in them as a secret.
_LONGEST = 1000
_SHORTEST = 4

AGENT = {"User-Agent": f"buildrun/{__version__}", "Accept": "application/json"}

# What looks like a token of Databricks, or is one of OAuth.
_TOKENS = re.compile(r"\b(?:dapi|dose|dkea|eyJ)[\w.-]{12,}")

_ADDRESS = (
    "the host is the workspace's address, such as "
    "`https://adb-1234567890123456.7.azuredatabricks.net`"
)
_SET = (
    "set DATABRICKS_HOST and DATABRICKS_TOKEN, or DATABRICKS_HOST, DATABRICKS_CLIENT_ID and "
    "DATABRICKS_CLIENT_SECRET, or name a profile of ~/.databrickscfg by DATABRICKS_CONFIG_PROFILE "
    "or by `profile` in the backend config; `databricks auth login` makes one"
)

# Asks the SDK in a process of its own, since its import takes two seconds. Its argument is JSON.
_ASK_SDK = (
    "import sys\n"
    "sys.path = [path for path in sys.path if path]\n"  # the current directory is somebody's
    "import json\n"
    "from databricks.sdk.core import Config\n"
    "print(json.dumps(Config(**json.loads(sys.argv[1])).authenticate()))\n"
)


class _Granted(NamedTuple):
    """The value of an Authorization header, and the seconds that it is good for."""

    authorization: str
    seconds: float


class Connection:
    """A workspace and the credentials for it; used by several threads.

    host: its URL. source: where the credentials come from, and origin: where the host does, for
    messages. server: for HttpClient.
    """

    def __init__(
        self,
        server: Server,
        source: str,
        origin: str,
        grant: Callable[[], _Granted],
        *,
        renewable: bool,
        workspace: str = "",
        secrets: Sequence[str] = (),
    ) -> None:
        """Take what gives credentials; it is not asked yet."""
        self.server = server
        self.host = f"{server.address.scheme}://{server.address.netloc}"
        self.source = source
        self.origin = origin
        self._grant = grant
        self._renewable = renewable
        self._workspace = workspace
        self._secrets = {*secrets}
        self._authorization = ""
        self._until = 0.0
        self._mutex = threading.Lock()

    def headers(self) -> Mapping[str, str]:
        """Return the headers that tell who we are, with credentials that are good for now.

        Raises ExecutionError where they are refused, and what is in http.TROUBLE.
        """
        with self._mutex:
            if not self._authorization or time.monotonic() >= self._until:
                self._authorization, seconds = self._grant()
                self._until = time.monotonic() + seconds
                self._secrets.add(self._authorization.partition(" ")[2])
            found = {"Authorization": self._authorization}
        return {**found, "X-Databricks-Workspace-Id": self._workspace} if self._workspace else found

    def renew(self) -> bool:
        """Have other credentials used, as these were refused; False where there are no others."""
        with self._mutex:
            self._until = 0.0
        return self._renewable

    def hide(self, text: str) -> str:
        """Return a text of others as it can be shown, without credentials."""
        for secret in tuple(self._secrets):
            text = text.replace(secret, MASK) if len(secret) >= _SHORTEST else text
        return _shown(text)


def connect(profile: str | None, environ: Mapping[str, str]) -> Connection:
    """Return the connection for a profile, or for what variables say; nothing is sent yet.

    Raises ExecutionError where no host or no credentials are known.
    """
    settings, source, name = _settings(profile, environ)
    for key in _VARIABLES:
        if not http.is_clean(settings.get(key, "")):
            raise ExecutionError(
                f"`{key}` of {source} holds characters that no header can",
                hint="it may hold a line's end; set it anew",
            )
    origin = source if name else _VARIABLES["host"]
    server = _server(settings, origin)
    kind = _kind(settings)
    values = [settings[key] for key in _KINDS.get(kind, ())]
    grant: Callable[[], _Granted]
    if kind == "pat":
        grant = partial(_Granted, f"Bearer {values[0]}", inf)
    elif kind == "basic":
        grant = partial(_Granted, http.basic(*values), inf)
    elif kind == "oauth-m2m":
        grant = partial(_sign_in, server, environ, source, http.basic(*values))
    else:
        grant = partial(_ask_children, settings, name, environ, source)
    return Connection(
        server, source, origin, grant, renewable=kind in ("", "oauth-m2m"),
        workspace=settings.get("workspace_id", ""), secrets=values[-1:],
    )  # fmt: skip


def _kind(settings: Mapping[str, str]) -> str:
    """Return which of _KINDS the settings are enough for, or "" for what others have to do."""
    for kind, names in _KINDS.items():
        if settings.get("auth_type", kind) == kind and all(settings.get(name) for name in names):
            return kind
    return ""


def _settings(
    profile: str | None, environ: Mapping[str, str]
) -> tuple[dict[str, str], str, str | None]:
    """Return the settings, where they come from, and the profile's name; raises ExecutionError.

    Variables that suffice win over a profile that only a variable names.
    """
    found = {key: environ.get(name, "").strip() for key, name in _VARIABLES.items()}
    given = {key: value for key, value in found.items() if value}
    named = profile or environ.get("DATABRICKS_CONFIG_PROFILE", "").strip() or None
    if profile is None and "host" in given and (_kind(given) or named is None):
        return given, _source_of(given), None
    if profile is None and named is None and _kind({"host": "", **given}):
        raise ExecutionError(
            f"DATABRICKS_HOST is not set, as {_source_of(given)} needs", hint=f"set it: {_ADDRESS}"
        )
    path = environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg"
    if path.startswith("~/"):
        path = os.path.join(environ.get("HOME") or os.path.expanduser("~"), path[2:])
    profiles = _profiles(path)
    chosen = named or profiles.get("__settings__", {}).get("default_profile") or "DEFAULT"
    if named is None and not profiles.get(chosen):
        raise ExecutionError("there are no credentials for Databricks", hint=_SET)
    if chosen not in profiles:
        names = [name for name in profiles if name != "__settings__"]
        there = f"; there is {listed(names, 10)}" if names else ""
        raise ExecutionError(
            f"there is no profile `{printable(chosen)}`{there}", place=path,
            hint=f"name another one, or make it: `databricks auth login --profile "
            f"{printable(shlex.quote(chosen))}`",
        )  # fmt: skip
    own = profiles[chosen]
    hosts = {given.get("host"), own.get("host")} - {None}
    # Variables fill what such a profile lacks; but no token is sent to another host than its own.
    if profile is not None or named is None or len(hosts) > 1:
        given = {}
    return {**given, **own}, f"the profile `{printable(chosen)}` of {path}", chosen


def _source_of(given: Mapping[str, str]) -> str:
    names = _KINDS.get(_kind(given), ("host",))
    return " and ".join(_VARIABLES[name] for name in names)


def _profiles(path: str) -> dict[str, dict[str, str]]:
    """Return the sections of a file, none where it is not there; raises ExecutionError."""
    import configparser

    # `DEFAULT` is a profile as any other, which lends the others nothing.
    config = configparser.ConfigParser(interpolation=None, default_section="\0")
    try:
        with open_regular(path) as file:
            config.read_string(file.read().decode("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        # What the parser says itself shows lines of the file.
        first = getattr(error, "errors", None) or [(getattr(error, "lineno", ""), "")]
        line = f":{first[0][0]}" if first[0][0] else ""
        raise ExecutionError(
            "the file of Databricks' profiles cannot be read", place=f"{path}{line}",
            hint="a profile is `[NAME]`, and below it lines such as `host = https://…`",
        ) from None  # fmt: skip
    return {name: {k: v.strip() for k, v in config.items(name) if v} for name in config.sections()}


def _server(settings: Mapping[str, str], origin: str) -> Server:
    """Return the workspace's server; raises ExecutionError."""
    host = settings.get("host", "")
    if not host:
        raise ExecutionError(f"{origin} names no `host`", hint=_ADDRESS)
    # What browsers show has more behind the host, such as `/?o=123`.
    scheme, _, rest = host.rpartition("://")
    address = http.address_of(f"{scheme or 'https'}://{rest.partition('/')[0].partition('?')[0]}")
    if address is None or address.userinfo:
        raise ExecutionError(
            f"the host of {origin} is no address: `{printable(redact(host))}`", hint=_ADDRESS
        )
    trusting = settings.get("insecure") or settings.get("skip_verify") or ""
    insecure = trusting.lower() in ("true", "1")
    return Server(address, "Databricks", ExecutionError, Certificates(insecure=insecure))


def _sign_in(
    server: Server, environ: Mapping[str, str], source: str, authorization: str
) -> _Granted:
    """Return a token for a service principal (OAuth, machine to machine)."""
    client = HttpClient(server, environ)
    headers = {
        "Authorization": authorization,
        "Content-Type": "application/x-www-form-urlencoded",
        **AGENT,
    }
    body = b"grant_type=client_credentials&scope=all-apis"
    try:
        answer = client.request("POST", "/oidc/v1/token", headers, body)
    finally:
        client.close()
    if answer.status == 429 or answer.status >= 500:
        raise OSError(f"its sign-in fails ({answer.status})")
    try:
        value = json.loads(answer.content)
        seconds = float(value.get("expires_in", 3600))
        token = str(value["access_token"]) if answer.status == 200 else ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ExecutionError(
            f"this is no Databricks workspace: its sign-in answers with "
            f"{printable(answer.kind) or 'nothing that can be read'} ({answer.status})",
            place=server.address.netloc, hint=f"check the host of {source}",
        ) from None  # fmt: skip
    if not token or not http.is_clean(token):
        words = str(value.get("error_description") or value.get("error") or answer.status)
        raise ExecutionError(
            f"Databricks does not accept {source}: {_shown(words)}", place=server.address.netloc,
            hint="the service principal needs a secret that is still valid, and the workspace",
        )  # fmt: skip
    return _Granted(f"Bearer {token}", max(seconds - _BEFORE, seconds / 2))


def _ask_children(
    settings: Mapping[str, str], profile: str | None, environ: Mapping[str, str], source: str
) -> _Granted:
    """Return what Databricks' CLI or its SDK gives, as far as they are installed."""
    said = []
    cli = environ.get("DATABRICKS_CLI_PATH") or shutil.which("databricks", path=environ.get("PATH"))
    if cli:
        which = ("--profile", profile) if profile else ("--host", settings["host"])
        value, words = _ask((cli, "auth", "token", *which), environ)
        if token := value.get("access_token"):
            return _checked(f"{value.get('token_type') or 'Bearer'} {token}")
        said.append(f"`databricks auth token` says: {words}")
    if _has_sdk():
        wanted = {"profile": profile} if profile else {"host": settings["host"]}
        value, words = _ask((sys.executable, "-c", _ASK_SDK, json.dumps(wanted)), environ)
        if found := value.get("Authorization"):
            return _checked(str(found))
        said.append(f"the SDK says: {words}")
    if said:
        fact = f"there are no credentials for {source}: {'; '.join(said)}"
        raise ExecutionError(fact, hint=f"`databricks auth login` signs in; or {_SET}")
    raise ExecutionError(
        f"there is no token for {source}, and neither Databricks' CLI nor its SDK to ask for one",
        hint=f"install the CLI (`databricks`) or `pip install 'buildrun[databricks]'`; or {_SET}",
    )


def _has_sdk() -> bool:
    from importlib.util import find_spec

    try:
        return find_spec("databricks.sdk") is not None
    except ImportError:
        return False


def _ask(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Return the JSON object that a program prints, or nothing and why."""
    import subprocess

    try:
        done = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHILD,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}, f"nothing within {_CHILD:g} s"
    except OSError as error:
        return {}, str(error.strerror).lower()
    try:
        value = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        value = None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    words = _shown(lines[-1].removeprefix("Error: ")) if lines else "nothing that can be read"
    return (value, "") if isinstance(value, dict) else ({}, words)


def _checked(authorization: str) -> _Granted:
    if not http.is_clean(authorization):
        raise ExecutionError("the token that was given holds characters that no header can")
    return _Granted(authorization, _GOOD)


def _shown(text: str) -> str:
    # Cut off last, since the beginning of a token would not be known for one.
    return printable(_TOKENS.sub(MASK, redact(text)))[:_LONGEST]
