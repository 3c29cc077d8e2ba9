"""What activating a conda environment sets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from buildrun.errors import EnvironmentFailure
from buildrun.store import files
from buildrun.store.files import publish

FILE = ".buildrun-activation.json"

# Sources scripts, by their paths, with some variables and no others; returns what is set then.
Source = Callable[[Sequence[str], Mapping[str, str]], dict[str, str]]

_LIMIT = 120.0  # seconds
# Stands for the caller's value while the scripts run.
_CALLER = "/buildrun/value/of/the/caller"
RUN = 'for script in "$@"; do . "$script"; done >&2; exec env -0'
# What bash itself sets, and what is the caller's business.
_IGNORED = frozenset({"_", "SHLVL", "PWD", "OLDPWD", "HOME", "TMPDIR", "LANG", "LC_ALL", "USER"})


class Variables(Mapping[str, str | None]):
    """What activation sets (a text) or removes (None), read when it is first asked for.

    An environment's variables are named before it is built, and known after.
    """

    def __init__(self, prefix: str, environ: Mapping[str, str]) -> None:
        """Take the prefix and the caller's variables."""
        self._prefix = prefix
        self._environ = environ
        self._values: dict[str, str | None] | None = None

    def __getitem__(self, name: str) -> str | None:
        """Return the value."""
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._all())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all())

    def _all(self) -> dict[str, str | None]:
        if self._values is None:
            self._values = apply(_load(self._prefix), self._prefix, self._environ)
        return self._values


def record(prefix: str, variables: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Find out what activation sets and keep it in the prefix.

    variables: those of the project's file. environ: the caller's, for where to find bash.
    Raises EnvironmentFailure for a script that does not end, OSError where it cannot be written.
    """
    bash = shutil.which("bash", path=environ.get("PATH"))
    changes = learn(prefix, prefix, variables, _sourced_by(bash) if bash is not None else None)
    publish(os.path.join(prefix, FILE), json.dumps({"version": 1, "changes": changes}).encode())


def learn(
    prefix: str, place: str, variables: Mapping[str, str], source: Source | None
) -> dict[str, str | None]:
    """Return what activation sets or removes, for ``apply``.

    place: where the prefix is for the scripts. source: runs them; None where nothing can.
    """
    fixed = {**_declared_by_packages(prefix), **variables}
    changes: dict[str, str | None] = dict(fixed)
    scripts = _scripts(prefix)
    if scripts and source is not None:
        changes.update(_learn(source, scripts, place, fixed))
    return changes


def apply(
    changes: Mapping[str, str | None], place: str, environ: Mapping[str, str]
) -> dict[str, str | None]:
    """Return what activation sets or removes for a caller, from what was learnt of it.

    place: where the prefix is. environ: the caller's variables.
    """
    found: dict[str, str | None] = {
        **_basic(place),
        "PATH": f"{os.path.join(place, 'bin')}{os.pathsep}{_CALLER}",
        **changes,
    }
    for name, value in found.items():
        if value is not None and _CALLER in value:
            default = os.defpath if name == "PATH" else ""
            found[name] = value.replace(_CALLER, environ.get(name, default))
    return found


def _basic(prefix: str) -> dict[str, str | None]:
    return {
        "CONDA_PREFIX": prefix,
        "CONDA_DEFAULT_ENV": prefix,
        "CONDA_SHLVL": "1",
        "VIRTUAL_ENV": None,
        "PYTHONHOME": None,
    }


def _load(prefix: str) -> dict[str, str | None]:
    try:
        with open(os.path.join(prefix, FILE), "rb") as file:
            changes: dict[str, str | None] = json.loads(file.read())["changes"]
            return changes
    except (OSError, ValueError, KeyError):
        return {}  # not built yet, or damaged: the marker tells


def _declared_by_packages(prefix: str) -> dict[str, str]:
    folder = os.path.join(prefix, "etc", "conda", "env_vars.d")
    found: dict[str, str] = {}
    for name in _names(folder, ".json"):
        try:
            value: Any = json.loads(files.read(os.path.join(folder, name)))
        except (OSError, ValueError):
            continue  # conda, too, passes over what it cannot read
        if isinstance(value, dict):
            found.update({str(key): str(item) for key, item in value.items()})
    return found


def _scripts(prefix: str) -> list[str]:
    folder = os.path.join(prefix, "etc", "conda", "activate.d")
    return [os.path.join(folder, name) for name in _names(folder, ".sh")]


def _learn(
    source: Source, scripts: Sequence[str], prefix: str, fixed: Mapping[str, str]
) -> dict[str, str | None]:
    """Return what the scripts change, with ``_CALLER`` where the caller's value belongs."""
    before = _clean(prefix, fixed)
    first = _difference(before, source(scripts, before))
    # Again, for those that they changed: what do they do with a value that is there already?
    names = [name for name in first if name not in before]
    marked = {**before, **dict.fromkeys(names, _CALLER)}
    second = source(scripts, marked)
    for name in names:
        value = second.get(name)
        if value is not None and value != _CALLER and _CALLER in value:
            first[name] = value
        elif value is None:
            first[name] = None
    first.update(dict.fromkeys(_removed(source, scripts, before)))
    return first


def _removed(source: Source, scripts: Sequence[str], before: Mapping[str, str]) -> list[str]:
    """Return the variables that the scripts unset, among those that they name."""
    import re

    named: set[str] = set()
    for path in scripts:
        with open(path, encoding="utf-8", errors="replace") as file:
            named.update(re.findall(r"\bunset\s+(?:-v\s+)?([A-Za-z_]\w*)", file.read()))
    unknown = {name: _CALLER for name in named if name not in before}
    if not unknown:
        return []
    after = source(scripts, {**before, **unknown})
    return [name for name in unknown if name not in after]


def _clean(prefix: str, fixed: Mapping[str, str]) -> dict[str, str]:
    basic = {name: value for name, value in _basic(prefix).items() if value is not None}
    search = os.pathsep.join((os.path.join(prefix, "bin"), os.defpath.lstrip(":"), _CALLER))
    return {"HOME": os.path.expanduser("~"), "PATH": search, **basic, **fixed}


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    changed: dict[str, str | None] = {
        name: value
        for name, value in after.items()
        if name not in _IGNORED and not name.startswith("BASH") and before.get(name) != value
    }
    changed.update({name: None for name in before if name not in after and name not in _IGNORED})
    if changed.get("PATH"):
        # The directories of our own clean search path are not the caller's.
        ours = f"{os.defpath.lstrip(':')}{os.pathsep}"
        changed["PATH"] = str(changed["PATH"]).replace(ours, "")
    return changed


def _sourced_by(bash: str) -> Source:
    return lambda scripts, environ: _source(bash, scripts, environ)


def _source(bash: str, scripts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    try:
        done = subprocess.run(
            (bash, "--noprofile", "--norc", "-c", RUN, "bash", *scripts),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFailure(
            f"an activation script does not end within {_LIMIT:.0f} s",
            place=os.path.dirname(scripts[0]),
            hint="choose another version of the package that brings it",
        ) from None
    return listed(done.stdout) if done.returncode == 0 else dict(environ)


def listed(output: bytes) -> dict[str, str]:
    """Return the variables that `RUN` has written."""
    pairs = (item.partition("=") for item in output.decode(errors="replace").split("\0"))
    return {name: value for name, equals, value in pairs if equals}


def _names(folder: str, suffix: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(suffix))
    except OSError:
        return []
