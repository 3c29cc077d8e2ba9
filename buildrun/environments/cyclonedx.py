"""Locks as CycloneDX 1.6: what is in an environment, for those who look for weaknesses in it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from buildrun import __version__
from buildrun.console import redact
from buildrun.environments import lockfile
from buildrun.environments.export_request import ExportRequest, is_conda, is_vcs
from buildrun.environments.lockfile import Package
from buildrun.errors import UsageError
from buildrun.store import digest

_ALGORITHMS = {"md5": "MD5", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}

_DIRECT = re.compile(r"^\S+\s*@\s*(\S+)")

# What a conda package's address is made of: channel, directory of its platform, file.
_CONDA = re.compile(r"(?P<channel>.+)/(?P<subdir>[^/]+)/[^/]+?\.(?P<type>conda|tar\.bz2)$")


def encode(request: ExportRequest, packages: Sequence[Package]) -> bytes:
    """Return the document; it bears a time only where SOURCE_DATE_EPOCH tells one.

    Raises UsageError where that is no time.
    """
    project = request.environment.project
    components = [_component(package) for package in packages]
    lock = digest.key("lock export", [lockfile.dump(request.lock).decode(), request.platforms[0]])
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, lock)}",
        "version": 1,
        "metadata": {
            **_timestamp(request.environment.environ),
            "tools": {
                "components": [{"type": "application", "name": "buildrun", "version": __version__}]
            },
            "component": {"type": "application", "bom-ref": "project", "name": project.name},
            "properties": [_property("platform", request.platforms[0])],
        },
        "components": components,
        "dependencies": [{"ref": "project", "dependsOn": [each["bom-ref"] for each in components]}],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _timestamp(environ: Mapping[str, str]) -> dict[str, str]:
    seconds = environ.get("SOURCE_DATE_EPOCH", "")
    if not seconds:
        return {}
    try:
        moment = datetime.fromtimestamp(int(seconds), timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"`{seconds}` is no time", place="SOURCE_DATE_EPOCH", hint="give seconds since 1970"
        ) from None
    return {"timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}


def _component(package: Package) -> dict[str, Any]:
    line = redact(package.line)
    purl = _purl(package) if package.name else ""
    hashes = [item.split(":", 1) for item in package.hashes]
    return {
        "type": "library",
        "bom-ref": purl or f"local:{line}",
        "name": package.name or line,
        **({"version": package.version} if package.version else {}),
        **({"purl": purl} if purl else {}),
        "hashes": [
            {"alg": _ALGORITHMS[kind], "content": value}
            for kind, value in hashes
            if kind in _ALGORITHMS
        ],
        "properties": [_property("stage", package.stage)],
    }


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"buildrun:{name}", "value": value}


def _purl(package: Package) -> str:
    """Return the package URL, with its qualifiers in their order."""
    kind, qualifiers = "pypi", {}
    if is_conda(package):
        kind, qualifiers = "conda", _of_conda(package.line)
    elif direct := _DIRECT.match(redact(package.line)):
        qualifiers = {"vcs_url" if is_vcs(package) else "download_url": direct.group(1)}
    version = f"@{_quoted(package.version)}" if package.version else ""
    text = "&".join(f"{name}={_quoted(value)}" for name, value in sorted(qualifiers.items()))
    return f"pkg:{kind}/{_quoted(package.name)}{version}{'?' if text else ''}{text}"


def _of_conda(line: str) -> dict[str, str]:
    address, _, text = line.partition(" ")
    found = _CONDA.match(redact(address))
    build = json.loads(text).get("build")
    return {**({"build": str(build)} if build else {}), **(found.groupdict() if found else {})}


def _quoted(text: str) -> str:
    return quote(text, safe=":/" if "://" in text else "")
