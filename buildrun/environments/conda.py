"""Conda environments, made by rattler, or by a conda that MLflow's variables name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.environments.contract import Identity, Request
from buildrun.errors import EnvironmentFailure
from buildrun.project.spec import CondaEnv

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.channels import Settings
    from buildrun.memo import Reader

NAME = "conda"


def identify(request: Request, reader: Reader) -> Identity:
    """Return what the conda environment is made of; raises EnvironmentFailure."""
    from buildrun import digest
    from buildrun.environments import channels, conda_executable, virtual_packages

    declared = _declared(request)
    settings = channels.read(reader)
    executable = conda_executable.find(reader)
    used = channels.resolve(declared.channels, declared.path, settings, reader)
    parts: dict[str, Any] = {
        "manager": NAME,
        "solver": os.path.basename(executable.path) if executable else "rattler",
        "platform": virtual_packages.platform(reader),
        "virtual_packages": list(virtual_packages.detect(reader)),
        "channels": [channel.label for channel in used],
        "priority": settings.priority,
        "dependencies": [_normalised(spec) for spec in declared.dependencies],
        "variables": dict(declared.variables),
        "pip": _pip_parts(declared, reader),
    }
    return Identity(NAME, digest.key("environment", parts), parts)


def build(identity: Identity, prefix: str, request: Request, console: Console, lock: int) -> None:
    """Solve, install and run the pip section; raises EnvironmentFailure."""
    from buildrun.environments import conda_activation, conda_executable, uv
    from buildrun.environments.conda_failure import explain
    from buildrun.memo import Reader

    declared, reader = _declared(request), Reader(request.environ)
    executable = conda_executable.find(reader)
    if executable is None:
        _build_with_rattler(identity, prefix, request, console, lock)
        if declared.pip:
            _install_pip_section(prefix, request, console, lock)
    else:
        try:
            conda_executable.create(
                executable,
                declared.path,
                prefix,
                environ=request.environ,
                console=console,
                lock=lock,
                offline=request.offline,
            )
        except uv.ToolFailure as failure:
            raise explain("", failure.output, declared, identity.parts["solver"]) from None
    conda_activation.record(prefix, dict(declared.variables), request.environ)


def witnesses(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the names in the directories that count, and the interpreter, which is the prefix's.

    The interpreter is watched like a base interpreter, since most of what runs needs it.
    """
    folders = ["", "bin", "lib", "conda-meta", os.path.join("etc", "conda", "activate.d")]
    folders += [os.path.join("lib", name, "site-packages") for name in _pythons(prefix)]
    listed = {folder: _names(os.path.join(prefix, folder)) for folder in folders}
    python = os.path.join(prefix, "bin", "python")
    there = os.path.exists(python)
    return (
        {folder: names for folder, names in listed.items() if names},
        os.path.realpath(python) if there else "",
    )


