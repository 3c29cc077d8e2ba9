"""Which proxy stands between us and a server, by the usual variables."""

from collections.abc import Mapping
from typing import NamedTuple

from buildrun.errors import TrackingError


class Proxy(NamedTuple):
    """A proxy for HTTP; authorization: a header's value, or ""."""

    host: str
    port: int
    authorization: str


def choose(environ: Mapping[str, str], scheme: str, host: str) -> Proxy | None:
    """Return the proxy for a host, or None; raises TrackingError for one that makes no sense."""
    given = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
    if not given or _is_exempt(_variable(environ, "no_proxy"), host):
        return None
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        port = parts.port or 80
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "http" or not parts.hostname:
        raise TrackingError(
            f"the proxy that `{scheme}_proxy` names cannot be used",
            hint="give it as `http://HOST:PORT`, or exempt the tracking server with `no_proxy`",
        )
    authorization = ""
    if parts.username:
        from buildrun.tracking.credentials import basic

        authorization = basic(unquote(parts.username), unquote(parts.password or ""))
    return Proxy(parts.hostname, port, authorization)


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""


def _is_exempt(given: str, host: str) -> bool:
    host = host.lower()
    for item in given.lower().replace(" ", "").split(","):
        if item == "*" or (item and (host == item or host.endswith(f".{item.lstrip('.')}"))):
            return True
        if "/" in item and _is_within(item, host):
            return True
    return False


def _is_within(network: str, host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
