"""Small wheels, made by hand, so that environments are built without an index."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conftest import Buildrun, Outcome

Call = Callable[..., Outcome]


@pytest.fixture(name="links")
def some_wheels(tmp_path: Path) -> Path:
    """Return a directory with wheels of `alpha`, of which the second version needs `beta`."""
    directory = tmp_path / "wheels"
    write_wheel(directory, "alpha", "1.0")
    write_wheel(directory, "alpha", "2.0", requires=("beta",))
    write_wheel(directory, "beta", "1.5")
    return directory


@pytest.fixture(name="offline")
def only_wheels(buildrun: Buildrun, links: Path) -> Call:
    """Return buildrun with packages from that directory, and from nowhere else."""
    only = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "UV_INDEX": None}

    def call(*arguments: str | Path, **changes: str | None) -> Outcome:
        environ = {**only, "PIP_FIND_LINKS": str(links), **changes}
        return buildrun(*arguments, environ=environ)

    return call


def write_wheel(
    directory: Path, name: str, version: str = "1.0", *, requires: tuple[str, ...] = (),
    files: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write ``name-version-py3-none-any.whl`` with a module of that name that has ``VERSION``."""
    directory.mkdir(exist_ok=True, parents=True)
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {item}\n" for item in requires)
    contents = {
        f"{name}.py": f"VERSION = {version!r}\n",
        **(files or {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},{_hash(text)},{len(text)}\n" for path, text in contents.items()]
    contents[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"])
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in contents.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    return wheel


def _hash(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
    return f"sha256={digest.decode().rstrip('=')}"


# A backend without needs of its own, which leaves behind what setuptools leaves behind.
_BACKEND = """
import os, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    os.makedirs("build/lib", exist_ok=True)
    with open("build/lib/left.py", "a") as file:
        file.write("# left\\n")
    with open("alpha.py") as file:
        return _wheel(directory, "alpha.py", file.read())
def build_editable(directory, config_settings=None, metadata_directory=None):
    return _wheel(directory, "alpha.pth", os.getcwd() + "\\n")
def _wheel(directory, name, text):
    os.makedirs("alpha.egg-info", exist_ok=True)
    with open("alpha.egg-info/PKG-INFO", "a") as file:
        file.write("# left\\n")
    info = "alpha-7.dist-info/"
    with zipfile.ZipFile(directory + "/alpha-7-py3-none-any.whl", "w") as archive:
        archive.writestr(name, text)
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: alpha\\nVersion: 7\\n")
        archive.writestr(info + "WHEEL",
            "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(info + "RECORD", "")
    return "alpha-7-py3-none-any.whl"
"""


def write_source(directory: Path, text: str = "VERSION = 7\n") -> Path:
    """Write a package that can be built: a module ``alpha`` with that text; returns the module."""
    directory.mkdir(exist_ok=True, parents=True)
    (directory / "backend.py").write_text(_BACKEND)
    (directory / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'alpha'\nversion = '7'\n"
    )
    module = directory / "alpha.py"
    module.write_text(text)
    return module