def damage(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or have another size than was recorded."""
    from buildrun.environments import conda_files, virtualenv

    owned = conda_files.owned(prefix)
    found = conda_files.damaged(prefix)
    for path in virtualenv.damage(prefix):
        for name in _pythons(prefix):
            if os.path.normpath(os.path.join("lib", name, "site-packages", path)) not in owned:
                found.append(path)
    return found


def activate(prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]:
    """Return what ``conda activate`` would set, with what the packages' scripts do."""
    from buildrun.environments.conda_activation import Variables

    return Variables(prefix, environ)


def _declared(request: Request) -> CondaEnv:
    environment = request.project.environment
    if not isinstance(environment, CondaEnv):
        raise EnvironmentFailure(
            "the project declares no conda environment", hint="use `--env-manager virtualenv`"
        )
    return environment


def _normalised(spec: str) -> str:
    """Return a match spec without blanks that do not matter, and without secrets."""
    from buildrun.environments.channels import without_secrets

    text = " ".join(spec.split())
    return without_secrets(re.sub(r"\s*([<>=!~,|]+)\s*", r"\1", text))


def _pip_parts(declared: CondaEnv, reader: Reader) -> dict[str, Any] | None:
    if not declared.pip:
        return None
    from buildrun.environments import pip_settings, requirements, virtualenv

    root = os.path.dirname(declared.path)
    lines = requirements.follow(declared.pip, declared.path, root, reader)
    settings = pip_settings.read(reader)
    return {
        "lines": [requirements.describe(line, root, reader) for line in lines],
        "settings": [*settings.indexes, *virtualenv._uv_settings(root, reader)],
    }


def _build_with_rattler(
    identity: Identity, prefix: str, request: Request, console: Console, lock: int
) -> None:
    from importlib.util import find_spec

    from buildrun.environments import channels, rattler_call
    from buildrun.environments.conda_failure import explain, missing_rattler
    from buildrun.memo import Reader

    declared, reader = _declared(request), Reader(request.environ)
    if find_spec("rattler") is None:
        raise missing_rattler(declared.path)
    settings = channels.read(reader)
    used = channels.resolve(declared.channels, declared.path, settings, reader)
    packages, repodata = _caches(request)
    specs, more = _specs(declared, settings, reader)
    order = {
        "prefix": prefix,
        "packages": packages,
        "repodata": repodata,
        "channels": [*dict.fromkeys([*(channel.address for channel in used), *more])],
        "specs": specs,
        "platform": identity.parts["platform"],
        "virtual_packages": identity.parts["virtual_packages"],
        "priority": settings.priority,
        "verify": settings.verify is not False,
        "offline": request.offline,
        "needs_python": bool(declared.pip),
        "live": console.live,
    }
    environ = _connection(request.environ, settings)
    try:
        rattler_call.install(order, environ=environ, console=console, lock=lock)
    except rattler_call.RattlerFailure as failure:
        raise explain(failure.kind, failure.reason, declared, "rattler") from None


def _specs(declared: CondaEnv, settings: Settings, reader: Reader) -> tuple[list[str], list[str]]:
    """Return the match specs with their channels' addresses, and these addresses.

    As conda has it, a channel that is only named in ``channel::package`` is used after the others.
    """
    from buildrun.environments import channels

    specs, addresses = [], []
    for text in declared.dependencies:
        name, separator, rest = text.partition("::")
        if not separator:
            specs.append(text)
            continue
        found = channels.expand(name, declared.path, settings, reader)
        addresses += [channel.address for channel in found]
        specs.append(f"{found[0].address}::{rest.strip()}")
    return specs, addresses


def _caches(request: Request) -> tuple[str, str]:
    """Return where packages and indexes are kept: RATTLER_CACHE_DIR, else in the store."""
    from buildrun import home

    shared = request.environ.get("RATTLER_CACHE_DIR")
    root = shared or os.path.join(home.locate(request.environ).root, "conda")
    return os.path.join(root, "pkgs"), os.path.join(root, "repodata")


def _connection(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
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


def _install_pip_section(prefix: str, request: Request, console: Console, lock: int) -> None:
    """Install the ``pip:`` lines with uv, relative to the file's folder, as conda does."""
    from buildrun.environments import pip_settings, requirements, uv, uv_failure
    from buildrun.memo import Reader

    declared, reader = _declared(request), Reader(request.environ)
    folder = os.path.dirname(declared.path)
    settings = pip_settings.read(reader)
    python = os.path.join(prefix, "bin", "python")
    command = [uv.program(request.environ), "pip", "install", "--python", python]
    command += [*settings.arguments, "-r", "-"]
    command += [] if console.live else ["--no-progress"]
    command += ["--offline"] if request.offline else []
    try:
        uv.call(
            command,
            cwd=folder,
            environ=uv.environment(request.environ, dict(settings.variables)),
            console=console,
            lock=lock,
            text="\n".join(declared.pip) + "\n",
        )
    except uv.ToolFailure as failure:
        lines = requirements.follow(declared.pip, declared.path, folder, reader)
        what = "the environment could not be built"
        raise uv_failure.explain(failure.output, what, lines, declared.path) from None


def _pythons(prefix: str) -> list[str]:
    return [name for name in _names(os.path.join(prefix, "lib")) if name.startswith("python3.")]


def _names(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name != "__pycache__")
    except OSError:
        return []
