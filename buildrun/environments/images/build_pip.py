"""Python environments for images, installed in a build container."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from buildrun.console import Console
from buildrun.environments import (
    failures,
    local_packages,
    lockfile,
    pip_config,
    requirements,
    uv,
    virtualenv,
)
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.images import build_worker, layer
from buildrun.environments.images.build_container import (
    Access,
    BuildContainer,
    ProcessResult,
    json_line,
)
from buildrun.environments.images.engine import Image
from buildrun.environments.requirements import Line
from buildrun.environments.virtualenv import UV_LOCK, VirtualenvSpec
from buildrun.errors import EnvironmentFailure
from buildrun.project.locate import lock_path
from buildrun.project.model import PythonEnv
from buildrun.project.rules.environments import fits
from buildrun.store.memo import DependencyTracker
from buildrun.workspace import archive, image_context
from buildrun.workspace.archive import Layer
from buildrun.workspace.fingerprints import Fingerprints

# Where the environment is in its image, the project's code in the image above it, and what is
# needed while the container is there.
PREFIX = "/opt/buildrun/env"
CODE = "/mlflow/projects/code"
SCRATCH = "/tmp/buildrun"  # noqa: S108

PIP = (
    "--no-input", "--disable-pip-version-check", "--no-compile", "--no-cache-dir",
    "--no-warn-script-location", "--progress-bar", "off",
)  # fmt: skip

_MINOR = re.compile(r"(?:={0,3}\s*)([0-9]+\.[0-9]+)(?:\.[0-9*]+)?")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


def identify(request: EnvironmentRequest, base: Image, reader: DependencyTracker) -> Identity:
    """Return what the virtualenv is made of, beside its base; raises EnvironmentFailure."""
    spec = virtualenv.read(request, reader)
    requested = spec.declared.python
    parts = {"manager": virtualenv.NAME, "platform": platform_of(base), "requested": requested}
    stages = {stage: portable(spec.inputs[stage], request.project.root) for stage in spec.lines}
    inputs = {**spec.inputs, **stages}
    kind = "environment in an image"
    return virtualenv.identity(spec, request, reader, parts, inputs, minor(requested), kind)


def minor(python: str | None) -> str:
    """Return ``major.minor`` where a project asks for just one, else ""."""
    match = _MINOR.fullmatch((python or "").strip())
    return match.group(1) if match else ""


def platform_of(base: Image) -> str:
    """Return the platform of an image as locks have it, such as ``linux-x86_64``."""
    system, architecture = base.platform
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(architecture, architecture)
    return f"{system}-{machine}"


def make(
    site: BuildContainer,
    base_name: str,
    identity: Identity,
    request: EnvironmentRequest,
    console: Console,
) -> Layer:
    """Make the virtualenv in a container and return its layer; raises EnvironmentFailure."""
    spec = virtualenv.read(request, DependencyTracker(request.environ))
    declared, known = spec.declared, spec.all_lines
    stages = PipStages(request, CODE)
    if UV_LOCK in spec.inputs:
        stages.add([stages.line(text) for text in _exported(request, spec, console)])
    elif "packages" in identity.parts:
        for texts in lockfile.requirement_lines(identity.parts["packages"]).values():
            stages.add_locked(texts, known)
    else:
        for lines in spec.lines.values():
            stages.add(lines)
    order = stages.order(f"{PREFIX}/bin/python", [["-m", "venv", PREFIX]])

    def check(first: str) -> bytes:
        _refuse_version(json.loads(first)["python"], declared, identity, base_name)
        return json_line(order)

    settings, exact = stages.access(), minor(declared.python)
    for program in (*([f"python{exact}"] if exact else ()), "python3", "python"):
        site.create((program, "-c", inspect.getsource(build_worker)), settings)
        stages.copy(site)
        answer = site.run(check, console.progress)
        if not answer.is_missing:
            break
    else:
        raise EnvironmentFailure(
            f"the image `{base_name}` has no Python to make the environment with",
            hint=_remedy(declared.python),
        )
    require_success(answer, base_name, known, request, declared.path)
    return layer.of_archive(lambda: site.take(PREFIX), PREFIX)


class PipStages:
    """Installations by pip in a container, one after another, with the local files they need."""

    def __init__(self, request: EnvironmentRequest, root: str, folder: str | None = None) -> None:
        """Take the project.

        root: where its files are in the container. folder: what paths are relative to, None for
        the project's root.
        """
        self._request = request
        self._root = root
        self._folder = folder or request.project.root
        self._mounts = Mounts()
        self._stages: list[dict[str, Any]] = []
        self._sources: dict[str, str] = {}
        self._variables: set[str] = set()

    def line(self, text: str) -> Line:
        """Return a line that stands in no file."""
        return requirements.Line(text, self._folder, 0)

    def add(self, lines: Sequence[Line], *words: str) -> None:
        """Add a stage of requirements; words: further ones for pip."""
        texts = [(line, self._rewritten(line)) for line in lines]
        for _, text in texts:
            self._variables.update(_VARIABLE.findall(text))
        wanted = [text for line, text in texts if not line.constraint]
        if wanted:
            bounds = [text for line, text in texts if line.constraint]
            stage = {"words": list(words), "requirement": wanted, "constraint": bounds}
            self._stages.append(stage)

    def add_locked(self, texts: Sequence[str], asked: Sequence[Line]) -> None:
        """Add the lines of a lock, which is complete; pip wants hashes for all or for none.

        asked: the requirements, which may say where packages come from.
        """
        places = requirements.sources(asked)
        hashed = [self.line(text) for text in texts if " --hash=" in text]
        others = [self.line(text) for text in texts if " --hash=" not in text]
        for lines, words in ((hashed, ("--no-deps", "--require-hashes")), (others, ("--no-deps",))):
            if lines:
                self.add([*places, *lines], *words)

    def access(self) -> Access:
        """Return what the container needs of this machine; credentials may be among it."""
        environ, mounts = self._request.environ, self._mounts
        values = _values(DependencyTracker(environ))
        for name in ("index-url", *_LISTS):
            words = values.get(name, "").split()
            values[name] = " ".join(mounts.address(word, self._folder) for word in words)
        seen = {
            f"PIP_{key.upper().replace('-', '_')}": text for key, text in values.items() if text
        }
        certificates = values.get("cert") or next(
            (environ[name] for name in _CERTIFICATES if os.path.isfile(environ.get(name, ""))), ""
        )
        if os.path.isfile(certificates):
            names = ("PIP_CERT", "GIT_SSL_CAINFO", *_CERTIFICATES)
            seen.update(dict.fromkeys(names, mounts.place(certificates)))
        netrc = environ.get("NETRC") or os.path.join(environ.get("HOME", "/"), ".netrc")
        for name, path in (("PIP_CLIENT_CERT", values.get("client-cert", "")), ("NETRC", netrc)):
            if os.path.isfile(path):
                seen[name] = mounts.place(path)
        proxies = (*_PROXIES, *map(str.upper, _PROXIES))
        seen.update((name, environ[name]) for name in proxies if environ.get(name))
        # An index of this very machine is not there in a container's own network.
        network = "host" if any(map(_LOCAL_ADDRESSES.search, seen.values())) else ""
        if self._request.offline:
            seen["PIP_RETRIES"], network = "0", "none"
        seen.update((name, environ.get(name, "")) for name in self._variables)
        return Access(seen, mounts.all, network)

    def order(self, python: str, first: Sequence[Sequence[str]]) -> Mapping[str, Any]:
        """Return what the program in the container reads; first: what Python does before it."""
        return {
            "python": python,
            "first": [list(words) for words in first],
            "stages": self._stages,
            "words": list(PIP),
            "scratch": SCRATCH,
            "sources": sorted(self._sources.values()),
            "cwd": self._there(self._folder) or self._root,
        }

    def copy(self, site: BuildContainer) -> None:
        """Copy local projects into the container, where their builds may write."""
        for place, target in self._sources.items():
            prints = Fingerprints(place, None)
            excluded = local_packages.excluded(place, self._request.project)
            taken = image_context.content(place, (), prints, excluded).taken
            site.put(archive.of_files(place, taken, target).chunks())

    def _rewritten(self, line: Line) -> str:
        """Return a line's text with paths of this machine as they are in the container."""
        target = partial(self._target, line)
        return requirements.rewrite_paths(line, self._folder, target, self._mounts.address)

    def _target(self, line: Line, path: str, editable: bool) -> str:
        if not os.path.isdir(path):
            return self._mounts.place(path)
        target = self._there(path)
        if not target and editable:
            raise EnvironmentFailure(
                f"`{line.text}` is used where it lies, and that is not in the image",
                place=line.place,
                hint="leave `-e` out, or move it into the project",
            )
        target = target or f"{SCRATCH}-{len(self._sources)}/{os.path.basename(path)}"
        return self._sources.setdefault(path, target)

    def _there(self, path: str) -> str:
        """Return where a path of the project is in the container, "" for one outside of it."""
        below = os.path.relpath(path, self._request.project.root)
        if below == os.pardir or below.startswith(os.pardir + os.sep):
            return ""
        return os.path.normpath(os.path.join(self._root, below))


