"""A solver's words as an error with its place and a remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from buildrun.environments.channels import without_secrets
from buildrun.errors import EnvironmentFailure

if TYPE_CHECKING:
    from buildrun.project.spec import CondaEnv

_LINES = 14
_NOISE = re.compile(
    r"^(Cannot solve the request because of: |Request failed after \d+ retries$"
    r"|failed to interact with the package cache layer\.$)"
)
_KINDS = {
    "silent": "check the network and the channel's address",
    "offline": "run once without `--offline`",
    "no-python": "add `python` to the dependencies",
    "hash": "the package is not the one that its channel describes; do not use it blindly",
    "spec": "write it as `name`, `name=1.2` or `name>=1.2,<2`",
    "certificates": "check SSL_CERT_FILE, REQUESTS_CA_BUNDLE and `ssl_verify` in .condarc",
    "AttributeError": "py-rattler is too old for this: pip install -U 'buildrun[conda]'",
    "TypeError": "py-rattler is too old for this: pip install -U 'buildrun[conda]'",
}
_SIGNS = (
    ("no space left", "free space on the store's disk, or set BUILDRUN_HOME to another one"),
    ("file too large", "free space on the store's disk, or set BUILDRUN_HOME to another one"),
    ("quota exceeded", "free space on the store's disk, or set BUILDRUN_HOME to another one"),
    ("read-only file system", "set BUILDRUN_HOME to a directory that can be written"),
    ("permission denied", "set BUILDRUN_HOME to a directory that you may write to"),
    ("hash mismatch", _KINDS["hash"]),
    ("certificate", "name your certificate authority in SSL_CERT_FILE or `ssl_verify` of .condarc"),
    ("no usable repodata cache", "run once without `--offline`"),
    ("401 unauthorized", "put the channel's credentials into ~/.netrc or RATTLER_AUTH_FILE"),
    ("403 forbidden", "put the channel's credentials into ~/.netrc or RATTLER_AUTH_FILE"),
    ("could not find subdir", "check the channel's name and address"),
    ("dns error", "check the network and the channel's address"),
    ("error sending request", "check the network and the channel's address"),
    ("__glibc", "the package needs a newer system; ask for an older version of it"),
    ("__cuda", "the package needs another graphics driver; CONDA_OVERRIDE_CUDA overrides"),
    ("no candidates were found", "check the name and the version, or add the channel that has it"),
    ("incompatible", "loosen or correct the versions that it names"),
    ("cannot be installed", "loosen or correct the versions that it names"),
)


def explain(kind: str, reason: str, declared: CondaEnv, who: str) -> EnvironmentFailure:
    """Return the error for what rattler or conda said.

    kind: of a RattlerFailure. who: the one that says it.
    """
    if kind in ("ImportError", "ModuleNotFoundError"):
        return missing_rattler(declared.path)
    lines = [line for line in (_clean(line) for line in reason.splitlines()) if line]
    shown = lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"]
    text = "\n".join(f"  {line}" for line in shown)
    return EnvironmentFailure(
        f"the environment could not be built; {who} says:\n{text}",
        place=blame(reason, declared),
        hint=_remedy(kind, reason),
    )


def missing_rattler(path: str) -> EnvironmentFailure:
    """Return the error for an installation that cannot solve."""
    return EnvironmentFailure(
        "the project declares a conda environment, and py-rattler is not installed",
        place=path,
        hint="pip install 'buildrun[conda]', name a conda in MLFLOW_CONDA_HOME, "
        "or run with `--env-manager virtualenv`",
    )


def blame(reason: str, declared: CondaEnv) -> str:
    """Return the place of the dependency, else of the channel that is spoken of, else the file."""
    found: list[tuple[int, str]] = []
    for dependency in declared.dependencies:
        name = re.escape(_name(dependency))
        said = re.search(rf"(?<![\w.-]){name}(?=-\d|(?![\w.-]))", reason, re.IGNORECASE)
        if name and said:
            found.append((said.start(), dependency))
    for channel in () if found else declared.channels:
        last = without_secrets(channel).rstrip("/").rpartition("/")[2]
        said = re.search(rf"/{re.escape(last)}(?![\w.-])", reason)
        if last and said:
            found.append((said.start(), channel))
    return locate(declared.path, min(found)[1]) if found else declared.path


def locate(path: str, item: str) -> str:
    """Return ``path:line:column`` of a list item in a YAML file, or the path."""
    pattern = re.compile(rf"^\s*-\s+[\"']?{re.escape(item)}[\"']?\s*(#.*)?$")
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if pattern.match(line):
                    return f"{path}:{number}:{line.index(item) + 1}"
    except (OSError, UnicodeDecodeError):
        pass
    return path


def _name(dependency: str) -> str:
    tail = dependency.rpartition("::")[2].strip()
    match = re.match(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", tail)
    return match.group().lower() if match else ""


def _clean(line: str) -> str:
    text = _NOISE.sub("", without_secrets(line)).rstrip().removeprefix("Caused by: ")
    return re.sub(r"(?<=[\w]) \*(?=[ ,.]|$)", "", text)


def _remedy(kind: str, reason: str) -> str:
    if kind in _KINDS:
        return _KINDS[kind]
    said = reason.lower()
    for sign, remedy in _SIGNS:
        if sign in said:
            return remedy
    return "correct the file, or run with `--env-manager virtualenv` or `local`"
