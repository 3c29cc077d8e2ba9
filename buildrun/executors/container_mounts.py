"""What a container gets of this machine: variables, credentials, and mounted directories."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from buildrun.console import holds
from buildrun.errors import ProjectError

# Where MLflow puts a tracking store that is a directory or a file of this machine.
TRACKING = "/mlflow/tmp/mlruns"

# What clients of artifact stores read, as MLflow passes it on.
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_S3_IGNORE_TLS", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY",
    "MLFLOW_KERBEROS_TICKET_CACHE", "MLFLOW_KERBEROS_USER", "MLFLOW_PYARROW_EXTRA_CONF",
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_HOST", "DATABRICKS_TOKEN",
)  # fmt: skip

_RUN = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


class HostAccess(NamedTuple):
    """Variables to set in a container, and volumes as `-v` takes them."""

    environ: Mapping[str, str]
    volumes: tuple[str, ...]


def tracking(environ: Mapping[str, str], cwd: str) -> HostAccess:
    """Return what makes MLflow's client in a container speak to the caller's store.

    A store on this machine is mounted, and its URI rewritten. cwd: where relative paths begin.
    """
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        place = os.path.join(cwd, "mlruns")
        return _mounted(place, "file") if os.path.isdir(place) else HostAccess({}, ())
    scheme, path = _local(uri)
    if path is None:
        return HostAccess({"MLFLOW_TRACKING_URI": uri}, ())
    return _mounted(os.path.abspath(os.path.join(cwd, path)), scheme)


def is_remote(uri: str) -> bool:
    """Return whether a tracking store is to be had from elsewhere."""
    return bool(uri) and _local(uri)[1] is None


def mlflow_run(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tell of an MLflow run, without a store of this machine."""
    found = {name: environ[name] for name in _RUN if environ.get(name)}
    if is_remote(environ.get("MLFLOW_TRACKING_URI") or ""):
        found["MLFLOW_TRACKING_URI"] = environ["MLFLOW_TRACKING_URI"]
    return found


def without_secrets(seen: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables that hold no secrets, and apart from them those that do."""
    secrets = {name: text for name, text in seen.items() if holds(name, text)}
    return {name: text for name, text in seen.items() if name not in secrets}, secrets


def credentials(environ: Mapping[str, str]) -> HostAccess:
    """Return what the caller has for artifact stores: S3, Azure, GCS and HDFS."""
    seen = {name: environ[name] for name in _CREDENTIALS if environ.get(name)}
    volumes = []
    home = environ.get("HOME", "")
    if home and os.path.isdir(os.path.join(home, ".aws")):
        volumes.append(f"{home}/.aws:/.aws:ro")
    if google := environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        volumes.append(f"{os.path.abspath(google)}:/.gcs:ro")
        seen["GOOGLE_APPLICATION_CREDENTIALS"] = "/.gcs"
    if ticket := environ.get("MLFLOW_KERBEROS_TICKET_CACHE"):
        volumes.append(f"{ticket}:{ticket}")
    return HostAccess(seen, tuple(volumes))


def declared_mounts(
    volumes: Sequence[str],
    environment: Sequence[str | tuple[str, str]],
    environ: Mapping[str, str],
    root: str,
) -> HostAccess:
    """Return what an MLproject's `docker_env` asks for, its variables replaced.

    Raises ProjectError for a variable that is not set, and for a directory of this machine that is
    not there.
    """
    seen: dict[str, str] = {}
    for item in environment:
        if not isinstance(item, str):
            seen[item[0]] = value_of(item, environ, root)
        elif item in environ:
            seen[item] = environ[item]
        else:
            raise ProjectError(
                f"the project takes the variable `{item}` from its caller, and it is not set",
                place="docker_env.environment",
                hint=f"set it: export {item}=…",
            )
    return HostAccess(seen, tuple(_volume(volume, environ, root) for volume in volumes))


def value_of(pair: tuple[str, str], environ: Mapping[str, str], root: str) -> str:
    """Return the value of a variable that an MLproject sets; raises ProjectError.

    MLflow's shell replaces variables in it. It takes blanks, quotes and operators for its own, so
    that MLflow fails on such a value, or does worse; here it is data as it stands.
    """
    name, value = pair
    if _FOR_THE_SHELL.search(value):
        return value
    what = f"the variable `{name}`"
    return _replaced(value, environ, root, what, "docker_env.environment")


def _mounted(place: str, scheme: str) -> HostAccess:
    uri = f"sqlite:///{TRACKING}" if scheme == "sqlite" else f"file://{TRACKING}"
    return HostAccess({"MLFLOW_TRACKING_URI": uri}, (f"{place}:{TRACKING}",))


def _local(uri: str) -> tuple[str, str | None]:
    """Return the scheme and the path of a store on this machine; None for any other."""
    if uri == "databricks" or uri.startswith("databricks:"):
        return "", None
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or parts.scheme not in ("", "file", "sqlite"):
        return "", None
    path = unquote(parts.path)
    # sqlite:///relative.db, and with one more slash an absolute path
    return parts.scheme or "file", path[1:] if parts.scheme == "sqlite" else path


def _volume(volume: str, environ: Mapping[str, str], root: str) -> str:
    place = "docker_env.volumes"
    text = _replaced(volume, environ, root, f"the volume `{volume}`", place)
    host, colon, rest = text.partition(":")
    if not colon or not host.startswith((".", "/")):
        return text  # a volume that docker has by name, or an anonymous one
    source = os.path.normpath(os.path.join(root, host))
    if not os.path.exists(source):
        raise ProjectError(
            f"the volume `{volume}` mounts `{source}`, and there is no such file or directory",
            place=place,
            hint="make it; docker would make an empty directory that belongs to root",
        )
    return source + colon + rest


# What ends a word for a shell, or has it run something.
_FOR_THE_SHELL = re.compile(r"""[\s'"`;&|<>()]""")
_VARIABLE = re.compile(r"\\\$|\$(?:\{([A-Za-z_]\w*)(?:(:?)-([^${}]*))?\}|([A-Za-z_]\w*))", re.ASCII)


def _replaced(text: str, environ: Mapping[str, str], root: str, what: str, place: str) -> str:
    """Return a text with its variables and `~` as MLflow's shell has them, and nothing else done.

    That shell runs in the project's directory, and has variables of its own. Raises ProjectError.
    """
    known = {
        "HOSTNAME": os.uname().nodename, **environ, "PWD": root,
        "UID": str(os.getuid()), "EUID": str(os.geteuid()),
    }  # fmt: skip

    def value(match: re.Match[str]) -> str:
        if match.group() == "\\$":
            return "$"
        name = match.group(1) or match.group(4)
        found = known.get(name)
        if match.group(3) is not None and (found is None or (match.group(2) and not found)):
            return match.group(3)
        if found is None:
            raise ProjectError(
                f"{what} holds the variable `{name}`, and it is not set",
                place=place,
                hint=f"set it: export {name}=…; a `$` that is meant as such is written `\\$`",
            )
        return found

    if text == "~" or text.startswith("~/"):
        text = environ.get("HOME", "~") + text[1:]
    return _VARIABLE.sub(value, text)