def _refuse_version(have: str, declared: PythonEnv, identity: Identity, base_name: str) -> None:
    """Raise EnvironmentFailure where the base has another Python than is wanted."""
    lock = lock_path(declared.path or "")
    for python, wants, place in (
        (declared.python, "the project asks for", declared.path),
        (identity.parts.get("python"), "the lock is for", lock),
    ):
        if python and not fits(have, python):
            fact = f"the image `{base_name}` has Python {have}, and {wants} {python}"
            raise EnvironmentFailure(fact, place=place, hint=_remedy(python))


def _remedy(python: str | None) -> str:
    return f'choose a base that has it: -c \'{{"docker_base": "{default_base(python)}"}}\''


def default_base(python: str | None) -> str:
    """Return the image to start from for a Python that a project asks for."""
    match = re.search(r"[0-9]+\.[0-9]+", python or "")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return f"python:{match.group() if match else here}-slim"


def require_success(
    answer: ProcessResult,
    base_name: str,
    known: Sequence[Line],
    request: EnvironmentRequest,
    path: str | None,
) -> None:
    """Raise EnvironmentFailure with what pip, or the engine, says, unless all went well."""
    has_begun = answer.first.startswith("{")
    if has_begun and not answer.code:
        return
    said = [
        text for text in (*(() if has_begun else (answer.first,)), *answer.said) if text.strip()
    ]
    what = f"the environment could not be made in a container of `{base_name}`"
    default = path or request.project.file or request.project.root
    error = failures.of_pip(said, what, known, default)
    if request.offline:
        error.hint = "run once without `--offline`"
    raise error


