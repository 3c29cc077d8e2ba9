"""How a Databricks workspace is reached: by variables, by a profile, or by Databricks' own CLI."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, NamedTuple

from buildrun import __version__, http
from buildrun.console import MASK, printable, redact
from buildrun.errors import ExecutionError
from buildrun.executors.databricks import profiles
from buildrun.http import HttpClient, Server

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
    settings = profiles.find(profile, environ)
    server, kind, source = profiles.server_of(settings), settings.kind, settings.source
    values = [settings.values[key] for key in profiles.KINDS.get(kind, ())]
    grant: Callable[[], _Granted]
    if kind == "pat":
        grant = partial(_Granted, f"Bearer {values[0]}", inf)
    elif kind == "oauth-m2m":
        grant = partial(_sign_in, server, environ, source, http.basic(*values))
    else:
        grant = partial(_ask_children, settings, environ)
    return Connection(
        server, source, settings.origin, grant, renewable=kind != "pat",
        workspace=settings.values.get("workspace_id", ""), secrets=values[-1:],
    )  # fmt: skip


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


def _ask_children(settings: profiles.Settings, environ: Mapping[str, str]) -> _Granted:
    """Return what Databricks' CLI or its SDK gives, as far as they are installed."""
    profile, host, source = settings.profile, settings.values["host"], settings.source
    said = []
    cli = environ.get("DATABRICKS_CLI_PATH") or shutil.which("databricks", path=environ.get("PATH"))
    if cli:
        which = ("--profile", profile) if profile else ("--host", host)
        value, words = _ask((cli, "auth", "token", *which), environ)
        if token := value.get("access_token"):
            return _checked(f"{value.get('token_type') or 'Bearer'} {token}")
        said.append(f"`databricks auth token` says: {words}")
    if _has_sdk():
        wanted = {"profile": profile} if profile else {"host": host}
        value, words = _ask((sys.executable, "-c", _ASK_SDK, json.dumps(wanted)), environ)
        if found := value.get("Authorization"):
            return _checked(str(found))
        said.append(f"the SDK says: {words}")
    if said:
        fact = f"there are no credentials for {source}: {'; '.join(said)}"
        raise ExecutionError(fact, hint=f"`databricks auth login` signs in; or {profiles.SIGN_IN}")
    raise ExecutionError(
        f"there is no token for {source}, and neither Databricks' CLI nor its SDK to ask for one",
        hint="install the CLI (`databricks`) or `pip install 'buildrun[databricks]'`; or "
        + profiles.SIGN_IN,
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
    except (ValueError, RecursionError):
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
