"""Credentials for a tracking server, as MLflow's variables name them."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from buildrun.errors import TrackingError

# What tells the user's name.
USER = ("LOGNAME", "USER", "LNAME", "USERNAME")

_TRUE = ("true", "1")


class Tls(NamedTuple):
    """How a server proves itself, and we to it.

    verify: whether its certificate is checked at all. authority: a file or directory of
    certificates to trust, "" for the usual ones. client: a file with our certificate and key.
    """

    verify: bool
    authority: str
    client: str


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


def tls(environ: Mapping[str, str]) -> Tls:
    """Return the settings; raises TrackingError where they contradict each other."""
    insecure = environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in _TRUE
    authority = environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", "")
    if insecure and authority:
        raise TrackingError(
            "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH contradict each "
            "other",
            hint="unset one of them",
        )
    usual = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or ""
    client = environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH", "")
    return Tls(not insecure, authority or usual, client)


def needs_mlflow(environ: Mapping[str, str]) -> bool:
    """Return whether only MLflow's own client can sign requests as the caller wants."""
    if environ.get("MLFLOW_TRACKING_AUTH"):
        return True
    return environ.get("MLFLOW_TRACKING_AWS_SIGV4", "").lower() in _TRUE


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
