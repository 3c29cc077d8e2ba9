"""Credentials for a tracking server, as MLflow's variables name them."""

import os
from collections.abc import Mapping

from buildrun.errors import TrackingError

# What tells the user's name.
USER = ("LOGNAME", "USER", "LNAME", "USERNAME")


def authorization(environ: Mapping[str, str], userinfo: tuple[str, str]) -> str:
    """Return the header that tells who we are, or "".

    userinfo: what the URI holds, two empty texts for nothing.
    """
    name, password = _named(environ)
    if not (name and password) and not environ.get("MLFLOW_TRACKING_TOKEN"):
        name, password = userinfo
    if name and password:
        return basic(name, password)
    token = environ.get("MLFLOW_TRACKING_TOKEN", "")
    return f"Bearer {token}" if token else ""


def basic(name: str, password: str) -> str:
    """Return the header's value for a name and a password."""
    from binascii import b2a_base64

    return "Basic " + b2a_base64(f"{name}:{password}".encode(), newline=False).decode()


def user(environ: Mapping[str, str]) -> str:
    """Return the name of the user for the tag, as MLflow finds it."""
    for variable in USER:
        if environ.get(variable):
            return environ[variable]
    from pwd import getpwuid

    try:
        return getpwuid(os.getuid()).pw_name
    except KeyError:
        return "unknown"


def needs_mlflow(environ: Mapping[str, str]) -> bool:
    """Return whether only MLflow's own client can sign requests as the caller wants."""
    if environ.get("MLFLOW_TRACKING_AUTH"):
        return True
    return is_true(environ, "MLFLOW_TRACKING_AWS_SIGV4")


def is_true(environ: Mapping[str, str], name: str) -> bool:
    """Return whether a variable says yes, as MLflow reads it."""
    return environ.get(name, "").lower() in ("true", "1")


def _named(environ: Mapping[str, str]) -> tuple[str, str]:
    name = environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if name and password:
        return name, password
    path = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".mlflow", "credentials")
    if not os.path.isfile(path):
        return name, password
    import configparser

    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read(path, encoding="utf-8")
        for option, value in config.items("mlflow") if config.has_section("mlflow") else ():
            if option == "mlflow_tracking_username":
                name = name or value
            elif option == "mlflow_tracking_password":
                password = password or value
    except (configparser.Error, UnicodeDecodeError, OSError):
        raise TrackingError(
            "the file of MLflow's credentials cannot be read", place=path,
            hint="it is to hold `[mlflow]`, `mlflow_tracking_username = …` and "
            "`mlflow_tracking_password = …`",
        ) from None  # fmt: skip
    return name, password
