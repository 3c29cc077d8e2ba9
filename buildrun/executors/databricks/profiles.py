"""Which workspace is meant, and what is known of credentials: by variables, or by a profile."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from buildrun import http
from buildrun.console import listed, printable, redact
from buildrun.errors import ExecutionError
from buildrun.http import Certificates, Server
from buildrun.store.files import open_regular

# Settings by their names in profiles, and the variables for them.
VARIABLES = {
    "host": "DATABRICKS_HOST",
    "token": "DATABRICKS_TOKEN",
    "client_id": "DATABRICKS_CLIENT_ID",
    "client_secret": "DATABRICKS_CLIENT_SECRET",
    "auth_type": "DATABRICKS_AUTH_TYPE",
    "workspace_id": "DATABRICKS_WORKSPACE_ID",
}

# What is understood here, by `auth_type`: all else is left to the CLI and the SDK.
KINDS = {
    "pat": ("token",),
    "oauth-m2m": ("client_id", "client_secret"),
}

_ADDRESS = (
    "the host is the workspace's address, such as "
    "`https://adb-1234567890123456.7.azuredatabricks.net`"
)
SIGN_IN = (
    "set DATABRICKS_HOST and DATABRICKS_TOKEN, or DATABRICKS_HOST, DATABRICKS_CLIENT_ID and "
    "DATABRICKS_CLIENT_SECRET, or name a profile of ~/.databrickscfg by DATABRICKS_CONFIG_PROFILE "
    "or by `profile` in the backend config; `databricks auth login` makes one"
)


class Settings(NamedTuple):
    """What is known of a workspace.

    values: by their names in profiles. source: where credentials come from, for messages. profile:
    its name, None where variables have told all.
    """

    values: Mapping[str, str]
    source: str
    profile: str | None

    @property
    def kind(self) -> str:
        """Return which of KINDS there is enough for, or "" for what others have to do."""
        return _kind(self.values)

    @property
    def origin(self) -> str:
        """Return where the host comes from, for messages."""
        return VARIABLES["host"] if self.profile is None else self.source


def _kind(settings: Mapping[str, str]) -> str:
    for kind, names in KINDS.items():
        if settings.get("auth_type", kind) == kind and all(settings.get(name) for name in names):
            return kind
    return ""


def find(profile: str | None, environ: Mapping[str, str]) -> Settings:
    """Return what a profile or variables say; raises ExecutionError.

    Variables that suffice win over a profile that only a variable names.
    """
    found = {key: environ.get(name, "").strip() for key, name in VARIABLES.items()}
    given = {key: value for key, value in found.items() if value}
    named = profile or environ.get("DATABRICKS_CONFIG_PROFILE", "").strip() or None
    if profile is None and "host" in given and (_kind(given) or named is None):
        return Settings(given, _source_of(given), None)
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
        raise ExecutionError("there are no credentials for Databricks", hint=SIGN_IN)
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
    source = f"the profile `{printable(chosen)}` of {path}"
    return Settings({**given, **own}, source, chosen)


def _source_of(given: Mapping[str, str]) -> str:
    names = KINDS.get(_kind(given), ("host",))
    return " and ".join(VARIABLES[name] for name in names)


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


def server_of(settings: Settings) -> Server:
    """Return the workspace's server; raises ExecutionError for no address, or odd values."""
    values, origin = settings.values, settings.origin
    for key in VARIABLES:
        if not http.is_clean(values.get(key, "")):
            raise ExecutionError(
                f"`{key}` of {settings.source} holds characters that no header can",
                hint="it may hold a line's end; set it anew",
            )
    host = values.get("host", "")
    if not host:
        raise ExecutionError(f"{origin} names no `host`", hint=_ADDRESS)
    # What browsers show has more behind the host, such as `/?o=123`.
    scheme, _, rest = host.rpartition("://")
    address = http.address_of(f"{scheme or 'https'}://{rest.partition('/')[0].partition('?')[0]}")
    if address is None or address.userinfo:
        raise ExecutionError(
            f"the host of {origin} is no address: `{printable(redact(host))}`", hint=_ADDRESS
        )
    trusting = values.get("insecure") or values.get("skip_verify") or ""
    insecure = trusting.lower() in ("true", "1")
    return Server(address, "Databricks", ExecutionError, Certificates(insecure=insecure))
