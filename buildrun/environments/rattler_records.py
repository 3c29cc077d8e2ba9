"""rattler's records of packages as plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from buildrun.environments.package_cache import Entry


def entry_of(record: Any) -> Entry:
    """Return the record as the guards of the cache take it."""
    digest = record.sha256
    return Entry(
        record.name.normalized,
        str(record.version),
        str(record.build),
        record.url,
        digest.hex() if digest else "",
        record.size or 0,
    )


def describe(record: Any) -> dict[str, Any]:
    """Return the record's fields that a lock keeps, as JSON values."""
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "build_number": record.build_number,
        "subdir": record.subdir,
        "noarch": _noarch(record),
        "depends": list(record.depends),
        "constrains": list(record.constrains),
        "sha256": record.sha256.hex() if record.sha256 else None,
        "md5": record.md5.hex() if record.md5 else None,
        "size": record.size,
        "python_site_packages_path": record.python_site_packages_path,
        "url": record.url,
    }


def _noarch(record: Any) -> str | None:
    if record.noarch.python:
        return "python"
    return "generic" if record.noarch.generic else None


def record_of(rattler: Any, fields: Mapping[str, Any]) -> Any:
    """Return the record that ``describe`` described."""
    known = rattler.PackageRecord(
        name=fields["name"],
        version=fields["version"],
        build=build_string(rattler, fields["build"]),
        build_number=fields["build_number"],
        subdir=fields["subdir"],
        noarch=fields["noarch"],
        depends=fields["depends"] or [],
        constrains=fields["constrains"] or [],
        sha256=bytes.fromhex(fields["sha256"]) if fields["sha256"] else None,
        md5=bytes.fromhex(fields["md5"]) if fields["md5"] else None,
        size=fields["size"],
        python_site_packages_path=fields["python_site_packages_path"],
    )
    return rattler.RepoDataRecord(known, fields["file_name"], fields["url"], fields["channel"])


def build_string(rattler: Any, text: str) -> Any:
    """Return a build string as rattler's constructors take it: a text before 0.28."""
    return getattr(rattler, "BuildString", str)(text)