def portable(items: Iterable[Mapping[str, str]], folder: str) -> list[Mapping[str, str]]:
    """Return what lines count with; editable installs with their place relative to a folder."""
    return [
        {**item, "editable": os.path.relpath(item["editable"], folder)}
        if "editable" in item
        else item
        for item in items
    ]


def _exported(request: EnvironmentRequest, spec: VirtualenvSpec, console: Console) -> list[str]:
    try:
        return uv.Tool(request, spec.settings, console, -1).export()
    except failures.ToolFailure as error:
        place = os.path.join(request.project.root, UV_LOCK)
        raise failures.of_uv(error, "the lock could not be read", (), place) from None


# Where mounted files and directories are in the container.
_MOUNTED = "/run/buildrun"

# uv's variables, which win here as they do where uv makes the environment, in pip's words.
_OF_UV = (
    ("UV_INDEX_URL", "index-url"),
    ("UV_DEFAULT_INDEX", "index-url"),
    ("UV_EXTRA_INDEX_URL", "extra-index-url"),
    ("UV_INDEX", "extra-index-url"),
    ("UV_FIND_LINKS", "find-links"),
    ("UV_NO_INDEX", "no-index"),
    ("UV_CONSTRAINT", "constraint"),
    ("UV_INSECURE_HOST", "trusted-host"),
)
_LISTS = ("extra-index-url", "find-links", "trusted-host", "constraint", "no-binary", "only-binary")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_LOCAL_ADDRESSES = re.compile(r"://(?:[^/@\s]*@)?(?:localhost|127\.[0-9.]+|\[::1\])(?=[:/\s]|$)")


class Mounts:
    """Files and directories of this machine, each with its place in the container."""

    def __init__(self) -> None:
        """Begin with none."""
        self._targets: dict[str, str] = {}

    def place(self, path: str) -> str:
        """Return where a path of this machine is in the container."""
        path = os.path.abspath(path)
        # Pages of an index refer to files beside it.
        if os.path.basename(path) == "simple" and os.path.isdir(path):
            return f"{self.place(os.path.dirname(path))}/simple"
        name = f"{len(self._targets)}/{os.path.basename(path)}".rstrip("/")
        return self._targets.setdefault(path, f"{_MOUNTED}/{name}")

    def address(self, text: str, base: str) -> str:
        """Return a URL or path as it is in the container; base: where relative paths begin."""
        if text.startswith("file:"):
            path = unquote(urlsplit(text).path)
            return f"file://{quote(self.place(path))}" if os.path.exists(path) else text
        path = os.path.join(base, os.path.expanduser(text))
        return text if "://" in text or not os.path.exists(path) else self.place(path)

    @property
    def all(self) -> tuple[tuple[str, str], ...]:
        """Return them, as containers take them."""
        return tuple(self._targets.items())


def _values(reader: DependencyTracker) -> dict[str, str]:
    values = pip_config.own(reader)
    for name, key in _OF_UV:
        if text := reader.variable(name):
            words = re.split(r"[\s,]+", text.strip()) if key == "find-links" else text.split()
            if name == "UV_INDEX":
                words = [re.sub(r"^[\w.-]+=(?=\w+:)", "", word) for word in words]
            more = values.get(key, "") if name == "UV_INDEX" else ""
            values[key] = " ".join([*words, *more.split()])
    values.pop("keyring-provider", None)  # a program of this machine
    if "default-timeout" in values:
        values.setdefault("timeout", values.pop("default-timeout"))
    if values.get("no-index", "").lower() not in ("", "0", "false", "no", "off"):
        values["no-index"] = "1"
    return values
