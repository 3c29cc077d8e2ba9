"""A conda channel of our own: a directory of packages and their index, made in milliseconds.

Its ``python`` is a real one: it lends itself the interpreter that runs the tests, as a virtualenv
does, so that ``sys.prefix`` is the environment's.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PLATFORM = {
    ("linux", "x86_64"): "linux-64",
    ("linux", "aarch64"): "linux-aarch64",
    ("darwin", "x86_64"): "osx-64",
    ("darwin", "arm64"): "osx-arm64",
}[sys.platform, os.uname().machine]
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"lib/python{MINOR}/site-packages"
# What stands in a file for the prefix, until the package is installed.
PLACEHOLDER = "/opt/placehold_placehold_placehold_placehold_placehold_placehold_placehold"


class Package(NamedTuple):
    """A package to make.

    files: content by path; text that holds PLACEHOLDER is rewritten for the prefix. links:
    targets of symbolic links by path. programs: paths in ``files`` that may be run.
    damaged: its index has the digest of something else.
    """

    name: str
    version: str = "1.0"
    depends: Sequence[str] = ()
    files: Mapping[str, str] = {}
    links: Mapping[str, str] = {}
    programs: Sequence[str] = ()
    noarch: str | None = None
    damaged: bool = False

    @property
    def subdir(self) -> str:
        return "noarch" if self.noarch else PLATFORM


def module(name: str, version: str = "1.0", **fields: Any) -> Package:
    """Return a package that holds a Python module with a ``VERSION``."""
    path = f"site-packages/{name}.py" if fields.get("noarch") == "python" else f"{SITE}/{name}.py"
    fields.setdefault("depends", ("python",))
    files = {path: f"VERSION = {version!r}\n", **fields.pop("files", {})}
    return Package(name, version, files=files, **fields)


def python(micro: int) -> Package:
    """Return a ``python`` of the running minor version, with a micro version of its own."""
    base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    launcher = f'#!/bin/bash\nexec -a "{PLACEHOLDER}/bin/python{MINOR}" "{base}" "$@"\n'
    name = f"bin/python{MINOR}"
    return Package(
        "python",
        f"{MINOR}.{micro}",
        files={
            name: launcher,
            "pyvenv.cfg": f"home = {os.path.dirname(base)}\ninclude-system-site-packages = false\n",
            f"{SITE}/README.txt": "packages go here\n",
        },
        links={
            "bin/python": f"python{MINOR}",
            "bin/python3": f"python{MINOR}",
            f"lib/python{MINOR[:3]}": f"python{MINOR}",  # as conda-forge has it since 3.10
        },
        programs=(name,),
    )


def default_packages() -> list[Package]:
    """Return the packages that most tests need."""
    activate = (
        'export TOOL_HOME="$CONDA_PREFIX/share/tool"\n'
        'export TOOL_PATH="$CONDA_PREFIX/tool:${TOOL_PATH}"\n'
        'export PATH="$CONDA_PREFIX/tool/bin:$PATH"\n'
        "unset TOOL_LEGACY\n"
    )
    tool = {
        "etc/conda/activate.d/tool.sh": activate,
        "etc/conda/env_vars.d/tool.json": '{"TOOL_KIND": "hammer"}',
        "tool/bin/tool-says": f"#!/bin/sh\necho tool in {PLACEHOLDER}\n",
    }
    return [
        python(1),
        python(2),
        module("alpha", "1.0"),
        module("alpha", "2.0"),
        module("beta", depends=("python", "alpha <2")),
        module("gamma", depends=("python", "alpha >=2")),
        module("pure", noarch="python"),
        Package("data", noarch="generic", files={"share/data.txt": "some data\n" * 50}),
        Package("tool", files=tool, programs=("tool/bin/tool-says",)),
        Package("damaged", files={"share/damaged.txt": "text\n"}, damaged=True),
        Package("choosy", depends=("__glibc >=99",), files={"share/choosy.txt": "text\n"}),
    ]


def make(directory: Path, packages: Sequence[Package] | None = None) -> str:
    """Write a channel and return its ``file://`` address."""
    indexes: dict[str, dict[str, Any]] = {PLATFORM: {}, "noarch": {}}
    for package in default_packages() if packages is None else packages:
        path = directory / package.subdir / f"{package.name}-{package.version}-0.tar.bz2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive := _archive(package))
        indexes[package.subdir][path.name] = _record(package, archive)
    for subdir, records in indexes.items():
        (directory / subdir).mkdir(parents=True, exist_ok=True)
        index = {"info": {"subdir": subdir}, "packages": records, "repodata_version": 1}
        (directory / subdir / "repodata.json").write_text(json.dumps(index))
    return directory.as_uri()


def _record(package: Package, archive: bytes) -> dict[str, Any]:
    content = b"something else" if package.damaged else archive
    return {
        **_index(package),
        "md5": hashlib.md5(content).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(archive),
    }


def _index(package: Package) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": package.name,
        "version": package.version,
        "build": "0",
        "build_number": 0,
        "depends": list(package.depends),
        "subdir": package.subdir,
        "timestamp": 1700000000000,
        "license": "MIT",
    }
    if package.noarch:
        record["noarch"] = package.noarch
    return record


def _paths(package: Package) -> dict[str, Any]:
    paths: list[dict[str, Any]] = []
    for name, text in sorted(package.files.items()):
        content = text.encode()
        entry = {
            "_path": name,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_in_bytes": len(content),
        }
        if PLACEHOLDER in text:
            entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "text"}
        paths.append(entry)
    for name in sorted(package.links):
        paths.append({"_path": name, "path_type": "softlink", "size_in_bytes": 0})
    return {"paths": paths, "paths_version": 1}


def _archive(package: Package) -> bytes:
    every = [*package.files, *package.links]
    members = {
        "info/index.json": json.dumps(_index(package)),
        "info/paths.json": json.dumps(_paths(package)),
        "info/files": "\n".join(sorted(every)),
        **package.files,
    }
    if package.noarch:
        link = {"noarch": {"type": package.noarch}, "package_metadata_version": 1}
        members["info/link.json"] = json.dumps(link)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, text in members.items():
            member, content = tarfile.TarInfo(name), text.encode()
            member.size = len(content)
            member.mode = 0o755 if name in package.programs else 0o644
            archive.addfile(member, io.BytesIO(content))
        for name, target in package.links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return bz2.compress(sink.getvalue(), 1)
