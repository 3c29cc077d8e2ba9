"""What rattler is asked to do for a project: the order that its process reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun import home
from buildrun.environments import channels
from buildrun.environments.channels import Channel, Settings

if TYPE_CHECKING:
    from buildrun.environments.contract import Request
    from buildrun.memo import Reader
    from buildrun.project.spec import CondaEnv


class Sources(NamedTuple):
    """Where packages come from: the channels, and how conda was told to reach them."""

    channels: Sequence[Channel]
    settings: Settings


def sources(declared: CondaEnv, reader: Reader) -> Sources:
    """Return the channels of the file, of the user's settings and of ``channel::package`` specs.

    As conda has it, a channel that only a spec names is used after the others.
    """
    settings = channels.read(reader)
    found = channels.resolve(declared.channels, declared.path, settings, reader)
    for text in declared.dependencies:
        name, separator, _ = text.partition("::")
        if separator:
            found += channels.expand(name, declared.path, settings, reader)
    return Sources(tuple({item.address: item for item in found}.values()), settings)


def make(
    request: Request, declared: CondaEnv, used: Sources, reader: Reader, **fields: Any
) -> dict[str, Any]:
    """Return an order; see ``rattler_worker`` for its fields.

    fields: those that differ: action, prefix, platform, virtual_packages, records, live; place
    where that is not the prefix.
    """
    # RATTLER_CACHE_DIR is shared with other programs that use rattler.
    shared = request.environ.get("RATTLER_CACHE_DIR")
    root = shared or os.path.join(home.locate(request.environ).root, "conda")
    return {
        "packages": os.path.join(root, "pkgs"),
        "repodata": os.path.join(root, "repodata"),
        "channels": [channel.address for channel in used.channels],
        "specs": [_spec(text, declared, used, reader) for text in declared.dependencies],
        "priority": used.settings.priority,
        "verify": used.settings.verify is not False,
        "offline": request.offline,
        "needs_python": bool(declared.pip),
        "place": None,
        **fields,
    }


def connection(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the caller's variables, with what conda was told of certificates and proxies."""
    found = dict(environ)
    certificates = (
        settings.verify if isinstance(settings.verify, str) else "",
        environ.get("SSL_CERT_FILE", ""),
        environ.get("REQUESTS_CA_BUNDLE", ""),
        environ.get("CURL_CA_BUNDLE", ""),
    )
    if path := next((path for path in certificates if path), ""):
        found["SSL_CERT_FILE"] = path
    for scheme, proxy in settings.proxies.items():
        found.setdefault(f"{scheme.upper()}_PROXY", proxy)
    return found


def _spec(text: str, declared: CondaEnv, used: Sources, reader: Reader) -> str:
    name, separator, rest = text.partition("::")
    if not separator:
        return text
    (first, *_) = channels.expand(name, declared.path, used.settings, reader)
    return f"{first.address}::{rest.strip()}"
