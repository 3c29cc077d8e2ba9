"""The installations that are compared: buildrun and its peers, each in a virtualenv of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence

from benchmarks.process import output

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What is installed for each peer; uv in the version that buildrun has, see `Subjects`.
PEERS: Mapping[str, tuple[str, ...]] = {
    "uv": ("uv",),
    "mlflow": ("mlflow==3.17.2", "uv"),
    "check-jsonschema": ("check-jsonschema",),
    "dvc": ("dvc",),
    "snakemake": ("snakemake",),
    "scikit-learn": ("scikit-learn", "pandas"),
}
NAMES = ("buildrun", *PEERS)

# What would steer the subjects; without bytecode every start of Python would be slow.
_DROPPED = (
    "CONDA_PREFIX", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP",
    "PYTHONUNBUFFERED", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "VIRTUAL_ENV",
)  # fmt: skip

_SETTINGS = """\
import json, os
from buildrun.environments import pip_config
from buildrun.store.memo import DependencyTracker
found = pip_config.read(DependencyTracker(os.environ))
print(json.dumps([found.arguments, dict(found.variables)]))
"""
_VERSION = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"


def interpreter() -> str:
    """Return the Python that everything is made with, outside of any virtualenv."""
    base = str(getattr(sys, "_base_executable", None) or sys.executable)
    return os.path.realpath(base)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's variables without those that would steer the subjects."""
    return {
        name: value
        for name, value in environ.items()
        if name not in _DROPPED and not name.startswith(("BUILDRUN_", "MLFLOW_"))
    }


class Subjects:
    """Installs what is missing, once, and tells where it is."""

    def __init__(self, directory: str, environ: Mapping[str, str]) -> None:
        """Take the directory of the installations; nothing is installed yet."""
        self._directory = directory
        self._environ = dict(environ)
        self._settings: tuple[list[str], dict[str, str]] | None = None
        self._ready: set[str] = set()

    def program(self, subject: str, name: str | None = None) -> str:
        """Return the path of a subject's program."""
        return os.path.join(self.prefix(subject), "bin", name or subject)

    def prefix(self, subject: str) -> str:
        """Return the virtualenv of a subject, made now if need be; raises Failed."""
        prefix = os.path.join(self._directory, subject)
        if subject not in self._ready:
            make = self._buildrun if subject == "buildrun" else self._peer
            make(subject, prefix)
            self._ready.add(subject)
        return prefix

    def version(self, subject: str, package: str | None = None) -> str:
        """Return the version of a package that is installed for a subject."""
        python = self.program(subject, "python")
        return self._run((python, "-I", "-c", _VERSION, package or subject)).strip()

    def index_settings(self) -> tuple[list[str], dict[str, str]]:
        """Return the arguments and variables by which uv uses the index that pip uses.

        buildrun heeds pip's settings by itself; for a fair race its peers are told of them.
        """
        if self._settings is None:
            python = self.program("buildrun", "python")
            arguments, variables = json.loads(self._run((python, "-I", "-c", _SETTINGS)))
            self._settings = (arguments, variables)
        return self._settings

    def _buildrun(self, subject: str, prefix: str) -> None:
        wanted = json.dumps([interpreter(), sys.version, _fingerprint()])
        if _stamp(prefix) == wanted:
            return
        python = self._begin(subject, prefix)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        self._run((*pip, f"{REPOSITORY}[conda]"))
        self._finish(prefix, wanted)

    def _peer(self, subject: str, prefix: str) -> None:
        ours = self.version("buildrun", "uv")
        packages = [f"uv=={ours}" if name == "uv" else name for name in PEERS[subject]]
        wanted = json.dumps([interpreter(), sys.version, packages])
        if _stamp(prefix) == wanted:
            return
        python = self._begin(subject, prefix)
        arguments, variables = self.index_settings()
        uv = (self.program("buildrun", "uv"), "pip", "install", "--quiet", "--python", python)
        self._run((*uv, *arguments, *packages), variables)
        self._finish(prefix, wanted)

    def _begin(self, subject: str, prefix: str) -> str:
        print(f"installing {subject}", file=sys.stderr, flush=True)
        shutil.rmtree(prefix, ignore_errors=True)
        os.makedirs(self._directory, exist_ok=True)
        self._run((interpreter(), "-m", "venv", prefix))
        return os.path.join(prefix, "bin", "python")

    def _finish(self, prefix: str, wanted: str) -> None:
        # Some packages ship files that are no Python, so the exit code says nothing.
        python = os.path.join(prefix, "bin", "python")
        compiling = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2)"
        self._run((python, "-I", "-c", compiling, os.path.join(prefix, "lib")))
        with open(os.path.join(prefix, ".stamp"), "w", encoding="utf-8") as file:
            file.write(wanted)

    def _run(self, argv: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
        environ = {**self._environ, **(variables or {})}
        return output(argv, cwd=self._directory_or_root(), environ=environ)

    def _directory_or_root(self) -> str:
        return self._directory if os.path.isdir(self._directory) else REPOSITORY


def _stamp(prefix: str) -> str | None:
    try:
        with open(os.path.join(prefix, ".stamp"), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def _fingerprint() -> str:
    """Return a digest of all that a wheel of this checkout is made from."""
    digest = hashlib.sha256()
    paths = [os.path.join(REPOSITORY, "pyproject.toml")]
    for folder in ("buildrun", "schemas"):
        for directory, _, names in os.walk(os.path.join(REPOSITORY, folder)):
            if os.path.basename(directory) != "__pycache__":
                paths += [os.path.join(directory, name) for name in names]
    for path in sorted(paths):
        with open(path, "rb") as file:
            digest.update(f"{os.path.relpath(path, REPOSITORY)}\0".encode() + file.read())
    return digest.hexdigest()
