"""Failures of uv, pip, conda, rattler and docker as errors with a place and a remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from buildrun.console import redact
from buildrun.environments.condarc import without_secrets
from buildrun.environments.requirements import Line, name_of
from buildrun.errors import EnvironmentFailure
from buildrun.project.model import CondaEnv

# Remedies, each followed by what a tool says where it helps, in lower case; the first one counts.
Signs = Sequence[tuple[str, ...]]

_DISK: Signs = (
    (
        "free space on the store's disk, or set BUILDRUN_HOME to another one",
        "no space left", "file too large", "quota exceeded",
    ),
    ("set UV_CACHE_DIR to a directory that can be written", "failed to initialize cache"),
    ("set BUILDRUN_HOME to a directory that can be written", "read-only file system"),
    ("set BUILDRUN_HOME to a directory that you may write to", "permission denied"),
)  # fmt: skip
_UV: Signs = (
    *_DISK,
    ("check the name's spelling and the package index", "not found in the package registry"),
    ("the file is not the one that was locked; do not install it blindly", "hash mismatch"),
    ("name your certificate authority in PIP_CERT or SSL_CERT_FILE", "certificate"),
    ("loosen or correct the versions that it names", "no solution found"),
    ("choose a version that has a wheel for this platform", "not compatible"),
    (
        "check the network and the index's address",
        "dns error", "error sending request", "failed to fetch",
    ),
    ("run once without `--offline`", "network connectivity is disabled"),
    ("install what the build names, or choose a version with a wheel", "failed to build"),
    ("correct the requirement", "failed to parse"),
)  # fmt: skip
_PIP: Signs = (
    ("choose a base whose Python has `venv` with pip: Debian's `python3-venv`", "ensurepip"),
    ("the file is not the one that was locked; do not install it", "do not match the hashes"),
    ("choose a base with git for requirements from repositories", "cannot find command 'git'"),
    ("check the name, the version and the package index", "no matching distribution"),
    ("choose a base with a compiler, or a version that has a wheel", "gcc"),
    ("make room on the engine's disk", "no space left"),
)
_CONDA: Signs = (
    *_DISK,
    (
        "the package is not the one that its channel describes; do not use it blindly",
        "hash mismatch",
    ),
    (
        "name your certificate authority in SSL_CERT_FILE or `ssl_verify` of .condarc",
        "certificate",
    ),
    ("run once without `--offline`", "no usable repodata cache"),
    (
        "put the channel's credentials into ~/.netrc or RATTLER_AUTH_FILE",
        "401 unauthorized", "403 forbidden",
    ),
    ("check the channel's name and address", "could not find subdir"),
    ("check the network and the channel's address", "dns error", "error sending request"),
    ("the package needs a newer system; ask for an older version of it", "__glibc"),
    ("the package needs another graphics driver; CONDA_OVERRIDE_CUDA overrides", "__cuda"),
    (
        "check the name and the version, or add the channel that has it",
        "no candidates were found",
    ),
    ("loosen or correct the versions that it names", "incompatible", "cannot be installed"),
)  # fmt: skip
# By the kind of the failure, which the worker tells.
_RATTLER = {
    "silent": "check the network and the channel's address",
    "offline": "run once without `--offline`",
    "no-python": "add `python` to the dependencies",
    "hash": "the package is not the one that its channel describes; do not use it blindly",
    "spec": "write it as `name`, `name=1.2` or `name>=1.2,<2`",
    "certificates": "check SSL_CERT_FILE, REQUESTS_CA_BUNDLE and `ssl_verify` in .condarc",
    "AttributeError": "py-rattler is too old for this: pip install -U 'buildrun[conda]'",
    "TypeError": "py-rattler is too old for this: pip install -U 'buildrun[conda]'",
}
_NO_ROOM = "no space left on device"
ENGINE_DISK: Signs = (("make room on the engine's disk, as with `buildrun cache gc`", _NO_ROOM),)
_LOGIN = "check the name; `docker login` for a private registry"
_ENGINE: Signs = (
    *ENGINE_DISK,
    (
        _LOGIN,
        "unauthorized", "authentication required", "denied", "no basic auth credentials",
    ),
    ("check the image's name and tag", "manifest unknown", "not found", "no such image"),
    ("check the network and the registry's name", "no such host", "dial tcp", "timeout"),
    (
        "list the registry under `insecure-registries` of the engine",
        "gave http response to https client",
    ),
)  # fmt: skip

_SHOWN = 24  # lines of a tool's words
# What uv says beside its reason, and rattler around it.
_UV_CHATTER = ("Using ", "Creating ", "Activate ", "warning:", "Resolved ", "Prepared ")
_RATTLER_CHATTER = re.compile(
    r"^(Cannot solve the request because of: |Request failed after \d+ retries$"
    r"|failed to interact with the package cache layer\.$)"
)


class ToolFailure(Exception):
    """A program ended with an error.

    output: the end of what it said. shown: the user has seen it on the terminal.
    """

    def __init__(self, output: str, *, shown: bool = False) -> None:
        """Keep the program's words."""
        super().__init__(output)
        self.output = output
        self.shown = shown


def remedy(text: str, signs: Signs) -> str | None:
    """Return what is to be done about what a tool said, None where no sign is in it."""
    low = text.lower()
    return next((hint for hint, *said in signs if any(sign in low for sign in said)), None)


