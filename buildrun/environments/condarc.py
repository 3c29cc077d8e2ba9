"""Conda's settings and channels."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from buildrun.errors import EnvironmentFailure
from buildrun.store.memo import DependencyTracker

Priority = Literal["strict", "flexible", "disabled"]

_ANACONDA = "https://repo.anaconda.com"
_SUBDIR = re.compile(r"/(noarch|(linux|osx|win|emscripten|wasi|freebsd|zos)-[a-z0-9_]+)/?$")
_TOKEN = re.compile(r"(/t/)[^/]+(?=/)")
_USER = re.compile(r"(://)[^/@\s]*@")
_PRIORITIES: Mapping[str, Priority] = {
    "strict": "strict",
    "flexible": "flexible",
    "true": "flexible",
    "disabled": "disabled",
    "false": "disabled",
}


class Settings(NamedTuple):
    """What conda was told about channels and connections.

    channels: those to use besides a file's own; None where nobody chose any. custom, groups: what
    a name stands for. verify: False, True, or the path of a certificate file. proxies: by scheme.
    """

    alias: str = "https://conda.anaconda.org"
    defaults: tuple[str, ...] = (f"{_ANACONDA}/pkgs/main", f"{_ANACONDA}/pkgs/r")
    channels: tuple[str, ...] | None = None
    custom: Mapping[str, str] = {}
    groups: Mapping[str, Sequence[str]] = {}
    priority: Priority = "flexible"
    verify: bool | str = True
    proxies: Mapping[str, str] = {}


class Channel(NamedTuple):
    """A channel.

    address: its URL, with credentials if it has any. label: what tells it from others in a key: no
    credentials, no path of the project.
    """

    address: str
    label: str


def read(reader: DependencyTracker) -> Settings:
    """Return the settings of conda's files and variables; raises EnvironmentFailure."""
    found: dict[str, Any] = {}
    for path in _files(reader):
        _merge(found, _load(path, reader))
    for key in ("channel_alias", "channel_priority", "ssl_verify", "default_channels", "channels"):
        if value := reader.variable(f"CONDA_{key.upper()}"):
            found[key] = value.split(",") if key in ("default_channels", "channels") else value
    return _as_settings(found)


def resolve(
    names: Sequence[str], file: str, settings: Settings, reader: DependencyTracker
) -> list[Channel]:
    """Return the channels of a conda file in their order, then those of the user's settings.

    names: as written; ``nodefaults`` keeps the user's channels out. Where neither says any,
    ``defaults`` it is. file: what relative paths are relative to the folder of.
    """
    wanted = [name for name in names if name != "nodefaults"]
    if "nodefaults" not in names:
        wanted += settings.channels or ()
    found: dict[str, Channel] = {}
    for name in wanted or ["defaults"]:
        for channel in expand(name, file, settings, reader):
            found.setdefault(channel.address, channel)
    return list(found.values())


def expand(name: str, file: str, settings: Settings, reader: DependencyTracker) -> list[Channel]:
    """Return what one name stands for; ``$NAME`` and ``${NAME}`` are the caller's variables."""
    full = re.sub(
        r"\$(?:\{(\w+)\}|(\w+))",
        lambda match: reader.variable(match.group(1) or match.group(2)) or match.group(),
        name.strip(),
    )
    if full == "local":
        raise EnvironmentFailure(
            "the channel `local` is what conda-build made, which buildrun does not look for",
            place=file,
            hint="give the path of the folder, such as `/opt/conda/conda-bld`",
        )
    members = settings.defaults if full == "defaults" else settings.groups.get(full, (full,))
    return [_single(member, file, settings) for member in members]


def without_secrets(text: str) -> str:
    """Return the text with users, passwords and tokens of every URL in it left out."""
    return _TOKEN.sub(r"\1<token>", _USER.sub(r"\1", text))


def _single(name: str, file: str, settings: Settings) -> Channel:
    if name.startswith(("/", "./", "../", "~")) or name in (".", ".."):
        path = os.path.join(os.path.dirname(file), os.path.expanduser(name))
        address = f"file://{quote(os.path.normpath(path))}"
        return Channel(address, name if name.startswith(".") else address)
    plain = _SUBDIR.sub("", name)
    address = plain.rstrip("/") if "://" in name else _named(plain.strip("/"), settings)
    return Channel(address, _TOKEN.sub("", _USER.sub(r"\1", address)).replace("/t/", "/"))


def _named(name: str, settings: Settings) -> str:
    parts = name.split("/")
    for length in range(len(parts), 0, -1):
        base = settings.custom.get("/".join(parts[:length]))
        if base is not None:
            base = base if "://" in base else f"https://{base}"
            return f"{base.rstrip('/')}/{name}"
    if name.startswith("pkgs/"):
        return f"{_ANACONDA}/{name}"
    return f"{settings.alias.rstrip('/')}/{name}"


def _files(reader: DependencyTracker) -> list[str]:
    home = reader.home()
    config = reader.variable("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    folders = ["/etc/conda", "/var/lib/conda", reader.variable("CONDA_ROOT") or ""]
    folders += [os.path.join(config, "conda"), os.path.join(home, ".conda")]
    names = (".condarc", "condarc")
    paths = [os.path.join(folder, name) for folder in filter(None, folders) for name in names]
    paths.append(os.path.join(home, ".condarc"))
    if prefix := reader.variable("CONDA_PREFIX"):
        paths.append(os.path.join(prefix, ".condarc"))
    if chosen := reader.variable("CONDARC"):
        paths.append(os.path.expanduser(chosen))
    return paths


def _load(path: str, reader: DependencyTracker) -> dict[str, Any]:
    try:
        text = reader.read(path)
    except OSError:
        return {}
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentFailure(
            f"conda's settings cannot be read: {reason}", place=path, hint="correct the file"
        ) from None
    return value if isinstance(value, dict) else {}


def _merge(found: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Add what a later file says: it wins, its lists come first."""
    for key, value in later.items():
        before = found.get(key)
        if isinstance(value, list) and isinstance(before, list):
            found[key] = [*value, *(item for item in before if item not in value)]
        elif isinstance(value, dict) and isinstance(before, dict):
            found[key] = {**before, **value}
        elif value is not None:
            found[key] = value


def _as_settings(found: Mapping[str, Any]) -> Settings:
    plain = Settings()
    channels = found.get("channels")
    groups = _mapping(found.get("custom_multichannels"))
    return Settings(
        alias=str(found.get("channel_alias") or plain.alias),
        defaults=_texts(found.get("default_channels")) or plain.defaults,
        channels=None if channels is None else _texts(channels),
        custom={
            str(name): str(base) for name, base in _mapping(found.get("custom_channels")).items()
        },
        groups={str(name): _texts(members) for name, members in groups.items()},
        priority=_PRIORITIES.get(str(found.get("channel_priority")).lower(), plain.priority),
        verify=_verify(found.get("ssl_verify", True)),
        proxies={str(key): str(to) for key, to in _mapping(found.get("proxy_servers")).items()},
    )


def _verify(value: Any) -> bool | str:
    text = str(value).strip()
    if text.lower() in ("false", "no", "0"):
        return False
    return text if os.sep in text else True


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(str(item) for item in items)