def of_uv(
    failure: ToolFailure, what: str, lines: Sequence[Line], default: str
) -> EnvironmentFailure:
    """Return the error for a failure of uv; what the user has seen is not said again.

    what: the fact, such as "the environment could not be built".
    lines: the requirements, one of which may be to blame. default: the place if none is.
    """
    said = [line.rstrip() for line in failure.output.splitlines() if line.strip()]
    reason = [line for line in said if not line.startswith(_UV_CHATTER)]
    return EnvironmentFailure(
        what if failure.shown else _with_reason(f"{what}; uv says:", reason),
        place=_blamed_line(failure.output, lines) or default,
        hint=remedy(failure.output, _UV)
        or "correct the requirements, or run in your own environment with `--env-manager local`",
    )


def of_pip(
    said: Sequence[str], what: str, lines: Sequence[Line], default: str
) -> EnvironmentFailure:
    """Return the error for what pip says in a container, or the engine; see ``of_uv``."""
    error = of_uv(ToolFailure("\n".join(said), shown=True), what, lines, default)
    # pip begins an error with that word and says it in the lines that follow.
    begins = [text.lower().lstrip().startswith("error:") for text in said]
    error.message = _with_reason(f"{what}:", said[begins.index(True) :] if any(begins) else said)
    error.hint = remedy("\n".join(said), _PIP) or error.hint
    return error


def of_conda(kind: str, reason: str, declared: CondaEnv, who: str) -> EnvironmentFailure:
    """Return the error for what rattler or conda said.

    kind: of a rattler's failure, "" for conda's. who: the one that says it.
    """
    if kind in ("ImportError", "ModuleNotFoundError"):
        return missing_rattler(declared.path)
    lines = [line for line in map(_without_chatter, reason.splitlines()) if line]
    return EnvironmentFailure(
        _with_reason(f"the environment could not be built; {who} says:", lines),
        place=_blamed_dependency(reason, declared),
        hint=_RATTLER.get(kind)
        or remedy(reason, _CONDA)
        or "correct the file, or run with `--env-manager virtualenv` or `local`",
    )


def missing_rattler(path: str) -> EnvironmentFailure:
    """Return the error for an installation that cannot solve."""
    return EnvironmentFailure(
        "the project declares a conda environment, and py-rattler is not installed",
        place=path,
        hint="pip install 'buildrun[conda]', name a conda in MLFLOW_CONDA_HOME, "
        "or run with `--env-manager virtualenv`",
    )


class EngineError(EnvironmentFailure):
    """An engine, or a registry behind it, does not do what it was asked."""

    @property
    def full(self) -> bool:
        """Return whether that is for want of room on its disk."""
        return _NO_ROOM in self.message.lower()


def of_engine(doing: str, explanation: object, status: int = 0) -> EngineError:
    """Return the error for what an engine, or a registry behind it, answers.

    doing: such as "pull an image". status: of HTTP, 0 where it is not known.
    """
    if isinstance(explanation, bytes):
        explanation = explanation.decode(errors="replace")
    said = redact(str(explanation).strip())
    hint = _LOGIN if status in (401, 403) else remedy(said, _ENGINE)
    return EngineError(f"docker cannot {doing}: {said}", hint=hint)


def locate(path: str | None, text: str) -> str | None:
    """Return the place of a text in a file, first of all as an item of a list, or the file."""
    item = re.compile(rf"^\s*-\s+[\"']?{re.escape(text)}[\"']?\s*(#.*)?$")
    try:
        with open(path or "", encoding="utf-8") as file:
            lines = file.readlines()
    except (OSError, UnicodeDecodeError):
        return path
    found = [number for number, line in enumerate(lines) if text and text in line]
    for number in sorted(found, key=lambda number: not item.match(lines[number])):
        return f"{path}:{number + 1}:{lines[number].index(text) + 1}"
    return path


def _with_reason(fact: str, lines: Sequence[str]) -> str:
    if len(lines) > _SHOWN:
        lines = [*lines[: _SHOWN // 4], "…", *lines[-_SHOWN * 3 // 4 :]]
    return "\n".join([fact, *(f"  {line}" for line in lines)])


def _blamed_line(output: str, lines: Sequence[Line]) -> str | None:
    """Return the place of the first requirement that is spoken of."""
    said = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.sub(r"[_.]+", "-", output.lower())))
    for line in lines:
        if line.text in output or name_of(line.text) in said:
            return line.place if line.number else locate(line.path, line.text)
    return None


def _blamed_dependency(reason: str, declared: CondaEnv) -> str | None:
    """Return the place of the dependency, else of the channel that is spoken of, else the file."""
    found: list[tuple[int, str]] = []
    for dependency in declared.dependencies:
        match = re.match(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", dependency.rpartition("::")[2].strip())
        name = re.escape(match.group().lower()) if match else ""
        said = re.search(rf"(?<![\w.-]){name}(?=-\d|(?![\w.-]))", reason, re.IGNORECASE)
        if name and said:
            found.append((said.start(), dependency))
    for channel in () if found else declared.channels:
        last = without_secrets(channel).rstrip("/").rpartition("/")[2]
        said = re.search(rf"/{re.escape(last)}(?![\w.-])", reason)
        if last and said:
            found.append((said.start(), channel))
    return locate(declared.path, min(found)[1]) if found else declared.path


def _without_chatter(line: str) -> str:
    text = _RATTLER_CHATTER.sub("", without_secrets(line)).rstrip().removeprefix("Caused by: ")
    return re.sub(r"(?<=[\w]) \*(?=[ ,.]|$)", "", text)
